"""The scores by name: to add one, write its class and enter it here."""

from typing import Any

from lens_multimodal.analysis.attribution.ablation_effect import Ablation
from lens_multimodal.analysis.attribution.attribution_inputs import Score
from lens_multimodal.analysis.attribution.direct_effects import ActivationXDecoded, DirectEffect, LocalDirectEffect
from lens_multimodal.analysis.attribution.gradients import ActivationXGradient
from lens_multimodal.analysis.attribution.integrated_gradients import IntegratedGradients

SCORES: dict[str, Score] = {
    "activation_x_gradient": ActivationXGradient(),
    "activation_x_decoded": ActivationXDecoded(),
    "local_direct_effect": LocalDirectEffect(),
    "direct_effect": DirectEffect(),
    "integrated_gradients": IntegratedGradients(),
    "ablation": Ablation(),
}
"""Scores by name, with their default settings. The first is the paper's."""

COMPARED = ("activation_x_gradient", "activation_x_decoded", "local_direct_effect", "integrated_gradients")
"""The scores that `faithfulness` compares by default: `direct_effect` is zero at image positions, and `ablation` is
what the others are compared with."""


def read_score(score: Any) -> Score:
    """A score by name, or the object itself. Raises: ValueError for an unknown name; TypeError for no score."""
    if isinstance(score, str):
        if score not in SCORES:
            raise ValueError(f"unknown score {score!r}; there are {', '.join(SCORES)}")
        return SCORES[score]
    if not callable(score) or isinstance(score, type):
        raise TypeError(
            f"expected the name of a score or a score object such as IntegratedGradients(steps=16), got {score!r}"
        )
    return score
