"""A trained encoder made wider without changing what it computes (Net2Net, Chen et al. 2016, section 3.2).

The residual stream is repeated: every module writes the same to each copy, and reads each copy with a share of its
old weight. The shares are random and add up to one, so that the copies, equal at first, learn different things.
Layer norms see the same mean and variance as before. New attention heads and new units of the projection head start
at random and are read with weight zero.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

HEAD_FIRST, HEAD_LAST = "head.0.weight", "head.2.weight"


def widen(old: dict[str, Tensor], fresh: dict[str, Tensor], *, generator: Generator) -> dict[str, Tensor]:
    """The state of a wide learner that gives what the narrow one does, `forward_features` repeated.

    Args:
        old: state of a trained narrow `Learner`.
        fresh: state of a newly made wide one, of the same depth and MLP width; its width is a multiple of `old`'s.
    Raises: ValueError if the width is no such multiple.
    """
    before, after = len(old["mask_token"]), len(fresh["mask_token"])
    if after % before:
        raise ValueError(f"an encoder of width {before} can be widened to a multiple of it, not to {after}")
    copies = after // before
    return {name: _wide(name)(tensor, fresh[name], copies, generator) for name, tensor in old.items()}


def _wide(name: str) -> Callable[[Tensor, Tensor, int, Generator], Tensor]:
    """How a tensor grows: by what it reads from and what it writes to."""
    if name.endswith("qkv.weight"):
        return _queries_keys_values
    if name.endswith(("fc1.weight", "foretell.weight")):
        return lambda old, _, copies, generator: _shared(old, copies, generator)
    if name == HEAD_FIRST:
        return lambda old, fresh, copies, generator: _first(_shared(old, copies, generator), fresh)
    if name in (HEAD_LAST, "head.0.bias") or name.endswith(("q_bias", "v_bias", "position_bias_table")):
        return lambda old, fresh, *_: _first(old, torch.zeros_like(fresh))
    if name.endswith("attn.proj.weight"):
        return lambda old, fresh, copies, _: _first(_repeated(old, copies), torch.zeros_like(fresh))
    if name.endswith(("fc1.bias", "foretell.bias", "head.2.bias")):
        return lambda old, *_: old.clone()
    return lambda old, _, copies, __: _repeated(old, copies)


def _repeated(old: Tensor, copies: int) -> Tensor:
    """What is written to the stream, once for each copy."""
    stream = 2 if old.ndim == 3 else 0
    return torch.cat([old] * copies, dim=stream)


def _shared(old: Tensor, copies: int, generator: Generator) -> Tensor:
    """What is read from the stream, `(row, d_narrow)`, in random shares of the copies."""
    draw = torch.randn(copies, *old.shape, generator=generator, device=generator.device).to(old)
    return torch.cat(list(old * draw.softmax(dim=0)), dim=1)


def _first(old: Tensor, fresh: Tensor) -> Tensor:
    """`fresh` with `old` in its first corner."""
    wide = fresh.clone()
    wide[tuple(slice(size) for size in old.shape)] = old
    return wide


def _queries_keys_values(old: Tensor, fresh: Tensor, copies: int, generator: Generator) -> Tensor:
    parts = zip(old.chunk(3), fresh.chunk(3), strict=True)
    return torch.cat([_first(_shared(part, copies, generator), new) for part, new in parts])
