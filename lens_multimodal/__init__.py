"""See how a text-only transformer sees: images as tokens of any TransformerLens model."""

from lens_multimodal.analysis import (
    decode_neurons,
    faithfulness,
    logit_lens,
    nearest_embeddings,
    neuron_attribution,
    receptive_field,
    top_neurons,
)
from lens_multimodal.attach import attach_vision
from lens_multimodal.hooks import ablate, cut_attention, edit_knowledge, patch_resid_pre, scale, steer
from lens_multimodal.lens import VisionLens
from lens_multimodal.model.generation import Sampling
from lens_multimodal.model.hooked import hooked_gpt_j
from lens_multimodal.model.image_prompt import ImagePrompt
from lens_multimodal.model.projection import Projection, load_linear, save_linear
from lens_multimodal.model.vision import Preprocessing, VisionEncoder

__version__ = "0.1.0"

__all__ = [
    "ImagePrompt",
    "Preprocessing",
    "Projection",
    "Sampling",
    "VisionEncoder",
    "VisionLens",
    "ablate",
    "attach_vision",
    "cut_attention",
    "decode_neurons",
    "edit_knowledge",
    "faithfulness",
    "hooked_gpt_j",
    "load_linear",
    "logit_lens",
    "nearest_embeddings",
    "neuron_attribution",
    "patch_resid_pre",
    "receptive_field",
    "save_linear",
    "scale",
    "steer",
    "top_neurons",
]
