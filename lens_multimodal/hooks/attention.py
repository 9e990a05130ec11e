"""Cut attention between positions, or freeze attention patterns to those of another run.

Cutting is exact: the scores are set to the smallest number *before* the softmax, so the rest of the row still sums to
one. It equals setting the pattern to zero and dividing by the remaining sum, without that division's rounding.

A `TransformerBridge` around GPT-J or OPT leaves attention to the Hugging Face module: its hook points for scores
and patterns only report values and **drop edits** (4.x warns, 3.x is silent). There the cut goes into the attention
mask that the module adds to its scores, which is the same formula. Freezing replaces `pattern @ values` at the heads'
outputs, which works for every model. After each pass the pattern is checked: a cut without effect raises.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.arguments.boundary import ArgumentValueError, public
from lens_multimodal.arguments.positions import Positions, PositionSet, read_positions
from lens_multimodal.arguments.units import Heads, Layers, read_heads, read_layers
from lens_multimodal.hooks.replacement import Activations


class CutHadNoEffect(RuntimeError):
    """The model attended to positions that were cut."""


@public
def cut_attention(
    model: nn.Module,
    *,
    queries: Positions,
    keys: Positions,
    layers: Layers = None,
    heads: Heads | None = None,
) -> list[transformer.NamedHook]:
    """Keep some positions from attending to others, such as the text to image patches.

    Positions keep their meaning in cached generation: `queries=slice(n_image, None)` is the text, generated tokens
    included, while a list of prompt positions leaves generated tokens free to attend.

    Args:
        queries: positions that attend.
        keys: positions that they must not attend to.
        layers: all heads of these layers; None for all layers.
        heads: only these heads, as `(layer, head)` pairs, a table or indices by layer; `layers` must then be left out.
    Raises:
        ValueError: layers, heads or positions that do not exist; a cut that leaves a query nothing to attend to (found
            when building if plain causality decides it, else during the pass, before any softmax).
        CutHadNoEffect: during the pass, if the model attended to them all the same.
    """
    looking, hidden = read_positions(queries, name="queries"), read_positions(keys, name="keys")
    _check_something_left(looking, hidden)
    hooks: list[transformer.NamedHook] = []
    for layer, chosen in _heads_by_layer(model, layers, heads).items():
        state = CutState()
        cut = partial(_cut, queries=looking, keys=hidden, heads=chosen, state=state)
        if transformer.attention_is_left_to_hugging_face(model, layer):
            attention = model.blocks[layer].attn.original_component  # type: ignore[index,union-attr]
            hooks.append((transformer.attn_in(layer), partial(cut_mask_hook, attention=attention, cut=cut, pending=[])))
        else:
            hooks.append((transformer.attn_scores(layer), partial(cut_scores_hook, cut=cut)))
        hooks.append((transformer.attn_pattern(layer), partial(verify_cut_hook, state=state, layer=layer)))
    return hooks


@public
def freeze_attention(
    model: nn.Module,
    *,
    run: Activations,
    layers: Layers = None,
    heads: Heads | None = None,
) -> list[transformer.NamedHook]:
    """Fix the attention patterns of heads to those of another run; values are computed as usual.

    Generated tokens in cached generation have no pattern in that run and attend freely.

    Args:
        run: recorded `hook_pattern` activations, `[batch, head, query_pos, key_pos]` or one prompt for all.
        layers, heads: as in `cut_attention`.
    Raises: ValueError for missing patterns, patterns of another model, or rows that do not sum to one.
    """
    n_heads, passes = transformer.shape(model).n_heads, transformer.passes_of(model)
    hooks: list[transformer.NamedHook] = []
    for layer, chosen in _heads_by_layer(model, layers, heads).items():
        pattern = _checked_pattern(run, transformer.attn_pattern(layer), n_heads)
        values: dict[str, Tensor] = {}
        hooks.append((transformer.head_v(layer), partial(keep_values_hook, kept=values)))
        frozen = partial(frozen_z_hook, pattern=pattern, values=values, heads=chosen, passes=passes)
        hooks.append((transformer.head_z(layer), frozen))
    return hooks


@dataclass(kw_only=True)
class CutState:
    """State that the hooks of one layer share during a pass, and the prompt's length for the next pass."""

    cut: Bool[Tensor, "rows head query_pos key_pos"] | None = None
    """What this pass has cut and not yet verified."""
    n_prompt: int | None = None
    """Length of the last prompt that ran whole."""


