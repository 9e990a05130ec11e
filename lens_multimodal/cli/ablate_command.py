"""`ablate`: what is left of a word without its neurons, against random ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_multimodal.cli import options
from lens_multimodal.cli.neuron_list import parse_neurons, read_neurons
from lens_multimodal.views import terminal

if TYPE_CHECKING:
    from lens_multimodal.lens import VisionLens
    from lens_multimodal.prompt.image_prompt import ImagePrompt


def ablate(
    picture: Annotated[Path, typer.Argument(help="One picture.")],
    word: options.Word,
    neurons: Annotated[
        list[str] | None, typer.Option("--neurons", "-n", help="Neurons such as 3.120,5.7; may be repeated.")
    ] = None,
    neurons_from: Annotated[
        Path | None, typer.Option(help="A .parquet, .json or .csv table with columns layer and neuron.")
    ] = None,
    top: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Ablate the first so many of the ranking; may be repeated. Without it: 10, 100."),
    ] = None,
    random_draws: Annotated[int, typer.Option(min=1, help="Draws of random neurons of the same layers.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the random draws.")] = 0,
    text: options.Before = None,
    model: options.Model = None,
    vision: options.Vision = None,
    projection: options.ProjectionFile = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    form: terminal.AsFormat = None,
    out: terminal.Out = None,
) -> None:
    """Set neurons to zero at the image positions and see what becomes of the word and of the caption.

    The neurons are the top of the paper's ranking, or those given. As many random neurons of the same layers are the
    control.

    [bold]Examples[/bold]

    lens-multimodal ablate dog.png --word dog --top 10 --top 100

    lens-multimodal ablate dog.png --word dog --text "A picture of a" --neurons 3.120,5.7

    lens-multimodal ablate dog.png --word dog --neurons-from found.parquet --random-draws 10 --out effect.json
    """
    if sum(bool(way) for way in (neurons, neurons_from, top)) > 1:
        raise typer.BadParameter("give one of --neurons, --neurons-from and --top")
    given: Any = read_neurons(neurons_from) if neurons_from else parse_neurons(neurons) if neurons else None
    counts = sorted(set(top or (10, 100)))
    lens = options.open_lens(model, vision=vision, projection=projection, device=device, dtype=dtype)
    target = options.as_token(word)
    prompt = options.prompt_for(lens, picture, word, text)
    if given is None:
        ranked = lens.neurons(prompt, target, top_k=counts[-1])
        chosen = [ranked.head(count) for count in counts]
    else:
        chosen = [given]

    import pandas as pd

    rows = [row for some in chosen for row in _rows(lens, picture, prompt, target, some, random_draws, seed)]
    terminal.write(
        pd.DataFrame(rows), title=f"Ablation at the image positions, {word!r} in {picture}", out=out, form=form
    )


def _rows(
    lens: "VisionLens", picture: Path, prompt: "ImagePrompt", target: str, chosen: Any, random_draws: int, seed: int
) -> Iterator[dict[str, Any]]:
    """One row for the chosen neurons and one for each draw of random ones."""
    import torch

    from lens_multimodal import transformer
    from lens_multimodal.analysis import effect_of
    from lens_multimodal.hooks import ablate as ablation
    from lens_multimodal.hooks import random_neurons_like

    generator = torch.Generator().manual_seed(seed)
    free = lens.prompt(picture)
    drawn = (random_neurons_like(lens.model, chosen, generator) for _ in range(random_draws))
    for draw, neurons in enumerate([chosen, *drawn]):
        hooks = ablation(lens.model, neurons, positions=prompt.image_pos[0])
        effect = effect_of(lens.model, prompt.tokens, hooks, lens.token_id(target))
        with transformer.fired_hooks(lens.model, ablation(lens.model, neurons, positions=free.image_pos[0])):
            (caption,) = lens.generate(free)
        yield {
            "neurons": "random" if draw else "chosen",
            "draw": draw,
            "count": len(neurons),
            "probability_before": float(effect.probability_before),
            "probability_after": float(effect.probability_after),
            "relative_probability_change": float(effect.relative_probability_change),
            "rank_after": int(effect.rank_after),
            "kl": float(effect.kl),
            "caption_after": caption,
        }
