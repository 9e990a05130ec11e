"""Layouts by size of picture, from a model's own preprocessing and encoder, measured on demand."""

import hashlib
from collections.abc import Callable, Mapping
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from lens_multimodal.image.flat_patches import assembled, touched_patches
from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.image.measured_layout import (
    TouchedPixels,
    measured_layout,
    painted_coordinates,
    tile_scales,
    touched_pixels,
    without_attention,
)
from lens_multimodal.latest import Latest

KEPT = 256
"""Number of picture sizes, and of shapes of the encoder's input, whose measurements are kept."""


class EncoderLock:
    """Held by the thread that runs the encoder: while a layout is measured, its attention is switched off."""

    def __init__(self) -> None:
        self._lock = RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type["EncoderLock"], tuple[()]]:
        return EncoderLock, ()  # a copy has its own lock


class EncoderLayouts:
    """What each image vector shows; the latest layouts are kept. Thread-safe.

    Args:
        preprocessed: from a picture, `in_company` and options of the image processor to the encoder's input.
        vectors_of: from the encoder's input to its vectors.
        parts: encoder and projector, whose attention is switched off while a layout is measured.
        side: height and width in pixels of the encoder's patches.
        lock: the encoder's lock.
    """

    def __init__(
        self,
        preprocessed: Callable[..., Mapping[str, Tensor]],
        vectors_of: Callable[[Mapping[str, Tensor]], Tensor],
        parts: Mapping[str, nn.Module],
        *,
        side: int,
        lock: EncoderLock,
    ) -> None:
        self._preprocessed, self._vectors_of, self._parts = preprocessed, vectors_of, parts
        self._side, self._lock = side, lock
        self._layouts: Latest[tuple[int, int, bool], ImageLayout] = Latest(KEPT)
        self._touched: Latest[tuple[Any, ...], list[TouchedPixels | None]] = Latest(KEPT)

    def of(self, width: int, height: int, *, n_positions: int, in_company: bool) -> ImageLayout:
        """What the first `n_positions` vectors of a picture of this size show.

        Cost: dozens of passes of the encoder for each new shape of its input.
        """
        with self._lock:
            return self._layouts.get(
                (width, height, in_company), lambda: self._measured(width, height, n_positions, in_company=in_company)
            )

    @torch.no_grad()
    def _measured(self, width: int, height: int, n_positions: int, *, in_company: bool) -> ImageLayout:
        pictures = painted_coordinates(width, height)
        as_painted = {"do_rescale": False, "do_normalize": False, "in_company": in_company}
        painted = [self._preprocessed(own, **as_painted)["pixel_values"] for own in pictures]
        inputs = self._preprocessed(pictures[0], in_company=in_company)
        pixels = inputs["pixel_values"]

        def vectors(own: Tensor) -> Tensor:
            return self._vectors_of({**inputs, "pixel_values": own})

        cells = None
        if pixels.ndim == 2:
            painted, cells = assembled(painted, side=self._side)

        def touched() -> list[TouchedPixels | None]:
            with without_attention(self._parts):
                if cells is None:
                    return touched_pixels(vectors, pixels, band=self._side)
                return touched_patches(vectors, pixels, cells, side=self._side)

        found = self._touched.get(shape_of_input(inputs), touched)
        scales = tile_scales(painted, width=width, height=height)
        return measured_layout(found[:n_positions], scales, width=width, height=height)


def shape_of_input(inputs: Mapping[str, Tensor]) -> tuple[Any, ...]:
    """All of an encoder's input except the colours, to tell inputs of the same shape."""
    others = sorted((name, value) for name, value in inputs.items() if name != "pixel_values")
    return inputs["pixel_values"].shape, *((name, value.shape, _digest(value)) for name, value in others)


def _digest(value: Tensor) -> bytes:
    return hashlib.blake2b(value.contiguous().numpy().tobytes(), digest_size=16).digest()
