"""A noun and its neurons when something else stands in the place of the picture.

Every condition is a set of image vectors; behind them stands the caption that the model gave the picture itself, up
to the noun. Measured under each: how likely the noun still is, which neurons attribution finds then, what they say,
and whether ablating them takes the noun away, with random neurons of the same layers beside all of it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_multimodal.analysis import Logit, decode_neurons, top_neurons_by_row
from lens_multimodal.analysis.effects.by_row import Reading, captions_without, read_without
from lens_multimodal.experiments.experiment import Context
from lens_multimodal.experiments.picture import PictureState, SaidNoun, with_control
from lens_multimodal.experiments.words import says
from lens_multimodal.hooks import random_neurons_like
from lens_multimodal.lens import VisionLens
from lens_multimodal.prompt.virtual_tokens import SoftPrompt
from lens_multimodal.seeds import generator_for

Pair = tuple[int, int]
"""Layer and neuron."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditions:
    """Image vectors by condition, laid out as rows of token ids for one noun; keeps the vectors alive."""

    lens: VisionLens
    """Whose model runs: the picture's own, or one with the same vocabulary."""
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
        """Bank the vectors of each condition."""
        stored = tuple(lens.virtual_tokens.store(own) for own in vectors.values())
        return cls(lens=lens, picture=picture, noun=noun, names=tuple(vectors), stored=stored)

    @property
    def prompts(self) -> Int[Tensor, "condition pos"]:
        """Image vectors and the text before the caption."""
        return self._filled(self.picture.prompt.tokens)

    @property
    def tokens(self) -> Int[Tensor, "condition pos"]:
        """Up to where the noun is predicted."""
        return self._filled(self.picture.tokens[:, : self.noun.read_pos + 1])

    def top(self) -> list[pd.DataFrame]:
        """For each condition the neurons that attribution finds for the noun."""
        settings = self.picture.settings
        found = []
        for start in range(0, len(self.names), self.picture.batch_size):
            rows = self.tokens[start : start + self.picture.batch_size]
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

    def read(self, rows: Sequence[int], without: Sequence[pd.DataFrame | None]) -> Reading:
        """The noun in some conditions, each without some neurons."""
        return read_without(
            self.lens.model,
            self.tokens[list(rows)],
            [(self.noun.read_pos, self.noun.token)],
            without,
            positions=self.picture.image_pos,
            batch_size=self.picture.batch_size,
        )

    def _filled(self, tokens: Int[Tensor, "1 pos"]) -> Int[Tensor, "condition pos"]:
        rows = tokens.expand(len(self.names), -1).clone()
        rows[:, self.picture.image_pos] = torch.stack([own.ids for own in self.stored]).to(rows.device)
        return rows


def measured(
    context: Context, conditions: Conditions, *, purpose: str, reference: Collection[Pair]
) -> Iterator[dict[str, object]]:
    """One row of measures for each condition.

    Args:
        purpose: part of the seed of the random neurons, and of the memory of decoded ones: one per model.
        reference: the neurons found for the picture itself, to which those found under a condition are compared.
    """
    top = conditions.top()
    random = [
        random_neurons_like(
            conditions.lens.model,
            with_control(conditions.lens.model, table),
            generator_for(context.seed, purpose, conditions.picture.scene.id, name),
        )
        for name, table in zip(conditions.names, top, strict=True)
    ]
    n = len(conditions.names)
    reading = conditions.read([*range(n), *range(n), *range(n)], [*[None] * n, *top, *random])
    probability = reading.probability[:, 0].double().reshape(3, n)
    words = _decoded(context, conditions.lens, [*top, *random], memory=f"{purpose}.decoded")
    for index, name in enumerate(conditions.names):
        pairs = [_pairs(top[index]), _pairs(random[index])]
        yield {
            "condition": name,
            "probability": float(probability[0, index]),
            "log_probability": float(reading.log_probability[index, 0]),
            "rank": int(reading.rank[index, 0]),
            "overlap": len(set(pairs[0]) & set(reference)) / len(pairs[0]),
            **{
                f"{measure}_{kind}": value
                for kind, own in zip(("top", "random"), pairs, strict=True)
                for measure, value in _speech(own, words, conditions.noun.name).items()
            },
            "relative_change_top": float(probability[1, index] / probability[0, index] - 1),
            "relative_change_random": float(probability[2, index] / probability[0, index] - 1),
        }


def as_pairs(neurons: pd.DataFrame) -> frozenset[Pair]:
    """A table of neurons as a set."""
    return frozenset(_pairs(neurons))


def _pairs(neurons: pd.DataFrame) -> list[Pair]:
    return list(zip(neurons["layer"].tolist(), neurons["neuron"].tolist(), strict=True))


def _decoded(
    context: Context, lens: VisionLens, tables: Sequence[pd.DataFrame], *, memory: str
) -> dict[Pair, tuple[tuple[str, ...], bool]]:
    """Words and interpretability of neurons; each neuron is decoded once in a process."""
    known: dict[Pair, tuple[tuple[str, ...], bool]] = context.once(memory, dict)
    new = list(dict.fromkeys(pair for table in tables for pair in _pairs(table) if pair not in known))
    if new:
        for row in decode_neurons(lens.model, new).itertuples():
            known[row.layer, row.neuron] = (row.tokens, row.interpretable)
    return known


def _speech(pairs: Sequence[Pair], words: Mapping[Pair, tuple[tuple[str, ...], bool]], noun: str) -> dict[str, float]:
    spoken = [words[pair] for pair in pairs]
    return {
        "interpretable": sum(interpretable for _, interpretable in spoken) / len(spoken),
        "says_noun": sum(any(says(token, {noun}) for token in tokens) for tokens, _ in spoken) / len(spoken),
    }
