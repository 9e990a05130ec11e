"""The training loss of a projection: next-token loss of the caption after the image."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.lens import VisionLens
from lens_multimodal.prompt.assembling import assemble
from lens_multimodal.prompt.image_embedder import EncodedImage, EncoderInput
from lens_multimodal.prompt.image_prompt import EmbeddedImage


@dataclass(frozen=True, kw_only=True, eq=False)
class CaptionBatch:
    """Preprocessed pictures and their captions."""

    pixels: Float[Tensor, "batch 3 height width"] | Sequence[EncoderInput]
    """The encoder's input for each picture."""
    captions: Sequence[str]
    sizes: Sequence[tuple[int, int]] | None = None
    """Width and height of each picture, for a vision-language model, whose marks around it depend on them."""


def token_losses(
    lens: VisionLens,
    batch: CaptionBatch,
    *,
    prompt: str = "",
    edit_vectors: Callable[[Sequence[Tensor]], Sequence[Tensor]] | None = None,
) -> Float[Tensor, " token"]:
    """Next-token loss (nats) of every caption token and end token, caption after caption.

    Differentiable in what requires gradient among the parts of `lens.images`.

    Args:
        lens: its language model, its parts for images and its tokenizer are used.
        batch: pictures and captions.
        prompt: text between the image and its caption; like the image, it does not count towards the loss.
        edit_vectors: changes the projected vectors of each picture, `[pos, d_model]`, as dropout does.

    Raises: ValueError for pictures and captions that do not pair up, or a caption too long for the context.
    """
    sizes = batch.sizes
    if not len(batch.pixels) == len(batch.captions) == len(batch.captions if sizes is None else sizes) > 0:
        raise ValueError(
            f"got {len(batch.pixels)} pictures and {len(batch.captions)} captions"
            f"{'' if sizes is None else f' and {len(sizes)} sizes'}; expected one of each"
        )
    encoded = lens.images.encoded_of(list(batch.pixels))
    if edit_vectors is not None:
        edited = edit_vectors([own.vectors for own in encoded])
        encoded = [replace(own, vectors=vectors) for own, vectors in zip(encoded, edited, strict=True)]
    images = _stored(lens, encoded, sizes)
    try:
        begin = [_beginning(lens, image, prompt) for image in images]
        tokens, starts, lengths = _layout(lens, begin, batch.captions)
        tokens = tokens.to(transformer.device(lens.model))
        first = min(starts) - 1
        logits = transformer.logits_of(lens.model, tokens, first=first)[:, :-1]
    finally:
        lens.virtual_tokens.forget(*(image.soft_prompt for image in images))
    predicting = torch.arange(first, first + logits.shape[1])
    begins, ends = torch.tensor(starts)[:, None] - 1, torch.tensor(starts)[:, None] - 1 + torch.tensor(lengths)[:, None]
    scored = ((predicting >= begins) & (predicting < ends)).to(logits.device)
    targets = tokens[:, first + 1 :].to(logits.device)
    return nn.functional.cross_entropy(logits[scored].float(), targets[scored], reduction="none")


def dropout_by_place(
    vectors: Sequence[Float[Tensor, "pos d_model"]], *, share: float, seed: int, step: int, first_place: int
) -> list[Float[Tensor, "pos d_model"]]:
    """Dropout whose mask depends on the seed, the step and each picture's place in the step, not on the batching."""
    dropped = []
    for place, own in enumerate(vectors, start=first_place):
        digest = hashlib.blake2b(f"{seed}:{step}:{place}".encode(), digest_size=7).digest()
        generator = torch.Generator(own.device).manual_seed(int.from_bytes(digest, "little"))
        kept = torch.rand(own.shape, generator=generator, device=own.device) >= share
        dropped.append(own * kept / (1 - share))
    return dropped


def _stored(
    lens: VisionLens, encoded: Sequence[EncodedImage], sizes: Sequence[tuple[int, int]] | None
) -> list[EmbeddedImage]:
    """Images whose ids stand for these vectors, which stay differentiable."""
    return [
        EmbeddedImage(
            soft_prompt=lens.virtual_tokens.store(own.vectors, forward_arguments=own.forward_arguments),
            placing=ImageLayout(n_positions=len(own.vectors), grids=()),
            size=None if sizes is None else sizes[row],
        )
        for row, own in enumerate(encoded)
    ]


def _beginning(lens: VisionLens, image: EmbeddedImage, prompt: str) -> list[int]:
    """Token ids of an image and the prompt, with what the model writes around them."""
    row: list[EmbeddedImage | str] = [image, prompt] if prompt else [image]
    pieces = lens.images.pieces(row, text=lens.text, prepend_bos=None)
    return assemble([pieces], pad_id=lens.text.pad_id, device=torch.device("cpu")).tokens[0].tolist()


def _layout(
    lens: VisionLens, begin: Sequence[list[int]], captions: Sequence[str]
) -> tuple[Tensor, list[int], list[int]]:
    """Token ids padded on the right; where each caption starts; how long it is."""
    if not lens.text.end_ids:
        raise ValueError("neither the tokenizer nor the model has an end token, and every caption must end with one")
    end = lens.text.end_ids[0]
    own = [[*lens.text.encode(caption), end] for caption in captions]
    rows = [[*before, *caption] for before, caption in zip(begin, own, strict=True)]
    longest = max(rows, key=len)
    if len(longest) > lens.shape.n_ctx:
        row = rows.index(longest)
        raise ValueError(
            f"an image and prompt of {len(begin[row])} positions and a caption of {len(own[row])} tokens exceed the "
            f"model's context of {lens.shape.n_ctx}: shorten {captions[row][:60]!r}..."
        )
    padded = [[*row, *[end] * (len(longest) - len(row))] for row in rows]
    return torch.tensor(padded), [len(before) for before in begin], [len(caption) for caption in own]
