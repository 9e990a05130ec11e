"""Ablation curves over pictures and the sentence that they support."""

import pandas as pd

from lens_multimodal.experiments.experiment import Drawing, Summary
from lens_multimodal.experiments.reference import paper_number
from lens_multimodal.experiments.statistics import (
    ENOUGH,
    by_measure,
    in_words,
    interval_table,
    is_above,
    paired_table,
    too_few,
)

PAPERS_SHARE = ("causal.counts.largest", "discovery.neurons")
"""Entries of the reference: neurons ablated at most, and neurons there are."""


def summarise(rows: dict[str, pd.DataFrame], *, seed: int) -> dict[str, Summary]:
    """`probability`, its paired `difference`, effects on `other nouns`, and `captions`."""
    ablations, captions = rows["ablations"], rows["captions"]
    if not len(ablations):
        return {}
    own, other = ablations[ablations["own"]], ablations[~ablations["own"]]
    n = own["image_id"].nunique()
    papers = papers_count(own)
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
                f"few other neurons. {_papers_share_in_words()}: the paper's number and the verdict stand beside the "
                f"largest count within that share here, {papers:,}."
            ),
            n_pictures=n,
            verdict=_verdict(own[own["n_neurons"] == papers], paired[paired["n_neurons"] == papers], seed),
            paper_keys=tuple(
                f"causal.relative_probability_change.{row.neurons}" if row.n_neurons == papers else None
                for row in curve.itertuples()
            ),
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


def papers_count(own: pd.DataFrame) -> int:
    """The largest count that is no larger a share of the model's neurons than the paper ablates; else the smallest."""
    within = own.loc[own["n_neurons"] <= _papers_share() * own["n_model"], "n_neurons"]
    return int(within.max() if len(within) else own["n_neurons"].min())


def _papers_share() -> float:
    largest, neurons = (paper_number(key).value for key in PAPERS_SHARE)
    return largest / neurons if largest and neurons else 1.0


def _papers_share_in_words() -> str:
    largest, neurons = map(paper_number, PAPERS_SHARE)
    return f"The paper ablates up to {largest} of {neurons} neurons, {100 * _papers_share():.1f} %"


def _verdict(at: pd.DataFrame, paired: pd.DataFrame, seed: int) -> str:
    """At one count, over the pictures that have a control there."""
    if not len(paired) or paired["n"].iloc[0] < ENOUGH:
        return too_few(int(paired["n"].sum()))
    row, count = paired.iloc[0], int(paired["n_neurons"].iloc[0])
    at = at[at["image_id"].isin(at.loc[at["neurons"] == "random", "image_id"])]
    means = interval_table(at, "relative_change", by=["neurons"], seed=seed).set_index("neurons")
    top, random = (in_words(means.loc[kind], percent=True, signed=True) for kind in ("top", "random"))
    lowers = is_above(means.loc["top"]) is False
    said = {
        False: "lower its probability MORE than" if lowers else "leave it LESS probable than",
        True: "lower its probability LESS than" if lowers else "leave it MORE probable than",
        None: "are NOT distinguishable from",
    }[is_above(row)]
    share = 100 * count / int(at["n_model"].iloc[0])
    return (
        f"Ablated, the neurons of largest attribution for a noun {said} random neurons of the same layers: without the "
        f"top {count:,} ({share:.1f} % of all) it changes by {top}, without {count:,} random ones by {random} "
        f"(n = {int(row['n'])} pictures)."
    )
