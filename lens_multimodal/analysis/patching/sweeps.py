"""Activation patching sweeps: where does copying one activation from a clean run bring the clean answer back?

For every cell (a layer and a position, a head, a neuron) the corrupted prompt is run once with that one activation
taken from the clean run: "clean into corrupted". Cells share forward passes as rows of a batch. Every result also
carries *attribution patching* (Nanda 2023), the first-order estimate of all cells from one backward pass,

    estimate = (clean activation - corrupted activation) . d target / d activation,   at the corrupted run,

and how well the two agree: where they do, the estimate can stand in for sweeps that are too large to run.

    sweep = act_patch_resid_pre(model, dog.tokens, cat.tokens, " dog")
    sweep.recovered        # [layer, pos]: 1 where the clean answer is fully back
    sweep.correlation      # of the estimate with the truth

All take two prompts, `[1, pos]` each, a target (most often a token, whose logit at the last position is read), and the
settings of `SweepSettings`. Prompts may differ in length if the positions that belong together are listed:

    act_patch_resid_pre(
        model, dog.tokens, cat.tokens, " dog", positions=cat.image_pos[0], source_positions=dog.image_pos[0]
    )

Two rows of one left-padded prompt are matched from the right; give their masks as `clean_mask` and `corrupted_mask`.
"""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import Unpack

from lens_multimodal import transformer
from lens_multimodal.analysis.patching.cells import PatchSweep, Sweep, SweepSettings
from lens_multimodal.arguments.targets import Target
from lens_multimodal.arguments.units import Neurons, read_layers

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
    **settings: Unpack[SweepSettings],
) -> PatchSweep:
    """Patch the residual stream entering each layer at each position, one cell at a time.

    Args:
        layers: None for all.
        settings: see `SweepSettings`.
    Returns: a sweep over `layer` and `pos`.
    Raises: ValueError for prompts of unequal length without listed positions, or a target, layers or positions that do
        not exist; FloatingPointError if a target's value is not finite.
    Cost: one forward row for each cell, and one backward pass for the estimate.
    """
    sweep = Sweep.between(model, clean_tokens, corrupted_tokens, target, **settings)
    return sweep.over_sites("resid_pre", transformer.resid_pre, read_layers(model, layers))


def act_patch_mlp_out(
    model: nn.Module,
    clean_tokens: Int[Tensor, "1 clean_pos"],
    corrupted_tokens: Int[Tensor, "1 corrupted_pos"],
    target: Target,
    *,
    layers: int | Sequence[int] | None = None,
    **settings: Unpack[SweepSettings],
) -> PatchSweep:
    """Patch what each MLP writes at each position; settings as in `act_patch_resid_pre`."""
    sweep = Sweep.between(model, clean_tokens, corrupted_tokens, target, **settings)
    return sweep.over_sites("mlp_out", transformer.mlp_out, read_layers(model, layers))


def act_patch_attn_out(
    model: nn.Module,
    clean_tokens: Int[Tensor, "1 clean_pos"],
    corrupted_tokens: Int[Tensor, "1 corrupted_pos"],
    target: Target,
    *,
    layers: int | Sequence[int] | None = None,
    **settings: Unpack[SweepSettings],
) -> PatchSweep:
    """Patch what each layer's attention writes at each position; settings as in `act_patch_resid_pre`."""
    sweep = Sweep.between(model, clean_tokens, corrupted_tokens, target, **settings)
    return sweep.over_sites("attn_out", transformer.attn_out, read_layers(model, layers))


def act_patch_heads(
    model: nn.Module,
    clean_tokens: Int[Tensor, "1 clean_pos"],
    corrupted_tokens: Int[Tensor, "1 corrupted_pos"],
    target: Target,
    *,
    layers: int | Sequence[int] | None = None,
    **settings: Unpack[SweepSettings],
) -> PatchSweep:
    """Patch each attention head at all chosen positions together: a sweep over `layer` and `head`."""
    sweep = Sweep.between(model, clean_tokens, corrupted_tokens, target, **settings)
    return sweep.over_heads(read_layers(model, layers), by_position=False)


def act_patch_heads_by_position(
    model: nn.Module,
    clean_tokens: Int[Tensor, "1 clean_pos"],
    corrupted_tokens: Int[Tensor, "1 corrupted_pos"],
    target: Target,
    *,
    layers: int | Sequence[int] | None = None,
    **settings: Unpack[SweepSettings],
) -> PatchSweep:
    """Patch each attention head at each position: a sweep over `layer`, `head` and `pos`."""
    sweep = Sweep.between(model, clean_tokens, corrupted_tokens, target, **settings)
    return sweep.over_heads(read_layers(model, layers), by_position=True)


def act_patch_neurons(
    model: nn.Module,
    clean_tokens: Int[Tensor, "1 clean_pos"],
    corrupted_tokens: Int[Tensor, "1 corrupted_pos"],
    target: Target,
    *,
    neurons: Neurons,
    **settings: Unpack[SweepSettings],
) -> PatchSweep:
    """Patch each of some neurons at all chosen positions together: a sweep over `neuron`."""
    sweep = Sweep.between(model, clean_tokens, corrupted_tokens, target, **settings)
    return sweep.over_neurons(neurons, by_position=False)


def act_patch_neurons_by_position(
    model: nn.Module,
    clean_tokens: Int[Tensor, "1 clean_pos"],
    corrupted_tokens: Int[Tensor, "1 corrupted_pos"],
    target: Target,
    *,
    neurons: Neurons,
    **settings: Unpack[SweepSettings],
) -> PatchSweep:
    """Patch each of some neurons at each position: a sweep over `neuron` and `pos`."""
    sweep = Sweep.between(model, clean_tokens, corrupted_tokens, target, **settings)
    return sweep.over_neurons(neurons, by_position=True)


def attribution_patch(
    model: nn.Module,
    clean_tokens: Int[Tensor, "1 clean_pos"],
    corrupted_tokens: Int[Tensor, "1 corrupted_pos"],
    target: Target,
    names: Sequence[str],
    **settings: Unpack[SweepSettings],
) -> dict[str, Float[Tensor, "pos ..."]]:
    """Attribution patching of whole activations: the estimated effect of every number in them.

    Sum over what is patched together: over d_model for a position, over d_head for a head.

    Args: names: hook names, such as `transformer.mlp_post(layer)` for all layers.
    Returns: by hook name, the activation's layout without batch and padding, in float32 or wider; NaN at positions
        that were not chosen.
    Cost: two forward passes and one backward for all hook points together.
    """
    sweep = Sweep.between(model, clean_tokens, corrupted_tokens, target, **settings)
    return sweep.estimates(sweep.clean_run(list(dict.fromkeys(names))))
