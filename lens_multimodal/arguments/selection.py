"""What users name (positions, layers, tokens), checked before any forward pass; and the precision of results."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.arguments.neurons import as_layers


def resolve_positions(positions: Any, n_pos: int) -> Int[Tensor, " pos"]:
    """Positions counted from 0, in the order given; None means all.

    Raises: ValueError for no position, one outside the prompt, or one given twice; TypeError for non-integers.
    """
    if positions is None:
        return torch.arange(n_pos)
    values = positions.tolist() if isinstance(positions, Tensor) else positions
    found = [resolve_position(pos, n_pos) for pos in (values if hasattr(values, "__iter__") else [values])]
    if not found:
        raise ValueError("no positions given: expected at least one, or None for all")
    if len(set(found)) < len(found):
        twice = sorted({pos for pos in found if found.count(pos) > 1})
        raise ValueError(f"positions {twice} are given more than once")
    return torch.tensor(found)


def resolve_position(pos: Any, n_pos: int) -> int:
    """A position counted from 0; negative counts from the end. Raises like `resolve_positions`."""
    if isinstance(pos, bool) or not hasattr(pos, "__index__"):
        raise TypeError(f"expected an integer position, got {pos!r} ({type(pos).__name__})")
    pos = int(pos)
    if not -n_pos <= pos < n_pos:
        raise ValueError(f"position {pos} is outside this prompt of {n_pos} positions ({-n_pos} to {n_pos - 1})")
    return pos % n_pos


def resolve_layers(model: nn.Module, layers: Any) -> tuple[int, ...]:
    """Layers in ascending order; None means all.

    Raises: ValueError for no layer, one outside the model, or one given twice; TypeError for anything else than whole
        numbers.
    """
    return tuple(as_layers(model, layers))


def resolve_token(model: nn.Module, token: Any) -> int:
    """A token id of the vocabulary, given as such or as a string that is exactly one token.

    Raises: ValueError naming the pieces of a longer string; TypeError for anything else.
    """
    if isinstance(token, str):
        return _single_token(model, token)
    if isinstance(token, bool) or not hasattr(token, "__index__"):
        raise TypeError(f"expected a token id or a string of one token, got {token!r} ({type(token).__name__})")
    d_vocab = transformer.w_u(model).shape[1]
    if not 0 <= int(token) < d_vocab:
        raise ValueError(
            f"token {int(token)} is outside the vocabulary of {d_vocab} tokens (0 to {d_vocab - 1}); ids above "
            f"it stand for image positions, which have no logit"
        )
    return int(token)


def wide(values: Tensor) -> Tensor:
    """The same numbers in float32 or wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _single_token(model: nn.Module, text: str) -> int:
    tokenizer: Any = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise ValueError(f"this model has no tokenizer to look up {text!r}; give the token id instead")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        pieces = ", ".join(repr(tokenizer.decode([i])) for i in ids) or "nothing"
        raise ValueError(
            f"{text!r} is {len(ids)} tokens, not one: {pieces}; a word inside a sentence usually starts with a "
            f"space, and the first piece of a longer word can be a target by itself"
        )
    return int(ids[0])
