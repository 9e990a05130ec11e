"""Do the found neurons cause the word? Ablated in growing numbers against random neurons (paper section 3.3).

The N neurons of largest attribution for a noun are set to zero at the image positions, N on a log grid; the control is
as many random neurons of the same layers, drawn anew for each N and none of the N. Where the N take more than half of
a layer there are not enough others, and the control ends. Watched are the noun's probability where the caption says
it, the probabilities of the caption's other nouns, and the caption that is written without the neurons.
"""

from dataclasses import dataclass

import pandas as pd
from torch import nn

from lens_multimodal.analysis import WordOverlap
from lens_multimodal.analysis.effects.by_row import Reading, captions_without, read_without
from lens_multimodal.data import Scene
from lens_multimodal.experiments.causal import summary
from lens_multimodal.experiments.experiment import Context, Summary
from lens_multimodal.experiments.picture import PictureState, with_control
from lens_multimodal.experiments.words import NounFinder
from lens_multimodal.experiments.words.agreement import EmbeddingSpace
from lens_multimodal.experiments.words.scores import bert_score
from lens_multimodal.hooks import random_neurons_like
from lens_multimodal.seeds import generator_for


@dataclass(frozen=True, kw_only=True)
class CausalSettings:
    """How many neurons are ablated.

    Raises: ValueError for counts that are not positive and ascending, or no random draw.
    """

    counts: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 6400)
    """The paper goes up to 6,400; counts beyond `PictureSettings.n_ranked` or the model are left out."""
    caption_counts: tuple[int, ...] = (10, 100, 1000)
    """Those for which the caption is written anew."""
    n_random: int = 1
    """Random draws for each noun and count."""
    bertscore_model: str | None = None
    """Folder of a Hugging Face text encoder, to compare captions by BERTScore as the paper does."""

    def __post_init__(self) -> None:
        for name in ("counts", "caption_counts"):
            values = getattr(self, name)
            if list(values) != sorted(set(values)) or min(values, default=1) < 1:
                raise ValueError(f"{name} must be positive and ascending, got {values}")
        if not self.counts or self.n_random < 1:
            raise ValueError("expected at least one count and one random draw")


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """A set of neurons to be ablated together, and how it was chosen."""

    noun: int
    n_neurons: int
    neurons: str
    """top or random"""
    draw: int
    table: pd.DataFrame


class Causal:
    """Ablation of found against random neurons."""

    name = "causal"
    version = 2
    tables = ("ablations", "captions")
    settings = CausalSettings

    def rows(self, context: Context, scene: Scene) -> dict[str, pd.DataFrame]:  # noqa: ARG002
        picture: PictureState = context.picture
        tried = trials(context.lens.model, picture, context.settings, context.seed)
        if not tried:
            return {name: pd.DataFrame({"image_id": []}) for name in self.tables}
        reading = read_without(
            context.lens.model,
            picture.tokens.expand(len(tried) + 1, -1),
            [(noun.read_pos, noun.token) for noun in picture.nouns],
            [None, *(trial.table for trial in tried)],
            positions=picture.image_pos,
            batch_size=context.batch_size,
        )
        return {
            "ablations": _ablations(picture, tried, reading).assign(n_model=context.lens.shape.n_neurons),
            "captions": _captions(
                context, picture, [t for t in tried if t.n_neurons in context.settings.caption_counts]
            ),
        }

    def summarise(self, rows: dict[str, pd.DataFrame], *, seed: int) -> dict[str, Summary]:
        return summary.summarise(rows, seed=seed)


def trials(model: nn.Module, picture: PictureState, settings: CausalSettings, seed: int) -> list[Trial]:
    """All ablations of one picture: each noun, each count, top neurons and random draws."""
    found = []
    for index, ranked in enumerate(picture.ranked):
        for count in settings.counts:
            if count > len(ranked):
                break
            top = ranked.head(count)
            found.append(Trial(noun=index, n_neurons=count, neurons="top", draw=0, table=top))
            if len(with_control(model, top)) < count:
                continue
            for draw in range(settings.n_random):
                generator = generator_for(seed, "causal", picture.scene.id, index, count, draw)
                drawn = random_neurons_like(model, top, generator)
                found.append(Trial(noun=index, n_neurons=count, neurons="random", draw=draw, table=drawn))
    return found


def _ablations(picture: PictureState, tried: list[Trial], reading: Reading) -> pd.DataFrame:
    probability, logit = reading.probability.double(), reading.logit.double()
    rows = [
        {
            "image_id": picture.scene.id,
            "noun": picture.nouns[trial.noun].name,
            "category": picture.nouns[trial.noun].noun.category,
            "in_picture": picture.nouns[trial.noun].in_picture,
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
        }
        for row, trial in enumerate(tried, start=1)
        for index, watched in enumerate(picture.nouns)
    ]
    return pd.DataFrame(rows)


def _captions(context: Context, picture: PictureState, tried: list[Trial]) -> pd.DataFrame:
    if not tried:
        return pd.DataFrame({"image_id": []})
    captions = captions_without(
        context.lens,
        picture.prompt.tokens.expand(len(tried), -1),
        [trial.table for trial in tried],
        positions=picture.image_pos,
        max_new_tokens=picture.settings.max_new_tokens,
        batch_size=context.batch_size,
    )
    space = context.once("embedding space", lambda: EmbeddingSpace.of(context.lens.model))
    words: NounFinder = context.words
    before = {noun.name for noun in words(picture.caption)}
    overlaps = WordOverlap()([picture.caption] * len(captions), captions).tolist()
    rows = []
    for trial, caption, overlap in zip(tried, captions, overlaps, strict=True):
        after = {noun.name for noun in words(caption)}
        _, _, f1 = space.agreement(context.lens.text.encode(caption), context.lens.text.encode(picture.caption))
        rows.append(
            {
                "image_id": picture.scene.id,
                "noun": picture.nouns[trial.noun].name,
                "n_neurons": trial.n_neurons,
                "neurons": trial.neurons,
                "draw": trial.draw,
                "caption_before": picture.caption,
                "caption_after": caption,
                "changed": caption != picture.caption,
                "says_noun": picture.nouns[trial.noun].name in after,
                "nouns_kept": len(before & after) / len(before),
                "word_overlap": overlap,
                "embedding_match": f1,
                "bertscore": bert_score(
                    caption, [picture.caption], context.settings.bertscore_model, once=context.once
                ),
            }
        )
    return pd.DataFrame(rows)
