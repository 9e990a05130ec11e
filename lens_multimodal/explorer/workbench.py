"""One lens, one question at a time: captions, the neurons behind a word, the effect of changing them."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lens_multimodal import transformer
from lens_multimodal.analysis import neuron_activations, receptive_field
from lens_multimodal.arguments.positions import Positions, PositionSet
from lens_multimodal.arguments.targets import read_token
from lens_multimodal.data.coco import Scene
from lens_multimodal.explorer.answers import Caption, Changed, ImagePositions, Neuron, PatchGrid, Seen, Why, Word
from lens_multimodal.explorer.atlas_pages import AtlasPages
from lens_multimodal.explorer.limits import Limits
from lens_multimodal.explorer.uploads import Pictures, Sample, read_upload, thumbnail
from lens_multimodal.hooks import random_neurons_like, scale
from lens_multimodal.image.geometry import Box
from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.lens import VisionLens
from lens_multimodal.prompt.image_prompt import PROMPT, EmbeddedImage, ImagePrompt
from lens_multimodal.tiny.familiarity import Familiarity, familiarity_of
from lens_multimodal.views.html import data_uri
from lens_multimodal.views.notebook.embedded_pictures import field_over_picture

FIELD_SIDE = 224
"""Longest side, in pixels, of a picture with a neuron's activation over it."""

LIKELIEST = 5


class Busy(RuntimeError):
    """Another question kept the model busy for too long."""


