"""Record activations: of one pass, of every pass while generating, or their mean over many prompts.

TransformerLens' own `run_with_cache` keeps everything; these keep only the hook points named, under those names.
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.arguments.boundary import ArgumentValueError, public
from lens_multimodal.arguments.positions import Positions, read_positions
from lens_multimodal.transformer import observe

__all__ = ["mean_activations", "observe", "record"]


@public
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
        raise ArgumentValueError("no hook names given to record", "names")
    # Nothing in a block depends on the logits, which take more memory than anything else: the last are enough.
    first = tokens.shape[1] - 1 if all(name.startswith("blocks.") for name in names) else 0
    kept: dict[str, Tensor] = {}
    hooks = transformer.keep(dict.fromkeys(names), into=kept)
    with torch.no_grad():
        transformer.logits_of(model, tokens, attention_mask=attention_mask, first=first, hooks=hooks)
    return {name: kept[name].detach() for name in names}


@public
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
    where = read_positions(positions)
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
        raise ArgumentValueError("there are no prompts, or none with these positions, to average over", "batches")
    return {name: (total / count).to(dtypes[name]) for name, total in totals.items()}
