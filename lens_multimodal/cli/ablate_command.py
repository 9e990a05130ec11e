"""`ablate`: how far a word drops without its neurons, compared with random neurons."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_multimodal.cli import options, picture_sources
from lens_multimodal.cli.neuron_list import NeuronsFrom, given_neurons

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = [
    "neurons", "draw", "count", "probability_before", "probability_after", "relative_probability_change", "rank_after",
    "kl", "caption_after",
]  # fmt: skip


def ablate(
    picture: Annotated[Path, typer.Argument(help="One picture.")],
    word: options.Word,
    neurons: Annotated[
        list[str] | None,
        typer.Option("--neurons", "-n", help="Neurons as LAYER.NEURON, such as 3.120,5.7. May be repeated."),
    ] = None,
    neurons_from: NeuronsFrom = None,
    top: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Ablate this many neurons from the top of the ranking. May be repeated. Default: 10 and 100."
        ),
    ] = None,
    random_draws: Annotated[int, typer.Option(min=1, help="Draws of random neurons from the same layers.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the random draws.")] = 0,
    positions: options.Positions = options.Where.image,
    text: options.Before = None,
    prepend_bos: options.PrependBos = None,
    lens_options: options.LensOptions = options.TINY,
    output: options.OutputOptions = options.SCREEN,
) -> None:
    """Set neurons to zero, by default at the image positions; report the probability of the word and the new caption.

    The neurons are the top of the paper's ranking, or those given. The control is an equal number of random neurons
    from the same layers.

    [bold]Examples[/bold]

    lens-multimodal ablate dog.png --word dog --top 10 --top 100

    lens-multimodal ablate dog.png --word dog --text "A picture of a" --neurons 3.120,5.7

    lens-multimodal ablate dog.png --word dog --neurons-from found.parquet --random-draws 10 --out effect.json
    """
    if sum(bool(way) for way in (neurons, neurons_from, top)) > 1:
        raise typer.BadParameter("give one of --neurons, --neurons-from and --top")
    picture_sources.check_files(picture)
    given: Any = given_neurons(neurons, neurons_from)
    counts = sorted(set(top or (10, 100)))
    lens = lens_options.open()
    target = options.as_token(word)
    prompt = options.prompt_for(lens, picture, word, text, prepend_bos)
    if given is None:
        given = lens.neurons(prompt, target, positions=positions.value, top_k=counts[-1])
        _check_control(given, counts[-1], lens.shape.d_mlp)
    else:
        counts = []
    free = lens.prompt(picture, prepend_bos=prepend_bos)

    from lens_multimodal.analysis import CaptionCase, caption_effects_against_random

    case = CaptionCase(
        prompt=free, neurons=given, positions=positions.value, target=lens.text.token_id(target), read=prompt
    )
    found = caption_effects_against_random(lens, [case], counts=counts or None, n_random=random_draws, seed=seed)
    rows = found.assign(neurons=found["chosen"].map({True: "chosen", False: "random"}), count=found["n_neurons"])
    output.write(rows[COLUMNS], title=f"Ablation, positions {positions.value}, {word!r} in {picture}")


def _check_control(ranked: "pd.DataFrame", wanted: int, d_mlp: int) -> None:
    """Raises: ValueError if a layer has too few other neurons for a random control of as many."""
    place_in_layer = ranked.groupby("layer").cumcount() + 1
    crowded = ranked.index[2 * place_in_layer > d_mlp]
    most = int(crowded[0]) if len(crowded) else len(ranked)
    if wanted > most:
        raise ValueError(
            f"--top {wanted}: at most {most} here, because the control needs as many other neurons of the same layers "
            f"(layers have {d_mlp:,} neurons)"
        )
