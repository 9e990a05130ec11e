"""Path patching: the effect of a sender through one direct path, all other paths held as they were.

Three passes (Wang et al. 2022; Goldowsky-Dill et al. 2023), by caching alone, so both TransformerLens generations can:

1. run the prompt, keep every head output and every neuron;
2. run it again with all of those held at their values, save the senders, which are replaced; read what the receivers
   *would* compute from the residual stream that they now see. Only direct paths (residual stream, norm) carry anything.
3. run the prompt freely with the receivers set to what was read: the hooks returned here do that.

With no receivers the path ends at the logits, and the hooks returned are those of pass 2.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.arguments.positions import Positions
from lens_multimodal.arguments.units import Heads, Neurons, read_heads, read_neurons
from lens_multimodal.hooks.ablate import ablate, ablate_heads
from lens_multimodal.hooks.record import observe, record
from lens_multimodal.hooks.replacement import Replacement, Resample


def patch_path(
    model: nn.Module,
    tokens: Int[Tensor, "batch pos"],
    *,
    to: Replacement,
    sender_neurons: Neurons | None = None,
    sender_heads: Heads | None = None,
    receiver_neurons: Neurons | None = None,
    receiver_heads: Heads | None = None,
    positions: Positions = None,
    receiver_positions: Positions = None,
    attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
) -> list[transformer.NamedHook]:
    """Hooks for a run of the same `tokens` in which senders reach receivers by the direct path only.

    Args:
        tokens: the prompt that is patched.
        to: what the senders become: `Resample(run)` of another prompt, `Mean`, `Zero()`.
        sender_neurons, sender_heads: where the path starts; at least one of them.
        receiver_neurons, receiver_heads: where it ends; none for the logits.
        positions: of the senders.
        receiver_positions: of the receivers.
    Raises: ValueError without senders, if no receiver lies after the first sender, or as `ablate`.
    Cost: two forward passes, and all heads and neurons of one pass in memory.
    """
    senders = _senders(model, sender_neurons, sender_heads, to, positions)
    _check_order(model, sender_neurons, sender_heads, receiver_neurons, receiver_heads)
    layers = range(transformer.shape(model).n_layers)
    names = [name for layer in layers for name in (transformer.head_z(layer), transformer.mlp_post(layer))]
    held = record(model, tokens, names, attention_mask=attention_mask)
    hold: list[transformer.NamedHook] = [(name, partial(hold_hook, value=held[name])) for name in names]
    if receiver_neurons is None and receiver_heads is None:
        return [*hold, *senders]

    seen: dict[str, list[Tensor]] = {}
    with transformer.fired_hooks(model, [*observe(names, into=seen), *hold, *senders]):
        transformer.logits_of(model, tokens, attention_mask=attention_mask)
    received = Resample({name: values[0] for name, values in seen.items()})
    hooks: list[transformer.NamedHook] = []
    if receiver_heads is not None:
        hooks += ablate_heads(model, receiver_heads, to=received, positions=receiver_positions)
    if receiver_neurons is not None:
        hooks += ablate(model, receiver_neurons, to=received, positions=receiver_positions)
    return hooks


def hold_hook(activation: Tensor, hook: Any, *, value: Tensor) -> Tensor:
    """Hook function: the value of another pass over the same tokens.

    Raises: ValueError for a pass of another shape.
    """
    if activation.shape != value.shape:
        raise ValueError(
            f"a path was traced on activations of shape {list(value.shape)}, this pass has {list(activation.shape)}; "
            f"run the same tokens, and no generation"
        )
    return value.to(activation)


def _senders(
    model: nn.Module, neurons: Neurons | None, heads: Heads | None, to: Replacement, positions: Positions
) -> list[transformer.NamedHook]:
    if neurons is None and heads is None:
        raise ValueError("a path needs senders: give sender_neurons or sender_heads")
    hooks: list[transformer.NamedHook] = []
    if heads is not None:
        hooks += ablate_heads(model, heads, to=to, positions=positions)
    if neurons is not None:
        hooks += ablate(model, neurons, to=to, positions=positions)
    return hooks


def _check_order(
    model: nn.Module,
    sender_neurons: Neurons | None,
    sender_heads: Heads | None,
    receiver_neurons: Neurons | None,
    receiver_heads: Heads | None,
) -> None:
    """Every receiver must come after a sender; within a layer, neurons after heads unless blocks are parallel."""
    first = min(_depths(model, sender_neurons, sender_heads).values())
    too_early = [name for name, depth in _depths(model, receiver_neurons, receiver_heads).items() if depth <= first]
    if too_early:
        raise ValueError(f"no path leads to {', '.join(too_early)}: no sender lies before it")


def _depths(model: nn.Module, neurons: Neurons | None, heads: Heads | None) -> Mapping[str, float]:
    depths: dict[str, float] = {}
    if heads is not None:
        depths |= {f"heads of layer {layer}": float(layer) for layer in read_heads(model, heads)}
    if neurons is not None:
        later = 0.0 if getattr(model.cfg, "parallel_attn_mlp", False) else 0.5  # type: ignore[union-attr,arg-type]
        depths |= {f"neurons of layer {layer}": layer + later for layer in read_neurons(model, neurons)}
    return depths
