"""The sizes and the device of a language model."""

from dataclasses import dataclass

import torch
from torch import nn

from lens_multimodal.transformer.weights import config, w_e, w_out

FITS_THE_CACHE = 2 * 2**20
"""Bytes of a layer's MLP activations up to which passes on a CPU are fastest; with more, they wait for main memory."""

FILLS_A_PRODUCT = 256
"""Positions from which a CPU's matrix products are as fast as they get."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The sizes of a language model."""

    n_layers: int
    d_model: int
    d_mlp: int
    d_vocab: int
    n_heads: int
    d_head: int
    n_ctx: int

    @property
    def n_neurons(self) -> int:
        """MLP neurons of all layers."""
        return self.n_layers * self.d_mlp


def shape(model: nn.Module) -> ModelShape:
    """The sizes of a TransformerLens model; `d_vocab` and `d_mlp` are those of its weights."""
    cfg = config(model)
    return ModelShape(
        n_layers=cfg.n_layers,
        d_model=cfg.d_model,
        d_mlp=w_out(model, 0).shape[0],
        d_vocab=w_e(model).shape[0],
        n_heads=cfg.n_heads,
        d_head=cfg.d_head,
        n_ctx=cfg.n_ctx,
    )


def device(model: nn.Module) -> torch.device:
    """The device that token ids must be on: that of the embedding table."""
    return w_e(model).device


def rows_at_once(model: nn.Module, n_pos: int, *, most: int) -> int:
    """The number of rows with which forward passes are fastest: on a CPU as many as fit its cache, elsewhere `most`.

    Args: most: the largest number that memory allows.
    """
    weights = w_out(model, 0)
    if weights.device.type != "cpu":
        return most
    fitting = FITS_THE_CACHE // (n_pos * weights.shape[0] * weights.element_size())
    return min(most, max(fitting, -(-FILLS_A_PRODUCT // n_pos)))
