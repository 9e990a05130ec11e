"""A prompt of images and text as plain token ids, and the position of each image patch in it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor

from lens_multimodal.arguments.boundary import public
from lens_multimodal.arguments.positions import Positions, PositionSet, read_positions
from lens_multimodal.image.geometry import ImageGeometry
from lens_multimodal.image.layout import ImageLayout, PatchGrid
from lens_multimodal.notebook import ShownInNotebooks
from lens_multimodal.prompt.soft_prompt import SoftPrompt

PROMPT = "A picture of"
"""The text after the image in LiMBeR and in the paper."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddedImage:
    """An image as the language model will see it: a soft prompt, and what each of its positions shows."""

    soft_prompt: SoftPrompt
    placing: ImageLayout | Callable[[], ImageLayout] = field(repr=False)
    """The layout, or a function that finds it on demand: measuring one takes time, and a caption does not need it."""
    size: tuple[int, int] | None = None
    """Width and height in pixels of the picture that the model read; None for vectors that came without one."""
    picture: Image.Image | None = None
    """The picture, or a smaller copy, for display; None for vectors that came without one."""

    def __len__(self) -> int:
        return len(self.soft_prompt.vectors)

    @cached_property
    def layout(self) -> ImageLayout:
        """What each position shows."""
        return self.placing if isinstance(self.placing, ImageLayout) else self.placing()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "placing": self.layout}

    @property
    def grid_h(self) -> int:
        """Rows of the only patch grid. Raises: ValueError if one grid does not describe this image."""
        return self._grid.grid_h

    @property
    def grid_w(self) -> int:
        """Columns of the only patch grid. Raises: as `grid_h`."""
        return self._grid.grid_w

    @property
    def geometry(self) -> ImageGeometry | None:
        """Where each patch of the only grid lies in the picture.

        None without a picture, if the vectors are not one per patch, or if the image has several grids (`layout`).
        """
        grid = self.layout.only_grid
        return None if grid is None else grid.geometry

    def cell(self, index: int) -> tuple[int, int] | None:
        """Row and column, from the top left of its grid, of the image patch at an index within the image.

        None if the position shows no patch.
        """
        found = self.layout.place(index)
        return None if found is None else found[1:]

    @property
    def _grid(self) -> PatchGrid:
        grid = self.layout.only_grid
        if grid is None:
            raise ValueError(
                f"the {len(self)} positions of this image are not one patch grid; image.layout has its grids: "
                f"{self.layout.shapes}"
            )
        return grid


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSpan:
    """One image's place in one row of a prompt."""

    image: EmbeddedImage
    positions: tuple[int, ...]
    """Those of its vectors in order. Some models put words between them, such as a mark at the end of each row."""

    @property
    def start(self) -> int:
        """The first position."""
        return self.positions[0]

    @property
    def stop(self) -> int:
        """One after the last position."""
        return self.positions[-1] + 1

    def shifted(self, by: int) -> "ImageSpan":
        """The same image further to the right."""
        return replace(self, positions=tuple(position + by for position in self.positions))


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePart:
    """The vectors `first` up to, not including, `stop` of an image whose vectors have words between them."""

    image: EmbeddedImage
    first: int
    stop: int


Piece = EmbeddedImage | ImagePart | list[int]
"""A part of a prompt: an embedded image, a part of one, or token ids."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePrompt(ShownInNotebooks):
    """Token ids that any TransformerLens function takes, with the images' places among them.

    Rows of unequal length are padded on the left; `attention_mask` is 0 there. Keep this object for as long
    as its tokens are used: the images live with it.
    """

    tokens: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"]
    spans: tuple[tuple[ImageSpan, ...], ...]
    """For each row, its images in order."""

    def __len__(self) -> int:
        return len(self.tokens)

    if not TYPE_CHECKING:  # a type checker knows the attributes

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(f"a prompt has no {name!r}; give prompt.tokens to functions that take token ids")

    @property
    def image_mask(self) -> Bool[Tensor, "batch pos"]:
        """True at image positions."""
        mask = torch.zeros(self.tokens.shape, dtype=torch.bool)
        for row, spans in enumerate(self.spans):
            for span in spans:
                mask[row, list(span.positions)] = True
        return mask

    @property
    def text_mask(self) -> Bool[Tensor, "batch pos"]:
        """True at the positions of words."""
        return self.attention_mask.bool().cpu() & ~self.image_mask

    @property
    def image_pos(self) -> Int[Tensor, "batch image_pos"]:
        """Positions of the image patches of each row, image after image.

        Raises: ValueError if the rows hold different numbers of image positions; use `spans` then.
        """
        mask = self.image_mask
        counts = mask.sum(dim=1)
        if bool((counts != counts[0]).any()):
            raise ValueError(
                f"the rows of this prompt have different numbers of image positions ({counts.tolist()}); use "
                f"prompt.spans, or one row at a time (prompt.row(i))"
            )
        return mask.nonzero()[:, 1].reshape(len(self), int(counts[0]))

    @property
    def text_pos(self) -> tuple[Int[Tensor, " text_pos"], ...]:
        """Positions of the words of each row."""
        return tuple(row.nonzero()[:, 0] for row in self.text_mask)

    @property
    def last_pos(self) -> int:
        """The position whose logits predict the first generated token, the same in every row."""
        return self.tokens.shape[1] - 1

    @public
    def at(self, positions: Positions) -> PositionSet:
        """Positions of this prompt, for any function that takes positions: `ablate(..., positions=prompt.at("last"))`.

        Args: positions: "image" (every image position), "text" (the words), "last" (where the next token is predicted;
            while text is generated, each new token as well), or positions by number in any form.
        Raises: ValueError for an unknown name, or "image" in a prompt without an image; otherwise as for every
        `positions`.
        """
        return read_positions(
            positions,
            named={
                "image": lambda: self.image_mask,
                "text": lambda: self.text_mask,
                "last": lambda: slice(self.last_pos, None),
            },
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid.

        Raises: ValueError without an image, or if the images have different grids.
        """
        grids = {(s.image.grid_h, s.image.grid_w) for spans in self.spans for s in spans}
        if len(grids) != 1:
            raise ValueError(f"expected one patch grid in this prompt, found {sorted(grids) or 'no image'}")
        return grids.pop()

    def check_one_row(self) -> None:
        """Raise ValueError unless the prompt has exactly one row."""
        if len(self) != 1:
            raise ValueError(f"expected a prompt of one row, got {len(self)} (prompt.row(i))")

    def row(self, index: int) -> "ImagePrompt":
        """One row alone, without its padding; it stands for the same images."""
        n_rows = len(self)
        if not -n_rows <= index < n_rows:
            raise ValueError(f"row {index} is outside this prompt of {n_rows} rows")
        padding = int((self.attention_mask[index] == 0).sum())
        return ImagePrompt(
            tokens=self.tokens[index : index + 1 or None, padding:],
            attention_mask=self.attention_mask[index : index + 1 or None, padding:],
            spans=(tuple(span.shifted(-padding) for span in self.spans[index]),),
        )

    def followed_by(self, ids: Sequence[int]) -> "ImagePrompt":
        """The prompt of one row with token ids appended, such as a caption; it stands for the same images.

        Raises: ValueError for a prompt of more than one row.
        """
        self.check_one_row()
        added = torch.tensor([list(ids)], dtype=self.tokens.dtype, device=self.tokens.device)
        return replace(
            self,
            tokens=torch.cat([self.tokens, added], dim=1),
            attention_mask=torch.cat([self.attention_mask, torch.ones_like(added)], dim=1),
        )
