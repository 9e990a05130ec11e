"""`atlas`: what every neuron responds to over a data set."""

from pathlib import Path
from typing import Annotated

import typer

from lens_multimodal.cli import options, several_processes
from lens_multimodal.cli.data_set_run import WHOLE, Data, DataSetRun, warn_of_failures


def atlas(
    data: Data,
    out: Annotated[Path, options.output_folder("Folder for the tables and the site.")] = Path("out/atlas"),
    layer: Annotated[list[int] | None, typer.Option(help="A layer. May be repeated. Default: all.")] = None,
    found: Annotated[
        Path | None, typer.Option(help="A folder written by `reproduce`: adds the nouns for which it found neurons.")
    ] = None,
    quantile: Annotated[
        float, typer.Option(help="A neuron is on above this quantile of its activations over image patches.")
    ] = 0.995,
    calibration: Annotated[int, typer.Option(min=1, help="Pictures from which the quantiles are taken.")] = 256,
    top: Annotated[int, typer.Option(min=1, help="Pictures kept for each neuron.")] = 16,
    ablations: Annotated[
        int, typer.Option(min=0, help="With --found: nouns on which a found neuron's ablation is measured, at most.")
    ] = 4,
    pages: Annotated[int, typer.Option(min=1, help="Neurons that get a page, the most selective first.")] = 10_000,
    run: DataSetRun = WHOLE,
    lens_options: options.LensOptions = options.TINY,
) -> None:
    """Show what every neuron responds to, in tables and as a site. After an interruption, the same command continues.

    [bold]Examples[/bold]

    lens-multimodal atlas --data coco/val2017 --layer 5 --estimate

    lens-multimodal atlas --data coco/val2017 --out out/atlas

    accelerate launch -m lens_multimodal atlas --data coco --model gpt-j-limber-beit --dtype bfloat16
    """
    from lens_multimodal.atlas import AtlasSettings, build_atlas, estimate_atlas
    from lens_multimodal.views.atlas import write_site

    scenes = run.scenes(data)
    if not run.estimate and several_processes.run_in(run.processes):
        return
    lens = lens_options.open()
    settings = AtlasSettings(
        layers=layer or None,
        quantile=quantile,
        n_calibration=calibration,
        n_top=top,
        n_ablations=ablations,
        batch_size=run.batch_size,
    )
    if run.estimate:
        typer.echo(estimate_atlas(lens, scenes, settings, found=found, n_pictures=run.for_pictures, out=out))
        return
    made = build_atlas(lens, scenes, out, settings, found=found)
    if options.is_first_process():
        warn_of_failures(made.failed)
        typer.echo(f"atlas: {write_site(made, scenes, n_neurons=pages)}")
