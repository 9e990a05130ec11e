"""What a store holds: hook points, positions, precision."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
class StoreSettings:
    """The settings that decide the rows of a store.

    Raises: ArgumentValueError for values outside their range.
    """

    at: Sequence[str] | str
    """Hook points with activations `[batch, pos, ...]`, such as `blocks.5.mlp.hook_post`; one or several."""
    positions: StoredPositions = "image"
    """`image` (every image patch), `objects` (patches covered by an annotated category), `text` (the words after the
    image), `caption` (the words of the model's own caption), `all` (image and text)."""
    categories: Sequence[str] | None = None
    """Categories that make a patch one of `objects`; None for all of the data set."""
    covered: float = 0.5
    """Least share of a patch that one category covers where `positions` is objects."""
    text: str = PROMPT
    """After the image."""
    max_new_tokens: int = 20
    """Longest caption, where `positions` is caption."""
    dtype: str | torch.dtype | None = None
    """Of the stored numbers: float32, bfloat16 or float16; None for the model's own."""
    batch_size: int = 32
    """Pictures in one forward pass. Other sizes change the last bits of activations."""
    pictures_per_shard: int = 256
    """Pictures of one file. One shard is held in memory while it is made."""

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names):
            raise ArgumentValueError(f"expected at least one hook point, each once, got {list(self.at)}", "at")
        if self.positions not in get_args(StoredPositions):
            raise ArgumentValueError(
                f"expected one of {', '.join(get_args(StoredPositions))}, got {self.positions!r}", "positions"
            )
        if not 0 < self.covered <= 1:
            raise ArgumentValueError(f"expected a share above 0 and up to 1, got {self.covered}", "covered")
        if self.dtype is not None:
            _read_dtype(self.dtype)
        for name in ("batch_size", "pictures_per_shard", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ArgumentValueError(f"must be at least 1, got {getattr(self, name)}", name)
        if self.categories is not None and self.positions != "objects":
            raise ArgumentValueError('only positions="objects" uses categories', "categories")

    @property
    def names(self) -> tuple[str, ...]:
        """The hook points."""
        return (self.at,) if isinstance(self.at, str) else tuple(self.at)

    @property
    def with_objects(self) -> bool:
        return self.positions == "objects"

    def dtype_for(self, lens: CaptioningModel) -> torch.dtype:
        """Of the numbers stored from this lens. Raises: ArgumentValueError for a model in any other precision."""
        return _read_dtype(next(lens.model.parameters()).dtype if self.dtype is None else self.dtype)

    def described(self, lens: CaptioningModel) -> dict[str, Any]:
        """For the manifest, the same for settings that store the same."""
        return {
            **asdict(self),
            "at": list(self.names),
            "categories": None if self.categories is None else list(self.categories),
            "dtype": str(self.dtype_for(lens)).removeprefix("torch."),
        }


def _read_dtype(given: str | torch.dtype) -> torch.dtype:
    name = str(given).removeprefix("torch.")
    if name not in DTYPES:
        raise ArgumentValueError(f"expected one of {', '.join(DTYPES)}, got {name!r}", "dtype")
    return DTYPES[name]


def check_categories(wanted: Sequence[str] | None, known: Sequence[str]) -> None:
    """Raises: ArgumentValueError for a category that no picture shows."""
    absent = sorted(set(wanted or ()) - set(known))
    if absent:
        raise ArgumentValueError(
            f"no picture shows {', '.join(absent)}; the categories are {', '.join(sorted(known)[:20])}", "categories"
        )
