"""Measuring: attribution, decoding, receptive fields, effects of interventions, and how reliable they are."""

from lens_multimodal.analysis.attribution.ablation_effect import Ablation, ablation_effects
from lens_multimodal.analysis.attribution.components import head_attribution, position_attribution
from lens_multimodal.analysis.attribution.direct_effects import ActivationXDecoded, DirectEffect, LocalDirectEffect
from lens_multimodal.analysis.attribution.faithfulness import Faithfulness, faithfulness
from lens_multimodal.analysis.attribution.gradients import ActivationXGradient
from lens_multimodal.analysis.attribution.integrated_gradients import IntegratedGradients
from lens_multimodal.analysis.attribution.memory import MemoryEstimate, estimate_attribution
from lens_multimodal.analysis.attribution.neuron_attribution import (
    neuron_attribution,
    neuron_attribution_by_row,
    top_neurons,
    top_neurons_by_row,
)
from lens_multimodal.analysis.attribution.scores import SCORES
from lens_multimodal.analysis.decoding import (
    LogitLens,
    TopTokens,
    decode_layers,
    decode_neurons,
    driving_tokens,
    is_interpretable,
    is_word,
    logit_lens,
    nearest_embeddings,
    neuron_directions,
    token_strings,
    unembed_tokens,
    upstream_neurons,
    writes_whole_words,
)
from lens_multimodal.analysis.effects.against_random import (
    CaptionCase,
    Case,
    caption_effects_against_random,
    effects_against_random,
    effects_over,
    summary_against_random,
)
from lens_multimodal.analysis.effects.bootstrap import Interval, bootstrap_interval
from lens_multimodal.analysis.effects.caption_effect import CaptionEffect, caption_effect_of
from lens_multimodal.analysis.effects.prediction_effect import Effect, effect_of, effects_of
from lens_multimodal.analysis.effects.similarity import BertScore, SentenceCosine, Similarity, WordOverlap
from lens_multimodal.analysis.image_regions import mean_image_vector, patches_of
from lens_multimodal.analysis.patching.patch_sweep import PatchSweep
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
from lens_multimodal.analysis.receptive_fields import (
    ReceptiveField,
    intersection_over_union,
    neuron_activations,
    receptive_field,
)
from lens_multimodal.arguments.score_names import REDUCTIONS
from lens_multimodal.arguments.targets import (
    CaptionToken,
    CentredLogit,
    Logit,
    LogitDifference,
    LogitScalar,
    LogProbability,
)
from lens_multimodal.image.geometry import Box, ImageGeometry

__all__ = [
    "REDUCTIONS",
    "SCORES",
    "Ablation",
    "ActivationXDecoded",
    "ActivationXGradient",
    "BertScore",
    "Box",
    "CaptionCase",
    "CaptionEffect",
    "CaptionToken",
    "Case",
    "CentredLogit",
    "DirectEffect",
    "Effect",
    "Faithfulness",
    "ImageGeometry",
    "IntegratedGradients",
    "Interval",
    "LocalDirectEffect",
    "LogProbability",
    "Logit",
    "LogitDifference",
    "LogitLens",
    "LogitScalar",
    "MemoryEstimate",
    "PatchSweep",
    "ReceptiveField",
    "SentenceCosine",
    "Similarity",
    "TopTokens",
    "WordOverlap",
    "ablation_effects",
    "act_patch_attn_out",
    "act_patch_heads",
    "act_patch_heads_by_position",
    "act_patch_mlp_out",
    "act_patch_neurons",
    "act_patch_neurons_by_position",
    "act_patch_resid_pre",
    "attribution_patch",
    "bootstrap_interval",
    "caption_effect_of",
    "caption_effects_against_random",
    "decode_layers",
    "decode_neurons",
    "driving_tokens",
    "effect_of",
    "effects_against_random",
    "effects_of",
    "effects_over",
    "estimate_attribution",
    "faithfulness",
    "head_attribution",
    "intersection_over_union",
    "is_interpretable",
    "is_word",
    "logit_lens",
    "mean_image_vector",
    "nearest_embeddings",
    "neuron_activations",
    "neuron_attribution",
    "neuron_attribution_by_row",
    "neuron_directions",
    "patches_of",
    "position_attribution",
    "receptive_field",
    "summary_against_random",
    "token_strings",
    "top_neurons",
    "top_neurons_by_row",
    "unembed_tokens",
    "upstream_neurons",
    "writes_whole_words",
]
