"""Activation patching: copy an activation from one run into another.

    clean = record(model, clean_tokens, [transformer.resid_pre(8)])
    hooks = patch_resid_pre([8], model, run=clean, positions=dog_patches, source_positions=cat_patches)
    with model.hooks(fwd_hooks=hooks):
        logits = model(corrupted_tokens)

`run` holds the activations to copy ("clean" when patching clean into corrupted); the prompt run under the hooks is
the one patched. With `source_positions`, image patches move between pictures: the i-th source position of the run
goes to the i-th position here. Runs of unequal length are fine as long as positions are given.
"""

from collections.abc import Sequence

from torch import nn

from lens_multimodal import transformer
from lens_multimodal.arguments.positions import Positions, read_positions
from lens_multimodal.arguments.units import Heads, Neurons, read_layers
from lens_multimodal.hooks.ablate import ablate, ablate_heads, replace_sites
from lens_multimodal.hooks.replacement import Activations, Resample


def patch_resid_pre(
    model: nn.Module,
    layers: int | Sequence[int] | None,
    *,
    run: Activations,
    positions: Positions = None,
    source_positions: Positions = None,
) -> list[transformer.NamedHook]:
    """Copy the residual stream entering some layers.

    Args:
        layers: None for all.
        run: activations by hook name, from `record` or a TransformerLens cache.
        positions: where to write; None everywhere (the runs must have equal length).
        source_positions: where to read; None for the same positions.
    Raises: ValueError for layers, positions or hook names that do not exist, a run of another model, or unequally
        many positions.
    """
    return _patch_sites(
        model, [transformer.resid_pre(i) for i in read_layers(model, layers)], run, positions, source_positions
    )


def patch_mlp_out(
    model: nn.Module,
    layers: int | Sequence[int] | None,
    *,
    run: Activations,
    positions: Positions = None,
    source_positions: Positions = None,
) -> list[transformer.NamedHook]:
    """Copy what the MLPs of some layers write; settings as in `patch_resid_pre`."""
    return _patch_sites(
        model, [transformer.mlp_out(i) for i in read_layers(model, layers)], run, positions, source_positions
    )


def patch_attn_out(
    model: nn.Module,
    layers: int | Sequence[int] | None,
    *,
    run: Activations,
    positions: Positions = None,
    source_positions: Positions = None,
) -> list[transformer.NamedHook]:
    """Copy what the attention of some layers writes; settings as in `patch_resid_pre`."""
    return _patch_sites(
        model, [transformer.attn_out(i) for i in read_layers(model, layers)], run, positions, source_positions
    )


def patch_neurons(
    model: nn.Module,
    neurons: Neurons,
    *,
    run: Activations,
    positions: Positions = None,
    source_positions: Positions = None,
) -> list[transformer.NamedHook]:
    """Copy the activations of MLP neurons; settings as in `patch_resid_pre`."""
    return ablate(model, neurons, to=_source(run, positions, source_positions), positions=positions)


def patch_heads(
    model: nn.Module,
    heads: Heads,
    *,
    run: Activations,
    positions: Positions = None,
    source_positions: Positions = None,
) -> list[transformer.NamedHook]:
    """Copy the outputs of attention heads; settings as in `patch_resid_pre`."""
    return ablate_heads(model, heads, to=_source(run, positions, source_positions), positions=positions)


def _patch_sites(
    model: nn.Module, names: list[str], run: Activations, positions: Positions, source_positions: Positions
) -> list[transformer.NamedHook]:
    return replace_sites(model, names, to=_source(run, positions, source_positions), positions=positions)


def _source(run: Activations, positions: Positions, source_positions: Positions) -> Resample:
    if source_positions is None:
        return Resample(run)
    to, take = read_positions(positions), read_positions(source_positions)
    if to.listed is None or take.listed is None:
        raise ValueError("source_positions need both sides listed: give positions and source_positions with an end")
    if len(to.listed) != len(take.listed):
        raise ValueError(
            f"{len(take.listed)} source positions cannot be copied to {len(to.listed)} positions one by one"
        )
    return Resample(run, source_positions=take)
