"""Words of image prompts: the tokens nearest to each image position, and random tokens as a control."""

from typing import Any

import torch

from lens_multimodal.analysis import TopTokens, nearest_embeddings
from lens_multimodal.experiments.shared.context import Context
from lens_multimodal.seeds import generator_for

WORDS_READ = 10
"""Tokens read at each image position."""


def nearest_to_image_prompts(context: Context[Any]) -> TopTokens:
    """For each image position the tokens with the nearest input embeddings (cosine), as in the paper; kept."""
    return context.picture.once(
        "nearest tokens",
        lambda: nearest_embeddings(context.picture.lens.model, context.picture.vectors, top_k=WORDS_READ),
    )


def random_tokens(context: Context[Any], count: int, *, purpose: str = "random tokens") -> list[int]:
    """Distinct tokens of the tokenizer's vocabulary, drawn for each picture."""
    lens = context.picture.lens
    known = lens.shape.d_vocab if lens.tokenizer is None else min(lens.shape.d_vocab, len(lens.tokenizer))
    generator = generator_for(context.picture.seed, purpose, context.picture.scene.id)
    return torch.randperm(known, generator=generator)[:count].tolist()
