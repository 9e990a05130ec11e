"""The image encoder: pixels to one vector per image patch."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from lens_multimodal.image.geometry import ImageGeometry
from lens_multimodal.image.preprocessing import Preprocessing


class VisionEncoder(nn.Module):
    """An image encoder with its preprocessing and its patch grid.

    Args:
        module: a timm model (its `forward_features`, prefix tokens such as the class token dropped), or any
            module that maps `[batch, 3, height, width]` to `[batch, patch, d_vision]` or
            `[batch, d_vision, grid_h, grid_w]`.
        preprocessing: None uses what timm publishes for its model.
        name: shown to people and written into saved lenses.

    Raises:
        TypeError: the output is not a tensor of that form.
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
        return self.features_of(self.preprocessing(pictures))

    def features_of(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch patch d_vision"]:
        """Encode preprocessed pictures, in the encoder's own precision and on its own device."""
        like = next(self.module.parameters(), torch.empty(0))
        return self(pixels.to(device=like.device, dtype=like.dtype))

    def geometry(self, width: int, height: int) -> ImageGeometry:
        """Where each image patch of this encoder lies in a picture of `width` by `height` pixels."""
        return ImageGeometry.of(self.preprocessing, width=width, height=height, grid_h=self.grid_h, grid_w=self.grid_w)

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
