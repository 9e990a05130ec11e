"""What neurons add to the residual stream, what they read from it, and what the model makes of it in the end.

Between an MLP and the residual stream there may be a norm (Gemma 2, OLMo 2, GLM-4) and a multiplier (Granite); after
the unembedding, a multiplier (Cohere, Granite) and a cap (Gemma 2). Everything about what a neuron writes, or about
what a residual stream predicts, goes through this module.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_multimodal.precision import wide
from lens_multimodal.transformer.families import facts
from lens_multimodal.transformer.norms import NormMap, norm_map
from lens_multimodal.transformer.weights import block, w_e, w_in, w_out, w_u

TOKENS_AT_A_TIME = 2**15
"""Columns of the unembedding that are converted to float32 at the same time."""


def written(
    model: nn.Module, layer: int, neurons: Int[Tensor, " neuron"] | None = None
) -> Float[Tensor, "neuron d_model"]:
    """What neurons add to the residual stream for an activation of 1, detached.

    It is the row of `W_out`, times the weight of a norm after the MLP and the block's multiplier. Such a norm also
    divides by its scale, which depends on the prompt: that is left out here, and `written_scale` names its hook point.

    Args: neurons: their indices; None for all of the layer.
    """
    rows = w_out(model, layer).detach()
    rows = rows if neurons is None else rows[neurons]
    norm, multiplier = _norm_behind_mlp(model, layer), facts(model).residual_multiplier
    if norm is not None:
        rows = norm.carry(rows)
    return rows if multiplier == 1 else wide(rows) * multiplier


def rows_that_write(
    model: nn.Module, layer: int, vectors: Float[Tensor, "neuron d_model"]
) -> Float[Tensor, "neuron d_model"]:
    """The rows of `W_out` for which `written` gives these vectors.

    Raises: ValueError where no row does (a norm that loses a part of them).
    """
    norm, vectors = _norm_behind_mlp(model, layer), wide(vectors) / facts(model).residual_multiplier
    return vectors if norm is None else norm.invert(vectors)


def written_scale(model: nn.Module, layer: int) -> str | None:
    """The hook point of what the norm after a layer's MLP divides by, `[batch, pos, 1]`; None without such a norm."""
    name = facts(model).norm_behind_mlp
    return None if name is None else f"blocks.{layer}.{name}.hook_scale"


def read(model: nn.Module, layer: int, neurons: Int[Tensor, " neuron"]) -> Float[Tensor, "neuron d_model"]:
    """The directions of the residual stream that drive neurons, detached, float32 or wider.

    They are the columns of `W_in` through the norm before the MLP, without the division by its scale.
    """
    columns = wide(w_in(model, layer).detach()[:, neurons].T)
    norm = mlp_norm(model, layer)
    return columns if norm is None else norm_map(norm).carry_back(columns)


def mlp_norm(model: nn.Module, layer: int) -> nn.Module | None:
    """The norm that feeds a layer's MLP: its own, or the block's only one (GPT-J); None without one (OLMo 2)."""
    name = facts(model).norm_before_mlp
    return None if name is None else getattr(block(model, layer), name)


def final_norm(model: nn.Module) -> NormMap:
    """The norm before the unembedding."""
    return norm_map(model.ln_final)  # type: ignore[arg-type]


def unembed(model: nn.Module, resid: Float[Tensor, "... pos d_model"]) -> Float[Tensor, "... pos d_vocab"]:
    """The logits that a residual stream would give if it were the last: the logit lens.

    Final norm, unembedding, the model's own multiplier and cap.
    """
    norm: Any = model.ln_final
    place = next(norm.parameters(), w_u(model)).device  # in a model split over devices, that of its last layer
    return unembed_normed(model, norm(resid.to(place)))


def unembed_normed(model: nn.Module, normed: Float[Tensor, "... pos d_model"]) -> Float[Tensor, "... pos d_vocab"]:
    """`unembed` from the final norm's output on."""
    logits = model.unembed(normed)  # type: ignore[operator]
    family = facts(model)
    logits = _times(logits, family.logit_multiplier)
    return logits if family.logit_cap is None else torch.tanh(logits / family.logit_cap) * family.logit_cap


def unembed_back(
    model: nn.Module, logits: Float[Tensor, "*row d_vocab"], weights: Float[Tensor, "*row d_vocab"]
) -> Float[Tensor, "*row d_model"]:
    """Directions of the final norm's output that raise a weighted sum of logits: its gradient, at the given logits.

    A cap makes the gradient depend on the logits; without one they do not matter.
    """
    family = facts(model)
    weights = _times(wide(weights), family.logit_multiplier)
    if family.logit_cap is not None:
        weights = weights * (1 - (wide(logits) / family.logit_cap).square())
    columns = w_u(model).detach().split(TOKENS_AT_A_TIME, dim=1)
    parts = weights.to(columns[0].device).split(TOKENS_AT_A_TIME, dim=-1)
    return sum(part @ wide(these).T for part, these in zip(parts, columns, strict=True))  # type: ignore[return-value]


def unembedding(model: nn.Module, tokens: slice) -> Float[Tensor, "d_model token"]:
    """Columns of the unembedding times the model's own multiplier of logits; detached, float32 or wider."""
    return _times(wide(w_u(model).detach()[:, tokens]), facts(model).logit_multiplier)


def embeddings(model: nn.Module, tokens: slice) -> Float[Tensor, "token d_model"]:
    """Token embeddings as they are where image vectors go in: the table times the embedding module's scale."""
    rows, scale = w_e(model).detach()[tokens], facts(model).embedding_scale
    return rows if scale == 1 else rows * torch.tensor(scale).to(rows)


def entering(model: nn.Module, tokens: slice) -> Float[Tensor, "token d_model"]:
    """Token embeddings as they enter the first block, position embeddings aside.

    In one family (Granite) a multiplier follows the embedding module. It applies to image vectors too.
    """
    return _times(embeddings(model, tokens), facts(model).embedding_multiplier)


def _times(values: Tensor, factor: float) -> Tensor:
    """The product, without a copy in the many families whose factor is 1."""
    return values if factor == 1 else values * factor


def _norm_behind_mlp(model: nn.Module, layer: int) -> NormMap | None:
    name = facts(model).norm_behind_mlp
    return None if name is None else norm_map(getattr(block(model, layer), name))
