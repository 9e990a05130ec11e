"""Follow-up questions over pictures."""

import numpy as np
import pandas as pd

from lens_multimodal.experiments.experiment import Drawing, Summary
from lens_multimodal.experiments.statistics import by_measure, in_words, interval_table, is_above, paired_table


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
        "change of the log probability": regions["log_probability"] - regions["image_id"].map(whole),
        "neurons in common with the picture's": regions["overlap"],
        "captions that say the noun": regions["caption_says_noun"].astype(float),
        "overlap of attribution with differences of activation": regions["overlap_by_difference"].astype(float),
    }
    long = by_measure(regions[["image_id", "condition"]], measures)
    n, size = regions["image_id"].nunique(), (regions["n_object"] / regions["n_positions"]).mean()
    return Summary(
        frame=interval_table(long, "value", by=["measure", "condition"], seed=seed),
        title="Regions: background shuffled, object removed",
        caption=(
            f"The picture's vectors with the background shuffled, with the object's patches replaced by the mean "
            f"vector of the data set (removed), with the background or as many of its patches replaced; over {n} "
            f"pictures whose caption names an annotated category. Objects take {size:.0%} of the patches. Last "
            f"measure: neurons whose activation falls most when the object goes, among those of largest attribution."
        ),
        n_pictures=n,
        verdict=_regions_verdict(long, seed),
        drawing=Drawing(kind="bars", x="condition", series="condition", panels="measure", y_title="change or share"),
    )


def _regions_verdict(long: pd.DataFrame, seed: int) -> str:
    own = long[long["measure"] == "change of the log probability"]
    paired = paired_table(
        own, "value", pair="condition", first="object removed", second="as much background removed", seed=seed
    )
    if not len(paired) or paired["n"].iloc[0] < 2:
        return ""
    row = paired.iloc[0]
    said = {
        False: "lowers the noun's probability MORE than removing as much background",
        True: "lowers the noun's probability LESS than removing as much background",
        None: "does NOT lower the noun's probability distinguishably more than removing as much background",
    }[is_above(row["low"], row["high"])]
    return (
        f"Removing the object {said}: difference of log probability {in_words(row['mean'], row['low'], row['high'])} "
        f"(n = {int(row['n'])} pictures)."
    )


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
    if not len(paired) or paired["n"].iloc[0] < 2:
        return ""
    row = paired.iloc[0]
    said = {True: "MORE", False: "FEWER", None: "NOT distinguishably more"}[is_above(row["low"], row["high"])]
    return (
        f"Pictures with the same noun share {said} neurons than pictures with different nouns: difference "
        f"{in_words(row['mean'], row['low'], row['high'], percent=True)} of the found neurons (n = {int(row['n'])} "
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
