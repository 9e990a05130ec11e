"""`activations`: store activations of a whole data set."""

from pathlib import Path
from typing import Annotated

import typer

from lens_multimodal.cli import options, several_processes
from lens_multimodal.cli.data_set_run import WHOLE, Data, DataSetRun, warn_of_failures


def activations(
    data: Data,
    at: Annotated[
        list[str], typer.Option(help="A hook point, such as blocks.5.mlp.hook_post. May be repeated.", metavar="HOOK")
    ],
    out: Annotated[Path, options.output_folder("Folder for the shards.")] = Path("out/activations"),
    positions: Annotated[
        str, typer.Option(help="image, objects (patches that an object covers), text, caption, or all.")
    ] = "image",
    category: Annotated[
        list[str] | None, typer.Option(help="With --positions objects: a category that counts. May be repeated.")
    ] = None,
    covered: Annotated[
        float, typer.Option(help="With --positions objects: the least share of a patch that a category covers.")
    ] = 0.5,
    text: options.Text = None,
    store_dtype: Annotated[
        options.Precision | None, typer.Option(help="Precision of the stored numbers. Default: the model's.")
    ] = None,
    pictures_per_shard: Annotated[int, typer.Option(min=1, help="Pictures in one file.")] = 256,
    run: DataSetRun = WHOLE,
    lens_options: options.LensOptions = options.TINY,
) -> None:
    """Store activations of every picture of a data set. After an interruption, the same command continues.

    [bold]Examples[/bold]

    lens-multimodal activations --data photos/ --at blocks.3.hook_resid_post --estimate

    lens-multimodal activations --data coco --at blocks.5.mlp.hook_post --positions objects --category dog --out dogs

    accelerate launch -m lens_multimodal activations --data coco --at blocks.14.hook_resid_post --store-dtype bfloat16
    """
    from lens_multimodal import store
    from lens_multimodal.prompt.image_prompt import PROMPT

    scenes = run.scenes(data)
    if not run.estimate and several_processes.run_in(run.processes):
        return
    lens = lens_options.open()
    settings = store.StoreSettings(
        at=at,
        positions=positions,  # type: ignore[arg-type]
        categories=category or None,
        covered=covered,
        text=PROMPT if text is None else text,
        dtype=None if store_dtype is None else store_dtype.value,
        batch_size=run.batch_size,
        pictures_per_shard=pictures_per_shard,
    )
    if run.estimate:
        typer.echo(store.estimate_activations(lens, scenes, settings, out=out, n_pictures=run.for_pictures))
        return
    written = store.write_activations(lens, scenes, out, settings)
    if options.is_first_process():
        warn_of_failures(written.failed)
        typer.echo(f"{len(written):,} rows: {out}")
