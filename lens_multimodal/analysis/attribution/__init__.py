"""Which neurons, heads and positions a prediction comes from, by which score, and whether to believe it."""

from lens_multimodal.analysis.attribution.ablation_effect import Ablation, ablation_effects
from lens_multimodal.analysis.attribution.components import head_attribution, position_attribution
from lens_multimodal.analysis.attribution.faithfulness import Faithfulness, faithfulness
from lens_multimodal.analysis.attribution.gradients import ActivationXGradient
from lens_multimodal.analysis.attribution.integrated_gradients import IntegratedGradients
from lens_multimodal.analysis.attribution.memory import MemoryEstimate, estimate_attribution
from lens_multimodal.analysis.attribution.read_out_scores import ActivationXDecoded, DirectEffect, LocalDirectEffect
from lens_multimodal.analysis.attribution.top_neurons import (
    REDUCTIONS,
    SCORES,
    neuron_attribution,
    neuron_attribution_by_row,
    top_neurons,
    top_neurons_by_row,
)

__all__ = [
    "REDUCTIONS",
    "SCORES",
    "Ablation",
    "ActivationXDecoded",
    "ActivationXGradient",
    "DirectEffect",
    "Faithfulness",
    "IntegratedGradients",
    "LocalDirectEffect",
    "MemoryEstimate",
    "ablation_effects",
    "estimate_attribution",
    "faithfulness",
    "head_attribution",
    "neuron_attribution",
    "neuron_attribution_by_row",
    "position_attribution",
    "top_neurons",
    "top_neurons_by_row",
]
