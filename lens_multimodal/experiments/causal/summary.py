"""Ablation curves over pictures and the sentence that they support."""

import pandas as pd

from lens_multimodal.experiments.experiment import Drawing, Summary
from lens_multimodal.experiments.statistics import by_measure, in_words, interval_table, is_above, paired_table


def summarise(rows: dict[str, pd.DataFrame], *, seed: int) -> dict[str, Summary]:
    """`probability`, its paired `difference`, effects on `other nouns`, and `captions`."""
    ablations, captions = rows["ablations"], rows["captions"]
    if not len(ablations):
        return {}
    own, other = ablations[ablations["own"]], ablations[~ablations["own"]]
    n = own["image_id"].nunique()
    curve = interval_table(own, "relative_change", by=["neurons", "n_neurons"], seed=seed)
    paired = paired_table(
        own, "relative_change", pair="neurons", first="top", second="random", by=["n_neurons"], seed=seed
    )
    found = {
        "probability": Summary(
            frame=curve,
            title="Probability of the noun without its neurons",
            caption=(
                f"Relative change of a noun's probability (-1: all of it is gone) when the N neurons of largest "
                f"attribution, or as many random neurons of the same layers, are zero at the image positions; mean "
                f"over {n} pictures and 95 % bootstrap interval over pictures. The control ends where a layer has too "
                f"few other neurons."
            ),
            n_pictures=n,
            verdict=_verdict(own, paired, seed),
            paper_keys=_paper_keys(curve),
            drawing=Drawing(
                kind="curve",
                x="n_neurons",
                series="neurons",
                x_title="neurons ablated",
                y_title="relative change of the noun's probability",
                log_x=True,
                reference=0.0,
            ),
        ),
        "difference": Summary(
            frame=paired,
            title="Top minus random neurons, within pictures",
            caption=(
                f"Difference of the relative changes within pictures, its 95 % bootstrap interval and the p of a "
                f"sign-flip test, over {n} pictures. Below 0: the top neurons matter more than random ones."
            ),
            n_pictures=n,
        ),
    }
    if len(other):
        n_other = other["image_id"].nunique()
        found["other nouns"] = Summary(
            frame=interval_table(other, "relative_change", by=["neurons", "n_neurons"], seed=seed),
            title="Probability of the caption's other nouns",
            caption=(
                f"The same ablations, but the probability of the other nouns of the caption is watched, over {n_other} "
                f"pictures with more than one noun: an ablation that is about its noun leaves them."
            ),
            n_pictures=n_other,
            drawing=Drawing(
                kind="curve",
                x="n_neurons",
                series="neurons",
                x_title="neurons ablated",
                y_title="relative change of another noun's probability",
                log_x=True,
                reference=0.0,
            ),
        )
    if len(captions):
        found["captions"] = _captions(captions, seed)
    return found


def _captions(captions: pd.DataFrame, seed: int) -> Summary:
    measures = {
        "caption changed": captions["changed"].astype(float),
        "noun still said": captions["says_noun"].astype(float),
        "nouns kept": captions["nouns_kept"],
        "words in common": captions["word_overlap"],
        "embedding match": captions["embedding_match"],
        "BERTScore": captions["bertscore"].astype(float),
    }
    long = by_measure(captions[["image_id", "neurons", "n_neurons"]], measures)
    n = captions["image_id"].nunique()
    frame = interval_table(long.dropna(subset="value"), "value", by=["measure", "neurons", "n_neurons"], seed=seed)
    return Summary(
        frame=frame,
        title="The caption written without the neurons",
        caption=(
            f"Greedy captions with the top or random neurons at zero at the image positions, against the untouched "
            f"caption: share of captions changed, share that still say the noun, share of all nouns kept, words in "
            f"common (Dice), greedy matching of the tokens' embeddings (F1) and BERTScore where a model was given; "
            f"over {n} pictures."
        ),
        n_pictures=n,
        paper_keys=tuple(
            f"causal.caption_bertscore.{row.neurons}" if row.measure == "BERTScore" else None
            for row in frame.itertuples()
        ),
        drawing=Drawing(
            kind="curve",
            x="n_neurons",
            series="neurons",
            panels="measure",
            x_title="neurons ablated",
            y_title="share or similarity",
            log_x=True,
        ),
    )


def _verdict(own: pd.DataFrame, paired: pd.DataFrame, seed: int) -> str:
    """At the largest number of neurons for which at least half of the pictures have a control; over those pictures."""
    enough = paired[paired["n"] >= max(2, paired["n"].max() / 2)]
    if not len(enough):
        return ""
    last = enough.iloc[-1]
    count = int(last["n_neurons"])
    at = own[own["n_neurons"] == count]
    at = at[at["image_id"].isin(at.loc[at["neurons"] == "random", "image_id"])]
    means = interval_table(at, "relative_change", by=["neurons"], seed=seed).set_index("neurons")
    top, random = (in_words(*means.loc[kind, ["mean", "low", "high"]], percent=True) for kind in ("top", "random"))
    said = {
        False: "lower its probability MORE than random neurons of the same layers",
        True: "lower its probability LESS than random neurons of the same layers",
        None: "are NOT distinguishable from random neurons of the same layers",
    }[is_above(last["low"], last["high"])]
    return (
        f"Ablated, the neurons of largest attribution for a noun {said}: without the top {count} it changes by {top}, "
        f"without {count} random ones by {random} (n = {int(last['n'])} pictures)."
    )


def _paper_keys(curve: pd.DataFrame) -> tuple[str | None, ...]:
    """The paper's number stands beside the largest count."""
    largest = curve["n_neurons"].max()
    return tuple(
        f"causal.relative_probability_change.{row.neurons}" if row.n_neurons == largest else None
        for row in curve.itertuples()
    )
