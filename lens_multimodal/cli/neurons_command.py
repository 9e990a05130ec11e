"""`neurons`: which MLP neurons turn a picture into a word."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lens_multimodal.arguments.score_names import REDUCTIONS, SCORE_CLASSES
from lens_multimodal.cli import options
from lens_multimodal.cli.picture_sources import Pictures, find_pictures
from lens_multimodal.cli.unfamiliar_pictures import warn_of_unfamiliar

if TYPE_CHECKING:
    import pandas as pd

    from lens_multimodal.lens import VisionLens
    from lens_multimodal.prompt.image_prompt import ImagePrompt
    from lens_multimodal.views.command_pages import PictureNeurons


def neurons(
    pictures: Pictures,
    word: options.Word,
    text: options.Before = None,
    prepend_bos: options.PrependBos = None,
    top_k: Annotated[int, typer.Option(min=1, help="Neurons per picture.")] = 20,
    positions: options.Positions = options.Where.image,
    score: Annotated[str, options.one_of(SCORE_CLASSES, "How neurons are scored")] = "activation_x_gradient",
    reduce: Annotated[str, options.one_of(REDUCTIONS, "How to combine the positions")] = "max",
    lens_options: options.LensOptions = options.TINY,
    output: options.OutputOptions = options.SCREEN,
) -> None:
    """Rank the neurons that turn a picture into a word of its caption, highest score first.

    [bold]Examples[/bold]

    lens-multimodal neurons dog.png --word dog

    lens-multimodal neurons dog.png --word dog --positions last --out found.html

    lens-multimodal neurons dog.png --word dog --text "A picture of a" --top-k 100 --out found.parquet

    lens-multimodal neurons photos/ --word dog --text "A picture of a" --format json
    """
    found = find_pictures(pictures)

    import pandas as pd

    lens = lens_options.open()
    tables, sections = [], []
    for path in found:
        prompt = options.prompt_for(lens, path, word, text, prepend_bos)
        table = lens.neurons(
            prompt, options.as_token(word), positions=positions.value, top_k=top_k, score=score, reduce=reduce
        )
        if output.is_page:
            sections.append(_section(lens, path, prompt, table))
        table.insert(0, "picture", pd.Series([path] * len(table), dtype=object, index=table.index))
        tables.append(table)
        lens.forget(prompt)
    title = f"Neurons behind {word!r}"

    def page(title: str) -> str:
        from lens_multimodal.views.command_pages import neurons_page

        about = (
            f"Ranked by {score.replace('_', ' ')} in logits of the word, {reduce} over positions ({positions.value}). "
            f"Colour: the neuron's activation at the image patches; outlined: its receptive field."
        )
        return neurons_page(title, sections, word=options.as_token(word), about=about)

    output.write(pd.concat(tables, ignore_index=True), title=title, page=page if sections else None)
    warn_of_unfamiliar(lens, found)


def _section(lens: "VisionLens", path: Path, prompt: "ImagePrompt", table: "pd.DataFrame") -> "PictureNeurons":
    from lens_multimodal.analysis import neuron_activations, receptive_field
    from lens_multimodal.views.command_pages import MOST_MAPS, PictureNeurons

    image, shown = prompt.spans[0][0].image, table.head(MOST_MAPS)
    assert image.picture is not None
    active = neuron_activations(lens.model, prompt.tokens, shown, prompt.at("image"))[0]
    return PictureNeurons(
        name=str(path),
        picture=image.picture,
        text=lens.text.decode(prompt.tokens[0, prompt.text_pos[0]].tolist()),
        table=table,
        fields=[receptive_field(values, image.layout) for values in active],
    )
