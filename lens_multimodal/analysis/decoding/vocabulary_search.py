"""The tokens nearest to many vectors, without ever holding one number per vector and token.

All neurons of GPT-J against its vocabulary would be 458,752 × 50,400 numbers, 92 GB in float32. Vectors and
vocabulary are taken in chunks that fit a byte budget, and only the best tokens so far are kept.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_multimodal.precision import wide

DEFAULT_BUDGET = 2**30
"""Bytes of working memory beyond weights and results."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TopTokens:
    """The best tokens of each vector, best first."""

    tokens: Int[Tensor, "vector rank"]
    values: Float[Tensor, "vector rank"]


def search_vocabulary(
    vectors: Float[Tensor, "vector d_model"],
    columns: Callable[[int, int], Tensor],
    d_vocab: int,
    *,
    top_k: int,
    probabilities: bool = False,
    budget_bytes: int = DEFAULT_BUDGET,
) -> TopTokens:
    """The tokens with the largest dot products.

    Args:
        columns: `columns(a, b)` gives `[d_model, b - a]`, the directions of tokens a to b - 1, float32 or wider.
        probabilities: values as a softmax over the whole vocabulary instead of the dot products.
        budget_bytes: working memory; smaller is slower. It is exceeded only if a chunk of one vector and `top_k`
            tokens does not fit.
    Raises: ValueError for a `top_k` outside 1 to d_vocab, or no bytes; FloatingPointError for infinite vectors.
    """
    if isinstance(top_k, bool) or not 1 <= top_k <= d_vocab:
        raise ValueError(f"top_k must lie between 1 and the vocabulary's {d_vocab} tokens, got {top_k!r}")
    if budget_bytes < 1:
        raise ValueError(f"budget_bytes must be positive, got {budget_bytes}")
    if not bool(vectors.isfinite().all()):
        raise FloatingPointError(f"the vectors to decode hold infinities or NaN ({vectors.dtype})")
    n_vectors, d_model = vectors.shape
    n_rows, n_columns = chunk_sizes(d_model, d_vocab, top_k=top_k, budget_bytes=budget_bytes)
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    best = torch.full((n_vectors, top_k), -torch.inf, dtype=dtype, device=vectors.device)
    tokens = torch.zeros((n_vectors, top_k), dtype=torch.long, device=vectors.device)
    log_total = torch.full((n_vectors, 1), -torch.inf, dtype=dtype, device=vectors.device)
    for start in range(0, d_vocab, n_columns):
        stop = min(start + n_columns, d_vocab)
        block = columns(start, stop).to(device=vectors.device, dtype=dtype)
        for first in range(0, n_vectors, n_rows):
            rows = slice(first, first + n_rows)
            products = wide(vectors[rows]) @ block
            if probabilities:
                log_total[rows] = torch.logaddexp(log_total[rows], products.logsumexp(-1, keepdim=True))
            values, index = products.topk(min(top_k, stop - start), dim=-1)
            merged = torch.cat([best[rows], values], dim=-1)
            best[rows], chosen = merged.topk(top_k, dim=-1)
            tokens[rows] = torch.cat([tokens[rows], index + start], dim=-1).gather(-1, chosen)
    return TopTokens(tokens=tokens, values=(best - log_total).exp() if probabilities else best)


def chunk_sizes(d_model: int, d_vocab: int, *, top_k: int, budget_bytes: int) -> tuple[int, int]:
    """Vectors and tokens in one chunk, from a budget.

    A chunk holds the token directions (`d_model` × tokens), the vectors, and their products twice (once sorted).
    """
    number = 4
    n_columns = min(d_vocab, max(top_k, budget_bytes // 2 // (number * d_model)))
    left = budget_bytes - number * d_model * n_columns
    return max(1, left // (number * (2 * n_columns + d_model))), n_columns
