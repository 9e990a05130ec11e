"""How a picture becomes the encoder's input."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

LONGEST_SIDE = 8192
"""The longest side of an encoder's input, in pixels: far above any encoder's, far below what fills the memory."""

SMALLEST_STD = 1e-6
"""The smallest `std` of a channel: a quotient by less would not fit half precision."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
"""Ways to resize that timm knows by name; its `random` would give a picture a different caption every time."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a picture becomes the encoder's input, in timm's terms."""

    height: int
    width: int
    crop_mode: str = "squash"
    """squash: both sides to the input size, aspect ratio lost. center: short side to `size / crop_pct`, then the
    centre. border: long side to the size, the rest padded."""
    crop_pct: float = 1.0
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        sides = (self.height, self.width)
        if not all(isinstance(side, int) and side <= LONGEST_SIDE for side in sides):
            raise ValueError(
                f"the input size must be integers up to {LONGEST_SIDE}, got {self.height!r} x {self.width!r}"
            )
        if min(sides) < 1:
            raise ValueError(f"the input size must be positive, got {self.height} x {self.width}")
        if self.crop_mode not in ("squash", "center", "border"):
            raise ValueError(f"crop_mode must be squash, center or border, got {self.crop_mode!r}")
        if not (isinstance(self.crop_pct, (int, float)) and 0 < self.crop_pct <= 1):
            raise ValueError(f"crop_pct must lie in (0, 1], got {self.crop_pct!r}")
        if max(sides) / self.crop_pct > LONGEST_SIDE:
            raise ValueError(
                f"crop_pct {self.crop_pct!r} would enlarge pictures to {max(sides) / self.crop_pct:.4g} pixels before "
                f"they are cropped, more than {LONGEST_SIDE}"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not _three_numbers(values) or (name == "std" and min(values) < SMALLEST_STD):
                least = f" of at least {SMALLEST_STD}" if name == "std" else ""
                raise ValueError(f"{name} must be three numbers{least} and below 1e6, got {values!r}")

    def __call__(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "batch 3 height width"]:
        """Resize, crop and normalise with timm's own evaluation transform."""
        from timm.data import create_transform

        transform: Any = create_transform(
            input_size=(3, self.height, self.width),
            is_training=False,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
        )
        return torch.stack([transform(picture) for picture in pictures])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Preprocessing":
        """From what `to_json` gave.

        Raises: ValueError for missing or unknown names, and values outside their range.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(value, dict) or not {"height", "width"} <= set(value) <= known:
            got = sorted(value) if isinstance(value, dict) else type(value).__name__
            raise ValueError(f"expected preprocessing with height, width and any of {sorted(known)}, got {got}")
        lists_as_tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        return cls(**lists_as_tuples)

    @classmethod
    def of_timm(cls, module: nn.Module) -> "Preprocessing":
        """The evaluation preprocessing that a timm model was published with."""
        from timm.data import resolve_model_data_config

        config = resolve_model_data_config(module)
        built_for = getattr(getattr(module, "patch_embed", None), "img_size", None)
        height, width = built_for or config["input_size"][1:]
        return cls(
            height=height,
            width=width,
            crop_mode=config["crop_mode"] or "center",
            crop_pct=config["crop_pct"],
            interpolation=config["interpolation"],
            mean=config["mean"],
            std=config["std"],
        )


def _three_numbers(values: Any) -> bool:
    return (
        isinstance(values, (tuple, list))
        and len(values) == 3
        and all(isinstance(v, (int, float)) and abs(v) < 1e6 for v in values)
    )
