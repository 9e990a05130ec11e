"""What an intervention did, and whether random interventions of the same size do it too."""

from lens_multimodal.analysis.effects.bootstrap import Interval, bootstrap_interval
from lens_multimodal.analysis.effects.controls import Case, effects_against_random, effects_over, summary_against_random
from lens_multimodal.analysis.effects.prediction import Effect, effect_of

__all__ = [
    "Case",
    "Effect",
    "Interval",
    "bootstrap_interval",
    "effect_of",
    "effects_against_random",
    "effects_over",
    "summary_against_random",
]
