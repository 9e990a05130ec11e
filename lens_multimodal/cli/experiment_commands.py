"""`reproduce` and `report`: the paper's experiments over a data set."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lens_multimodal.cli import options, several_processes


def reproduce(
    data: Annotated[
        Path | None, typer.Option(help="A folder in COCO's format. Default: the scenes inside the package.")
    ] = None,
    out: Annotated[Path, options.output_folder("Folder for rows, tables and the report.")] = Path("out/reproduction"),
    only: Annotated[
        list[str] | None, typer.Option(help="The name of an experiment. May be repeated. Default: all.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only this many pictures.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    settings: Annotated[
        Path | None, typer.Option(help="A JSON file with settings by experiment. Default: the paper's.")
    ] = None,
    processes: several_processes.Processes = 1,
    lens_options: options.LensOptions = options.TINY,
) -> None:
    """Run the paper's experiments and write a report. After an interruption, the same command continues.

    [bold]Examples[/bold]

    lens-multimodal reproduce --limit 20 --processes 2

    lens-multimodal reproduce --data coco/val2017 --only causal --only discovery --out out/coco

    accelerate launch -m lens_multimodal reproduce --data coco --model gpt-j-limber-beit --dtype bfloat16
    """
    from lens_multimodal.reproduction import reproduce

    given = None if settings is None else read_settings(settings)
    if several_processes.run_in(processes):
        return
    lens = lens_options.open()
    results = reproduce(lens, data=data, only=only or None, limit=limit, out=out, seed=seed, settings=given)
    if options.is_first_process():
        typer.echo(f"report: {results.html}")


def report(
    out: Annotated[Path, typer.Argument(help="The folder that `reproduce` wrote.")],
) -> None:
    """Write the report again from the tables of a finished run.

    [bold]Example[/bold]

    lens-multimodal report out/reproduction
    """
    from lens_multimodal.views.report import write_report

    typer.echo(f"report: {write_report(out)}")


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, or not an object.
    """
    from lens_multimodal.files import read_json

    if not path.is_file():
        raise FileNotFoundError(f"no settings at {str(path)!r}; expected a JSON file")
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{str(path)!r} holds a {type(value).__name__}, expected an object of settings")
    return value
