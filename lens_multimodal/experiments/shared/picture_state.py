"""What all experiments share about one picture: prompt, caption, its nouns, and the neurons behind them.

Everything is computed when first used and kept as long as the picture is. The nouns of one caption share a forward
pass over image and whole caption: attention is causal, so the position before a noun predicts it as a prompt that ends
there would.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.analysis import SCORES, Logit, decode_neurons, top_neurons
from lens_multimodal.analysis.effects.by_row import Reading, read_without
from lens_multimodal.data import Scene
from lens_multimodal.experiments.shared.nouns import Noun, NounFinder
from lens_multimodal.experiments.shared.once import Once
from lens_multimodal.experiments.shared.settings_checks import require_at_least
from lens_multimodal.hooks import random_neurons_like
from lens_multimodal.image.layout import NO_PATCH, ImageLayout
from lens_multimodal.lens import VisionLens
from lens_multimodal.prompt.image_prompt import PROMPT, ImagePrompt
from lens_multimodal.seeds import generator_for


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """Choices that every experiment shares; the defaults are the paper's.

    Raises: ValueError for counts below one, or an unknown score.
    """

    text: str = PROMPT
    max_new_tokens: int = 20
    max_nouns: int = 3
    """At most this many nouns of a caption are studied, the first ones."""
    top_k: int = 100
    """Neurons kept as candidates for each noun."""
    n_ranked: int = 6400
    """Neurons ranked for ablation in growing numbers."""
    score: str = "activation_x_gradient"
    reduce: str = "max"

    def __post_init__(self) -> None:
        require_at_least(self, max_new_tokens=1, max_nouns=1, top_k=1, n_ranked=1)
        if self.n_ranked < self.top_k:
            raise ValueError(f"n_ranked ({self.n_ranked}) must be at least top_k ({self.top_k})")
        if self.score not in SCORES:
            raise ValueError(f"unknown score {self.score!r}; there are {', '.join(SCORES)}")


@dataclass(frozen=True, kw_only=True)
class SaidNoun:
    """A noun of the generated caption."""

    noun: Noun
    token: int
    """Its first token, the target."""
    token_text: str
    n_tokens: int
    """How many tokens spell it; the target is the first one, as in the paper."""
    read_pos: int
    """The position of `PictureState.tokens` whose logits predict it."""
    in_picture: bool
    """Its category is annotated in the picture."""
    in_human_captions: bool

    @property
    def name(self) -> str:
        return self.noun.name


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureState:
    """One picture and, lazily, what the model makes of it."""

    lens: VisionLens
    scene: Scene
    image: Image.Image = field(repr=False)
    settings: PictureSettings
    seed: int
    """The run's seed; derive each generator with `generator_for(picture.seed, experiment, picture.scene.id)`."""
    noun_finder: NounFinder = field(repr=False)
    batch_size: int
    """Rows that one forward pass may take; halved after running out of memory."""
    once: Once = field(default_factory=Once, repr=False)
    """Keeps what several experiments need for this picture."""

    # --- picture and caption ---------------------------------------------------------------------------------

    @cached_property
    def prompt(self) -> ImagePrompt:
        """The image and the text before the caption."""
        return self.lens.prompt(self.image, self.settings.text)

    @cached_property
    def vectors(self) -> Float[Tensor, "image_pos d_model"]:
        """The image prompts."""
        return self.prompt.spans[0][0].image.soft_prompt.vectors

    @cached_property
    def image_pos(self) -> Int[Tensor, " image_pos"]:
        return self.prompt.image_pos[0]

    @cached_property
    def layout(self) -> ImageLayout:
        """What each image position shows."""
        return self.prompt.spans[0][0].image.layout

    @cached_property
    def caption_ids(self) -> list[int]:
        """The greedy caption, without its end token; a token that also ends the line is the last."""
        (ids,) = self.lens.generate_ids(self.prompt, max_new_tokens=self.settings.max_new_tokens)
        return ids

    @cached_property
    def caption(self) -> str:
        return self.lens.text.caption(self.caption_ids)

    @cached_property
    def human_nouns(self) -> tuple[str, ...]:
        """Nouns of the human captions, and the annotated categories."""
        return self.noun_finder.of_scene(self.scene)

    @cached_property
    def nouns(self) -> tuple[SaidNoun, ...]:
        """The first nouns of the caption with their tokens."""
        text = self.lens.text.decode(self.caption_ids)
        ends = [len(self.lens.text.decode(self.caption_ids[: i + 1])) for i in range(len(self.caption_ids))]
        return tuple(self._said(noun, ends) for noun in self.noun_finder(text)[: self.settings.max_nouns])

    @cached_property
    def tokens(self) -> Int[Tensor, "1 prompt_pos"]:
        """Image, text and caption: where every noun of the caption is predicted."""
        return self.prompt.followed_by(self.caption_ids).tokens

    def about(self, noun: SaidNoun) -> dict[str, object]:
        """The first columns of a row about a noun."""
        return {
            "image_id": self.scene.id,
            "noun": noun.name,
            "category": noun.noun.category,
            "in_picture": noun.in_picture,
        }

    def until(self, noun: SaidNoun) -> Int[Tensor, "1 prompt_pos"]:
        """The prompt up to the position that predicts a noun."""
        return self.tokens[:, : noun.read_pos + 1]

    @cached_property
    def targets(self) -> list[Logit]:
        """The raw logit of each noun where it is predicted (paper section 2.1)."""
        return [Logit(token=noun.token, pos=noun.read_pos) for noun in self.nouns]

    def read(self, without: Sequence[pd.DataFrame | None]) -> Reading:
        """How the caption's nouns are predicted: one row for each table of ablated neurons, None for no ablation."""
        return read_without(
            self.lens.model,
            self.tokens.expand(len(without), -1),
            self.reads,
            without,
            positions=self.image_pos,
            batch_size=self.batch_size,
        )

    @property
    def reads(self) -> list[tuple[int, int]]:
        """Where each noun is predicted, and its token."""
        return [(noun.read_pos, noun.token) for noun in self.nouns]

    # --- neurons ---------------------------------------------------------------------------------------------

    @cached_property
    def ranked(self) -> tuple[pd.DataFrame, ...]:
        """For each noun its neurons, best first: `layer`, `neuron`, `attribution`, `pos`."""
        return self.best_neurons(self.targets, top_k=self.settings.n_ranked)

    @cached_property
    def top(self) -> tuple[pd.DataFrame, ...]:
        """For each noun the candidates: the first `top_k` of `ranked`."""
        return tuple(table.head(self.settings.top_k) for table in self.ranked)

    @cached_property
    def random(self) -> tuple[pd.DataFrame, ...]:
        """For each noun a control: as many other neurons of the same layers, at random."""
        return tuple(
            control_for(self.lens.model, top, generator_for(self.seed, "picture", self.scene.id, index))
            for index, top in enumerate(self.top)
        )

    @cached_property
    def decoded(self) -> pd.DataFrame:
        """What all top and random neurons say, by `(layer, neuron)`: `tokens`, `token_ids`, `interpretable`."""
        every = pd.concat([*self.top, *self.random])[["layer", "neuron"]].drop_duplicates()
        return decode_neurons(self.lens.model, every).set_index(["layer", "neuron"])

    def best_neurons(
        self,
        targets: Sequence[Logit],
        *,
        tokens: Int[Tensor, "1 prompt_pos"] | None = None,
        positions: Int[Tensor, " pos"] | None = None,
        top_k: int | None = None,
        score: str | None = None,
    ) -> tuple[pd.DataFrame, ...]:
        """For each target its best neurons, as in `ranked`.

        Args:
            tokens: the prompt; None for image, text and caption.
            positions: where neurons are scored; None for the image positions.
            top_k, score: None for those in the settings.
        """
        if not targets:
            return ()
        table = top_neurons(
            self.lens.model,
            self.tokens if tokens is None else tokens,
            list(targets),
            self.image_pos if positions is None else positions,
            top_k=top_k or self.settings.top_k,
            score=score or self.settings.score,
            reduce=self.settings.reduce,
        )
        size = len(table) // len(targets)
        columns = ["layer", "neuron", "attribution", "pos"]
        return tuple(table.iloc[i : i + size][columns].reset_index(drop=True) for i in range(0, len(table), size))

    @cached_property
    def top_words(self) -> tuple[pd.DataFrame, ...]:
        """`top` with the columns of `decoded`."""
        return tuple(self._with_words(table) for table in self.top)

    @cached_property
    def random_words(self) -> tuple[pd.DataFrame, ...]:
        """`random` with the columns of `decoded`."""
        return tuple(self._with_words(table) for table in self.random)

    def _with_words(self, neurons: pd.DataFrame) -> pd.DataFrame:
        return neurons.merge(self.decoded, left_on=["layer", "neuron"], right_index=True, how="left", sort=False)

    def cell(self, pos: int) -> tuple[int, int]:
        """Row and column of the image patch at a position; -1 where it shows none."""
        (span,) = self.prompt.spans[0]
        return span.image.cell(span.positions.index(pos)) or NO_PATCH

    def _said(self, noun: Noun, ends: Sequence[int]) -> SaidNoun:
        first = next(i for i, end in enumerate(ends) if end > noun.start)
        last = next(i for i, end in enumerate(ends) if end >= noun.stop)
        token = self.caption_ids[first]
        return SaidNoun(
            noun=noun,
            token=token,
            token_text=self.lens.text.decode([token]),
            n_tokens=last - first + 1,
            read_pos=self.prompt.tokens.shape[1] + first - 1,
            in_picture=noun.category is not None and noun.category in self.scene.categories,
            in_human_captions=noun.name in self.human_nouns,
        )


Neuron = tuple[int, int]
"""Layer and neuron."""


def pairs_of(neurons: pd.DataFrame) -> list[Neuron]:
    """A table of neurons as (layer, neuron) pairs."""
    return list(zip(neurons["layer"].tolist(), neurons["neuron"].tolist(), strict=True))


def control_for(model: nn.Module, neurons: pd.DataFrame, generator: torch.Generator) -> pd.DataFrame:
    """As many random neurons of the same layers as `with_control` keeps, none of them in the table."""
    return random_neurons_like(model, with_control(model, neurons), generator)


def with_control(model: nn.Module, neurons: pd.DataFrame) -> pd.DataFrame:
    """The neurons of a ranking up to where a layer has too few others to draw a control from.

    Usually all of them: the ranking ends early only in very small models or for very many neurons.
    """
    of_layer = neurons.groupby("layer").cumcount() + 1
    too_many = (of_layer * 2 > transformer.shape(model).d_mlp).to_numpy()
    return neurons.iloc[: int(too_many.argmax()) if too_many.any() else len(neurons)]
