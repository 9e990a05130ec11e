"""Tokens of any vector: the nearest input embeddings, or what the model would predict next (paper section 3.1)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.analysis.decoding.vocabulary_search import DEFAULT_BUDGET, TopTokens, search_vocabulary
from lens_multimodal.arguments.boundary import ArgumentValueError, public
from lens_multimodal.precision import wide


@public
def nearest_embeddings(
    model: nn.Module,
    vectors: Float[Tensor, "vector d_model"],
    *,
    top_k: int = 10,
    budget_bytes: int = DEFAULT_BUDGET,
) -> TopTokens:
    """The tokens whose input embeddings have the largest cosine with each vector, values from -1 to 1.

    For soft prompts and residual streams: what the paper does to image prompts (section 3.1). The embeddings are taken
    as they are where image vectors go in: with the embedding module's own scale (Gemma), before a multiplier that
    applies to both (Granite).

    Raises: ValueError for another width than the model's; FloatingPointError for infinite vectors.
    """
    _check_width(model, vectors)
    table = transformer.w_e(model)

    def columns(start: int, stop: int) -> Tensor:
        return nn.functional.normalize(wide(transformer.embeddings(model, slice(start, stop))), dim=-1).T

    with torch.no_grad():
        unit = nn.functional.normalize(wide(vectors.detach().to(table.device)), dim=-1)
        return search_vocabulary(unit, columns, len(table), top_k=top_k, budget_bytes=budget_bytes)


@public
def unembed_tokens(
    model: nn.Module,
    vectors: Float[Tensor, "vector d_model"],
    *,
    top_k: int = 10,
    probabilities: bool = True,
    chunk: int = 256,
) -> TopTokens:
    """The model's next tokens if each vector were its final residual stream: final norm, unembedding with its bias, the
    model's own multiplier and cap of logits.

    Args: chunk: vectors at a time.
    Raises: as `nearest_embeddings`.
    """
    _check_width(model, vectors)
    if not bool(vectors.isfinite().all()):
        raise FloatingPointError(f"the vectors to decode hold infinities or NaN ({vectors.dtype})")
    like = transformer.w_e(model)
    tokens, values = [], []
    with torch.no_grad():
        for part in vectors.detach().to(device=like.device, dtype=like.dtype).split(chunk):
            logits = wide(transformer.unembed(model, part[None])[0])
            best, index = (logits.softmax(-1) if probabilities else logits).topk(top_k, dim=-1)
            tokens.append(index)
            values.append(best)
    return TopTokens(tokens=torch.cat(tokens), values=torch.cat(values))


def _check_width(model: nn.Module, vectors: Tensor) -> None:
    d_model = transformer.w_e(model).shape[1]
    if vectors.ndim != 2 or vectors.shape[1] != d_model:
        raise ArgumentValueError(
            f"expected vectors of shape [vector, d_model={d_model}], got {list(vectors.shape)}", "vectors"
        )
