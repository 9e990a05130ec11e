"""Knowledge edit: make chosen neurons write another word, without training, and take it back.

The follow-up work (Pan et al. 2024; paper notes, section 5) edits rows of `W_out` so that a source word becomes a
target word. Here what each neuron writes moves along the direction that turns one word's logit into the other's:

    written[k]  <-  written[k] + strength * |written[k]| * unit(W_U[:, target] - W_U[:, source])

`written[k]` is the row of `W_out`, or, where a norm follows the MLP, what comes out of that norm for it
(`transformer.written`); the row is edited so that it comes out. A neuron with a positive activation then raises the
target's logit against the source's (unembedded without the final norm, as neurons are decoded); a neuron with a
negative activation lowers it. Deviation: the abstract that was available gives no formula, so this one is ours.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.arguments.boundary import ArgumentValueError, public
from lens_multimodal.arguments.targets import Token, read_token
from lens_multimodal.arguments.units import Neurons, read_neurons
from lens_multimodal.precision import wide


@public
def edit_knowledge(
    model: nn.Module, neurons: Neurons, *, source: Token, target: Token, strength: float | int = 1.0
) -> AbstractContextManager[None]:
    """Make neurons write towards `target` and away from `source` within the `with` block, then restore the weights.

    The rows are restored bit for bit, after an exception too. Nothing may move or replace the weights meanwhile.

    Args:
        neurons: usually those found for the source word.
        source: the token to be replaced, as an id or a string of one token.
        target: the token to appear.
        strength: length of the change in units of the length of what each neuron writes; 0 changes nothing.
    Raises: ValueError for neurons or tokens that do not exist, for equal tokens, for a model whose `W_out` is a copy
        that cannot be edited, or for a norm after the MLP that cannot output this direction.
    """
    chosen = read_neurons(model, neurons)
    source_id, target_id = read_token(model, source, name="source"), read_token(model, target, name="target")
    if source_id == target_id:
        raise ArgumentValueError(f"the source is the same token, {source_id}, so nothing would change", "target")
    unembedding = transformer.w_u(model).detach()
    difference = wide(unembedding[:, target_id]) - wide(unembedding[:, source_id])
    return _rows_moved(model, chosen, difference / difference.norm(), strength)


@contextmanager
def _rows_moved(
    model: nn.Module, chosen: dict[int, Tensor], direction: Tensor, strength: float | int
) -> Iterator[None]:
    """What chosen neurons write is moved along a direction, `strength` times its own length."""
    saved = {layer: transformer.w_out(model, layer)[rows].detach().clone() for layer, rows in chosen.items()}
    try:
        for layer, rows in chosen.items():
            old = wide(saved[layer])
            length = wide(transformer.written(model, layer, rows)).norm(dim=-1, keepdim=True)
            change = transformer.rows_that_write(model, layer, strength * length * direction.to(old.device))
            _write_rows(model, layer, rows, (old + change).to(saved[layer].dtype))
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
