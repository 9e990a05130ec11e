"""Scenes with exact masks, composed on the fly from cut-outs."""

from lens_multimodal.prompt.image_prompt import PROMPT
from recipes.tiny.scenes.captions import continuation, relation, with_article, words_of
from recipes.tiny.scenes.compose import NATURAL, SLOTS, STRONG, Look, Scenes, choose, compose, compose_with_removals
from recipes.tiny.scenes.cutouts import SPLITS, CutOuts, load, of_pixels

__all__ = [
    "NATURAL",
    "PROMPT",
    "SLOTS",
    "SPLITS",
    "STRONG",
    "CutOuts",
    "Look",
    "Scenes",
    "choose",
    "compose",
    "compose_with_removals",
    "continuation",
    "load",
    "of_pixels",
    "relation",
    "with_article",
    "words_of",
]
