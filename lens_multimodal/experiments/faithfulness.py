"""Can the attribution be believed? Scores against what ablation really does (beyond the paper).

For the first noun of a caption a few dozen neurons, half of them the best of each score in turn and half random, are
ablated one by one at the image positions; a score is faithful if it orders them as their effects do.
"""

from dataclasses import dataclass

import pandas as pd

from lens_multimodal.analysis import IntegratedGradients, faithfulness
from lens_multimodal.analysis.attribution.faithfulness import COMPARED
from lens_multimodal.analysis.attribution.request import Score
from lens_multimodal.data import Scene
from lens_multimodal.experiments.experiment import Context, Drawing, Summary
from lens_multimodal.experiments.picture import PictureState
from lens_multimodal.experiments.statistics import ENOUGH, in_words, interval_table, is_above, paired_table, too_few
from lens_multimodal.seeds import seed_for

PAPERS = "activation_x_gradient"

MEASURES = {
    "spearman": "rank correlation with the true effect",
    "top_k_overlap": "overlap of the best tenth with the truly best",
    "deletion": "mean fall of the logit, ablated best first",
    "insertion": "mean rise of the logit, given back best first",
}


@dataclass(frozen=True, kw_only=True)
class FaithfulnessSettings:
    """How many neurons are ablated one by one, and how finely the curves are drawn.

    Raises: ValueError for fewer than ten neurons, or integrating less often than in no picture.
    """

    n_neurons: int = 32
    n_points: int = 4
    integration_steps: int = 2
    """Points of the integrated gradients, each a forward and a backward row for every layer."""
    integrate_every: int = 4
    """Integrated gradients cost as much as all else together, so only one picture in so many has them, chosen by the
    seed and the picture."""

    def __post_init__(self) -> None:
        if self.n_neurons < 10:
            raise ValueError(f"n_neurons must be at least 10, got {self.n_neurons}")
        if self.integrate_every < 1:
            raise ValueError(f"integrate_every must be at least 1, got {self.integrate_every}")


class Faithfulness:
    """Each score's rank correlation, overlap and curves against true effects."""

    name = "faithfulness"
    version = 1
    tables = ("scores",)
    settings = FaithfulnessSettings

    def rows(self, context: Context, scene: Scene) -> dict[str, pd.DataFrame]:
        picture: PictureState = context.picture
        settings: FaithfulnessSettings = context.settings
        if not picture.nouns:
            return {"scores": pd.DataFrame({"image_id": []})}
        noun = picture.nouns[0]
        seed = seed_for(context.seed, "faithfulness", scene.id)
        found = faithfulness(
            context.lens.model,
            picture.tokens[:, : noun.read_pos + 1],
            noun.token,
            picture.image_pos,
            scores=_scores(settings, seed, context.batch_size),
            n_neurons=settings.n_neurons,
            n_points=settings.n_points,
            # Each batch of ablations carries one clean row besides.
            batch_size=max(1, context.batch_size - 1),
            seed=seed,
        )
        table = found.summary.assign(
            deletion=found.clean_value - found.summary["deletion_auc"],
            insertion=found.summary["insertion_auc"] - found.all_ablated_value,
        )
        table.insert(0, "image_id", scene.id)
        table.insert(1, "noun", noun.name)
        return {"scores": table.assign(clean_value=found.clean_value, all_ablated_value=found.all_ablated_value)}

    def summarise(self, rows: dict[str, pd.DataFrame], *, seed: int) -> dict[str, Summary]:
        scores = rows["scores"]
        if not len(scores):
            return {}
        keys = scores[["image_id", "score"]]
        long = pd.concat([keys.assign(measure=label, value=scores[column]) for column, label in MEASURES.items()])
        n = scores["image_id"].nunique()
        return {
            "scores": Summary(
                frame=interval_table(long, "value", by=["measure", "score"], seed=seed),
                title="Scores against true effects",
                caption=(
                    f"Neurons of {n} pictures ablated one by one at the image positions. Rank correlation of each "
                    f"score with the true effects (1: the same order), share of the truly best tenth among the best "
                    f"tenth, and by how much the noun's logit has fallen on average while neurons are ablated best "
                    f"first, or risen while they are given back (more is better). The score called ablation is the "
                    f"truth itself."
                ),
                n_pictures=n,
                verdict=_verdict(scores, seed),
                drawing=Drawing(
                    kind="bars", x="score", series="score", panels="measure", x_title="", y_title="agreement"
                ),
            )
        }


def _scores(settings: FaithfulnessSettings, seed: int, batch_size: int) -> dict[str, str | Score]:
    named: dict[str, str | Score] = {name: name for name in COMPARED if name != "integrated_gradients"}
    if seed % settings.integrate_every == 0:
        most = min(batch_size, IntegratedGradients.batch_size)
        named["integrated_gradients"] = IntegratedGradients(steps=settings.integration_steps, batch_size=most)
    return named


def _verdict(scores: pd.DataFrame, seed: int) -> str:
    """The score of the highest rank correlation, and by how much it leads the next and the paper's."""
    usable = scores[~scores["score"].isin(["ablation", "random"])]
    means = interval_table(usable, "spearman", by=["score"], seed=seed)
    means = means[means["n"] >= ENOUGH].sort_values("mean", ascending=False, kind="stable")
    if not len(means):
        return too_few(usable["image_id"].nunique())
    best = means.iloc[0]
    said = (
        f"Of the scores {best['score']} has the highest rank correlation with the true effects: "
        f"{in_words(best)} (n = {int(best['n'])} pictures)"
    )
    short = sorted(set(usable["score"]) - set(means["score"]))
    if short:
        said += f", leaving out {', '.join(short)}, measured on fewer than {ENOUGH}"
    behind = means.iloc[1:]
    behind = behind[behind["score"].isin([*behind["score"].head(1), PAPERS])]
    return "; ".join([said, *(_behind(usable, str(best["score"]), row, seed) for _, row in behind.iterrows())]) + "."


def _behind(usable: pd.DataFrame, best: str, row: pd.Series, seed: int) -> str:
    paired = paired_table(usable, "spearman", pair="score", first=best, second=row["score"], seed=seed)
    own = in_words(row)
    name = f"{row['score']} (the paper's)" if row["score"] == PAPERS else str(row["score"])
    if not len(paired) or paired["n"].iloc[0] < ENOUGH:
        return f"{name} has {own}, on too few of the same pictures to compare"
    clear = "clearly less" if is_above(paired.iloc[0]) else "not distinguishably less"
    return f"{name} has {own}, {clear} on the {int(paired['n'].iloc[0])} pictures that have both"
