"""Words of image prompts: the tokens nearest to each image position, and tokens drawn at random to compare with."""

import torch

from lens_multimodal.analysis import TopTokens, nearest_embeddings, unembed_tokens
from lens_multimodal.experiments.experiment import Context
from lens_multimodal.experiments.picture import PictureState
from lens_multimodal.seeds import generator_for

WORDS_READ = 10
"""Tokens looked at for each image position."""


def nearest_to_image_prompts(context: Context) -> TopTokens:
    """For each image position the tokens with the nearest input embeddings (cosine), as the paper reads them."""
    picture: PictureState = context.picture
    return nearest_embeddings(context.lens.model, picture.vectors, top_k=WORDS_READ)


def read_out_image_prompts(context: Context) -> TopTokens:
    """For each image position the tokens that the final norm and the unembedding give it."""
    picture: PictureState = context.picture
    return unembed_tokens(context.lens.model, picture.vectors, top_k=WORDS_READ, probabilities=False)


def random_tokens(context: Context, count: int, *, purpose: str = "random tokens") -> list[int]:
    """Different tokens of the tokenizer's vocabulary, drawn anew for each picture."""
    lens = context.lens
    known = lens.shape.d_vocab if lens.tokenizer is None else min(lens.shape.d_vocab, len(lens.tokenizer))
    generator = generator_for(context.seed, purpose, context.picture.scene.id)
    return torch.randperm(known, generator=generator)[:count].tolist()
