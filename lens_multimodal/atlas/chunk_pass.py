"""One pass over pictures: every chosen layer's neurons at the image positions, batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_multimodal import transformer
from lens_multimodal.atlas.atlas_settings import AtlasSettings
from lens_multimodal.atlas.layer_tally import SHARE, BatchFacts
from lens_multimodal.data import Scene
from lens_multimodal.precision import wide
from lens_multimodal.prompt.captioning_model import CaptioningModel
from lens_multimodal.runs.background_threads import ahead
from lens_multimodal.runs.opened_pictures import (
    OpenedPicture,
    covered_by_objects,
    layout_of,
    open_picture,
    prompt_of,
)

Seen = Callable[[int, Float[Tensor, "picture patch neuron"], BatchFacts], None]
"""Given a layer, its activations in float32 or wider, and the batch. Minus infinity fills rows of fewer patches."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """A picture, and the objects of another one for the permutation control."""

    place: int
    picture: OpenedPicture
    patches: Int[Tensor, " patch"]
    """The image positions that show a part of the picture."""
    shifted: dict[str, Float[Tensor, " image_pos"]]
    """For each category of the other picture, the share of every image position that its objects would cover if they
    were in this one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What every pass of an atlas needs."""

    lens: CaptioningModel
    order: Sequence[Scene]
    categories: Sequence[str]
    settings: AtlasSettings
    layers: tuple[int, ...]
    """The layers of the settings, by number."""

    def check_places(self) -> None:
        """Raise ValueError if the model's image positions show no place in the first picture."""
        try:
            self.patches_of(self.order[0])
        except ValueError as error:
            raise ValueError(f"an atlas of {self.lens.images.name} cannot be made: {error}") from error

    def patches_of(self, scene: Scene) -> tuple[int, ...]:
        """The image positions that show a part of a scene's picture.

        Raises: ValueError where it is not known which places in the picture they show.
        """
        return layout_of(scene, self.lens.images).shown

    def batches(self, places: Sequence[int], *, with_objects: bool = True) -> Iterator[list[Pair]]:
        """Pictures by their places in the run, opened ahead, in batches of fixed composition."""
        size = self.settings.batch_size
        waiting: list[Pair] = []
        for pair in ahead(lambda place: self._opened(place, with_objects=with_objects), places, waiting=2 * size):
            waiting.append(pair)
            if len(waiting) == size:
                yield waiting
                waiting = []
        if waiting:
            yield waiting

    def _opened(self, place: int, *, with_objects: bool) -> Pair:
        scene, images = self.order[place], self.lens.images
        picture = open_picture(scene, images, with_objects=with_objects)
        patches: tuple[int, ...] = ()
        shifted: dict[str, Tensor] = {}
        if picture.pixels is not None:
            try:
                layout = layout_of(scene, images)
                patches = layout.shown
                if with_objects and len(self.order) > 1:
                    other = self.order[(place + len(self.order) // 2) % len(self.order)]
                    shifted = covered_by_objects(other, layout)
            except ValueError as error:
                picture = OpenedPicture(scene=scene, pixels=None, error=str(error), covered={})
        return Pair(place=place, picture=picture, patches=torch.tensor(patches, dtype=torch.int64), shifted=shifted)

    @torch.no_grad()
    def forward(self, pairs: Sequence[Pair], layers: Sequence[int], seen: Seen) -> None:
        """One forward pass over readable pictures; `seen` is called as each layer is computed."""
        prompt = prompt_of(self.lens, [pair.picture for pair in pairs], self.settings.text)
        facts = self._facts(pairs)
        spans = [torch.tensor(row[0].positions) for row in prompt.spans]
        pos = torch.stack([own[index] for own, index in zip(spans, facts.index, strict=True)])
        picture = torch.arange(len(pairs))[:, None]

        def at(layer: int) -> transformer.HookFunction:
            def see(activation: Tensor, hook: Any) -> None:
                device = activation.device
                own = facts.to(device)
                patches = wide(activation[picture.to(device), pos.to(device)])
                seen(layer, patches.masked_fill_(~own.is_patch[..., None], -torch.inf), own)

            return see

        transformer.logits_of(
            self.lens.model,
            prompt.tokens,
            attention_mask=prompt.attention_mask,
            first=prompt.last_pos,
            hooks=[(transformer.mlp_post(layer), at(layer)) for layer in layers],
        )
        self.lens.forget(prompt)

    def _facts(self, pairs: Sequence[Pair]) -> BatchFacts:
        longest = max(len(pair.patches) for pair in pairs)
        index = torch.zeros(len(pairs), longest, dtype=torch.int64)
        is_patch = torch.zeros(len(pairs), longest, dtype=torch.bool)
        for row, pair in enumerate(pairs):
            index[row, : len(pair.patches)] = pair.patches
            is_patch[row, : len(pair.patches)] = True
        columns, share = self._shares(pairs, [pair.picture.covered for pair in pairs], longest)
        shifted_columns, shifted = self._shares(pairs, [pair.shifted for pair in pairs], longest)
        return BatchFacts(
            place=torch.tensor([pair.place for pair in pairs]),
            index=index,
            is_patch=is_patch,
            columns=columns,
            share=share,
            shifted_columns=shifted_columns,
            shifted=shifted,
        )

    def _shares(
        self, pairs: Sequence[Pair], covered: Sequence[dict[str, Tensor]], longest: int
    ) -> tuple[Tensor, Tensor]:
        names = sorted({name for own in covered for name in own})
        share = torch.zeros(len(covered), longest, len(names))
        for row, (pair, own) in enumerate(zip(pairs, covered, strict=True)):
            for name, of_image in own.items():
                share[row, : len(pair.patches), names.index(name)] = (of_image[pair.patches] * SHARE).round()
        return torch.tensor([self.categories.index(name) for name in names], dtype=torch.int64), share


def category_parts(run: Run, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Parts of patches and numbers of pictures of each category, `[half, category]`; even places are the first half."""
    parts = torch.zeros(2, len(run.categories), dtype=torch.int64)
    pictures = torch.zeros(2, len(run.categories), dtype=torch.int64)
    for pair in pairs:
        for name, patches in pair.picture.covered.items():
            whole = (patches * SHARE).round()
            parts[pair.place % 2, run.categories.index(name)] += int(whole.sum())
            pictures[pair.place % 2, run.categories.index(name)] += bool((whole * 2 >= SHARE).any())
    return parts, pictures