def cut_scores_hook(scores: Tensor, hook: Any, *, cut: Any) -> Tensor:
    """Hook function: attention scores `[batch, head, query_pos, key_pos]` with some set to the smallest number."""
    return cut(scores)


def cut_mask_hook(
    activation: Tensor,  # noqa: ARG001
    hook: Any,
    *,
    attention: nn.Module,
    cut: Any,
    pending: list[Any],
) -> None:
    """Hook function on an attention's input: edits the mask of the one call of `attention` that follows.

    If that call never comes (another hook failed in between), the edit has no later effect: it checks that the hook
    point still has the hooks it had.
    """
    while pending:
        pending.pop().remove()
    attached = set(hook._forward_hooks)

    def edit(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        while pending:
            pending.pop().remove()
        if not attached <= set(hook._forward_hooks):
            return None
        mask = kwargs.get("attention_mask")
        if not isinstance(mask, Tensor) or mask.ndim != 4:
            got = "none" if mask is None else f"{getattr(mask, 'ndim', '?')} axes"
            raise CutHadNoEffect(
                f"{type(module).__name__} was called without a mask [batch, 1, query_pos, key_pos] ({got}), so its "
                f"attention cannot be cut; load the model with attn_implementation='eager'"
            )
        return args, {**kwargs, "attention_mask": cut(mask)}

    pending.append(attention.register_forward_pre_hook(edit, with_kwargs=True))


def verify_cut_hook(pattern: Tensor, hook: Any, *, state: CutState, layer: int) -> None:
    """Hook function on the pattern: raises unless what was cut in this pass is exactly zero.

    Raises: CutHadNoEffect.
    """
    cut, state.cut = state.cut, None
    if cut is None or bool((pattern.masked_select(cut.expand_as(pattern)) != 0).any()):
        raise CutHadNoEffect(
            f"layer {layer} attended to positions that were cut off; its attention uses neither edited scores nor an "
            f"edited mask"
        )


def keep_values_hook(activation: Tensor, hook: Any, *, kept: MutableMapping[str, Tensor]) -> None:
    """Hook function on the values: keeps them for `frozen_z_hook` of the same pass."""
    kept["values"] = activation


def frozen_z_hook(
    activation: Tensor,
    hook: Any,
    *,
    pattern: Float[Tensor, "rows head query_pos key_pos"],
    values: MutableMapping[str, Tensor],
    heads: Bool[Tensor, " head"] | None,
    passes: transformer.Passes,
) -> Tensor:
    """Hook function on head outputs: `pattern @ values` with a given pattern."""
    value = values.pop("values")
    n_pos, n_heads = activation.shape[1:3]
    if passes.start:
        return activation
    if pattern.shape[2] != n_pos or pattern.shape[0] not in (1, len(activation)):
        raise ValueError(
            f"frozen patterns are for a batch of {pattern.shape[0]} and {pattern.shape[2]} positions, but this pass "
            f"has {len(activation)} and {n_pos}"
        )
    value = value.repeat_interleave(n_heads // value.shape[2], dim=2)
    weights = pattern.to(activation).expand(len(activation), -1, -1, -1)
    frozen = torch.einsum("bhqk,bkhd->bqhd", weights, value)
    if heads is None:
        return frozen
    return torch.where(heads.to(activation.device)[:, None], frozen, activation)


def _cut(
    scores: Tensor, *, queries: PositionSet, keys: PositionSet, heads: Bool[Tensor, " head"] | None, state: CutState
) -> Tensor:
    """The cut itself, on scores or on a mask added to them: `[batch, head or 1, query_pos, key_pos]`."""
    n_queries, n_keys = scores.shape[-2:]
    n_prompt = _prompt_length(n_queries, n_keys, state, needed=queries.from_the_end or keys.from_the_end)
    among = partial(PositionSet.mask_within, batch=len(scores), n_pos=n_keys, n_prompt=n_prompt, device=scores.device)
    looking = among(queries)[:, n_keys - n_queries :]
    cut = looking[:, None, :, None] & among(keys)[:, None, None, :]
    if heads is not None:
        cut = cut & heads.to(scores.device)[None, :, None, None]
    smallest = None if scores.dtype == torch.bool else torch.finfo(scores.dtype).min
    open_ = scores if smallest is None else scores > smallest / 2
    had_something = open_.any(-1, keepdim=True)
    left_empty = had_something & ~(open_ & ~cut).any(-1, keepdim=True)
    if bool(left_empty.any()):
        row, _, query, _ = left_empty.nonzero()[0].tolist()
        raise ValueError(
            f"the cut leaves position {query + n_keys - n_queries} of row {row} nothing to attend to; leave it at "
            f"least one key, such as itself"
        )
    state.cut = cut & had_something
    return scores & ~cut if smallest is None else torch.where(cut, scores.clamp(max=smallest), scores)


def _prompt_length(n_queries: int, n_keys: int, state: CutState, *, needed: bool) -> int | None:
    """Length of the prompt: of this pass, or in cached generation of the last pass that had no earlier keys."""
    if n_queries == n_keys:
        state.n_prompt = n_keys
    if needed and state.n_prompt is None:
        raise ValueError(
            f"this pass has {n_keys - n_queries} keys from a cache that was filled without the cut, so positions "
            f"cannot be counted from the end of the prompt; count them from 0, or run the prompt under the cut too"
        )
    return state.n_prompt


def _check_something_left(queries: PositionSet, keys: PositionSet) -> None:
    """A causal query at q sees 0..q, so it is left with nothing exactly if all of those are cut.

    Positions that the prompt decides (masks, or counted from its end) are checked during the pass.
    """
    if any(side.rows is not None or side.from_the_end for side in (queries, keys)):
        return
    first = min(queries.listed) if queries.listed is not None else queries.start
    hidden = keys.listed if keys.listed is not None else range(keys.start, first + 1)
    if set(range(first + 1)) <= set(hidden):
        raise ArgumentValueError(
            f"the cut leaves query position {first} nothing to attend to: it sees positions 0 to {first}, and all "
            f"of them are cut; leave it at least one key, such as itself",
            "keys",
        )


def _heads_by_layer(model: nn.Module, layers: Layers, heads: Heads | None) -> dict[int, Bool[Tensor, " head"] | None]:
    """The layers concerned, and which of their heads; None for all heads."""
    if heads is None:
        return dict.fromkeys(read_layers(model, layers))
    if layers is not None:
        raise ArgumentValueError(
            "heads name their layers, so layers cannot be given as well; give one of them", "layers"
        )
    n_heads = transformer.shape(model).n_heads
    by_layer = read_heads(model, heads)
    return {layer: torch.isin(torch.arange(n_heads), chosen.cpu()) for layer, chosen in by_layer.items()}


def _checked_pattern(run: Activations, name: str, n_heads: int) -> Tensor:
    try:
        pattern = run[name]
    except KeyError:
        raise ArgumentValueError(f"there is no {name!r}; record the attention patterns to freeze", "run") from None
    if pattern.ndim != 4 or pattern.shape[1] != n_heads:
        raise ArgumentValueError(
            f"{name}: expected patterns [batch, head={n_heads}, query_pos, key_pos], got {list(pattern.shape)}; were "
            f"they made with another model?",
            "run",
        )
    sums = pattern.float().sum(-1)
    if not bool(((sums - 1).abs() < 0.02).all()):
        raise ArgumentValueError(
            f"{name}: rows of a pattern sum to one, these sum to {sums.min():.3g} to {sums.max():.3g}", "run"
        )
    return pattern
