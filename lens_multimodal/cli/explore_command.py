"""`explore`: the lens in a browser."""

from typing import Annotated

import typer

from lens_multimodal.cli import options


def explore(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0 takes a free one.")] = 8000,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    model: options.Model = None,
    vision: options.Vision = None,
    projection: options.ProjectionFile = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> None:
    """Open a page on this machine: drop a picture, click a word, switch neurons off.

    [bold]Examples[/bold]

    lens-multimodal explore

    lens-multimodal explore --port 9000 --no-browser
    """
    from lens_multimodal import explorer

    lens = options.open_lens(model, vision=vision, projection=projection, device=device, dtype=dtype)
    if port:
        typer.echo(f"the explorer is at http://127.0.0.1:{port}/ until Ctrl+C", err=True)
    explorer.serve(lens, port=port, open_browser=browser)
