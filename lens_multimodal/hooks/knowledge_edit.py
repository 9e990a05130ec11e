"""Knowledge edit: make chosen neurons write another word, without training, and take it back.

The follow-up work (Pan et al. 2024; paper notes, section 5) edits rows of `W_out` so that a source word becomes a
target word. Here each row moves along the direction that turns one word's logit into the other's:

    W_out[k]  <-  W_out[k] + strength * |W_out[k]| * unit(W_U[:, target] - W_U[:, source])

A neuron with a positive activation then raises the target's logit against the source's (read without the final
norm, as neurons are decoded), one with a negative activation lowers it. Deviation: the abstract that was available
gives no formula, so this one is ours.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.arguments.units import Neurons, read_neurons


@contextmanager
def edit_knowledge(
    model: nn.Module, neurons: Neurons, *, source: int, target: int, strength: float | int = 1.0
) -> Iterator[None]:
    """Within the block, neurons write towards `target` and away from `source`; afterwards the weights are back.

    The rows are restored bit for bit, after an exception too. Nothing may move or replace the weights inside the block.

    Args:
        neurons: usually those found for the source word.
        source: token id of the word to be replaced.
        target: token id of the word to appear.
        strength: length of the change in units of each row's own length; 0 changes nothing.
    Raises: ValueError for neurons or tokens that do not exist, for equal tokens, or for a model whose `W_out` is a
        copy that cannot be edited.
    """
    chosen = read_neurons(model, neurons)
    direction = _direction(model, source, target)
    saved = {layer: transformer.w_out(model, layer)[rows].detach().clone() for layer, rows in chosen.items()}
    try:
        for layer, rows in chosen.items():
            old = saved[layer].float()
            new = old + strength * old.norm(dim=-1, keepdim=True) * direction.to(old.device)
            _write_rows(model, layer, rows, new.to(saved[layer].dtype))
        yield
    finally:
        for layer, rows in chosen.items():
            _write_rows(model, layer, rows, saved[layer])


def _direction(model: nn.Module, source: int, target: int) -> Tensor:
    unembedding = transformer.w_u(model)
    d_vocab = unembedding.shape[1]
    for name, token in (("source", source), ("target", target)):
        if not 0 <= token < d_vocab:
            raise ValueError(f"{name} token {token} is outside the vocabulary of {d_vocab} (0 to {d_vocab - 1})")
    if source == target:
        raise ValueError(f"source and target are the same token {source}; nothing would change")
    difference = (unembedding[:, target] - unembedding[:, source]).detach().float()
    return difference / difference.norm()


def _write_rows(model: nn.Module, layer: int, rows: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        transformer.w_out(model, layer)[rows] = values
        if not torch.equal(transformer.w_out(model, layer)[rows], values):
            raise ValueError(
                f"W_out of layer {layer} is a copy in {type(model).__name__}, so its rows cannot be edited in place"
            )
