"""Weights by their TransformerLens names, the same from both generations."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lens_multimodal.transformer.families import facts


def w_in(model: nn.Module, layer: int) -> Float[Tensor, "d_model d_mlp"]:
    """Input weights of one layer's neurons."""
    return _block(model, layer).mlp.W_in


def w_gate(model: nn.Module, layer: int) -> Float[Tensor, "d_model d_mlp"]:
    """Gate weights of one layer's neurons, for MLPs that have a gate (Llama).

    Raises: ValueError for an MLP without one.
    """
    weights = getattr(_block(model, layer).mlp, "W_gate", None)
    if weights is None:
        raise ValueError("this model's MLP has no gate; leave gate=False")
    return weights


def w_out(model: nn.Module, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """Output weights: row k is what neuron k adds to the residual stream."""
    return _block(model, layer).mlp.W_out


def w_u(model: nn.Module) -> Float[Tensor, "d_model d_vocab"]:
    """Unembedding."""
    return model.unembed.W_U  # type: ignore[union-attr,return-value]


def b_u(model: nn.Module) -> Float[Tensor, " d_vocab"]:
    """Bias of the unembedding, zeros where the model has none."""
    bias = getattr(model.unembed, "b_U", None)
    if bias is None:
        weight = w_u(model)
        return torch.zeros(weight.shape[1], dtype=weight.dtype, device=weight.device)
    return bias


def w_e(model: nn.Module) -> Float[Tensor, "d_vocab d_model"]:
    """Token embeddings."""
    return model.embed.W_E  # type: ignore[union-attr,return-value]


def mlp_norm(model: nn.Module, layer: int) -> nn.Module:
    """The norm that feeds a layer's MLP: its own, or the block's only one (GPT-J)."""
    block = _block(model, layer)
    return block.ln2 if facts(model).mlp_has_own_norm else block.ln1


def final_norm_weight(model: nn.Module) -> Float[Tensor, " d_model"]:
    """Scale of the final norm, ones where it was folded into the unembedding."""
    weight = getattr(model.ln_final, "w", None)
    if weight is None:
        table = w_e(model)
        return torch.ones(table.shape[1], dtype=table.dtype, device=table.device)
    return weight


def unembed(model: nn.Module, resid: Float[Tensor, "... pos d_model"]) -> Float[Tensor, "... pos d_vocab"]:
    """The logits that a residual stream would give if it were the last: final norm and unembedding, the logit lens."""
    norm: Any = model.ln_final
    place = next(norm.parameters(), w_u(model)).device  # in a model split over devices, that of its last layer
    return model.unembed(norm(resid.to(place)))  # type: ignore[operator]


def config(model: Any) -> Any:
    """TransformerLens' own settings of a model."""
    return model.cfg


def _block(model: Any, layer: int) -> Any:
    n_layers = config(model).n_layers
    if not 0 <= layer < n_layers:
        raise ValueError(f"layer {layer} is outside the model's {n_layers} layers (0 to {n_layers - 1})")
    return model.blocks[layer]
