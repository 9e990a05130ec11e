"""Layouts of the pictures of a vision-language model, measured when they are asked for (`image.measured_layout`)."""

import hashlib
from collections.abc import Callable, Hashable, Mapping
from threading import RLock
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.image.measured_layout import (
    TouchedPixels,
    measured_layout,
    painted_coordinates,
    tile_scales,
    touched_pixels,
    without_attention,
)

KEPT = 256
"""Sizes of pictures, and shapes of the encoder's input, of which measurements are kept."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Latest(Generic[K, V]):
    """The latest `KEPT` values by key, each made when it is first asked for."""

    def __init__(self) -> None:
        self._values: dict[K, V] = {}

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key; `make` gives one that is not there."""
        if key not in self._values:
            self._values[key] = make()
            if len(self._values) > KEPT:
                del self._values[next(iter(self._values))]
        return self._values[key]


class EncoderLock:
    """Held by the thread that runs the encoder: while a layout is measured, its attention is switched off."""

    def __init__(self) -> None:
        self._lock = RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type["EncoderLock"], tuple[()]]:
        return EncoderLock, ()  # a copy has a lock of its own


class TowerLayouts:
    """What each image vector shows, by size of the picture.

    Args:
        preprocessed: the encoder's input for one picture; takes options of the image processor.
        vectors: the image vectors of such an input.
        parts: the modules between pixels and vectors.
        patch_size: of the encoder, in pixels; None if it is not known, which leaves images without a layout.
        lock: held while the attention of `parts` is switched off.
    """

    def __init__(
        self,
        *,
        preprocessed: Callable[..., Mapping[str, Tensor]],
        vectors: Callable[[Mapping[str, Tensor]], Float[Tensor, "pos d_model"]],
        parts: Mapping[str, nn.Module],
        patch_size: int | None,
        lock: EncoderLock,
    ) -> None:
        self._preprocessed, self._vectors, self._parts = preprocessed, vectors, parts
        self._patch_size, self._lock = patch_size, lock
        self._layouts: Latest[tuple[int, int, bool], ImageLayout] = Latest()
        self._touched: Latest[tuple[Any, ...], list[TouchedPixels | None]] = Latest()

    def of(self, width: int, height: int, *, n_positions: int, in_company: bool) -> ImageLayout:
        """The layout of a picture of this size.

        Args: in_company: as `VisionTower.preprocessed`; then the first `n_positions` vectors count.
        """
        key = width, height, in_company
        return self._layouts.get(key, lambda: self._measured(width, height, n_positions, in_company=in_company))

    @torch.no_grad()
    def _measured(self, width: int, height: int, n_positions: int, *, in_company: bool) -> ImageLayout:
        pictures = painted_coordinates(width, height)
        as_painted = {"do_rescale": False, "do_normalize": False}
        painted = [self._preprocessed(own, in_company=in_company, **as_painted)["pixel_values"] for own in pictures]
        inputs = self._preprocessed(pictures[0], in_company=in_company)
        band = self._patch_size
        if inputs["pixel_values"].ndim < 4 or band is None:
            return ImageLayout(n_positions=n_positions, grids=())
        touched = self._touched.get(_shape(inputs), lambda: self._touched_pixels(inputs, band))
        scales = tile_scales(painted, width=width, height=height)
        return measured_layout(touched[:n_positions], scales, width=width, height=height)

    def _touched_pixels(self, inputs: Mapping[str, Tensor], band: int) -> list[TouchedPixels | None]:
        with self._lock, without_attention(self._parts):
            return touched_pixels(
                lambda pixels: self._vectors({**inputs, "pixel_values": pixels}), inputs["pixel_values"], band=band
            )


def _shape(inputs: Mapping[str, Tensor]) -> tuple[Any, ...]:
    """All of an encoder's input but the colours."""
    others = sorted((name, value) for name, value in inputs.items() if name != "pixel_values")
    return inputs["pixel_values"].shape, *((name, value.shape, _digest(value)) for name, value in others)


def _digest(value: Tensor) -> bytes:
    return hashlib.blake2b(value.contiguous().numpy().tobytes(), digest_size=16).digest()
