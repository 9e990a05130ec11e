"""One pass over pictures: every chosen layer's neurons at the image positions, batch by batch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_multimodal import transformer
from lens_multimodal.atlas.atlas_settings import AtlasSettings
from lens_multimodal.atlas.layer_tally import SHARE, BatchFacts
from lens_multimodal.data import Scene
from lens_multimodal.image.geometry import Box
from lens_multimodal.precision import wide
from lens_multimodal.prompt.captioning_model import CaptioningModel
from lens_multimodal.runs.ahead import ahead
from lens_multimodal.runs.opened_pictures import OpenedPicture, open_picture, prompt_of

Seen = Callable[[int, Float[Tensor, "picture patch neuron"], BatchFacts], None]
"""Given a layer, its activations in float32 or wider, and the batch."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """A picture, and the objects of another one for the permutation control."""

    place: int
    picture: OpenedPicture
    other: OpenedPicture | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What every pass of an atlas needs."""

    lens: CaptioningModel
    order: Sequence[Scene]
    categories: Sequence[str]
    settings: AtlasSettings
    layers: tuple[int, ...]
    """Those of the settings."""

    @cached_property
    def n_patches(self) -> int:
        """Image patches of each picture. Raises: ValueError if pictures have several grids, or different ones."""
        grid_h, grid_w = self.lens.images.patch_grid
        return grid_h * grid_w

    def boxes(self, patches: Iterable[tuple[int, int, int]]) -> list[Box]:
        """The part of its picture that each patch shows. Args: patches: width and height of the picture, number of
        the patch."""
        known: dict[tuple[int, int, int], Box] = {}
        found = []
        for width, height, patch in patches:
            if (width, height, patch) not in known:
                grid = self.lens.images.layout(width, height, n_positions=self.n_patches).only_grid
                assert grid is not None
                assert grid.geometry is not None
                known[width, height, patch] = grid.geometry.patch_box(*divmod(patch, grid.grid_w))
            found.append(known[width, height, patch])
        return found

    def batches(self, places: Sequence[int], *, with_objects: bool = True) -> Iterator[list[Pair]]:
        """Pictures by their places in the run, opened ahead, in batches of fixed composition."""
        size = self.settings.batch_size

        def opened(place: int) -> Pair:
            scene = self.order[place]
            shift = len(self.order) // 2
            partner = self.order[(place + shift) % len(self.order)] if shift and with_objects else None
            images = self.lens.images
            return Pair(
                place=place,
                picture=open_picture(scene, images, with_objects=with_objects),
                other=None if partner is None else open_picture(partner, images, with_objects=True, pixels=False),
            )

        waiting: list[Pair] = []
        for pair in ahead(opened, places, waiting=2 * size):
            waiting.append(pair)
            if len(waiting) == size:
                yield waiting
                waiting = []
        if waiting:
            yield waiting

    @torch.no_grad()
    def forward(self, pairs: Sequence[Pair], layers: Sequence[int], seen: Seen) -> None:
        """One forward pass over readable pictures; `seen` is called as each layer is computed."""
        prompt = prompt_of(self.lens, [pair.picture for pair in pairs], self.settings.text)
        facts = self._facts(pairs)
        patches = prompt.image_pos[0]

        def at(layer: int) -> transformer.HookFunction:
            def see(activation: Tensor, hook: Any) -> None:
                seen(layer, wide(activation[:, patches.to(activation.device)]), facts.to(activation.device))

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
        columns, share = self._shares([pair.picture.covered for pair in pairs])
        shifted_columns, shifted = self._shares([pair.other.covered if pair.other else {} for pair in pairs])
        return BatchFacts(
            place=torch.tensor([pair.place for pair in pairs]),
            columns=columns,
            share=share,
            shifted_columns=shifted_columns,
            shifted=shifted,
        )

    def _shares(self, covered: Sequence[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
        names = sorted({name for own in covered for name in own})
        share = torch.zeros(len(covered), self.n_patches, len(names))
        for row, own in enumerate(covered):
            for name, patches in own.items():
                share[row, :, names.index(name)] = (patches * SHARE).round()
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
