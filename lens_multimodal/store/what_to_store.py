"""Which activations are stored: hook points, positions, precision."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from lens_multimodal.arguments.boundary import ArgumentValueError
from lens_multimodal.prompt.captioning_model import CaptioningModel
from lens_multimodal.prompt.image_prompt import PROMPT

StoredPositions = Literal["image", "objects", "text", "caption", "all"]
"""image: every image patch; objects: those covered by a category; text: the words after the image; caption: the words
of the model's own caption; all: image and text."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class WhatToStore:
    """The settings of a store that decide its rows.

    Raises: ArgumentValueError for values outside their range.
    """

    at: tuple[str, ...]
    """Hook points, as TransformerLens names them."""
    positions: StoredPositions = "image"
    categories: tuple[str, ...] | None = None
    """Categories that make a patch one of `objects`; None for all of the data set."""
    covered: float = 0.5
    """Least share of a patch that a category covers where `positions` is objects."""
    text: str = PROMPT
    """After the image."""
    max_new_tokens: int = 20
    """Longest caption, where `positions` is caption."""
    dtype: str = "float32"
    batch_size: int = 32
    """Pictures in one forward pass. Other sizes change the last bits of activations."""
    pictures_per_shard: int = 256

    def __post_init__(self) -> None:
        if not self.at or len(set(self.at)) < len(self.at):
            raise ArgumentValueError(f"expected at least one hook point, each once, got {list(self.at)}", "at")
        if self.positions not in get_args(StoredPositions):
            raise ArgumentValueError(
                f"expected one of {', '.join(get_args(StoredPositions))}, got {self.positions!r}", "positions"
            )
        if not 0 < self.covered <= 1:
            raise ArgumentValueError(f"expected a share above 0 and up to 1, got {self.covered}", "covered")
        if self.dtype not in DTYPES:
            raise ArgumentValueError(f"expected one of {', '.join(DTYPES)}, got {self.dtype!r}", "dtype")
        for name in ("batch_size", "pictures_per_shard", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ArgumentValueError(f"must be at least 1, got {getattr(self, name)}", name)
        if self.categories is not None and self.positions != "objects":
            raise ArgumentValueError('only positions="objects" uses categories', "categories")

    @property
    def with_objects(self) -> bool:
        return self.positions == "objects"


def what_to_store(
    lens: CaptioningModel,
    *,
    at: Sequence[str] | str,
    categories: Sequence[str] | None,
    dtype: str | torch.dtype | None,
    **others: Any,
) -> WhatToStore:
    """The settings as users give them: one hook point without a list, a torch type, None for the model's precision.

    Args: others: fields of `WhatToStore`.
    Raises: as `WhatToStore`.
    """
    return WhatToStore(
        at=(at,) if isinstance(at, str) else tuple(at),
        categories=None if categories is None else tuple(categories),
        dtype=str(next(lens.model.parameters()).dtype if dtype is None else dtype).removeprefix("torch."),
        **others,
    )


def check_categories(wanted: Sequence[str] | None, known: Sequence[str]) -> None:
    """Raises: ArgumentValueError for a category that no picture shows."""
    absent = sorted(set(wanted or ()) - set(known))
    if absent:
        raise ArgumentValueError(
            f"no picture shows {', '.join(absent)}; the categories are {', '.join(sorted(known)[:20])}", "categories"
        )
