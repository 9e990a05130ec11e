"""The image encoder: pixels in, one vector per image patch out."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

LONGEST_SIDE = 8192
"""Of an encoder's input, in pixels: far above any encoder's, far below what fills the memory."""

SMALLEST_STD = 1e-6
"""Of a channel: what is divided by less leaves half precision."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
"""Ways to resize that timm knows by name; its `random` would give a picture another caption every time."""


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


class VisionEncoder(nn.Module):
    """An image encoder with its preprocessing and its patch grid.

    Args:
        module: a timm model (its `forward_features`, prefix tokens such as the class token dropped), or any
            module that maps `[batch, 3, height, width]` to `[batch, patch, d_vision]` or
            `[batch, d_vision, grid_h, grid_w]`.
        preprocessing: None takes what timm publishes for its model.
        name: shown to people and written into saved lenses.

    Raises:
        TypeError: the output is no tensor of that form.
        ValueError: no preprocessing is known.
    """

    def __init__(
        self, module: nn.Module, *, preprocessing: Preprocessing | None = None, name: str | None = None
    ) -> None:
        super().__init__()
        if preprocessing is None:
            if not hasattr(module, "pretrained_cfg"):
                raise ValueError(
                    f"{type(module).__name__} is not a timm model, so its preprocessing is unknown: wrap it as "
                    f"VisionEncoder(module, preprocessing=Preprocessing(height=..., width=..., mean=..., std=...))"
                )
            preprocessing = Preprocessing.of_timm(module)
        self.module = module.eval()
        self.preprocessing = preprocessing
        self.name = name or type(module).__name__
        raw = self._raw_of_blank()
        self.d_vision = self._patches(raw).shape[-1]
        self.grid_h, self.grid_w = self._grid(raw)

    @property
    def n_patches(self) -> int:
        return self.grid_h * self.grid_w

    def with_preprocessing(self, **changes: Any) -> "VisionEncoder":
        """The same weights with another preprocessing."""
        return VisionEncoder(self.module, preprocessing=replace(self.preprocessing, **changes), name=self.name)

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch patch d_vision"]:
        """Features of each image patch, row by row from the top left."""
        return self._patches(self._raw(pixels))

    def features(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "batch patch d_vision"]:
        """Preprocess and encode, in the encoder's own precision and on its own device."""
        like = next(self.module.parameters(), torch.empty(0))
        return self(self.preprocessing(pictures).to(device=like.device, dtype=like.dtype))

    @property
    def _is_timm(self) -> bool:
        return hasattr(self.module, "forward_features")

    def _raw(self, pixels: Tensor) -> Tensor:
        raw: Any = self.module.forward_features(pixels) if self._is_timm else self.module(pixels)  # type: ignore[operator]
        if not isinstance(raw, Tensor) or raw.ndim not in (3, 4):
            got = f"shape {list(raw.shape)}" if isinstance(raw, Tensor) else type(raw).__name__
            raise TypeError(
                f"the image encoder {self.name} must give [batch, patch, d_vision] or [batch, d_vision, grid_h, "
                f"grid_w], got {got}"
            )
        return raw

    def _patches(self, raw: Tensor) -> Tensor:
        if raw.ndim == 4:
            axes = "row col d_vision" if self._channels_last else "d_vision row col"
            return rearrange(raw, f"batch {axes} -> batch (row col) d_vision")
        return raw[:, self._n_prefix_tokens(raw) :]

    @property
    def _channels_last(self) -> bool:
        return self._is_timm and getattr(self.module, "output_fmt", None) == "NHWC"

    def _n_prefix_tokens(self, raw: Tensor) -> int:
        if not self._is_timm:
            return 0
        unnamed = int(hasattr(self.module, "cls_token") and raw.shape[1] > 1)
        return int(getattr(self.module, "num_prefix_tokens", unnamed))

    @torch.no_grad()
    def _raw_of_blank(self) -> Tensor:
        like = next(self.module.parameters(), torch.empty(0))
        shape = (1, 3, self.preprocessing.height, self.preprocessing.width)
        return self._raw(torch.zeros(shape, device=like.device, dtype=like.dtype))

    def _grid(self, raw: Tensor) -> tuple[int, int]:
        if raw.ndim == 4:
            _, *grid = raw.shape[:-1] if self._channels_last else (0, *raw.shape[2:])
            return grid[0], grid[1]
        n_patches = self._patches(raw).shape[1]
        patch_embed = getattr(self.module, "patch_embed", None)
        of_encoder = getattr(patch_embed, "grid_size", None)
        if of_encoder is not None and of_encoder[0] * of_encoder[1] == n_patches:
            return int(of_encoder[0]), int(of_encoder[1])
        rows = round(math.sqrt(n_patches * self.preprocessing.height / self.preprocessing.width))
        if rows > 0 and n_patches % rows == 0:
            return rows, n_patches // rows
        return 1, n_patches
