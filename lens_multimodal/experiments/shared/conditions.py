"""A noun and its neurons when other image vectors replace the picture's.

Each condition is a set of image vectors, followed by the model's caption of the picture itself up to the noun. Measured
under each: how likely the noun still is, which neurons attribution finds, what they say, and whether ablating them
removes the noun; with random neurons of the same layers as a control.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_multimodal.analysis import Logit, top_neurons_by_row
from lens_multimodal.analysis.effects.by_row import batches, captions_without, read_without
from lens_multimodal.experiments.shared.context import Context, Row
from lens_multimodal.experiments.shared.neuron_words import NeuronWords
from lens_multimodal.experiments.shared.picture_state import Neuron, PictureState, SaidNoun, control_for, pairs_of
from lens_multimodal.lens import VisionLens
from lens_multimodal.prompt.soft_prompt import SoftPrompt
from lens_multimodal.seeds import generator_for


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditions:
    """Image vectors by condition, as rows of token ids for one noun; keeps the vectors alive."""

    lens: VisionLens
    """The lens whose model runs: the picture's own, or one with the same vocabulary."""
    picture: PictureState
    noun: SaidNoun
    names: tuple[str, ...]
    stored: tuple[SoftPrompt, ...]

    @classmethod
    def of(
        cls,
        lens: VisionLens,
        picture: PictureState,
        noun: SaidNoun,
        vectors: Mapping[str, Float[Tensor, "pos d_model"]],
    ) -> "Conditions":
        """Store the vectors of each condition as virtual tokens."""
        image = picture.prompt.spans[0][0].image.soft_prompt
        stored = tuple(
            lens.virtual_tokens.store(own, forward_arguments=image.forward_arguments) for own in vectors.values()
        )
        return cls(lens=lens, picture=picture, noun=noun, names=tuple(vectors), stored=stored)

    @property
    def prompts(self) -> Int[Tensor, "condition pos"]:
        """Image vectors and the text before the caption."""
        return self._filled(self.picture.prompt.tokens)

    @property
    def tokens(self) -> Int[Tensor, "condition pos"]:
        """Up to the position that predicts the noun."""
        return self._filled(self.picture.until(self.noun))

    def top(self) -> list[pd.DataFrame]:
        """For each condition the neurons that attribution finds for the noun."""
        settings = self.picture.settings
        found = []
        for batch in batches(len(self.names), self.picture.batch_size):
            rows = self.tokens[batch]
            table = top_neurons_by_row(
                self.lens.model,
                rows,
                [Logit(token=self.noun.token)] * len(rows),
                self.picture.image_pos,
                top_k=settings.top_k,
                score=settings.score,
                reduce=settings.reduce,
            )
            found += [group.reset_index(drop=True) for _, group in table.groupby("row", sort=True)]
        return found

    def captions(self) -> list[str]:
        """The caption under each condition."""
        return captions_without(
            self.lens,
            self.prompts,
            [None] * len(self.names),
            positions=self.picture.image_pos,
            max_new_tokens=self.picture.settings.max_new_tokens,
            batch_size=self.picture.batch_size,
        )

    def _filled(self, tokens: Int[Tensor, "1 pos"]) -> Int[Tensor, "condition pos"]:
        rows = tokens.expand(len(self.names), -1).clone()
        rows[:, self.picture.image_pos] = torch.stack([own.ids for own in self.stored]).to(rows.device)
        return rows


def measured(
    context: Context[Any], conditions: Conditions, *, purpose: str, reference: Collection[Neuron]
) -> Iterator[Row]:
    """One row of measures for each condition.

    Args:
        purpose: part of the seed of the random neurons, and the name under which the words of another model are kept.
        reference: the neurons found for the picture itself, to compare with those found under a condition.
    """
    picture, noun, model = conditions.picture, conditions.noun, conditions.lens.model
    top = conditions.top()
    random = [
        control_for(model, table, generator_for(context.picture.seed, purpose, picture.scene.id, name))
        for name, table in zip(conditions.names, top, strict=True)
    ]
    n = len(conditions.names)
    reading = read_without(
        model,
        conditions.tokens.repeat(3, 1),
        [(noun.read_pos, noun.token)],
        [*[None] * n, *top, *random],
        positions=picture.image_pos,
        batch_size=picture.batch_size,
    )
    probability = reading.probability[:, 0].double().reshape(3, n)
    whose = "trained" if conditions.lens is context.picture.lens else purpose
    words = context.once(f"words of neurons, {whose}", lambda: NeuronWords(model=model))
    words.decode(pd.concat([*top, *random]))
    for index, name in enumerate(conditions.names):
        kinds = {"top": top[index], "random": random[index]}
        yield {
            "condition": name,
            "probability": float(probability[0, index]),
            "log_probability": float(reading.log_probability[index, 0]),
            "rank": int(reading.rank[index, 0]),
            "overlap": len(set(pairs_of(top[index])) & set(reference)) / len(top[index]),
            **{
                f"{measure}_{kind}": float(of_neurons.mean())
                for kind, own in kinds.items()
                for measure, of_neurons in (
                    ("interpretable", words.interpretable(own)),
                    ("says_noun", words.saying(own, {noun.name})),
                )
            },
            "relative_change_top": float(probability[1, index] / probability[0, index] - 1),
            "relative_change_random": float(probability[2, index] / probability[0, index] - 1),
        }


def with_captions(context: Context[Any], conditions: Conditions, rows: Iterable[Row]) -> Iterator[Row]:
    """Each condition's row with its caption, and whether the caption says the noun."""
    for row, caption in zip(rows, conditions.captions(), strict=True):
        says_noun = conditions.noun.name in context.picture.noun_finder.names(caption)
        yield {**row, "caption": caption, "caption_says_noun": says_noun}
