"""Path patching: the effect of a sender through its direct path, with all other paths held fixed.

Three passes (Wang et al. 2022; Goldowsky-Dill et al. 2023). They only cache and replace activations, which both
TransformerLens generations can do:

1. run the prompt, keep every head output and every neuron;
2. run it again with all of those held at their values, except the senders, which are replaced; record what the
   receivers *would* compute from the residual stream that they now see. Only direct paths (residual stream, norm)
   carry the change.
3. run the prompt freely with the receivers set to the recorded values: the hooks returned here do that.

With no receivers the path ends at the logits, and the hooks returned are those of pass 2.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.arguments.boundary import ArgumentValueError, public
from lens_multimodal.arguments.positions import Positions, read_positions
from lens_multimodal.arguments.units import Heads, Neurons, read_heads, read_neurons
from lens_multimodal.hooks.ablate import ablate, ablate_heads
from lens_multimodal.hooks.record import observe, record
from lens_multimodal.hooks.replacement import Replacement, Resample


@public
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
    senders = _End.read(model, "sender", sender_neurons, sender_heads, read_positions(positions))
    where = read_positions(receiver_positions, name="receiver_positions")
    receivers = _End.read(model, "receiver", receiver_neurons, receiver_heads, where)
    _check_order(model, senders, receivers)
    replace_senders = senders.replaced(model, to)
    layers = range(transformer.shape(model).n_layers)
    names = [name for layer in layers for name in (transformer.head_z(layer), transformer.mlp_post(layer))]
    held = record(model, tokens, names, attention_mask=attention_mask)
    hold: list[transformer.NamedHook] = [(name, partial(hold_hook, value=held[name])) for name in names]
    if not receivers.units:
        return [*hold, *replace_senders]

    seen: dict[str, list[Tensor]] = {}
    hooks = [*observe(names, into=seen), *hold, *replace_senders]
    with torch.no_grad():
        transformer.logits_of(model, tokens, attention_mask=attention_mask, hooks=hooks)
    return receivers.replaced(model, Resample({name: values[0] for name, values in seen.items()}))


def hold_hook(activation: Tensor, hook: Any, *, value: Tensor) -> Tensor:
    """Hook function: the value of another pass over the same tokens.

    Raises: ValueError for a pass of another shape.
    """
    if activation.shape != value.shape:
        raise ValueError(
            f"a path was traced on activations of shape {list(value.shape)}, this pass has {list(activation.shape)}; "
            f"run the same tokens, without generation"
        )
    return value.to(activation)


@dataclass(frozen=True, kw_only=True)
class _End:
    """Where a path starts or ends."""

    units: dict[str, dict[int, Tensor]]
    """Indices by layer, of "heads" and of "neurons"; what was not given is missing."""
    positions: Positions

    @classmethod
    def read(
        cls, model: nn.Module, side: str, neurons: Neurons | None, heads: Heads | None, positions: Positions
    ) -> "_End":
        units = {}
        if heads is not None:
            units["heads"] = read_heads(model, heads, name=f"{side}_heads")
        if neurons is not None:
            units["neurons"] = read_neurons(model, neurons, name=f"{side}_neurons")
        return cls(units=units, positions=positions)

    def replaced(self, model: nn.Module, to: Replacement) -> list[transformer.NamedHook]:
        builders = {"heads": ablate_heads, "neurons": ablate}
        return [
            hook
            for kind, by_layer in self.units.items()
            for hook in builders[kind](model, by_layer, to=to, positions=self.positions)
        ]

    def depths(self, model: nn.Module) -> dict[str, float]:
        """Neurons come half a layer after the heads of their layer, unless blocks are parallel."""
        after = {"heads": 0.0, "neurons": 0.0 if transformer.facts(model).parallel_blocks else 0.5}
        return {
            f"{kind} of layer {layer}": layer + after[kind]
            for kind, by_layer in self.units.items()
            for layer in by_layer
        }


def _check_order(model: nn.Module, senders: _End, receivers: _End) -> None:
    """Every receiver must come after a sender."""
    if not senders.units:
        raise ArgumentValueError("a path needs senders; give sender_neurons or sender_heads", "sender_neurons")
    first = min(senders.depths(model).values())
    too_early = [name for name, depth in receivers.depths(model).items() if depth <= first]
    if too_early:
        kind = too_early[0].split()[0]
        raise ArgumentValueError(f"no path leads to {', '.join(too_early)}: no sender comes before", f"receiver_{kind}")
