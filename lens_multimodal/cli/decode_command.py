"""`decode`: neurons through the unembedding, and image prompts as their nearest tokens."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lens_multimodal.cli import options, picture_sources
from lens_multimodal.cli.neuron_list import NeuronsFrom, given_neurons

if TYPE_CHECKING:
    import pandas as pd

    from lens_multimodal.lens import VisionLens


def decode(
    neurons: Annotated[
        list[str] | None, typer.Argument(metavar="LAYER.NEURON...", help="Neurons as LAYER.NEURON, such as 3.120 5.7.")
    ] = None,
    neurons_from: NeuronsFrom = None,
    picture: Annotated[
        Path | None, typer.Option(help="Decode the image prompt of this picture instead, patch by patch.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Tokens per neuron or image patch.")] = 10,
    final_norm: Annotated[bool, typer.Option(help="Decode neurons through the final norm, unlike the paper.")] = False,
    lens_options: options.LensOptions = options.TINY,
    output: options.OutputOptions = options.SCREEN,
) -> None:
    """Decode neurons through the unembedding, or image prompts by their nearest token embeddings.

    [bold]Examples[/bold]

    lens-multimodal decode 3.120 5.7

    lens-multimodal decode --neurons-from found.parquet --format json

    lens-multimodal decode --picture dog.png --top-k 5
    """
    given = sum(bool(way) for way in (neurons, neurons_from, picture))
    if given != 1:
        raise typer.BadParameter(f"give exactly one of neurons, --neurons-from and --picture, got {given}")
    picture_sources.check_files(picture)
    chosen = given_neurons(neurons, neurons_from)
    lens = lens_options.open()
    if picture is not None:
        table, title = _image_prompt(lens, picture, top_k), f"Nearest token embeddings of the image prompt of {picture}"
    else:
        from lens_multimodal.analysis import decode_neurons

        assert chosen is not None
        table, title = (
            decode_neurons(lens.model, chosen, top_k=top_k, final_norm=final_norm),
            "Tokens that neurons promote",
        )
    output.write(table, title=title)


def _image_prompt(lens: "VisionLens", picture: Path, top_k: int) -> "pd.DataFrame":
    import pandas as pd

    from lens_multimodal.analysis import nearest_embeddings, token_strings
    from lens_multimodal.image.layout import NO_PATCH

    (image,) = lens.embed([picture])
    found = nearest_embeddings(lens.model, image.soft_prompt.vectors, top_k=top_k)
    rows = [
        (*(image.cell(i) or NO_PATCH), token_strings(lens.model, ids), values)
        for i, (ids, values) in enumerate(zip(found.tokens.tolist(), found.values.tolist(), strict=True))
    ]
    return pd.DataFrame(rows, columns=["row", "col", "tokens", "cosines"])
