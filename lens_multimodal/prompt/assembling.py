"""Rows of images and words to one left-padded batch of token ids."""

from collections.abc import Sequence

import torch

from lens_multimodal.prompt.image_prompt import EmbeddedImage, ImagePart, ImagePrompt, ImageSpan, Piece


@torch.inference_mode(False)
def assemble(rows: Sequence[Sequence[Piece]], *, pad_id: int, device: torch.device) -> ImagePrompt:
    """Arrange rows of pieces as one left-padded batch of token ids.

    Raises: ValueError for no row or an empty row.
    """
    if not rows:
        raise ValueError("a prompt needs at least one row")
    prompts = []
    for index, row in enumerate(rows):
        ids = [i for piece in row for i in _ids(piece)]
        if not ids:
            raise ValueError(f"row {index} of the prompt is empty: give it an image or some text")
        tokens = torch.tensor([ids], device=device)
        prompts.append(ImagePrompt(tokens=tokens, attention_mask=torch.ones_like(tokens), spans=(_spans(row),)))
    return batched(prompts, pad_id=pad_id)


def batched(rows: Sequence[ImagePrompt], *, pad_id: int) -> ImagePrompt:
    """Prompts of one row each as one left-padded batch; it stands for the same images."""
    length = max(row.tokens.shape[1] for row in rows)
    padding = [(length - row.tokens.shape[1], 0) for row in rows]
    pad = torch.nn.functional.pad
    return ImagePrompt(
        tokens=torch.cat([pad(row.tokens, n, value=pad_id) for row, n in zip(rows, padding, strict=True)]),
        attention_mask=torch.cat([pad(row.attention_mask, n) for row, n in zip(rows, padding, strict=True)]),
        spans=tuple(tuple(s.shifted(n) for s in row.spans[0]) for row, (n, _) in zip(rows, padding, strict=True)),
    )


def _spans(row: Sequence[Piece]) -> tuple[ImageSpan, ...]:
    """The images of a row; a part that is not an image's first continues the last image.

    Raises: ValueError for an image that lacks a part, or whose parts are out of order.
    """
    start = 0
    found: list[tuple[EmbeddedImage, list[int]]] = []
    for piece in row:
        part = ImagePart(image=piece, first=0, stop=len(piece)) if isinstance(piece, EmbeddedImage) else piece
        if isinstance(part, list):
            start += len(part)
            continue
        if part.first == 0:
            found.append((part.image, []))
        image, positions = found[-1] if found else (None, [])
        if image is not part.image or len(positions) != part.first:
            raise ValueError(
                f"the parts of an image are out of order: {part.first} to {part.stop} after {len(positions)}"
            )
        positions += range(start, start + part.stop - part.first)
        start += part.stop - part.first
    for image, positions in found:
        if len(positions) != len(image):
            raise ValueError(f"the row holds {len(positions)} of an image's {len(image)} vectors")
    return tuple(ImageSpan(image=image, positions=tuple(positions)) for image, positions in found)


def _ids(piece: Piece) -> list[int]:
    if isinstance(piece, list):
        return piece
    if isinstance(piece, ImagePart):
        return piece.image.soft_prompt.ids[piece.first : piece.stop].tolist()
    return piece.soft_prompt.ids.tolist()
