"""A prompt of images and text as plain token ids, and where in it each image patch sits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor

from lens_multimodal.image.geometry import ImageGeometry
from lens_multimodal.notebook import ShownInNotebooks
from lens_multimodal.prompt.virtual_tokens import SoftPrompt

PROMPT = "A picture of"
"""The text after the image in LiMBeR and in the paper."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddedImage:
    """An image as the language model will see it: a soft prompt over a grid of image patches."""

    soft_prompt: SoftPrompt
    grid_h: int
    grid_w: int
    picture: Image.Image | None = None
    """The picture itself, for people; None for vectors that came without one."""
    geometry: ImageGeometry | None = None
    """Where each image patch lies in the picture; None without a picture, or if the vectors are not one per patch."""

    def __len__(self) -> int:
        return len(self.soft_prompt.vectors)

    def cell(self, index: int) -> tuple[int, int]:
        """Row and column, from the top left, of the image patch at an index within the image."""
        return divmod(index, self.grid_w)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSpan:
    """One image's place in one row of a prompt: positions `start` up to, not including, `stop`."""

    image: EmbeddedImage
    start: int
    stop: int


Piece = EmbeddedImage | list[int]
"""A part of a prompt: an embedded image or token ids."""


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

    @property
    def image_mask(self) -> Bool[Tensor, "batch pos"]:
        """True at image positions."""
        mask = torch.zeros(self.tokens.shape, dtype=torch.bool)
        for row, spans in enumerate(self.spans):
            for span in spans:
                mask[row, span.start : span.stop] = True
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

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid.

        Raises: ValueError without an image, or if the images have different grids.
        """
        grids = {(s.image.grid_h, s.image.grid_w) for spans in self.spans for s in spans}
        if len(grids) != 1:
            raise ValueError(f"expected one patch grid in this prompt, found {sorted(grids) or 'no image'}")
        return grids.pop()

    def row(self, index: int) -> "ImagePrompt":
        """One row alone, without its padding; it stands for the same images."""
        n_rows = len(self)
        if not -n_rows <= index < n_rows:
            raise ValueError(f"row {index} is outside this prompt of {n_rows} rows")
        padding = int((self.attention_mask[index] == 0).sum())
        return ImagePrompt(
            tokens=self.tokens[index : index + 1 or None, padding:],
            attention_mask=self.attention_mask[index : index + 1 or None, padding:],
            spans=(
                tuple(
                    ImageSpan(image=s.image, start=s.start - padding, stop=s.stop - padding) for s in self.spans[index]
                ),
            ),
        )

    def followed_by(self, ids: Sequence[int]) -> "ImagePrompt":
        """The prompt of one row with token ids appended, such as a caption; it stands for the same images.

        Raises: ValueError for a prompt of more than one row.
        """
        if len(self) != 1:
            raise ValueError(f"token ids can follow one row, and this prompt has {len(self)} (prompt.row(i))")
        added = torch.tensor([list(ids)], dtype=self.tokens.dtype, device=self.tokens.device)
        return replace(
            self,
            tokens=torch.cat([self.tokens, added], dim=1),
            attention_mask=torch.cat([self.attention_mask, torch.ones_like(added)], dim=1),
        )


def assemble(
    rows: Sequence[Sequence[Piece]],
    *,
    pad_id: int,
    device: torch.device,
) -> ImagePrompt:
    """Lay out rows of pieces as one left-padded batch of token ids.

    Raises: ValueError for no row or an empty row.
    """
    if not rows:
        raise ValueError("a prompt needs at least one row")
    ids = [[i for piece in row for i in _ids(piece)] for row in rows]
    for index, row_ids in enumerate(ids):
        if not row_ids:
            raise ValueError(f"row {index} of the prompt is empty: give it an image or some text")
    length = max(map(len, ids))
    spans = []
    for row, row_ids in zip(rows, ids, strict=True):
        start, found = length - len(row_ids), []
        for piece in row:
            stop = start + len(piece)
            if isinstance(piece, EmbeddedImage):
                found.append(ImageSpan(image=piece, start=start, stop=stop))
            start = stop
        spans.append(tuple(found))
    with torch.inference_mode(False):
        return ImagePrompt(
            tokens=torch.tensor([[pad_id] * (length - len(r)) + r for r in ids], device=device),
            attention_mask=torch.tensor([[0] * (length - len(r)) + [1] * len(r) for r in ids], device=device),
            spans=tuple(spans),
        )


def _ids(piece: Piece) -> list[int]:
    return piece.soft_prompt.ids.tolist() if isinstance(piece, EmbeddedImage) else piece
