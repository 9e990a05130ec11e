"""Logit lens and attention cuts over pictures."""

import pandas as pd

from lens_multimodal.experiments.experiment import Drawing, Summary
from lens_multimodal.experiments.statistics import (
    ENOUGH,
    holm,
    in_words,
    interval_table,
    is_above,
    paired_table,
    too_few,
)

NEEDED = 0.1
"""Share of the probability that is lost on average where the image is still needed."""


def summarise(rows: dict[str, pd.DataFrame], *, seed: int) -> dict[str, Summary]:
    """`logit lens` by depth and place, its object against background, `attention cuts` by layer."""
    lens, cuts = rows["lens"], rows["cuts"]
    if not len(lens):
        return {}
    shown = lens[lens["in_picture"]]
    found = {"attention cuts": _cuts(cuts, seed), "logit lens": _lens(lens, seed)}
    if (shown["place"] == "background").any():
        found["object against background"] = _object(shown, seed)
    return found


def _lens(lens: pd.DataFrame, seed: int) -> Summary:
    n, n_shown = lens["image_id"].nunique(), lens[lens["in_picture"]]["image_id"].nunique()
    return Summary(
        frame=interval_table(lens, "log_probability", by=["place", "depth"], seed=seed),
        title="Logit lens: the noun by depth",
        caption=(
            f"Natural logarithm of the noun's probability when the residual stream at a depth is read out as if it "
            f"were the last: at the position that predicts the noun (prediction), at all image positions (image), and "
            f"where the noun's object is annotated at its patches (object) and the others (background). Depth 0 is the "
            f"image prompt itself. Mean over {n} pictures, {n_shown} of them with the object."
        ),
        n_pictures=n,
        drawing=Drawing(
            kind="curve",
            x="depth",
            series="place",
            x_title="depth (layers passed)",
            y_title="log probability of the noun (nats)",
        ),
    )


def _object(shown: pd.DataFrame, seed: int) -> Summary:
    paired = paired_table(
        shown, "log_probability", pair="place", first="object", second="background", by=["depth"], seed=seed
    )
    n = shown["image_id"].nunique()
    return Summary(
        frame=paired,
        title="Object against background by depth",
        caption=(
            f"Log probability of the noun at its object's patches minus at the other patches, within pictures; {n} "
            f"pictures whose caption names an annotated category."
        ),
        n_pictures=n,
        verdict=_object_verdict(paired),
        drawing=Drawing(
            kind="curve",
            x="depth",
            x_title="depth (layers passed)",
            y_title="log probability, object minus background (nats)",
            reference=0.0,
        ),
    )


def _object_verdict(paired: pd.DataFrame) -> str:
    """At the depth of the largest difference, tested as the best of all depths."""
    n = int(paired["n"].max())
    if n < ENOUGH:
        return too_few(n)
    best = int(paired["mean"].to_numpy().argmax())
    row, p = paired.iloc[best], holm(paired["p"].tolist())[best]
    more = is_above(row) and p < 0.05
    difference = in_words(row)
    return (
        f"Read out at its object's patches the noun is {'MORE' if more else 'NOT distinguishably more'} likely than at "
        f"the background: {difference} nats at depth {int(row['depth'])}, where the difference is largest (p = {p:.3f} "
        f"after Holm's correction for {len(paired)} depths, n = {int(row['n'])} pictures)."
    )


def _cuts(cuts: pd.DataFrame, seed: int) -> Summary:
    frame = interval_table(cuts, "relative_change", by=["cut", "layer"], seed=seed)
    n = cuts["image_id"].nunique()
    return Summary(
        frame=frame,
        title="Text cannot look at the image",
        caption=(
            f"Relative change of the noun's probability when no text position may attend to image positions: in this "
            f"layer and all after it (from), or in all layers before this one (up to); over {n} pictures. Behind the "
            f"last layer nothing is left to cut, before the first neither."
        ),
        n_pictures=n,
        verdict=_verdict(frame, n),
        drawing=Drawing(
            kind="curve",
            x="layer",
            series="cut",
            x_title="layer",
            y_title="relative change of the noun's probability",
            reference=0.0,
        ),
    )


def _verdict(frame: pd.DataFrame, n: int) -> str:
    """The earliest layer from which on the image is no longer needed: the mean loses less than a tenth."""
    if n < ENOUGH:
        return too_few(n)
    cut = frame[frame["cut"] == "from"].sort_values("layer").set_index("layer")
    whole = in_words(cut.iloc[0], percent=True, signed=True)
    if is_above(cut.iloc[0]) is not False:
        return f"Cutting the text off from the image does NOT lower the noun's probability here ({whole}, n = {n})."
    # The last row is a cut behind the last layer, which cuts nothing.
    needed = cut.iloc[:-1]
    later = needed.index[needed["mean"] > -NEEDED]
    if len(later):
        until = f"from layer {int(later.min())} on the image is no longer needed (less than a tenth is lost on average"
    else:
        last = in_words(needed.iloc[-1], percent=True, signed=True)
        until = (
            f"the image is needed up to the last layer (without a look in layer {int(needed.index[-1])} alone {last}"
        )
    return f"Without any look at the image the noun's probability changes by {whole}; {until}, n = {n} pictures)."
