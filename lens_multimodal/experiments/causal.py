"""Do the found neurons cause the word? Ablate them in growing numbers, against random neurons (paper section 3.3).

The N neurons of largest attribution for a noun are set to zero at the image positions, with N on a log grid. The
control is as many random neurons of the same layers, none of them among the N, drawn again for each N. It ends where
the N take more than half of a layer, which leaves too few others. The measures are the noun's probability where the
caption says it, the probabilities of the caption's other nouns, and the caption written without the neurons.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from lens_multimodal.analysis import WordOverlap
from lens_multimodal.analysis.effects import against_random
from lens_multimodal.analysis.effects.by_row import Reading, captions_without
from lens_multimodal.experiments.experiment import Experiment
from lens_multimodal.experiments.paper_reference import paper_number
from lens_multimodal.experiments.shared import picture_statistics as stats
from lens_multimodal.experiments.shared.context import Context, Row
from lens_multimodal.experiments.shared.picture_state import PictureState
from lens_multimodal.experiments.shared.pretrained_scores import bert_score
from lens_multimodal.experiments.shared.summaries import (
    TOP_AGAINST_RANDOM,
    Drawing,
    Evidence,
    SummaryTable,
    Verdict,
    answer_of,
    too_few,
)
from lens_multimodal.experiments.shared.word_agreement import embedding_space


@dataclass(frozen=True, kw_only=True)
class CausalSettings:
    """How many neurons to ablate.

    Raises: ValueError for counts that are not positive and ascending, or no random draw.
    """

    counts: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 6400)
    """The paper goes up to 6,400; counts beyond `PictureSettings.n_ranked` or the model are left out."""
    caption_counts: tuple[int, ...] = (10, 100, 1000)
    """The counts for which a new caption is written."""
    n_random: int = 1
    """Random draws for each noun and count."""
    bertscore_model: str | None = None
    """Folder of a Hugging Face text encoder, for BERTScore between captions as in the paper."""

    def __post_init__(self) -> None:
        for name in ("counts", "caption_counts"):
            values = getattr(self, name)
            if list(values) != sorted(set(values)) or min(values, default=1) < 1:
                raise ValueError(f"{name} must be positive and ascending, got {values}")
        if not self.counts or self.n_random < 1:
            raise ValueError(f"expected at least one count and one random draw, got {self.counts} and {self.n_random}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """Neurons that are ablated together, and how they were chosen."""

    noun: int
    n_neurons: int
    neurons: str
    """top or random"""
    draw: int
    table: pd.DataFrame


# --- summaries over all pictures ------------------------------------------------------------------------------

PAPERS_SHARE = ("causal.counts.largest", "discovery.neurons")
"""Entries of the reference: the largest number of ablated neurons, and the number of neurons in the model."""


def papers_count(own: pd.DataFrame) -> int:
    """The largest count within the share of neurons that the paper ablates; the smallest count if none is."""
    within = own.loc[own["n_neurons"] <= _papers_share() * own["n_model"], "n_neurons"]
    return int(within.max() if len(within) else own["n_neurons"].min())


def _papers_share() -> float:
    largest, neurons = (paper_number(key).value for key in PAPERS_SHARE)
    return largest / neurons if largest and neurons else 1.0


def _papers_counts(own: pd.DataFrame) -> Mapping[str, Any]:
    largest, neurons = map(paper_number, PAPERS_SHARE)
    return {"largest": largest, "neurons": neurons, "share": 100 * _papers_share(), "papers": papers_count(own)}


def _verdict(evidence: Evidence) -> Verdict:
    """At the paper's count, over the pictures that have a control there."""
    count, seed = evidence.facts["papers"], evidence.seed
    at = evidence.rows[evidence.rows["n_neurons"] == count]
    paired = TOP_AGAINST_RANDOM.differences(at, "relative_change", seed=seed)
    n = int(paired["n"].sum())
    if n < stats.needed():
        return too_few(n)
    sides = TOP_AGAINST_RANDOM.sides(at, "relative_change", seed=seed)
    top, random = (stats.in_words(row, percent=True, signed=True) for _, row in sides.iterrows())
    above = stats.is_above(paired.iloc[0])
    how = "NOT distinguishably less" if above is None else "MORE" if above else "LESS"
    share = 100 * count / int(at["n_model"].iloc[0])
    text = (
        f"Without its top {count:,} neurons ({share:.1f} % of all), the noun's probability changes by {top}; without "
        f"{count:,} random neurons of the same layers by {random}. It is {how} probable without the top "
        f"neurons (n = {n} pictures)."
    )
    answer = answer_of(above, expected=False)
    return Verdict(text=text, answer=answer, compared=sides, unit="relative change of the probability")


