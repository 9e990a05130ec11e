"""`neurons`: which MLP neurons turn a picture into a word."""

from typing import Annotated

import typer

from lens_multimodal.cli import options
from lens_multimodal.cli.picture_sources import Pictures, find_pictures
from lens_multimodal.views import terminal


def neurons(
    pictures: Pictures,
    word: options.Word,
    text: options.Before = None,
    top_k: Annotated[int, typer.Option(min=1, help="Neurons of each picture.")] = 20,
    score: Annotated[
        str, typer.Option(help="activation_x_gradient (the paper's), integrated_gradients, activation_x_decoded, ...")
    ] = "activation_x_gradient",
    reduce: Annotated[str, typer.Option(help="Over image positions: max (the paper's), sum or mean.")] = "max",
    model: options.Model = None,
    vision: options.Vision = None,
    projection: options.ProjectionFile = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    form: terminal.AsFormat = None,
    out: terminal.Out = None,
) -> None:
    """Find the neurons behind a word of the caption, best first.

    [bold]Examples[/bold]

    lens-multimodal neurons dog.png --word dog

    lens-multimodal neurons dog.png --word dog --text "A picture of a" --top-k 100 --out found.parquet

    lens-multimodal neurons photos/ --word dog --text "A picture of a" --format json
    """
    import pandas as pd

    found = find_pictures(pictures)
    lens = options.open_lens(model, vision=vision, projection=projection, device=device, dtype=dtype)
    tables = []
    for path in found:
        prompt = options.prompt_for(lens, path, word, text)
        table = lens.neurons(prompt, options.as_token(word), top_k=top_k, score=score, reduce=reduce)
        tables.append(table.assign(picture=str(path))[["picture", *table.columns]])
        lens.forget(prompt)
    terminal.write(pd.concat(tables, ignore_index=True), title=f"Neurons behind {word!r}", out=out, form=form)
