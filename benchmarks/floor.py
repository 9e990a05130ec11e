"""The floor: the fewest operations and bytes that the work needs, counted from the shape.

A matrix product of `[m, k]` and `[k, n]` is `2 m k n` operations; norms, activations and softmax are left out. Causal
attention is counted in full, as GPT-J's code computes it. The unembedding is counted only at the positions whose
logits are used. A backward pass through frozen weights costs one forward: gradients with respect to activations, none
with respect to weights.
"""

from dataclasses import dataclass

from torch import nn

from lens_multimodal.transformer import ModelShape


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The fewest operations and bytes moved."""

    flops: float
    bytes: float = 0.0

    def __add__(self, other: "Floor") -> "Floor":
        return Floor(flops=self.flops + other.flops, bytes=self.bytes + other.bytes)

    def seconds(self, ceilings: dict[str, float]) -> float:
        """On a machine with these ceilings, when arithmetic and memory traffic overlap perfectly."""
        return max(self.flops / ceilings["matmul FLOP/s"], self.bytes / ceilings["copy bytes/s"])


def layer_weights(shape: ModelShape) -> int:
    """Numbers in one block's matrices: query, key, value, output, and the MLP's two."""
    return 4 * shape.d_model**2 + 2 * shape.d_model * shape.d_mlp


def layer_flops(shape: ModelShape, pos: int, *, keys: int | None = None) -> float:
    """One block over `pos` new positions that attend to `keys` (None: to themselves)."""
    attention = 2 * 2 * pos * (pos if keys is None else keys) * shape.d_model
    return 2.0 * layer_weights(shape) * pos + attention


def forward(shape: ModelShape, pos: int, *, batch: int = 1, read: int = 1, width: int = 4) -> Floor:
    """One pass over a prompt; logits at `read` positions. Every weight is read once."""
    flops = batch * (shape.n_layers * layer_flops(shape, pos) + 2.0 * read * shape.d_model * shape.d_vocab)
    return Floor(flops=flops, bytes=width * _weights(shape))


def backward(shape: ModelShape, pos: int, *, batch: int = 1, width: int = 4) -> Floor:
    """From one logit down to the neurons of the first layer, whose own inputs need no gradient.

    A product of two activations (attention) has two gradients, a product with a weight one.
    """
    attention = 2 * 2 * pos * pos * shape.d_model
    above = (shape.n_layers - 1) * (layer_flops(shape, pos) + attention)
    lowest = 2.0 * pos * shape.d_model * shape.d_mlp
    flops = batch * (above + lowest + 2.0 * shape.d_model * shape.d_vocab)
    return Floor(flops=flops, bytes=width * _weights(shape))


def attribution(shape: ModelShape, pos: int, *, batch: int = 1, targets: int = 1, width: int = 4) -> Floor:
    """One forward pass and one backward pass per target; each neuron's activation is written and read once."""
    total = forward(shape, pos, batch=batch, width=width)
    one = backward(shape, pos, batch=batch, width=width)
    neurons = 2.0 * width * batch * pos * shape.n_neurons
    return total + Floor(flops=targets * one.flops, bytes=targets * (one.bytes + neurons))


def caption(shape: ModelShape, pos: int, new: int, *, batch: int = 1, width: int = 4) -> Floor:
    """The prompt, then one token at a time with a key-value cache."""
    total = forward(shape, pos, batch=batch, width=width)
    for step in range(1, new):
        keys = pos + step
        flops = batch * (shape.n_layers * layer_flops(shape, 1, keys=keys) + 2.0 * shape.d_model * shape.d_vocab)
        cache = 2.0 * width * batch * shape.n_layers * keys * shape.d_model
        total = total + Floor(flops=flops, bytes=width * _weights(shape) + cache)
    return total


def decoding(shape: ModelShape, n_neurons: int, *, width: int = 4) -> Floor:
    """Every neuron's output weights against every token's direction."""
    return Floor(
        flops=2.0 * n_neurons * shape.d_model * shape.d_vocab,
        bytes=width * shape.d_model * (n_neurons + shape.d_vocab),
    )


def encoder(module: nn.Module, positions: int, *, batch: int = 1, width: int = 4) -> Floor:
    """A vision transformer and its projection: every matrix at every position; attention among positions is small."""
    weights = sum(p.numel() for p in module.parameters() if p.ndim > 1)
    return Floor(flops=2.0 * batch * positions * weights, bytes=width * weights)


def _weights(shape: ModelShape) -> float:
    return float(shape.n_layers * layer_weights(shape) + shape.d_model * shape.d_vocab)