CURVE = Drawing(
    kind="curve",
    x="n_neurons",
    series="neurons",
    x_title="neurons ablated",
    y_title="relative change of the noun's probability",
    log_x=True,
    reference=0.0,
)

PROBABILITY = SummaryTable(
    name="probability",
    table="ablations",
    title="Probability of the noun without its neurons",
    caption=(
        "Relative change of a noun's probability (-1: it is gone) when the N neurons of largest attribution, or as "
        "many random neurons of the same layers, are zero at the image positions; mean over {n} pictures and 95 % "
        "bootstrap interval over pictures. The control ends where a layer has too few other neurons. The paper ablates "
        "up to {largest} of {neurons} neurons, {share:.1f} %: its number and the verdict refer to the largest count "
        "within that share here, {papers:,}."
    ),
    rows=lambda tables: tables["ablations"][tables["ablations"]["own"]],
    value="relative_change",
    by=("neurons", "n_neurons"),
    facts=_papers_counts,
    paper_key=lambda row, facts: (
        f"causal.relative_probability_change.{row.neurons}" if row.n_neurons == facts["papers"] else None
    ),
    verdict=_verdict,
    claim="Ablating a noun's top neurons lowers its probability more than ablating random neurons.",
    control="ablation",
    drawing=CURVE,
)

DIFFERENCE = SummaryTable(
    name="difference",
    table="ablations",
    title="Top minus random neurons, within pictures",
    caption=(
        "Difference of the relative changes within pictures, its 95 % bootstrap interval and the p of a sign-flip "
        "test, over {n} pictures. Below 0: the top neurons matter more than random ones."
    ),
    rows=PROBABILITY.rows,
    value="relative_change",
    by=("n_neurons",),
    difference=TOP_AGAINST_RANDOM,
)

OTHER_NOUNS = SummaryTable(
    name="other nouns",
    table="ablations",
    title="Probability of the caption's other nouns",
    caption=(
        "The same ablations, measured on the caption's other nouns, over {n} pictures with more than one noun: an "
        "ablation specific to its noun leaves them unchanged."
    ),
    rows=lambda tables: tables["ablations"][~tables["ablations"]["own"]],
    value="relative_change",
    by=("neurons", "n_neurons"),
    drawing=replace(CURVE, y_title="relative change of another noun's probability"),
)

CAPTION_MEASURES = {
    "changed": "caption changed",
    "says_noun": "noun still said",
    "nouns_kept": "nouns kept",
    "word_overlap": "words in common",
    "embedding_match": "embedding match",
    "bertscore": "BERTScore",
}

CAPTIONS = SummaryTable(
    name="captions",
    table="captions",
    title="The caption written without the neurons",
    caption=(
        "Greedy captions with the top or random neurons at zero at the image positions, against the original caption: "
        "share of captions changed, share that still say the noun, share of all nouns kept, words in common (Dice), "
        "greedy matching of the tokens' embeddings (F1), and BERTScore where a model was given; over {n} pictures."
    ),
    rows=lambda tables: stats.by_measure(tables["captions"], CAPTION_MEASURES, keys=["neurons", "n_neurons"]),
    by=("measure", "neurons", "n_neurons"),
    paper_key=lambda row, _: f"causal.caption_bertscore.{row.neurons}" if row.measure == "BERTScore" else None,
    drawing=replace(CURVE, panels="measure", y_title="share or similarity", reference=None),
)


