"""Follow-up questions over pictures."""

import numpy as np
import pandas as pd

from lens_multimodal.experiments.experiment import Drawing, Summary
from lens_multimodal.experiments.follow_ups.removal import EXACT, EXACT_CONTROL, REPLACED, REPLACED_CONTROL
from lens_multimodal.experiments.statistics import (
    ENOUGH,
    by_measure,
    in_words,
    interval_table,
    is_above,
    paired_table,
    too_few,
)

CHANGE = "change of the log probability"


def summarise(rows: dict[str, pd.DataFrame], *, seed: int) -> dict[str, Summary]:
    """`regions`, `gradient-free score`, `sensitivity`, `across pictures`."""
    found = {}
    if len(rows["regions"]):
        found["regions"] = _regions(rows["regions"], seed)
    if len(rows["scores"]):
        found["gradient-free score"] = _scores(rows["scores"], seed)
    if len(rows["neurons"]):
        found["sensitivity"] = _sensitivity(rows["neurons"], seed)
        found["across pictures"] = _across(rows["neurons"], seed)
    return found


def _regions(regions: pd.DataFrame, seed: int) -> Summary:
    whole = regions[regions["condition"] == "picture"].set_index("image_id")["log_probability"]
    measures = {
        CHANGE: regions["log_probability"] - regions["image_id"].map(whole),
        "neurons in common with the picture's": regions["overlap"],
        "captions that say the noun": regions["caption_says_noun"].astype(float),
        "overlap of attribution with differences of activation": regions["overlap_by_difference"].astype(float),
    }
    long = by_measure(regions[["image_id", "condition"]], measures)
    n, size = regions["image_id"].nunique(), (regions["n_object"] / regions["n_positions"]).mean()
    exact = int((regions["condition"] == EXACT).sum())
    return Summary(
        frame=interval_table(long, "value", by=["measure", "condition"], seed=seed),
        title="Regions: object removed, background shuffled",
        caption=(
            f"Scene without it: the same scene composed without the object, or without another one, and seen anew by "
            f"the encoder ({_exactly(exact, n)}). Mean vector: the image vectors of the object's patches, of as many "
            f"random background patches or of the whole background replaced by the mean vector of the data set. "
            f"Shuffled: the background's vectors change places. Over {n} pictures whose caption names an annotated "
            f"category; objects take {size:.0%} of the patches. Last measure: neurons whose activation falls most when "
            f"the object goes, among those of largest attribution."
        ),
        n_pictures=n,
        verdict=_regions_verdict(long, seed),
        drawing=Drawing(kind="bars", x="condition", series="condition", panels="measure", y_title="change or share"),
    )


def _exactly(exact: int, n: int) -> str:
    if not exact:
        return "this data set has no such scenes: nothing here is removed exactly"
    return "all pictures" if exact == n else f"{exact} of {n} pictures; the data set has none for the others"


def _regions_verdict(long: pd.DataFrame, seed: int) -> str:
    own = long[long["measure"] == CHANGE]
    ways = (
        (EXACT, EXACT_CONTROL, "composing the scene without the object", "composing it without another object"),
        (
            REPLACED,
            REPLACED_CONTROL,
            "replacing the object's patches by the mean vector",
            "replacing as much background",
        ),
    )
    said = [_way(own, seed, *way) for way in ways]
    text = "; ".join(sentence for sentence in said if sentence)
    return f"{text[:1].upper()}{text[1:]}." if text else too_few(own["image_id"].nunique())


def _way(own: pd.DataFrame, seed: int, first: str, second: str, doing: str, control: str) -> str:
    """What one way of removing the object does to the noun, by itself and against its control."""
    alone = interval_table(own[own["condition"] == first], "value", seed=seed)
    if not len(alone) or alone["n"].iloc[0] < ENOUGH:
        return ""
    row = alone.iloc[0]
    does = {False: "LOWERS", True: "RAISES", None: "does NOT distinguishably change"}[is_above(row)]
    said = f"{doing} {does} the noun's log probability: {in_words(row)} (n = {int(row['n'])} pictures)"
    paired = paired_table(own, "value", pair="condition", first=first, second=second, seed=seed)
    if not len(paired) or paired["n"].iloc[0] < ENOUGH:
        return said
    row = paired.iloc[0]
    against = {
        False: f"it leaves the noun LESS likely than {control} does",
        True: f"it leaves the noun MORE likely than {control} does",
        None: f"it is NOT distinguishable from {control}",
    }[is_above(row)]
    return f"{said}; {against}: difference {in_words(row)} (n = {int(row['n'])})"


