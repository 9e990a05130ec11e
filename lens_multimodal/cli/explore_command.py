"""`explore`: the lens in a browser."""

from pathlib import Path
from typing import Annotated

import typer

from lens_multimodal.cli import options


def explore(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 picks a free one.")] = 8000,
    atlas: Annotated[
        Path | None, typer.Option(help="A folder of `atlas` for this model: neurons show what it says of them.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    lens_options: options.LensOptions = options.TINY,
) -> None:
    """Open a page on this machine: drop a picture, click a word, ablate neurons.

    [bold]Examples[/bold]

    lens-multimodal explore

    lens-multimodal explore --port 9000 --no-browser

    lens-multimodal explore --atlas out/atlas
    """
    from lens_multimodal import explorer

    lens = lens_options.open()
    if port:
        typer.echo(f"the explorer is at http://127.0.0.1:{port}/ until Ctrl+C", err=True)
    explorer.serve(lens, port=port, open_browser=browser, atlas=atlas)