# --- rows of one picture ---------------------------------------------------------------------------------------


class Causal(Experiment[CausalSettings]):
    """Ablation of found against random neurons."""

    name, version = "causal", 2
    question = "Do these neurons cause the word?"
    answer = "probability"
    tables = ("ablations", "captions")
    summaries = (PROBABILITY, DIFFERENCE, OTHER_NOUNS, CAPTIONS)

    def rows(self, context: Context[CausalSettings]) -> dict[str, pd.DataFrame]:
        tried = trials(context.picture, context.settings)
        if not tried:
            return self.frames()
        reading = context.picture.read([None, *(trial.table for trial in tried)])
        return self.frames(ablations=_ablations(context.picture, tried, reading), captions=_captions(context, tried))


def trials(picture: PictureState, settings: CausalSettings) -> list[Trial]:
    """All ablations of one picture: each noun, each count, top neurons and random draws."""
    return [
        Trial(
            noun=index,
            n_neurons=len(trial.neurons),
            neurons="top" if trial.chosen else "random",
            draw=max(0, trial.draw - 1),
            table=trial.neurons,
        )
        for index, ranked in enumerate(picture.ranked)
        for trial in against_random.trials(
            picture.lens.model,
            ranked,
            counts=settings.counts,
            n_random=settings.n_random,
            seed=picture.seed,
            key=("causal", picture.scene.id, index),
        )
    ]


def _ablations(picture: PictureState, tried: Sequence[Trial], reading: Reading) -> Iterator[Row]:
    probability, logit = reading.probability.double(), reading.logit.double()
    for row, trial in enumerate(tried, start=1):
        noun = picture.nouns[trial.noun]
        for index, watched in enumerate(picture.nouns):
            yield {
                **picture.about(noun),
                "n_neurons": trial.n_neurons,
                "neurons": trial.neurons,
                "draw": trial.draw,
                "watched": watched.name,
                "own": index == trial.noun,
                "probability_before": float(probability[0, index]),
                "probability_after": float(probability[row, index]),
                "relative_change": float(probability[row, index] / probability[0, index] - 1),
                "logit_change": float(logit[row, index] - logit[0, index]),
                "rank_after": int(reading.rank[row, index]),
                "n_model": picture.lens.shape.n_neurons,
            }


def _captions(context: Context[CausalSettings], tried: Sequence[Trial]) -> Iterator[Row]:
    picture, settings = context.picture, context.settings
    written = [trial for trial in tried if trial.n_neurons in settings.caption_counts]
    if not written:
        return
    captions = captions_without(
        picture.lens,
        picture.prompt.tokens.expand(len(written), -1),
        [trial.table for trial in written],
        positions=picture.image_pos,
        max_new_tokens=picture.settings.max_new_tokens,
        batch_size=picture.batch_size,
    )
    space, encode = embedding_space(context), picture.lens.text.encode
    before = picture.noun_finder.names(picture.caption)
    overlaps = WordOverlap()([picture.caption] * len(captions), captions).tolist()
    for trial, caption, overlap in zip(written, captions, overlaps, strict=True):
        noun, after = picture.nouns[trial.noun].name, picture.noun_finder.names(caption)
        _, _, f1 = space.agreement(encode(caption), encode(picture.caption))
        yield {
            "image_id": picture.scene.id,
            "noun": noun,
            "n_neurons": trial.n_neurons,
            "neurons": trial.neurons,
            "draw": trial.draw,
            "caption_before": picture.caption,
            "caption_after": caption,
            "changed": caption != picture.caption,
            "says_noun": noun in after,
            "nouns_kept": len(before & after) / len(before),
            "word_overlap": overlap,
            "embedding_match": f1,
            "bertscore": bert_score(caption, [picture.caption], settings.bertscore_model, once=context.once),
        }
