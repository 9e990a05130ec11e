"""Weights by their TransformerLens names, the same from both generations.

What neurons add to the residual stream, and what the model makes of the residual stream in the end, is in
`residual_stream`.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


def w_in(model: nn.Module, layer: int) -> Float[Tensor, "d_model d_mlp"]:
    """Input weights of one layer's neurons."""
    return block(model, layer).mlp.W_in


def w_gate(model: nn.Module, layer: int) -> Float[Tensor, "d_model d_mlp"]:
    """Gate weights of one layer's neurons, for MLPs that have a gate (Llama).

    Raises: ValueError for an MLP without one.
    """
    weights = getattr(block(model, layer).mlp, "W_gate", None)
    if weights is None:
        raise ValueError("this model's MLP has no gate; leave gate=False")
    return weights


def w_out(model: nn.Module, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """Output weights. Row k is what neuron k adds to the MLP's output: see `residual_stream.written`."""
    return block(model, layer).mlp.W_out


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


def config(model: Any) -> Any:
    """TransformerLens' own settings of a model."""
    return model.cfg


def block(model: Any, layer: int) -> Any:
    """One block. Raises: ValueError for a layer that does not exist."""
    n_layers = config(model).n_layers
    if not 0 <= layer < n_layers:
        raise ValueError(f"layer {layer} is outside the model's {n_layers} layers (0 to {n_layers - 1})")
    return model.blocks[layer]
