"""Can the attribution scores be trusted? Scores against the effect of real ablations (beyond the paper).

For the first noun of a caption a few dozen neurons, half of them the best of each score in turn and half random, are
ablated one by one at the image positions; a score is faithful if it ranks them as their effects do.
"""

from dataclasses import dataclass

import pandas as pd

from lens_multimodal.analysis import IntegratedGradients, faithfulness
from lens_multimodal.analysis.attribution.attribution_inputs import Score
from lens_multimodal.analysis.attribution.scores import COMPARED
from lens_multimodal.experiments.experiment import Experiment
from lens_multimodal.experiments.shared import picture_statistics as stats
from lens_multimodal.experiments.shared.context import Context
from lens_multimodal.experiments.shared.settings_checks import require_at_least
from lens_multimodal.experiments.shared.summaries import Drawing, Evidence, Pair, SummaryTable, Verdict, too_few
from lens_multimodal.seeds import seed_for

PAPERS = "activation_x_gradient"
INTEGRATED = "integrated_gradients"

MEASURES = {
    "spearman": "rank correlation with the true effect",
    "top_k_overlap": "overlap of the best tenth with the truly best",
    "deletion": "mean drop of the logit, ablated best first",
    "insertion": "mean rise of the logit, restored best first",
}


@dataclass(frozen=True, kw_only=True)
class FaithfulnessSettings:
    """How many neurons are ablated one by one, and how many points the curves have.

    Raises: ValueError for fewer than ten neurons, or `integrate_every` below one.
    """

    n_neurons: int = 32
    n_points: int = 4
    integration_steps: int = 2
    """Points of the integrated gradients; each costs a forward and a backward row for every layer."""
    integrate_every: int = 4
    """Integrated gradients cost as much as everything else together, so they are computed for one picture in this many,
    chosen by the seed and the picture."""

    def __post_init__(self) -> None:
        require_at_least(self, n_neurons=10, integrate_every=1)


# --- summaries over all pictures ------------------------------------------------------------------------------


def _verdict(evidence: Evidence) -> Verdict:
    """The score with the highest rank correlation, and its lead over the next score and over the paper's."""
    measured = evidence.rows[evidence.rows["measure"] == MEASURES["spearman"]]
    usable = measured[~measured["score"].isin(["ablation", "random"])]
    every = stats.interval_table(usable, "value", by=["score"], seed=evidence.seed)
    means = every[every["n"] >= stats.needed()].sort_values("mean", ascending=False, kind="stable")
    if not len(means):
        return too_few(usable["image_id"].nunique())
    best = means.iloc[0]
    said = [
        f"{best['score']} ranks neurons most like their true effects: rank correlation {stats.in_words(best)} "
        f"(n = {int(best['n'])} pictures)."
    ]
    behind = means.iloc[1:]
    behind = behind[behind["score"].isin([*behind["score"].head(1), PAPERS])]
    said += [_behind(usable, str(best["score"]), row, evidence.seed) for _, row in behind.iterrows()]
    short = sorted(set(usable["score"]) - set(means["score"]))
    if short:
        said.append(f"Measured on too few pictures to be ranked ({stats.needed()} are needed): {', '.join(short)}.")
    return Verdict(
        text=" ".join(said), compared=means.rename(columns={"score": "compared"}), unit="rank correlation (Spearman)"
    )


def _behind(usable: pd.DataFrame, best: str, row: pd.Series, seed: int) -> str:
    paired = Pair(column="score", first=best, second=row["score"]).differences(usable, seed=seed)
    name = f"{row['score']} (the paper's)" if row["score"] == PAPERS else str(row["score"])
    n = int(paired["n"].sum())
    if n < stats.needed():
        return f"{name} has {stats.in_words(row)}; too few pictures have both scores ({n} of {stats.needed()} needed)."
    said = "LESS" if stats.is_above(paired.iloc[0]) else "the difference is NOT established"
    return f"{name} has {stats.in_words(row)}: {said} (n = {n} pictures with both)."


SCORES_AGAINST_EFFECTS = SummaryTable(
    name="scores",
    table="scores",
    title="Scores against true effects",
    caption=(
        "Neurons of {n} pictures ablated one by one at the image positions. Rank correlation of each score with the "
        "true effects (1: the same order), share of the truly best tenth among the best tenth, and by how much the "
        "noun's logit drops on average while neurons are ablated best first, or rises while they are restored (more is "
        "better). The score called ablation is the true effect itself."
    ),
    rows=lambda tables: stats.by_measure(tables["scores"], MEASURES, keys=["score"]),
    by=("measure", "score"),
    verdict=_verdict,
    drawing=Drawing(kind="bars", x="score", series="score", panels="measure", y_title="agreement"),
)


# --- rows of one picture ---------------------------------------------------------------------------------------


class Faithfulness(Experiment[FaithfulnessSettings]):
    """Each score's rank correlation, overlap and curves against true effects."""

    name, version = "faithfulness", 1
    question = "How far can the attribution scores be trusted?"
    tables = ("scores",)
    summaries = (SCORES_AGAINST_EFFECTS,)

    def rows(self, context: Context[FaithfulnessSettings]) -> dict[str, pd.DataFrame]:
        picture, settings = context.picture, context.settings
        if not picture.nouns:
            return self.frames()
        noun = picture.nouns[0]
        seed = seed_for(picture.seed, "faithfulness", picture.scene.id)
        found = faithfulness(
            picture.lens.model,
            picture.until(noun),
            noun.token,
            picture.image_pos,
            scores=_scores(settings, seed, picture.batch_size),
            n_neurons=settings.n_neurons,
            n_points=settings.n_points,
            batch_size=picture.batch_size,
            seed=seed,
        )
        table = found.summary.assign(
            deletion=found.clean_value - found.summary["deletion_auc"],
            insertion=found.summary["insertion_auc"] - found.all_ablated_value,
        )
        table.insert(0, "image_id", picture.scene.id)
        table.insert(1, "noun", noun.name)
        return {"scores": table.assign(clean_value=found.clean_value, all_ablated_value=found.all_ablated_value)}


def _scores(settings: FaithfulnessSettings, seed: int, batch_size: int) -> dict[str, str | Score]:
    named: dict[str, str | Score] = {name: name for name in COMPARED if name != INTEGRATED}
    if seed % settings.integrate_every == 0:
        most = min(batch_size, IntegratedGradients.batch_size)
        named[INTEGRATED] = IntegratedGradients(steps=settings.integration_steps, batch_size=most)
    return named
