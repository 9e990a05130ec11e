"""Knowledge edit: make chosen neurons write another word, without training, and take it back.

The follow-up work (Pan et al. 2024; paper notes, section 5) edits rows of `W_out` so that a source word becomes a
target word. Here each row moves along the direction that turns one word's logit into the other's:

    W_out[k]  <-  W_out[k] + strength * |W_out[k]| * unit(W_U[:, target] - W_U[:, source])

A neuron with a positive activation then raises the target's logit against the source's (unembedded without the final
norm, as neurons are decoded); a neuron with a negative activation lowers it. Deviation: the abstract that was available
gives no formula, so this one is ours.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.arguments.boundary import ArgumentValueError, public
from lens_multimodal.arguments.targets import Token, read_token
from lens_multimodal.arguments.units import Neurons, read_neurons


@public
def edit_knowledge(
    model: nn.Module, neurons: Neurons, *, source: Token, target: Token, strength: float | int = 1.0
) -> AbstractContextManager[None]:
    """Within the block, neurons write towards `target` and away from `source`; afterwards the weights are back.

    The rows are restored bit for bit, after an exception too. Nothing may move or replace the weights inside the block.

    Args:
        neurons: usually those found for the source word.
        source: the token to be replaced, as an id or a string of one token.
        target: the token to appear.
        strength: length of the change in units of each row's own length; 0 changes nothing.
    Raises: ValueError for neurons or tokens that do not exist, for equal tokens, or for a model whose `W_out` is a
        copy that cannot be edited.
    """
    chosen = read_neurons(model, neurons)
    source_id, target_id = read_token(model, source, name="source"), read_token(model, target, name="target")
    if source_id == target_id:
        raise ArgumentValueError(f"the source is the same token, {source_id}, so nothing would change", "target")
    unembedding = transformer.w_u(model).detach()
    difference = (unembedding[:, target_id] - unembedding[:, source_id]).float()
    return _rows_moved(model, chosen, difference / difference.norm(), strength)


@contextmanager
def _rows_moved(
    model: nn.Module, chosen: dict[int, Tensor], direction: Tensor, strength: float | int
) -> Iterator[None]:
    """Within the block, the rows of chosen neurons are moved along a direction, `strength` times their own length."""
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


def _write_rows(model: nn.Module, layer: int, rows: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        transformer.w_out(model, layer)[rows] = values
        if not torch.equal(transformer.w_out(model, layer)[rows], values):
            raise ValueError(
                f"W_out of layer {layer} is a copy in {type(model).__name__}, so its rows cannot be edited in place"
            )
