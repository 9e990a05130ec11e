"""The scores as objects, by the names of `arguments.score_names`."""

from importlib import import_module
from typing import Any

from lens_multimodal.analysis.attribution.attribution_inputs import Score
from lens_multimodal.arguments.score_names import SCORE_CLASSES


def _with_default_settings(place: str) -> Score:
    module, _, name = place.partition(".")
    score: Score = getattr(import_module(f"{__package__}.{module}"), name)()
    return score


SCORES: dict[str, Score] = {name: _with_default_settings(place) for name, place in SCORE_CLASSES.items()}
"""Scores by name, with their default settings. The first is the paper's."""

COMPARED = ("activation_x_gradient", "activation_x_decoded", "local_direct_effect", "integrated_gradients")
"""The scores that `faithfulness` compares by default: `direct_effect` is zero at image positions, and `ablation` is
what the others are compared with."""


def read_score(score: Any) -> Score:
    """A score by name, or the object itself. Raises: ValueError for an unknown name; TypeError for anything else."""
    if isinstance(score, str):
        if score not in SCORES:
            raise ValueError(f"unknown score {score!r}; there are {', '.join(SCORES)}")
        return SCORES[score]
    if not callable(score) or isinstance(score, type):
        raise TypeError(
            f"expected the name of a score or a score object such as IntegratedGradients(steps=16), got {score!r}"
        )
    return score
