"""Activation patching sweeps: where does copying one activation from a clean run bring the clean answer back?

For every cell (a layer and a position, a head, a neuron) the corrupted prompt is run once with that one activation
taken from the clean run: "clean into corrupted". Cells share forward passes as rows of a batch. Every result also
carries *attribution patching* (Nanda 2023), the first-order estimate of all cells from one backward pass,

    estimate = (clean activation - corrupted activation) . d target / d activation,   at the corrupted run,

and how well the two agree: where they do, the estimate can stand in for sweeps that are too large to run.

    sweep = act_patch_resid_pre(model, dog.tokens, cat.tokens, " dog")
    sweep.recovered        # [layer, pos]: 1 where the clean answer is fully back
    sweep.correlation      # of the estimate with the truth
"""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_multimodal.analysis.patching.run import PatchSweep, Sweep
from lens_multimodal.analysis.targets import Target
from lens_multimodal.hooks.neurons import Neurons, as_layers
from lens_multimodal.hooks.positions import Positions
from lens_multimodal.model import host

__all__ = [
    "PatchSweep",
    "act_patch_attn_out",
    "act_patch_heads",
    "act_patch_heads_by_position",
    "act_patch_mlp_out",
    "act_patch_neurons",
    "act_patch_neurons_by_position",
    "act_patch_resid_pre",
    "attribution_patch",
]


def act_patch_resid_pre(
    model: nn.Module,
    clean_tokens: Int[Tensor, "1 clean_pos"],
    corrupted_tokens: Int[Tensor, "1 corrupted_pos"],
    target: Target,
    *,
    layers: int | Sequence[int] | None = None,
    positions: Positions = None,
    batch_size: int = 32,
) -> PatchSweep:
    """Patch the residual stream entering each layer at each position, one cell at a time.

    Args:
        clean_tokens, corrupted_tokens: prompts of equal length, such as two pictures before the same text.
        target: see `analysis.targets`; most often a token, whose logit at the last position is read.
        layers, positions: the cells; None for all.
        batch_size: patched runs in one forward pass; memory grows with it (logits: batch_size * pos * d_vocab).
    Returns: a sweep over `layer` and `pos`.
    Raises: ValueError for prompts of unequal length, or a target, layers or positions that do not exist;
        FloatingPointError if a target's value is not finite.
    Cost: one forward row for each cell, and one backward pass for the estimate.
    """
    sweep = Sweep.between(model, clean_tokens, corrupted_tokens, target, batch_size)
    return sweep.over_sites("resid_pre", host.resid_pre, as_layers(layers, model), positions)


def act_patch_mlp_out(
    model: nn.Module,
    clean_tokens: Int[Tensor, "1 clean_pos"],
    corrupted_tokens: Int[Tensor, "1 corrupted_pos"],
    target: Target,
    *,
    layers: int | Sequence[int] | None = None,
    positions: Positions = None,
    batch_size: int = 32,
) -> PatchSweep:
    """Patch what each MLP writes at each position; settings as in `act_patch_resid_pre`."""
    sweep = Sweep.between(model, clean_tokens, corrupted_tokens, target, batch_size)
    return sweep.over_sites("mlp_out", host.mlp_out, as_layers(layers, model), positions)


def act_patch_attn_out(
    model: nn.Module,
    clean_tokens: Int[Tensor, "1 clean_pos"],
    corrupted_tokens: Int[Tensor, "1 corrupted_pos"],
    target: Target,
    *,
    layers: int | Sequence[int] | None = None,
    positions: Positions = None,
    batch_size: int = 32,
) -> PatchSweep:
    """Patch what each layer's attention writes at each position; settings as in `act_patch_resid_pre`."""
    sweep = Sweep.between(model, clean_tokens, corrupted_tokens, target, batch_size)
    return sweep.over_sites("attn_out", host.attn_out, as_layers(layers, model), positions)


def act_patch_heads(
    model: nn.Module,
    clean_tokens: Int[Tensor, "1 clean_pos"],
    corrupted_tokens: Int[Tensor, "1 corrupted_pos"],
    target: Target,
    *,
    layers: int | Sequence[int] | None = None,
    positions: Positions = None,
    batch_size: int = 32,
) -> PatchSweep:
    """Patch each attention head at all chosen positions together: a sweep over `layer` and `head`."""
    sweep = Sweep.between(model, clean_tokens, corrupted_tokens, target, batch_size)
    return sweep.over_heads(as_layers(layers, model), [sweep.positions(positions)], {})


def act_patch_heads_by_position(
    model: nn.Module,
    clean_tokens: Int[Tensor, "1 clean_pos"],
    corrupted_tokens: Int[Tensor, "1 corrupted_pos"],
    target: Target,
    *,
    layers: int | Sequence[int] | None = None,
    positions: Positions = None,
    batch_size: int = 32,
) -> PatchSweep:
    """Patch each attention head at each position: a sweep over `layer`, `head` and `pos`."""
    sweep = Sweep.between(model, clean_tokens, corrupted_tokens, target, batch_size)
    chosen = sweep.positions(positions)
    return sweep.over_heads(as_layers(layers, model), [[p] for p in chosen], {"pos": chosen})


def act_patch_neurons(
    model: nn.Module,
    clean_tokens: Int[Tensor, "1 clean_pos"],
    corrupted_tokens: Int[Tensor, "1 corrupted_pos"],
    target: Target,
    *,
    neurons: Neurons,
    positions: Positions = None,
    batch_size: int = 32,
) -> PatchSweep:
    """Patch each of some neurons at all chosen positions together: a sweep over `neuron`."""
    sweep = Sweep.between(model, clean_tokens, corrupted_tokens, target, batch_size)
    return sweep.over_neurons(neurons, [sweep.positions(positions)], {})


def act_patch_neurons_by_position(
    model: nn.Module,
    clean_tokens: Int[Tensor, "1 clean_pos"],
    corrupted_tokens: Int[Tensor, "1 corrupted_pos"],
    target: Target,
    *,
    neurons: Neurons,
    positions: Positions = None,
    batch_size: int = 32,
) -> PatchSweep:
    """Patch each of some neurons at each position: a sweep over `neuron` and `pos`."""
    sweep = Sweep.between(model, clean_tokens, corrupted_tokens, target, batch_size)
    chosen = sweep.positions(positions)
    return sweep.over_neurons(neurons, [[p] for p in chosen], {"pos": chosen})


def attribution_patch(
    model: nn.Module,
    clean_tokens: Int[Tensor, "1 clean_pos"],
    corrupted_tokens: Int[Tensor, "1 corrupted_pos"],
    target: Target,
    names: Sequence[str],
) -> dict[str, Float[Tensor, "pos ..."]]:
    """Attribution patching of whole activations: the estimated effect of every number in them.

    Sum over what is patched together: over d_model for a position, over d_head for a head.

    Args: names: hook names, such as `host.mlp_post(layer)` for all layers.
    Returns: by hook name, the activation's layout without batch, in float32 or wider.
    Cost: two forward passes and one backward for all hook points together.
    """
    sweep = Sweep.between(model, clean_tokens, corrupted_tokens, target, 1)
    return sweep.estimates(list(dict.fromkeys(names)))
