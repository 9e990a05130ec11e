"""The training loss of a projection: next-token loss of the caption after the image."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.lens import VisionLens


@dataclass(frozen=True, kw_only=True, eq=False)
class CaptionBatch:
    """Preprocessed pictures and their captions."""

    pixels: Float[Tensor, "batch 3 height width"]
    captions: Sequence[str]


def token_losses(
    lens: VisionLens,
    linear: nn.Module,
    batch: CaptionBatch,
    *,
    prompt: str = "",
    edit_vectors: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, " token"]:
    """Next-token loss (nats) of every caption token and end token, caption after caption; differentiable in `linear`.

    Args:
        lens: its language model, encoder and tokenizer are used.
        linear: the map from features to vectors.
        batch: pictures and captions.
        prompt: text between the image and its caption; like the image, it does not count towards the loss.
        edit_vectors: changes the projected vectors `[batch, pos, d_model]`, as dropout does.

    Raises: ValueError for pictures and captions that do not pair up, or a caption too long for the context.
    """
    if len(batch.pixels) != len(batch.captions) or not len(batch.captions):
        raise ValueError(f"got {len(batch.pixels)} pictures and {len(batch.captions)} captions; expected one of each")
    like = next(lens.vision.parameters(), torch.empty(0))
    with torch.no_grad():
        features = lens.vision(batch.pixels.to(device=like.device, dtype=like.dtype))
    vectors = linear(features.to(next(linear.parameters()).device).float())
    vectors = vectors.reshape(len(vectors), -1, lens.shape.d_model)
    if edit_vectors is not None:
        vectors = edit_vectors(vectors)
    tokens, start, lengths = _layout(lens, batch.captions, prompt, n_image=vectors.shape[1])
    stored = [lens.virtual_tokens.store(own) for own in vectors]
    try:
        for row, own in zip(tokens, stored, strict=True):
            row[row < 0] = own.ids
        tokens = tokens.to(transformer.device(lens.model))
        logits = transformer.logits_of(lens.model, tokens, first=start - 1)[:, :-1]
    finally:
        lens.virtual_tokens.forget(*stored)
    scored = torch.arange(logits.shape[1])[None] < torch.tensor(lengths)[:, None]
    scored = scored.to(logits.device)
    targets = tokens[:, start:].to(logits.device)
    return nn.functional.cross_entropy(logits[scored].float(), targets[scored], reduction="none")


def dropout_by_place(
    vectors: Float[Tensor, "batch pos d_model"], *, share: float, seed: int, step: int, first_place: int
) -> Float[Tensor, "batch pos d_model"]:
    """Dropout whose mask depends on the seed, the step and each picture's place in the step, not on the batching."""
    masks = []
    for place in range(first_place, first_place + len(vectors)):
        digest = hashlib.blake2b(f"{seed}:{step}:{place}".encode(), digest_size=7).digest()
        generator = torch.Generator(vectors.device).manual_seed(int.from_bytes(digest, "little"))
        masks.append(torch.rand(vectors.shape[1:], generator=generator, device=vectors.device) >= share)
    return vectors * torch.stack(masks) / (1 - share)


def _layout(lens: VisionLens, captions: Sequence[str], prompt: str, *, n_image: int) -> tuple[Tensor, int, list[int]]:
    """Token ids with -1 at image positions, padded on the right; where captions start; how long they are."""
    if not lens.text.end_ids:
        raise ValueError("neither the tokenizer nor the model has an end token, and every caption must end with one")
    end = lens.text.end_ids[0]
    begin = [*lens.text.start_ids(), *[-1] * n_image, *lens.text.encode(prompt)]
    rows = [[*lens.text.encode(caption), end] for caption in captions]
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    if len(begin) + longest > lens.shape.n_ctx:
        raise ValueError(
            f"an image and prompt of {len(begin)} positions and a caption of {longest} tokens exceed the model's "
            f"context of {lens.shape.n_ctx}: shorten {captions[lengths.index(longest)][:60]!r}..."
        )
    padded = [[*begin, *row, *[end] * (longest - len(row))] for row in rows]
    return torch.tensor(padded), len(begin), lengths