def _scores(scores: pd.DataFrame, seed: int) -> Summary:
    labels = {
        "spearman": "rank correlation with the paper's score",
        "overlap": "top neurons in common",
        "mean_layer": "mean layer of its top neurons",
        "mean_layer_paper": "mean layer of the paper's top neurons",
    }
    long = by_measure(scores[["image_id", "where"]], {label: scores[column] for column, label in labels.items()})
    n = scores["image_id"].nunique()
    return Summary(
        frame=interval_table(long, "value", by=["measure", "where"], seed=seed),
        title="Gradient-free score beside the paper's",
        caption=(
            f"Activation times decoded weight on the noun (no gradient, no backward pass) at the image positions, and "
            f"at the position that predicts the noun as its authors use it, against activation times gradient at the "
            f"image positions; over {n} pictures."
        ),
        n_pictures=n,
    )


def _sensitivity(neurons: pd.DataFrame, seed: int) -> Summary:
    keys = neurons[["image_id"]]
    long = pd.concat([keys.assign(neurons=kind, value=neurons[f"sensitivity_{kind}"]) for kind in ("top", "random")])
    frame = interval_table(long, "value", by=["neurons"], seed=seed)
    paired = paired_table(long, "value", pair="neurons", first="top", second="random", seed=seed)
    difference = paired.assign(neurons="top minus random")[["neurons", "mean", "low", "high", "n", "p"]]
    n = neurons["image_id"].nunique()
    return Summary(
        frame=pd.concat([frame, difference], ignore_index=True),
        title="Semantic sensitivity",
        caption=(
            f"Cosine of the noun's embedding with the nearest of a neuron's ten decoded words, mean over the neurons "
            f"found and over random neurons of the same layers; {n} pictures."
        ),
        n_pictures=n,
    )


def _across(neurons: pd.DataFrame, seed: int) -> Summary:
    """Overlap of each picture's neurons with those of pictures with the same noun, and with another."""
    overlaps = _overlaps(neurons)
    frame = interval_table(overlaps, "value", by=["compared with"], seed=seed)
    chance = float(neurons["overlap_chance"].mean())
    n = neurons["image_id"].nunique()
    return Summary(
        frame=frame,
        title="Invariance across pictures and specificity",
        caption=(
            f"Share of a picture's found neurons that are also found in another picture for the same noun, in another "
            f"picture for another noun, and in the same picture for a noun that it does not show; over {n} pictures "
            f"(those with a partner). Chance: {chance:.3f}."
        ),
        n_pictures=n,
        verdict=_across_verdict(overlaps, seed),
        drawing=Drawing(
            kind="bars",
            x="compared with",
            series="compared with",
            x_title="",
            y_title="share in common",
            reference=chance,
        ),
    )


def _across_verdict(overlaps: pd.DataFrame, seed: int) -> str:
    paired = paired_table(
        overlaps,
        "value",
        pair="compared with",
        first="another picture, the same noun",
        second="another picture, another noun",
        seed=seed,
    )
    if not len(paired) or paired["n"].iloc[0] < ENOUGH:
        return too_few(int(paired["n"].sum()))
    row = paired.iloc[0]
    said = {True: "MORE", False: "FEWER", None: "NOT distinguishably more"}[is_above(row)]
    return (
        f"Pictures with the same noun share {said} neurons than pictures with different nouns: difference "
        f"{in_words(row, percent=True)} of the found neurons (n = {int(row['n'])} "
        f"pictures)."
    )


def _overlaps(neurons: pd.DataFrame) -> pd.DataFrame:
    sets = [set(zip(row.layers, row.neurons, strict=True)) for row in neurons.itertuples()]
    index = {pair: i for i, pair in enumerate(sorted(set().union(*sets)))}
    found = np.zeros((len(sets), len(index)), dtype=np.float32)
    for row, own in enumerate(sets):
        found[row, [index[pair] for pair in own]] = 1
    shared = (found @ found.T) / found.sum(axis=1, keepdims=True)
    same = neurons["noun"].to_numpy()[:, None] == neurons["noun"].to_numpy()[None, :]
    other_picture = ~np.eye(len(sets), dtype=bool)
    rows = []
    for i, image_id in enumerate(neurons["image_id"]):
        for label, chosen in (
            ("another picture, the same noun", same[i] & other_picture[i]),
            ("another picture, another noun", ~same[i]),
        ):
            if chosen.any():
                rows.append({"image_id": image_id, "compared with": label, "value": float(shared[i, chosen].mean())})
        alone = neurons["overlap_other_nouns"].iloc[i]
        if pd.notna(alone):
            rows.append(
                {"image_id": image_id, "compared with": "the same picture, a noun not shown", "value": float(alone)}
            )
    return pd.DataFrame(rows, columns=["image_id", "compared with", "value"])
