"""Several preprocessed pictures in one pass of an image encoder."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_multimodal.image.encoder_layout import shape_of_input
from lens_multimodal.latest import Latest
from lens_multimodal.transformer.agreement import SAME_OPERATIONS, disagreement

KEPT = 256
"""Shapes of the encoder's input that are remembered."""

LARGEST = 2**24
"""Pixel values in one pass: 49 pictures of 336 x 336."""


class PicturesInOnePass:
    """Pictures whose inputs differ in nothing but their colours go through the encoder together.

    Whether they may is measured, once for each shape of the input: two pictures together against each of them alone.

    Args: vectors_of: from the encoder's input to all its vectors.
    """

    def __init__(self, vectors_of: Callable[[Mapping[str, Tensor]], Float[Tensor, "pos d_model"]]) -> None:
        self._vectors_of = vectors_of
        self._n_vectors: Latest[tuple[Any, ...], int | None] = Latest(KEPT)

    def vectors(self, inputs: Sequence[Mapping[str, Tensor]]) -> list[Float[Tensor, "pos d_model"]]:
        """The vectors of each picture."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for number, own in enumerate(inputs):
            groups.setdefault(shape_of_input(own), []).append(number)
        found: dict[int, Tensor] = {}
        for shape, numbers in groups.items():
            at_once = max(1, LARGEST // inputs[numbers[0]]["pixel_values"].numel())
            for start in range(0, len(numbers), at_once):
                some = numbers[start : start + at_once]
                found |= zip(some, self._alike(shape, [inputs[number] for number in some]), strict=True)
        return [found[number] for number in range(len(inputs))]

    def _alike(self, shape: tuple[Any, ...], inputs: list[Mapping[str, Tensor]]) -> Sequence[Tensor]:
        if len(inputs) > 1 and (n := self._n_vectors.get(shape, lambda: self._measured(inputs[:2]))) is not None:
            together = self._vectors_of(_joined(inputs))
            # Some models leave out tiles of one colour.
            if len(together) == n * len(inputs):
                return together.split(n)
        return [self._vectors_of(own) for own in inputs]

    @torch.no_grad()
    def _measured(self, two: list[Mapping[str, Tensor]]) -> int | None:
        """The number of vectors of one picture; None if two together give others than each alone."""
        first, second = (self._vectors_of(own) for own in two)
        together = self._vectors_of(_joined(two))
        if len(first) != len(second) or len(together) != 2 * len(first):
            return None
        off = disagreement(together, torch.cat([first, second]), SAME_OPERATIONS, together.dtype)
        return len(first) if off is None else None


def _joined(inputs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([own[name] for own in inputs]) for name in inputs[0]}
