"""Captions of composed scenes, from nouns and centres alone."""

from collections.abc import Sequence
from random import Random

CLEAR = 0.18
"""Two objects have a relation that can be named when their centres differ by this share of the side."""
_VOWEL_SOUND = frozenset({"hour", "hourglass", "heir", "honour", "honor"})
_CONSONANT_SOUND = ("uni", "use", "eu", "ewe", "one-", "once", "uku")
_UNLIKE_UNI = ("unin", "unim")


def continuation(nouns: Sequence[str], centres: Sequence[tuple[float, float]], *, random: Random) -> str:
    """What follows the prompt: " a dog.", " a dog and a car.", " a dog above a car.", " a dog, a car and an apple."

    Two objects are listed half of the time; otherwise they are related, if their places allow it: "above" and "below"
    if the vertical distance is larger, "next to" if the horizontal one is.

    Args:
        nouns: one for each visible object, in the order in which they are named.
        centres: (x, y) of each, as shares of the side, y downwards.
    Raises: ValueError if there is no noun, or not one centre for each.
    """
    if not nouns or len(nouns) != len(centres):
        raise ValueError(
            f"{len(nouns)} nouns and {len(centres)} centres; expected one centre for each noun, at least one"
        )
    phrases = [with_article(noun) for noun in nouns]
    if len(phrases) == 2 and random.random() < 0.5:
        between = relation(centres[0], centres[1])
        if between is not None:
            return f" {phrases[0]} {between} {phrases[1]}."
    if len(phrases) == 1:
        return f" {phrases[0]}."
    return f" {', '.join(phrases[:-1])} and {phrases[-1]}."


def words_of(caption: str) -> list[str]:
    """A caption's words in their order, lower case, without stops and commas."""
    return caption.lower().replace(",", " ").replace(".", " ").split()


def relation(first: tuple[float, float], second: tuple[float, float]) -> str | None:
    """Where the first is relative to the second: "above", "below", "next to", or None if they are too close."""
    across, down = second[0] - first[0], second[1] - first[1]
    if max(abs(across), abs(down)) < CLEAR:
        return None
    if abs(across) >= abs(down):
        return "next to"
    return "above" if down > 0 else "below"


def with_article(noun: str) -> str:
    """The noun with "a" or "an", by its first sound."""
    if not noun:
        raise ValueError("the noun is empty")
    word = noun.split()[0].lower()
    glide = word.startswith(_CONSONANT_SOUND) and not word.startswith(_UNLIKE_UNI)
    vowel = (word[0] in "aeiou" and not glide) or word in _VOWEL_SOUND
    return f"{'an' if vowel else 'a'} {noun}"
