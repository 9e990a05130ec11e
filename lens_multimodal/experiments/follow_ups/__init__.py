"""What do later methods say about the same neurons? For the first noun of each caption.

- Region invariance and object removal (`object_regions`), only where the caption names an annotated category.
- The gradient-free score (Pan et al. 2024) against the paper's: rank correlation and overlap.
- Semantic sensitivity: closeness of a neuron's decoded words to the noun. Specificity and invariance across pictures:
  overlap of the neurons found for the same and for other nouns, here and in other pictures.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from lens_multimodal.analysis import Logit
from lens_multimodal.analysis.rank_correlation import rank_correlation
from lens_multimodal.experiments.experiment import Experiment
from lens_multimodal.experiments.follow_ups.object_regions import REGIONS, region_rows
from lens_multimodal.experiments.shared import picture_statistics as stats
from lens_multimodal.experiments.shared.context import Context, Row, frame_of
from lens_multimodal.experiments.shared.picture_state import SaidNoun, pairs_of
from lens_multimodal.experiments.shared.settings_checks import require_at_least, require_share
from lens_multimodal.experiments.shared.summaries import (
    TOP_AGAINST_RANDOM,
    Drawing,
    Pair,
    PairedVerdict,
    SummaryTable,
)
from lens_multimodal.experiments.shared.word_agreement import embedding_space
from lens_multimodal.seeds import generator_for

GRADIENT_FREE = "activation_x_decoded"


@dataclass(frozen=True, kw_only=True)
class FollowUpsSettings:
    """Which patches count as the object's, and how many pictures and nouns are drawn for comparison.

    Raises: ValueError for a share outside 0 to 1, or less than one picture or noun.
    """

    covered: float = 0.1
    """Share of an image patch that the object must cover for the patch to be removed with it."""
    mean_over: int = 64
    """Number of the data set's pictures whose vectors are averaged into the mean vector."""
    n_other_nouns: int = 1
    """Number of other categories, drawn for each picture, whose neurons are compared with the noun's."""

    def __post_init__(self) -> None:
        require_share(self, "covered")
        require_at_least(self, mean_over=1, n_other_nouns=1)


# --- summaries over all pictures ------------------------------------------------------------------------------

SCORE_MEASURES = {
    "spearman": "rank correlation with the paper's score",
    "overlap": "top neurons in common",
    "mean_layer": "mean layer of its top neurons",
    "mean_layer_paper": "mean layer of the paper's top neurons",
}

SENSITIVITIES = {"sensitivity_top": "top", "sensitivity_random": "random"}

SAME, OTHER, NOT_SHOWN = (
    "another picture, the same noun",
    "another picture, another noun",
    "the same picture, a noun not shown",
)


