"""Activation patching over many cells, and its first-order estimate."""

from lens_multimodal.analysis.patching.cells import PatchSweep
from lens_multimodal.analysis.patching.sweeps import (
    act_patch_attn_out,
    act_patch_heads,
    act_patch_heads_by_position,
    act_patch_mlp_out,
    act_patch_neurons,
    act_patch_neurons_by_position,
    act_patch_resid_pre,
    attribution_patch,
)

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
