"""The cloze test of word knowledge: which kind, colour or part belongs to a noun?

No template of the grammar contains the frames below, so no item's sentence is in the generated text. Its *fact* usually
is, in other words (`told: true`). No generated sentence states a withheld fact (`told: false`); only real text, or what
similar nouns share, can help.
"""

import random
from collections import Counter
from typing import Any

from recipes.tiny.text.knowledge import CLOZE_FIELDS, Fact, Noun
from recipes.tiny.text.words import article

FRAMES = {
    "kinds": "Everybody in the class agreed that, of all kinds of thing, {a} must surely be called {article}",
    "colours": "If somebody asks for its usual paint, the {noun} gets the colour",
    "parts": "The child drew the whole {noun} and forgot only the",
}
CHOICES = 4
PER_FIELD = 200
COMMON_KINDS = (
    "animal", "fruit", "vehicle", "tool", "building", "device", "container", "plant", "toy", "bird", "drink",
    "weapon", "insect", "dessert", "machine", "vegetable", "musical instrument", "piece of furniture",
    "piece of clothing", "part of the body",
)  # fmt: skip
BASIC_COLOURS = ("red", "green", "blue", "yellow", "black", "white", "brown", "pink", "grey", "orange")


def items(nouns: list[Noun], withheld: list[Fact], *, seed: int) -> list[dict[str, Any]]:
    """Up to 200 told items per field, and every withheld fact that fits the answers' vocabulary.

    Returns: `field`, `noun`, `prompt`, `choices` (continuations with their leading space), `answer` (an index) and
    `told`. The right answer is one of four choices; the others are answers to other items, and false for this noun.
    """
    rng = random.Random(f"cloze {seed}")
    gone = set(withheld)
    answers = {field: _answers(nouns, field) for field in CLOZE_FIELDS}
    told: list[dict[str, Any]] = []
    untold: list[dict[str, Any]] = []
    for field in CLOZE_FIELDS:
        found = []
        for noun in rng.sample(nouns, len(nouns)):
            values = [v for v in getattr(noun, field) if v in answers[field]]
            for value in values:
                if Fact(noun.name, field, value) in gone:
                    untold.append(_item(noun, field, value, answers[field], rng, told=False))
            kept = [v for v in values if Fact(noun.name, field, v) not in gone]
            if kept and noun.number == "count":
                found.append(_item(noun, field, rng.choice(kept), answers[field], rng, told=True))
        told += found[:PER_FIELD]
    return told + untold


def _answers(nouns: list[Noun], field: str) -> dict[str, int]:
    """The possible answers, and the number of nouns that each fits."""
    counts = Counter(value for noun in nouns for value in getattr(noun, field))
    if field == "kinds":
        return {kind: counts[kind] for kind in COMMON_KINDS}
    if field == "colours":
        return {colour: counts[colour] for colour in BASIC_COLOURS}
    return {part: n for part, n in counts.items() if n >= 5}


def _item(
    noun: Noun, field: str, value: str, answers: dict[str, int], rng: random.Random, *, told: bool
) -> dict[str, Any]:
    true = set(getattr(noun, field))
    false = [answer for answer in answers if answer not in true and not _overlaps(answer, true)]
    # As frequent as they are right answers elsewhere, so that knowing the common answers does not help.
    wrong: list[str] = []
    while len(wrong) < CHOICES - 1:
        draw = rng.choices(false, [answers[answer] for answer in false])[0]
        if draw not in wrong:
            wrong.append(draw)
    choices = [value, *wrong]
    rng.shuffle(choices)
    prompt = FRAMES[field].format(noun=noun.name, a=noun.a, article="{article}")
    spoken = [f" {choice}" for choice in choices]
    if field == "kinds":
        prompt = prompt.removesuffix(" {article}")
        spoken = [f" {article(choice)} {choice}" for choice in choices]
    return {
        "field": field, "noun": noun.name, "prompt": prompt, "choices": spoken,
        "answer": choices.index(value), "told": told,
    }  # fmt: skip


def _overlaps(answer: str, true: set[str]) -> bool:
    """`animal` is not false for a `farm animal`, nor `device` for a `machine`."""
    siblings = {"machine": "device", "device": "machine", "tool": "device", "toy": "device"}
    words = {word for value in true for word in value.split()}
    return answer.split()[-1] in words or siblings.get(answer) in true
