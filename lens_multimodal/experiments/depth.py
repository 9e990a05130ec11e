"""At which depth does the image become words? Logit lens of image positions, and attention cuts (beyond the paper).

Logit lens: at every depth, the residual stream is unembedded as if it were the last, at the noun's object, at the
background and at the position that predicts the noun. The noun's rank and probability there are recorded.

Attention cuts: text positions cannot attend to image positions from a layer on, or up to a layer. Where the noun
survives a cut from layer L on, its information has left the image positions before layer L.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from lens_multimodal import transformer
from lens_multimodal.analysis import LogitLens, logit_lens
from lens_multimodal.analysis.effects.by_row import Reading, batches, read_logits
from lens_multimodal.experiments.experiment import Experiment
from lens_multimodal.experiments.shared import picture_statistics as stats
from lens_multimodal.experiments.shared.context import Context, Row
from lens_multimodal.experiments.shared.object_patches import object_patches
from lens_multimodal.experiments.shared.picture_state import PictureState
from lens_multimodal.experiments.shared.settings_checks import require_share
from lens_multimodal.experiments.shared.summaries import (
    Drawing,
    Evidence,
    Pair,
    SummaryTable,
    Verdict,
    answer_of,
    too_few,
)
from lens_multimodal.hooks import cut_attention


@dataclass(frozen=True, kw_only=True)
class DepthSettings:
    """Which positions count as the object's.

    Raises: ValueError for a share outside 0 to 1.
    """

    covered: float = 0.5
    """Share of an image patch that the object must cover; if no patch reaches it, the patch with the largest counts."""

    def __post_init__(self) -> None:
        require_share(self, "covered")


# --- summaries over all pictures ------------------------------------------------------------------------------

OBJECT_AGAINST_BACKGROUND = Pair(column="place", first="object", second="background")

NEEDED = 0.1
"""The image counts as needed where the cut costs at least this share of the probability on average."""


def _cut_verdict(evidence: Evidence) -> Verdict:
    """The earliest layer from which the image is no longer needed."""
    rows = evidence.rows
    whole = rows[(rows["cut"] == "from") & (rows["layer"] == rows["layer"].min())]
    tested = stats.table_against(whole, "relative_change", seed=evidence.seed)
    n = int(tested["n"].sum())
    if n < stats.needed():
        return too_few(n)
    below = stats.is_above(tested.iloc[0])
    changes = stats.in_words(tested.iloc[0], percent=True, signed=True)
    if below is not False:
        text = f"Cutting the text off from the image does NOT lower the noun's probability here ({changes}, n = {n})."
    else:
        text = (
            f"If text never attends to the image, the noun's probability changes by {changes}; "
            f"{_needed_until(evidence.frame)}, n = {n} pictures)."
        )
    return Verdict(
        text=text,
        answer=answer_of(below, expected=False),
        compared=tested.assign(compared="no attention to the image"),
        unit="relative change of the probability",
    )


def _needed_until(frame: pd.DataFrame) -> str:
    cut = frame[frame["cut"] == "from"].sort_values("layer").set_index("layer")
    # The last row is a cut after the last layer, which cuts nothing.
    needed = cut.iloc[:-1]
    later = needed.index[needed["mean"] > -NEEDED]
    if len(later):
        return f"from layer {int(later.min())} on the image is no longer needed (the loss is below a tenth on average"
    last = stats.in_words(needed.iloc[-1], percent=True, signed=True)
    return f"the image is needed up to the last layer (a cut in layer {needed.index[-1]} alone changes it by {last}"


def _object_verdict(evidence: Evidence) -> Verdict:
    """At the depth of the largest difference, tested as the best of all depths."""
    paired = evidence.frame
    tests = len(paired)
    n = int(paired["n"].max())
    if n < stats.needed(tests):
        return too_few(n, tests=tests)
    best = int(paired["mean"].to_numpy().argmax())
    row, p = paired.iloc[best], stats.holm(paired["p"].tolist())[best]
    above = stats.is_above(row, p=p)
    said = {
        True: "MORE likely at its object's patches than at the background",
        False: "LESS likely at its object's patches than at the background, at every depth",
        None: "NOT shown to be more likely at its object's patches than at the background",
    }[above]
    at = evidence.rows[evidence.rows["depth"] == row["depth"]]
    return Verdict(
        text=(
            f"Under the logit lens the noun is {said}: the difference is largest at depth {int(row['depth'])}, "
            f"{stats.in_words(row)} nats (p = {p:.3f} after Holm's correction for {tests} depths, "
            f"n = {int(row['n'])} pictures)."
        ),
        answer=answer_of(above),
        compared=OBJECT_AGAINST_BACKGROUND.sides(at, "log_probability", seed=evidence.seed),
        unit=f"log probability of the noun at depth {int(row['depth'])} (nats)",
    )


def _object_and_background(lens: pd.DataFrame) -> pd.DataFrame:
    shown = lens[lens["in_picture"]]
    return shown if (shown["place"] == "background").any() else shown.head(0)


CUTS = SummaryTable(
    name="attention cuts",
    table="cuts",
    title="Text without attention to the image",
    caption=(
        "Relative change of the noun's probability when no text position can attend to image positions: in this layer "
        "and all later ones (from), or in all layers before this one (up to); over {n} pictures. A cut after the last "
        "layer or before the first cuts nothing."
    ),
    value="relative_change",
    by=("cut", "layer"),
    verdict=_cut_verdict,
    claim="The noun needs the text's attention to the image.",
    drawing=Drawing(
        kind="curve", x="layer", series="cut", y_title="relative change of the noun's probability", reference=0.0
    ),
)

BY_DEPTH = Drawing(kind="curve", x="depth", x_title="depth (layers passed)")

LENS = SummaryTable(
    name="logit lens",
    table="lens",
    title="Logit lens: the noun by depth",
    caption=(
        "Natural logarithm of the noun's probability when the residual stream at a depth is unembedded as if it were "
        "the last: at the position that predicts the noun (prediction), at all image positions (image), and where the "
        "noun's object is annotated at its patches (object) and the others (background). Depth 0 is the image prompt "
        "itself. Mean over {n} pictures, {n_shown} of them with the object."
    ),
    value="log_probability",
    by=("place", "depth"),
    facts=lambda rows: {"n_shown": rows[rows["in_picture"]]["image_id"].nunique()},
    drawing=replace(BY_DEPTH, series="place", y_title="log probability of the noun (nats)"),
)

OBJECT = SummaryTable(
    name="object against background",
    table="lens",
    title="Object against background by depth",
    caption=(
        "Log probability of the noun at its object's patches minus at the other patches, within pictures; {n} pictures "
        "whose caption names an annotated category."
    ),
    rows=lambda tables: _object_and_background(tables["lens"]),
    value="log_probability",
    by=("depth",),
    difference=OBJECT_AGAINST_BACKGROUND,
    verdict=_object_verdict,
    claim="Under the logit lens, the noun is more likely at its object than at the background.",
    drawing=replace(BY_DEPTH, y_title="log probability, object minus background (nats)", reference=0.0),
)


# --- rows of one picture ---------------------------------------------------------------------------------------


class Depth(Experiment[DepthSettings]):
    """Logit lens and attention cuts by layer."""

    name, version = "depth", 1
    question = "At which depth does the image become words?"
    tables = ("lens", "cuts")
    summaries = (CUTS, LENS, OBJECT)

    def rows(self, context: Context[DepthSettings]) -> dict[str, pd.DataFrame]:
        if not context.picture.nouns:
            return self.frames()
        return self.frames(lens=_lens(context), cuts=_cuts(context.picture))


def _lens(context: Context[DepthSettings]) -> Iterator[Row]:
    picture = context.picture
    read = logit_lens(picture.lens.model, picture.tokens, [noun.token for noun in picture.nouns])
    for index, noun in enumerate(picture.nouns):
        places = {"image": picture.image_pos, "prediction": torch.tensor([noun.read_pos])}
        if noun.in_picture:
            on_object = object_patches(picture, str(noun.noun.category), context.settings.covered)
            places["object"] = picture.image_pos[on_object]
            if bool((~on_object).any()):
                places["background"] = picture.image_pos[~on_object]
        for place, positions in places.items():
            for depth in range(read.rank.shape[1]):
                yield {
                    "image_id": picture.scene.id,
                    "noun": noun.name,
                    "in_picture": noun.in_picture,
                    "place": place,
                    "depth": depth,
                    **_at(read, index, depth, positions),
                }


def _at(read: LogitLens, token: int, depth: int, positions: Int[Tensor, " pos"]) -> Row:
    rank = read.rank[token, depth, positions].double()
    probability = read.probability[token, depth, positions].double()
    return {
        "n_positions": len(positions),
        "mean_rank": float(rank.mean()),
        "best_rank": int(rank.min()),
        "first_choice": float((rank == 0).double().mean()),
        "log_probability": float(probability.log().clamp(min=-100).mean()),
        "probability": float(probability.mean()),
    }


def _cuts(picture: PictureState) -> Iterator[Row]:
    n_layers = picture.lens.shape.n_layers
    kinds = [("from", layer) for layer in range(n_layers + 1)] + [("up to", layer) for layer in range(1, n_layers + 1)]
    reading = _with_cuts(picture, [_cut_layers(kind, layer, n_layers) for kind, layer in kinds])
    uncut = kinds.index(("from", n_layers))
    for row, (kind, layer) in enumerate(kinds):
        for index, noun in enumerate(picture.nouns):
            before, after = (float(reading.probability[r, index].double()) for r in (uncut, row))
            yield {
                "image_id": picture.scene.id,
                "noun": noun.name,
                "in_picture": noun.in_picture,
                "cut": kind,
                "layer": layer,
                "probability_before": before,
                "probability_after": after,
                "relative_change": after / before - 1,
                "rank_after": int(reading.rank[row, index]),
            }


def _cut_layers(kind: str, layer: int, n_layers: int) -> range:
    """Layers in which text cannot attend to the image: `layer` and all later ones, or all before `layer`."""
    return range(layer, n_layers) if kind == "from" else range(layer)


def _with_cuts(picture: PictureState, cuts: list[range]) -> Reading:
    """The nouns' predictions, one row for each set of cut layers."""
    chunks = [cuts[batch] for batch in batches(len(cuts), picture.batch_size)]
    hooks = [_hooks(picture, chunk) for chunk in chunks]
    # A chunk without any cut has no hooks, and runs as those that it is compared with.
    names = {name for of_chunk in hooks for name, _ in of_chunk}
    with transformer.running_alike(picture.lens.model, names):
        return Reading.joined(
            [
                read_logits(picture.lens.model, picture.tokens.expand(len(chunk), -1), picture.reads, of_chunk)
                for chunk, of_chunk in zip(chunks, hooks, strict=True)
            ]
        )


def _hooks(picture: PictureState, cuts: list[range]) -> list[transformer.NamedHook]:
    """Cut attention from text to the image, in each row in its own layers."""
    is_text = torch.arange(picture.tokens.shape[1]) > int(picture.image_pos[-1])
    hooks: list[transformer.NamedHook] = []
    for layer in range(picture.lens.shape.n_layers):
        in_rows = torch.tensor([layer in cut for cut in cuts])
        if bool(in_rows.any()):
            hooks += cut_attention(
                picture.lens.model, queries=in_rows[:, None] & is_text, keys=picture.image_pos.tolist(), layers=layer
            )
    return hooks
