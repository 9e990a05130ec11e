"""Activation patching: copy an activation from one run into another.

    clean = record(model, clean_tokens, [transformer.resid_pre(8)])
    hooks = patch_resid_pre(model, 8, run=clean, positions=dog_patches, source_positions=cat_patches)
    with model.hooks(fwd_hooks=hooks):
        logits = model(corrupted_tokens)

`run` holds the activations to copy ("clean" when patching clean into corrupted); the prompt run under the hooks is
the one patched. With `source_positions`, image patches move between pictures: the i-th source position of the run
goes to the i-th position here. Runs may differ in length if positions are given.
"""

from torch.nn import Module

from lens_multimodal import transformer
from lens_multimodal.arguments.boundary import ArgumentValueError, public
from lens_multimodal.arguments.positions import Positions, read_positions
from lens_multimodal.arguments.units import Heads, Layers, Neurons
from lens_multimodal.hooks.ablate import ablate, ablate_attention, ablate_heads, ablate_mlp, replace_sites
from lens_multimodal.hooks.replacement import Activations, Resample


@public
def patch_resid_pre(
    model: Module, layers: Layers, *, run: Activations, positions: Positions = None, source_positions: Positions = None
) -> list[transformer.NamedHook]:
    """Copy the residual stream entering some layers.

    Args:
        layers: None for all.
        run: activations by hook name, from `record` or a TransformerLens cache.
        positions: where to write; None everywhere (the runs must have equal length).
        source_positions: where to read; None for the same positions.
    Raises: ValueError for layers, positions or hook names that do not exist, a run of another model, or if positions
        and source positions differ in number.
    """
    to = _copies(run, positions, source_positions)
    return replace_sites(model, transformer.resid_pre, layers, to=to, positions=positions)


@public
def patch_mlp_out(
    model: Module, layers: Layers, *, run: Activations, positions: Positions = None, source_positions: Positions = None
) -> list[transformer.NamedHook]:
    """Copy what the MLPs of some layers write; settings as in `patch_resid_pre`."""
    return ablate_mlp(model, layers, to=_copies(run, positions, source_positions), positions=positions)


@public
def patch_attn_out(
    model: Module, layers: Layers, *, run: Activations, positions: Positions = None, source_positions: Positions = None
) -> list[transformer.NamedHook]:
    """Copy what the attention of some layers writes; settings as in `patch_resid_pre`."""
    return ablate_attention(model, layers, to=_copies(run, positions, source_positions), positions=positions)


@public
def patch_neurons(
    model: Module,
    neurons: Neurons,
    *,
    run: Activations,
    positions: Positions = None,
    source_positions: Positions = None,
) -> list[transformer.NamedHook]:
    """Copy the activations of MLP neurons; settings as in `patch_resid_pre`."""
    return ablate(model, neurons, to=_copies(run, positions, source_positions), positions=positions)


@public
def patch_heads(
    model: Module, heads: Heads, *, run: Activations, positions: Positions = None, source_positions: Positions = None
) -> list[transformer.NamedHook]:
    """Copy the outputs of attention heads; settings as in `patch_resid_pre`."""
    return ablate_heads(model, heads, to=_copies(run, positions, source_positions), positions=positions)


def _copies(run: Activations, positions: Positions, source_positions: Positions) -> Resample:
    if source_positions is None:
        return Resample(run)
    to, take = read_positions(positions), read_positions(source_positions, name="source_positions")
    if to.open_ended:
        raise ArgumentValueError(
            "they are copied one by one, so positions need an end too, such as a list or slice(2, 5)",
            "source_positions",
        )
    if None not in (to.count, take.count) and to.count != take.count:
        raise ArgumentValueError(
            f"{take.count} source positions cannot be copied to {to.count} positions one by one", "source_positions"
        )
    return Resample(run, source_positions=take)