def _sensitivity_frame(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    means = stats.interval_table(rows, "value", by=["neurons"], seed=seed)
    paired = TOP_AGAINST_RANDOM.differences(rows, seed=seed).assign(neurons="top minus random")
    return pd.concat([means, paired[["neurons", "mean", "low", "high", "n", "p"]]], ignore_index=True)


def _overlaps(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Overlap of each picture's neurons with those of pictures with the same noun, and with another."""
    neurons = tables["neurons"]
    sets = [set(zip(row.layers, row.neurons, strict=True)) for row in neurons.itertuples()]
    index = {pair: i for i, pair in enumerate(sorted(set().union(*sets)))}
    found = np.zeros((len(sets), len(index)), dtype=np.float32)
    for row, own in enumerate(sets):
        found[row, [index[pair] for pair in own]] = 1
    shared = (found @ found.T) / found.sum(axis=1, keepdims=True)
    nouns = neurons["noun"].to_numpy()
    same = nouns[:, None] == nouns[None, :]
    other_picture = ~np.eye(len(sets), dtype=bool)
    rows: list[Row] = []
    for i, picture in enumerate(neurons.itertuples()):
        about = {"image_id": picture.image_id, "chance": picture.overlap_chance}
        for label, chosen in ((SAME, same[i] & other_picture[i]), (OTHER, ~same[i])):
            if chosen.any():
                rows.append({**about, "compared with": label, "value": float(shared[i, chosen].mean())})
        if pd.notna(picture.overlap_other_nouns):
            rows.append({**about, "compared with": NOT_SHOWN, "value": float(picture.overlap_other_nouns)})
    return frame_of(rows)


GRADIENT_FREE_SCORE = SummaryTable(
    name="gradient-free score",
    table="scores",
    title="Gradient-free score beside the paper's",
    caption=(
        "Activation times decoded weight on the noun (no gradient, no backward pass) at the image positions, and at "
        "the position that predicts the noun as its authors use it, against activation times gradient at the image "
        "positions; over {n} pictures."
    ),
    rows=lambda tables: stats.by_measure(tables["scores"], SCORE_MEASURES, keys=["where"]),
    by=("measure", "where"),
)

SENSITIVITY = SummaryTable(
    name="sensitivity",
    table="neurons",
    title="Semantic sensitivity",
    caption=(
        "Cosine of the noun's embedding with the nearest of a neuron's ten decoded words, mean over the found neurons "
        "and over random neurons of the same layers; {n} pictures."
    ),
    rows=lambda tables: stats.by_measure(tables["neurons"], SENSITIVITIES, keys=[], name="neurons"),
    frame=_sensitivity_frame,
)

ACROSS = SummaryTable(
    name="across pictures",
    table="neurons",
    title="Invariance across pictures and specificity",
    caption=(
        "Share of a picture's found neurons that are also found in another picture for the same noun, in another "
        "picture for another noun, and in the same picture for a noun that it does not show; over {n} pictures (those "
        "with a partner). Chance: {chance:.3f}."
    ),
    rows=_overlaps,
    by=("compared with",),
    facts=lambda rows: {"chance": float(rows.drop_duplicates("image_id")["chance"].mean())},
    verdict=PairedVerdict(
        pair=Pair(column="compared with", first=SAME, second=OTHER),
        sentence=(
            "Two pictures with the same noun share {first} of their top neurons, two with different nouns {second}. "
            "{said} (n = {n} pictures)."
        ),
        finding="The same noun shares {more}",
        unit="share of top neurons in common",
        percent=True,
        digits=2,
    ),
    drawing=Drawing(kind="bars", x="compared with", series="compared with", y_title="share in common"),
    reference="chance",
    claim="Pictures with the same noun share more neurons than pictures with different nouns.",
)


# --- rows of one picture ---------------------------------------------------------------------------------------


class FollowUps(Experiment[FollowUpsSettings]):
    """Regions, removal, gradient-free score, sensitivity, specificity, invariance."""

    name, version = "follow_ups", 2
    question = "What do later methods say about the same neurons?"
    tables = ("regions", "scores", "neurons")
    summaries = (REGIONS, GRADIENT_FREE_SCORE, SENSITIVITY, ACROSS)

    def rows(self, context: Context[FollowUpsSettings]) -> dict[str, pd.DataFrame]:
        if not context.picture.nouns:
            return self.frames()
        noun = context.picture.nouns[0]
        return self.frames(
            regions=region_rows(context, noun) if noun.in_picture else [],
            scores=_scores(context, noun),
            neurons=[_neurons(context, noun)],
        )


def _scores(context: Context[FollowUpsSettings], noun: SaidNoun) -> Iterator[Row]:
    """The gradient-free score against the paper's, at the image positions and at the last position."""
    picture = context.picture
    top = set(pairs_of(picture.top[0]))
    last = torch.tensor([noun.read_pos])
    for where, positions in (("image positions", picture.image_pos), ("last position", last)):
        (other,) = picture.best_neurons(
            [Logit(token=noun.token)],
            tokens=picture.until(noun),
            positions=positions,
            top_k=picture.settings.n_ranked,
            score=GRADIENT_FREE,
        )
        both = picture.ranked[0].merge(other, on=["layer", "neuron"], suffixes=("", "_other"))
        own, others = (torch.tensor(both[column].to_numpy()) for column in ("attribution", "attribution_other"))
        best = other.head(picture.settings.top_k)
        yield {
            "image_id": picture.scene.id,
            "noun": noun.name,
            "score": GRADIENT_FREE,
            "where": where,
            "spearman": rank_correlation(own, others),
            "n_compared": len(both),
            "overlap": len(set(pairs_of(best)) & top) / len(top),
            "mean_layer": float(best["layer"].mean()),
            "mean_layer_paper": float(picture.top[0]["layer"].mean()),
        }


def _neurons(context: Context[FollowUpsSettings], noun: SaidNoun) -> Row:
    """The noun's neurons as lists, to compare across pictures, with other nouns' and with random ones."""
    picture = context.picture
    top = set(pairs_of(picture.top[0]))
    others = _other_nouns(context, noun)
    tables = picture.best_neurons(
        [Logit(token=picture.noun_finder.first_token(name)) for name in others], tokens=picture.until(noun)
    )
    overlaps = [len(set(pairs_of(table)) & top) / len(top) for table in tables]
    return {
        "image_id": picture.scene.id,
        "noun": noun.name,
        "layers": picture.top[0]["layer"].tolist(),
        "neurons": picture.top[0]["neuron"].tolist(),
        "other_nouns": others,
        "overlap_other_nouns": float(np.mean(overlaps)) if overlaps else None,
        "overlap_chance": len(top) / picture.lens.shape.n_neurons,
        "sensitivity_top": _sensitivity(context, picture.top_words[0], noun),
        "sensitivity_random": _sensitivity(context, picture.random_words[0], noun),
    }


def _other_nouns(context: Context[FollowUpsSettings], noun: SaidNoun) -> list[str]:
    """Categories of the data set that are not in the picture and not in the caption."""
    picture, first_token = context.picture, context.picture.noun_finder.first_token
    every: list[str] = context.once(
        "follow_ups.categories", lambda: sorted({name for scene in context.scenes for name in scene.categories})
    )
    said = {own.name for own in picture.nouns} | set(picture.human_nouns)
    left = [name for name in every if name.lower() not in said and first_token(name.lower()) != noun.token]
    generator = generator_for(picture.seed, "follow_ups", picture.scene.id, "other nouns")
    order = torch.randperm(len(left), generator=generator)[: context.settings.n_other_nouns].tolist()
    return [left[i].lower() for i in order]


def _sensitivity(context: Context[FollowUpsSettings], neurons: pd.DataFrame, noun: SaidNoun) -> float:
    """Mean over neurons of the closeness of the nearest of their ten words to the noun."""
    tokens = neurons["token_ids"]
    flat = [token for ids in tokens for token in ids]
    cosine = embedding_space(context).cosine(flat, [noun.token])[:, 0].reshape(len(tokens), -1)
    return float(cosine.amax(dim=1).mean())
