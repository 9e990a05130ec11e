"""`neurons`: which MLP neurons turn a picture into a word."""

from typing import Annotated

import typer

from lens_multimodal.arguments.score_names import SCORE_CLASSES
from lens_multimodal.cli import options
from lens_multimodal.cli.picture_sources import Pictures, find_pictures


def neurons(
    pictures: Pictures,
    word: options.Word,
    text: options.Before = None,
    prepend_bos: options.PrependBos = None,
    top_k: Annotated[int, typer.Option(min=1, help="Neurons per picture.")] = 20,
    score: Annotated[
        str, typer.Option(help=f"How neurons are scored: {', '.join(SCORE_CLASSES)}. The first is the paper's.")
    ] = "activation_x_gradient",
    reduce: Annotated[
        str, typer.Option(help="How to combine image positions: max (the paper's), sum or mean.")
    ] = "max",
    lens_options: options.LensOptions = options.TINY,
    output: options.OutputOptions = options.SCREEN,
) -> None:
    """Rank the neurons that turn a picture into a word of its caption, highest score first.

    [bold]Examples[/bold]

    lens-multimodal neurons dog.png --word dog

    lens-multimodal neurons dog.png --word dog --text "A picture of a" --top-k 100 --out found.parquet

    lens-multimodal neurons photos/ --word dog --text "A picture of a" --format json
    """
    import pandas as pd

    found = find_pictures(pictures)
    lens = lens_options.open()
    tables = []
    for path in found:
        prompt = options.prompt_for(lens, path, word, text, prepend_bos)
        table = lens.neurons(prompt, options.as_token(word), top_k=top_k, score=score, reduce=reduce)
        table.insert(0, "picture", pd.Series([path] * len(table), dtype=object, index=table.index))
        tables.append(table)
        lens.forget(prompt)
    output.write(pd.concat(tables, ignore_index=True), title=f"Neurons behind {word!r}")