class Workbench:
    """A lens behind one lock, with the pictures of its questions.

    Every answer leaves the model unchanged: interventions are hooks inside a `with` block. Picture ids are those of
    `Pictures`. A *place* is the text after the picture and the caption's tokens before the word in question.
    """

    def __init__(
        self, lens: VisionLens, *, scenes: Sequence[Scene], limits: Limits, atlas: AtlasPages | None = None
    ) -> None:
        self.lens = lens
        self.limits = limits
        self.atlas = atlas
        self.pictures = Pictures(lens, scenes, limits)
        self._decoding = threading.Lock()
        self._model = threading.Lock()

    def about(self) -> dict[str, object]:
        """Facts about the lens and its limits for the page."""
        shape, images = self.lens.shape, self.lens.images
        return {
            "name": self.lens.name,
            "n_layers": shape.n_layers,
            "d_mlp": shape.d_mlp,
            "n_neurons": shape.n_neurons,
            "vision": f"{images.name}, {images.summary}",
            "weight_processing": transformer.weight_processing(self.lens.model),
            "prompt": PROMPT,
            "upload_bytes": self.limits.upload_bytes,
            "neurons": self.limits.neurons,
            "atlas": self.atlas and {"pictures": self.atlas.n_pictures, "index": self.atlas.index},
        }

    @property
    def samples(self) -> list[Sample]:
        """The sample scenes."""
        return self.pictures.samples

    def add(self, data: bytes) -> str:
        """Hold an uploaded picture and return its id. Raises: as `read_upload`; Busy."""
        with self._decoding:
            picture = read_upload(data, self.limits)
        with self.alone():
            return self.pictures.add(picture)

    def look(self, picture: str, text: str) -> Seen:
        """The caption of a picture, word by word.

        Raises: UnknownPicture; ValueError for a text that does not fit into the model's context; Busy.
        """
        with self.alone():
            image = self.pictures.get(picture)
            return Seen(
                caption=self.caption(self.prompt(image, text)),
                positions=_positions(image.layout),
                unfamiliar=not self.pictures.is_sample(picture) and self._unfamiliar(image),
            )

    def why(
        self, picture: str, text: str, before: Sequence[int], target: int, *, positions: Positions, top_k: int
    ) -> Why:
        """The neurons that turn a picture into a word, with the tokens they write and where they are active.

        Args: positions: where neurons are ranked, as in `VisionLens.neurons`.
        Raises: as `look`; ValueError for tokens outside the vocabulary or too many neurons.
        """
        if not 1 <= top_k <= self.limits.neurons:
            raise ValueError(f"top_k must be 1 to {self.limits.neurons} neurons, got {top_k}")
        with self.alone():
            image = self.pictures.get(picture)
            prompt = self.prompt(image, text, before)
            token = self._known(target)
            logits = self.next_logits(prompt)
            table = self.lens.neurons(prompt, token, positions=positions, top_k=top_k)
            (span,) = prompt.spans[0]
            active = neuron_activations(self.lens.model, prompt.tokens, table, list(span.positions))[0]
            assert image.picture is not None
            shown = thumbnail(image.picture, FIELD_SIDE)
            small = replace(image, picture=shown, placing=image.layout.for_picture(shown.width, shown.height))
            index_of = {pos: index for index, pos in enumerate(span.positions)}
            rows = [
                self._neuron(row, index_of.get(row["pos"]), active[i], small)
                for i, row in enumerate(table.to_dict("records"))
            ]
        return Why(
            word=self.word(token, logits),
            neurons=rows,
            likeliest=self.likeliest(logits),
        )

    def change(
        self,
        picture: str,
        text: str,
        before: Sequence[int],
        target: int,
        *,
        positions: Positions,
        factors: dict[tuple[int, int], float],
    ) -> Changed:
        """Multiply the activations of neurons, and read what the model says.

        Args:
            positions: where, as in `ImagePrompt.at`.
            factors: by (layer, neuron); 0 ablates, 1 changes nothing.
        Raises: as `why`; ValueError for neurons that the model does not have.
        """
        if len(factors) > self.limits.neurons:
            raise ValueError(f"at most {self.limits.neurons} neurons are changed at once, got {len(factors)}")
        with self.alone():
            image = self.pictures.get(picture)
            prompt = self.prompt(image, text, before)
            token = self._known(target)
            hooks = self._scaled(factors, prompt.at(positions))
            control = self._control(factors)
            before_logits, after_logits = self.next_logits(prompt), self.next_logits(prompt, hooks)
            random = None if control is None else self.next_logits(prompt, self._scaled(control, prompt.at(positions)))
            free = self.prompt(image, text)
            return Changed(
                before=self.word(token, before_logits),
                after=self.word(token, after_logits),
                random=None if random is None else self.word(token, random),
                caption=self.caption(free, self._scaled(factors, free.at(positions))),
                likeliest=self.likeliest(after_logits),
            )

    # --- parts, for a caller that holds the lock -------------------------------------------------

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the model's lock. Raises: Busy after `limits.wait_s` seconds."""
        if not self._model.acquire(timeout=self.limits.wait_s):
            raise Busy("the model is busy with another request; try again in a moment")
        try:
            yield
        finally:
            self._model.release()

    def prompt(self, image: EmbeddedImage, text: str, before: Sequence[int] = ()) -> ImagePrompt:
        """The picture, the text and tokens of a caption as one row.

        Raises: ValueError for tokens outside the vocabulary, or a row longer than the model's context.
        """
        prompt = self.lens.interleave([[image, text]])
        return self._longer(prompt, [self._known(i) for i in before])

    def caption(self, prompt: ImagePrompt, hooks: Sequence[transformer.NamedHook] = ()) -> Caption:
        """The greedy caption of a prompt, under some hooks."""
        model = self.lens.model
        room = self.lens.shape.n_ctx - prompt.tokens.shape[1]
        if room < 1:
            raise ValueError(f"the text fills the model's context of {self.lens.shape.n_ctx} positions: shorten it")
        [ids] = self.lens.generate_ids(prompt, max_new_tokens=min(self.limits.new_tokens, room), hooks=hooks)
        with torch.no_grad():
            longer = self._longer(prompt, ids)
            logits = transformer.logits_of(
                model, longer.tokens, attention_mask=longer.attention_mask, first=prompt.last_pos, hooks=hooks
            )[0]
        words = [self.word(token, at) for token, at in zip(ids, logits, strict=False)]
        return Caption(text=self.lens.text.caption(ids), words=words)

    def next_logits(
        self, prompt: ImagePrompt, hooks: Sequence[transformer.NamedHook] = ()
    ) -> Float[Tensor, " d_vocab"]:
        """The logits after a prompt, under some hooks."""
        with torch.no_grad():
            logits = transformer.logits_of(
                self.lens.model, prompt.tokens, attention_mask=prompt.attention_mask, hooks=hooks
            )
        return logits[0, -1]

    def word(self, token: int, logits: Float[Tensor, " d_vocab"]) -> Word:
        """A token with its probability."""
        [text] = self.lens.to_str_tokens(torch.tensor([token]))
        return Word(token_id=token, text=text, probability=float(_probabilities(logits)[token]))

    def likeliest(self, logits: Float[Tensor, " d_vocab"]) -> list[Word]:
        """The most probable tokens, best first."""
        return [self.word(i, logits) for i in logits.topk(min(LIKELIEST, len(logits))).indices.tolist()]

    # --- inside -------------------------------------------------------------------------------------------

    @cached_property
    def _familiarity(self) -> Familiarity | None:
        return familiarity_of(self.lens.images)

    def _unfamiliar(self, image: EmbeddedImage) -> bool:
        assert image.picture is not None
        return self._familiarity is not None and bool(self._familiarity.unfamiliar([image.picture])[0])

    def _known(self, token: int) -> int:
        return read_token(self.lens.model, token)

    def _longer(self, prompt: ImagePrompt, ids: Sequence[int]) -> ImagePrompt:
        longer = prompt.followed_by(ids)
        n_pos = longer.tokens.shape[1]
        if n_pos > self.lens.shape.n_ctx:
            raise ValueError(
                f"the picture and the text take {n_pos} positions, more than the model's context of "
                f"{self.lens.shape.n_ctx}: shorten the text"
            )
        return longer

    def _scaled(self, factors: dict[tuple[int, int], float], at: PositionSet) -> list[transformer.NamedHook]:
        groups: dict[float, list[tuple[int, int]]] = {}
        for neuron, factor in factors.items():
            groups.setdefault(factor, []).append(neuron)
        return [
            hook
            for factor, neurons in groups.items()
            for hook in scale(self.lens.model, neurons, factor=factor, positions=at)
        ]

    def _control(self, factors: dict[tuple[int, int], float]) -> dict[tuple[int, int], float] | None:
        changed = sorted((neuron for neuron, factor in factors.items() if factor != 1), key=lambda pair: pair[0])
        per_layer = pd.Series([layer for layer, _ in changed]).value_counts()
        if not changed or 2 * per_layer.max() > self.lens.shape.d_mlp:
            return None
        drawn = random_neurons_like(self.lens.model, changed, torch.Generator().manual_seed(0))
        pairs = zip(drawn["layer"].tolist(), drawn["neuron"].tolist(), strict=True)
        return {pair: factors[neuron] for pair, neuron in zip(pairs, changed, strict=True)}

    def _neuron(
        self, row: dict[Any, Any], index: int | None, active: Float[Tensor, " image_pos"], image: EmbeddedImage
    ) -> Neuron:
        assert image.picture is not None
        field = receptive_field(active, image.layout)
        return Neuron(
            **{name: row[name] for name in ("layer", "neuron", "attribution", "interpretable")},
            index=index,
            tokens=list(row["tokens"]),
            activations=active.tolist(),
            field=data_uri(field_over_picture(image.picture, field, side=FIELD_SIDE), side=FIELD_SIDE),
            atlas=self.atlas.known(row["layer"], row["neuron"]) if self.atlas else None,
        )


def _positions(layout: ImageLayout) -> ImagePositions:
    size = layout.picture_size
    boxes = [layout.box(index) for index in range(layout.n_positions)]
    return ImagePositions(
        grids=[PatchGrid(grid_h=g.grid_h, grid_w=g.grid_w, indices=list(g.indices)) for g in layout.grids],
        names=[layout.name(index) for index in range(layout.n_positions)],
        boxes=[None if box is None else _shares(box, *size) for box in boxes],
    )


def _shares(box: Box, width: int, height: int) -> tuple[float, float, float, float]:
    return box.left / width, box.top / height, (box.right - box.left) / width, (box.bottom - box.top) / height


def _probabilities(logits: Float[Tensor, " d_vocab"]) -> Float[Tensor, " d_vocab"]:
    probabilities = logits.float().softmax(-1)
    if not bool(probabilities.isfinite().all()):
        raise FloatingPointError("the model's logits hold NaN or infinities: use float32, or a wider precision")
    return probabilities
