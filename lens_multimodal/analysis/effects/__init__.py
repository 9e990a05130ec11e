"""What an intervention did, and whether random interventions of the same size do it too."""

from lens_multimodal.analysis.effects.against_random import (
    Case,
    effects_against_random,
    effects_over,
    summary_against_random,
)
from lens_multimodal.analysis.effects.bootstrap import Interval, bootstrap_interval
from lens_multimodal.analysis.effects.caption_effect import (
    CaptionCase,
    CaptionEffect,
    caption_effect_of,
    caption_effects_against_random,
)
from lens_multimodal.analysis.effects.prediction_effect import Effect, effect_of, effects_of
from lens_multimodal.analysis.effects.similarity import BertScore, SentenceCosine, Similarity, WordOverlap

__all__ = [
    "BertScore",
    "CaptionCase",
    "CaptionEffect",
    "Case",
    "Effect",
    "Interval",
    "SentenceCosine",
    "Similarity",
    "WordOverlap",
    "bootstrap_interval",
    "caption_effect_of",
    "caption_effects_against_random",
    "effect_of",
    "effects_against_random",
    "effects_of",
    "effects_over",
    "summary_against_random",
]
