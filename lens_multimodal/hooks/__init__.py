"""Interventions as TransformerLens hooks: builders return `(hook name, function)` pairs to be added together."""

from lens_multimodal.arguments.units import read_heads, read_neurons
from lens_multimodal.hooks.ablate import ablate, ablate_attention, ablate_heads, ablate_mlp, ablate_positions
from lens_multimodal.hooks.activation_patching import (
    patch_attn_out,
    patch_heads,
    patch_mlp_out,
    patch_neurons,
    patch_resid_pre,
)
from lens_multimodal.hooks.attention import CutHadNoEffect, cut_attention, freeze_attention
from lens_multimodal.hooks.knowledge_edit import edit_knowledge
from lens_multimodal.hooks.path_patching import patch_path
from lens_multimodal.hooks.random_neurons import random_neurons_like
from lens_multimodal.hooks.record import mean_activations, observe, record
from lens_multimodal.hooks.replacement import Mean, Resample, Zero, shuffled
from lens_multimodal.hooks.steer import add_vector, scale, set_to, steer, write_vector

__all__ = [
    "CutHadNoEffect",
    "Mean",
    "Resample",
    "Zero",
    "ablate",
    "ablate_attention",
    "ablate_heads",
    "ablate_mlp",
    "ablate_positions",
    "add_vector",
    "cut_attention",
    "edit_knowledge",
    "freeze_attention",
    "mean_activations",
    "observe",
    "patch_attn_out",
    "patch_heads",
    "patch_mlp_out",
    "patch_neurons",
    "patch_path",
    "patch_resid_pre",
    "random_neurons_like",
    "read_heads",
    "read_neurons",
    "record",
    "scale",
    "set_to",
    "shuffled",
    "steer",
    "write_vector",
]
