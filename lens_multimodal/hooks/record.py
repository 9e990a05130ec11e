"""Read activations: of one pass, of every pass while generating, or on average over many prompts.

TransformerLens' own `run_with_cache` keeps everything; these keep what was asked for, by the name asked for.
"""

from collections.abc import Iterable, MutableMapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from lens_multimodal.hooks.positions import Positions, as_positions
from lens_multimodal.model import host


def record(
    model: nn.Module,
    tokens: Int[Tensor, "batch pos"],
    names: Sequence[str],
    *,
    attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
) -> dict[str, Tensor]:
    """Activations of one forward pass by hook name, in the order asked for, without gradient.

    Raises: ValueError for unknown hook names; HookDidNotFire for hook points that the model does not run.
    """
    if not names:
        raise ValueError("no hook names given to record")
    with torch.no_grad(), host.capture(model, list(dict.fromkeys(names))) as kept:
        host.logits_of(model, tokens, attention_mask=attention_mask)
    return {name: kept[name].detach() for name in names}


def observe(names: Sequence[str], *, into: MutableMapping[str, list[Tensor]]) -> list[host.NamedHook]:
    """Hooks that append every activation they see to `into[name]`, detached.

    Around `generate` with its cache, the first entry is the prompt and each further one a generated token, so
    `torch.cat(into[name], dim=1)` has one row per token.
    """
    return [(name, partial(observe_hook, name=name, into=into)) for name in dict.fromkeys(names)]


def observe_hook(activation: Tensor, hook: Any, *, name: str, into: MutableMapping[str, list[Tensor]]) -> None:
    """Hook function: keep the activation, change nothing."""
    into.setdefault(name, []).append(activation.detach())


def mean_activations(
    model: nn.Module,
    batches: Iterable[Tensor],
    names: Sequence[str],
    *,
    positions: Positions = None,
) -> dict[str, Tensor]:
    """Mean of activations over prompts and positions, summed in float64: the reference of mean ablation.

    Args:
        batches: prompts `[batch, pos]` without padding; they may differ in length.
        positions: the positions averaged over; None for all. A mask by row must fit every batch.
    Returns: by hook name, without batch and position axis, in the activations' dtype.
    Raises: ValueError for no prompts; as `record`.
    """
    where = as_positions(positions)
    totals: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    count = 0
    for tokens in batches:
        chosen = where.mask(tokens.shape[1], device=tokens.device).expand(tokens.shape[0], -1)
        for name, value in record(model, tokens, names).items():
            dtypes[name] = value.dtype
            total = value[chosen.to(value.device)].double().sum(0)
            totals[name] = totals[name] + total if name in totals else total
        count += int(chosen.sum())
    if count == 0:
        raise ValueError("no prompts, or none with the positions asked for, to take a mean over")
    return {name: (total / count).to(dtypes[name]) for name, total in totals.items()}
