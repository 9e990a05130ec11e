"""Which pixels of the original picture each image patch shows.

Preprocessing resizes the picture, then crops or pads it to the encoder's input, which the encoder cuts into a grid.
Both steps are linear in each direction, so a patch is a box in the original picture with real-valued edges:

    input = original * resized_size / original_size + offset

Edges, not pixel centres: pixel i covers i to i + 1.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_multimodal.image.preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle in pixels of the original picture; `right` and `bottom` are where it ends."""

    left: float | int
    top: float | int
    right: float | int
    bottom: float | int

    @property
    def area(self) -> float:
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)


@dataclass(frozen=True, kw_only=True)
class ImageGeometry:
    """How one original picture lies under the patch grid. All sizes in pixels."""

    width: int
    height: int
    resized_width: int
    resized_height: int
    left: int
    """Where the resized picture begins in the encoder's input: negative if cropped, positive if padded."""
    top: int
    input_width: int
    input_height: int
    grid_h: int
    grid_w: int

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in vars(self).items() if name not in ("left", "top")}
        bad = {name: value for name, value in sizes.items() if value < 1}
        if bad:
            raise ValueError(f"sizes must be positive, got {bad}")

    @classmethod
    def of(cls, preprocessing: Preprocessing, *, width: int, height: int, grid_h: int, grid_w: int) -> "ImageGeometry":
        """The geometry of an encoder's preprocessing for a picture of some size; the rounding is timm's."""
        target = preprocessing.width, preprocessing.height
        scaled = tuple(math.floor(side / preprocessing.crop_pct) for side in target)
        if preprocessing.crop_mode == "squash":
            resized = scaled
        elif preprocessing.crop_mode == "center" and scaled[0] == scaled[1]:
            resized = _short_side(width, height, scaled[0])
        else:
            fit = max if preprocessing.crop_mode == "border" else min
            ratio = fit(width / scaled[0], height / scaled[1])
            resized = round(width / ratio), round(height / ratio)
        return cls(
            width=width,
            height=height,
            resized_width=resized[0],
            resized_height=resized[1],
            left=_centred(resized[0], target[0]),
            top=_centred(resized[1], target[1]),
            input_width=target[0],
            input_height=target[1],
            grid_h=grid_h,
            grid_w=grid_w,
        )

    def patch_box(self, row: int, col: int) -> Box:
        """The part of the original picture that an image patch shows; of area 0 if it shows only padding.

        Raises: ValueError for a cell outside the grid.
        """
        if not (0 <= row < self.grid_h and 0 <= col < self.grid_w):
            raise ValueError(
                f"image patch ({row}, {col}) is outside the grid of {self.grid_h} rows and {self.grid_w} columns"
            )
        return Box(
            left=self._x(col * self.input_width / self.grid_w),
            top=self._y(row * self.input_height / self.grid_h),
            right=self._x((col + 1) * self.input_width / self.grid_w),
            bottom=self._y((row + 1) * self.input_height / self.grid_h),
        )

    @property
    def seen(self) -> Box:
        """The part of the original picture that reaches the encoder; less than all of it if it was cropped."""
        return Box(left=self._x(0), top=self._y(0), right=self._x(self.input_width), bottom=self._y(self.input_height))

    def patch_at(self, x: float | int, y: float | int) -> tuple[int, int] | None:
        """Row and column of the image patch that shows a point of the original picture, None if it is cropped off.

        Raises: ValueError for a point outside the picture.
        """
        if not (0 <= x < self.width and 0 <= y < self.height):
            raise ValueError(f"point ({x}, {y}) is outside the picture of {self.width} x {self.height} pixels")
        col = math.floor(self._input_x(x) / self.input_width * self.grid_w)
        row = math.floor(self._input_y(y) / self.input_height * self.grid_h)
        return (row, col) if 0 <= row < self.grid_h and 0 <= col < self.grid_w else None

    def to_picture(self, values: Float[Tensor, "grid_h grid_w"]) -> Float[Tensor, "height width"]:
        """Bilinear upsampling of one value per image patch to the original picture; NaN where it was cropped off.

        Raises: ValueError for another grid.
        """
        if tuple(values.shape) != (self.grid_h, self.grid_w):
            raise ValueError(
                f"expected one value for each image patch, [{self.grid_h}, {self.grid_w}], got {list(values.shape)}"
            )
        x = torch.tensor([2 * self._input_x(i + 0.5) / self.input_width - 1 for i in range(self.width)])
        y = torch.tensor([2 * self._input_y(i + 0.5) / self.input_height - 1 for i in range(self.height)])
        points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None].to(values.device)
        upsampled = torch.nn.functional.grid_sample(
            values.float()[None, None], points, mode="bilinear", padding_mode="border", align_corners=False
        )
        return upsampled[0, 0].masked_fill(~self.seen_mask.to(values.device), torch.nan)

    @property
    def seen_mask(self) -> Bool[Tensor, "height width"]:
        """True at pixels of the original picture whose centres reach the encoder."""
        x = torch.tensor([0 <= self._input_x(i + 0.5) < self.input_width for i in range(self.width)])
        y = torch.tensor([0 <= self._input_y(i + 0.5) < self.input_height for i in range(self.height)])
        return y[:, None] & x

    def _input_x(self, x: float | int) -> float:
        return x * self.resized_width / self.width + self.left

    def _input_y(self, y: float | int) -> float:
        return y * self.resized_height / self.height + self.top

    def _x(self, input_x: float | int) -> float:
        return min(max((input_x - self.left) * self.width / self.resized_width, 0.0), float(self.width))

    def _y(self, input_y: float | int) -> float:
        return min(max((input_y - self.top) * self.height / self.resized_height, 0.0), float(self.height))


def _short_side(width: int, height: int, size: int) -> tuple[int, int]:
    if width <= height:
        return size, int(size * height / width)
    return int(size * width / height), size


def _centred(size: int, target: int) -> int:
    """Offset of something `size` long centred on `target`: padding rounds down, cropping to the nearest even."""
    if size <= target:
        return (target - size) // 2
    return -round((size - target) / 2)
