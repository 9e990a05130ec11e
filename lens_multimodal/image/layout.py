"""Which part of a picture each of an image's positions shows.

An encoder with one input of fixed size gives one grid. Models that also read a picture in tiles give a grid over the
whole picture and a finer one over its tiles, and some positions that show no pixels at all, such as the vector that
LLaVA-NeXT puts at the end of each row.
"""

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from lens_multimodal.image.geometry import Box, ImageGeometry

NO_PATCH = (-1, -1)
"""Row and column, in tables, of a position that shows no image patch."""


@dataclass(frozen=True, kw_only=True)
class PatchGrid:
    """Image patches in rows and columns, and which position of the image shows each."""

    grid_h: int
    grid_w: int
    indices: tuple[int, ...]
    """Row by row from the top left: the position, counted within the image, that shows this patch."""
    geometry: ImageGeometry | None = None
    """Where the patches lie in the picture; None without a picture, or if the vectors are not one per patch."""

    def __post_init__(self) -> None:
        if len(self.indices) != self.grid_h * self.grid_w:
            raise ValueError(
                f"a grid of {self.grid_h} x {self.grid_w} image patches does not hold {len(self.indices)} positions"
            )


@dataclass(frozen=True, kw_only=True)
class ImageLayout:
    """The grids of one image, the one with the most patches first; positions outside all of them show no pixels."""

    n_positions: int
    grids: tuple[PatchGrid, ...]

    @classmethod
    def one_grid(cls, grid_h: int, grid_w: int, geometry: ImageGeometry | None = None) -> "ImageLayout":
        """Every position shows one patch, row by row from the top left."""
        n_positions = grid_h * grid_w
        grid = PatchGrid(grid_h=grid_h, grid_w=grid_w, indices=tuple(range(n_positions)), geometry=geometry)
        return cls(n_positions=n_positions, grids=(grid,))

    def to_json(self) -> str:
        """For tables; `from_json` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ImageLayout":
        """From what `to_json` wrote."""
        found = json.loads(text)
        grids = [
            PatchGrid(
                grid_h=grid["grid_h"],
                grid_w=grid["grid_w"],
                indices=tuple(grid["indices"]),
                geometry=ImageGeometry(**grid["geometry"]) if grid["geometry"] else None,
            )
            for grid in found["grids"]
        ]
        return cls(n_positions=found["n_positions"], grids=tuple(grids))

    @property
    def only_grid(self) -> PatchGrid | None:
        """The grid that holds all positions in order, or None if it takes more than that to describe the image."""
        first = self.grids[0] if len(self.grids) == 1 else None
        return first if first is not None and first.indices == tuple(range(self.n_positions)) else None

    @property
    def is_placed(self) -> bool:
        """Whether it is known where in the picture the patches lie."""
        return bool(self.grids) and all(grid.geometry is not None for grid in self.grids)

    @property
    def geometries(self) -> list[ImageGeometry]:
        """Where the patches of every grid lie in the picture.

        Raises: ValueError unless it is known of all of them.
        """
        known = [grid.geometry for grid in self.grids if grid.geometry is not None]
        if not known or len(known) < len(self.grids):
            raise ValueError(
                f"it is not known which place in the picture each of the {self.n_positions} positions of this image "
                f"shows (patch grids: {self.shapes}), so nothing can be drawn over the picture"
            )
        return known

    @property
    def picture_size(self) -> tuple[int, int]:
        """Width and height in pixels of the picture.

        Raises: ValueError for an image whose places in a picture are not known.
        """
        return self.geometries[0].width, self.geometries[0].height

    @property
    def shapes(self) -> str:
        """Rows and columns of the grids, in words."""
        return ", ".join(f"{grid.grid_h} x {grid.grid_w}" for grid in self.grids) or "none"

    def place(self, index: int) -> tuple[PatchGrid, int, int] | None:
        """The grid, row and column of a position counted within the image; None if it shows no pixels."""
        if not 0 <= index < self.n_positions:
            raise ValueError(f"position {index} is outside this image of {self.n_positions} positions")
        return self._places.get(index)

    def box(self, index: int) -> Box | None:
        """The part of the picture that a position shows.

        None for a position that shows no pixels or only padding, and where the place is not known.
        """
        found = self.place(index)
        if found is None or found[0].geometry is None:
            return None
        grid, row, col = found
        assert grid.geometry is not None
        box = grid.geometry.patch_box(row, col)
        return box if box.area else None

    @cached_property
    def shown(self) -> tuple[int, ...]:
        """The positions that show a part of the picture, ascending: all that have a box.

        Raises: ValueError for an image whose places in a picture are not known.
        """
        found = []
        for grid, geometry in zip(self.grids, self.geometries, strict=True):
            down = [geometry.patch_box(row, 0) for row in range(grid.grid_h)]
            across = [geometry.patch_box(0, col) for col in range(grid.grid_w)]
            cells = [box.bottom > box.top and own.right > own.left for box in down for own in across]
            found += [index for index, is_shown in zip(grid.indices, cells, strict=True) if is_shown]
        return tuple(sorted(found))

    def name(self, index: int) -> str:
        """What a position shows, in words."""
        found = self.place(index)
        if found is None:
            return "no part of the picture"
        grid, row, col = found
        of_grid = f" of the {grid.grid_h} x {grid.grid_w} grid" if len(self.grids) > 1 else ""
        padding = ", only padding" if grid.geometry is not None and self.box(index) is None else ""
        return f"row {row}, column {col}{of_grid}{padding}"

    def for_picture(self, width: int, height: int) -> "ImageLayout":
        """The same patches in the same picture scaled to another size."""
        return replace(
            self,
            grids=tuple(
                replace(grid, geometry=grid.geometry and replace(grid.geometry, width=width, height=height))
                for grid in self.grids
            ),
        )

    def to_picture(self, values: Float[Tensor, " image_pos"]) -> Float[Tensor, "height width"]:
        """One value per position, upsampled to the picture: the mean over the grids that show a pixel.

        NaN where no grid shows the picture.

        Raises: ValueError for another number of values, or an image whose places in a picture are not known.
        """
        if values.shape != (self.n_positions,):
            raise ValueError(f"expected one value for each of {self.n_positions} positions, got {list(values.shape)}")
        maps = [
            geometry.to_picture(
                values[torch.tensor(grid.indices, device=values.device)].reshape(grid.grid_h, grid.grid_w)
            )
            for grid, geometry in zip(self.grids, self.geometries, strict=True)
        ]
        return torch.stack(maps).nanmean(dim=0)

    @cached_property
    def _places(self) -> dict[int, tuple[PatchGrid, int, int]]:
        return {
            index: (grid, *divmod(cell, grid.grid_w)) for grid in self.grids for cell, index in enumerate(grid.indices)
        }
