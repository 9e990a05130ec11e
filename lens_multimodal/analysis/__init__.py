"""Measuring: attribution, decoding, receptive fields, logit lens, and how far to trust them."""

from lens_multimodal.analysis.ablation_effect import Ablation, ablation_effects
from lens_multimodal.analysis.attribution import (
    REDUCTIONS,
    SCORES,
    neuron_attribution,
    neuron_attribution_by_row,
    top_neurons,
    top_neurons_by_row,
)
from lens_multimodal.analysis.component_attribution import head_attribution, position_attribution
from lens_multimodal.analysis.decoding import (
    decode_layers,
    decode_neurons,
    nearest_embeddings,
    read_out_tokens,
)
from lens_multimodal.analysis.dictionary import is_interpretable, is_word
from lens_multimodal.analysis.faithfulness import Faithfulness, faithfulness
from lens_multimodal.analysis.gradients import ActivationXGradient
from lens_multimodal.analysis.image_geometry import Box, ImageGeometry
from lens_multimodal.analysis.integrated_gradients import IntegratedGradients
from lens_multimodal.analysis.logit_lens import LogitLens, logit_lens
from lens_multimodal.analysis.memory import MemoryEstimate, estimate_attribution
from lens_multimodal.analysis.neuron_inputs import driving_tokens, upstream_neurons
from lens_multimodal.analysis.read_out_scores import (
    ActivationXDecoded,
    DirectEffect,
    LocalDirectEffect,
)
from lens_multimodal.analysis.receptive_field import (
    ReceptiveField,
    intersection_over_union,
    neuron_activations,
    receptive_field,
)
from lens_multimodal.analysis.targets import (
    CaptionToken,
    CentredLogit,
    Logit,
    LogitDifference,
    LogitScalar,
    LogProbability,
)
from lens_multimodal.analysis.token_text import token_strings
from lens_multimodal.analysis.vocabulary_search import TopTokens

__all__ = [
    "REDUCTIONS",
    "SCORES",
    "Ablation",
    "ActivationXDecoded",
    "ActivationXGradient",
    "Box",
    "CaptionToken",
    "CentredLogit",
    "DirectEffect",
    "Faithfulness",
    "ImageGeometry",
    "IntegratedGradients",
    "LocalDirectEffect",
    "LogProbability",
    "Logit",
    "LogitDifference",
    "LogitLens",
    "LogitScalar",
    "MemoryEstimate",
    "ReceptiveField",
    "TopTokens",
    "ablation_effects",
    "decode_layers",
    "decode_neurons",
    "driving_tokens",
    "estimate_attribution",
    "faithfulness",
    "head_attribution",
    "intersection_over_union",
    "is_interpretable",
    "is_word",
    "logit_lens",
    "nearest_embeddings",
    "neuron_activations",
    "neuron_attribution",
    "neuron_attribution_by_row",
    "position_attribution",
    "read_out_tokens",
    "receptive_field",
    "token_strings",
    "top_neurons",
    "top_neurons_by_row",
    "upstream_neurons",
]
