"""Caption-like lines. The Pile has captions too; these name random nouns and no picture stands behind them.

The form is that of the projection's training captions, `A picture of a dog next to a car.`, always one to a document,
so that the sentence is followed by the end-of-text token. Each noun takes its article by `words.article`.
"""

import random
from collections.abc import Callable

from recipes.tiny.text.knowledge import Noun
from recipes.tiny.text.words import enumeration, with_article

OPENINGS = (
    "a photo of", "A photo of", "a picture of", "An image of", "a drawing of", "A drawing of", "A painting of",
    "A photograph of", "This is a picture of", "The picture shows", "In this picture there is", "Here you see",
    "a close view of", "A small picture of", "The photo shows", "In the photo we see", "An old photo of", "A sketch of",
)  # fmt: skip
RELATIONS = (
    "next to", "next to", "next to", "above", "below", "beside", "near", "behind", "in front of", "on", "under",
    "between a wall and", "to the left of", "to the right of", "on top of",
)  # fmt: skip
MAIN_RELATIONS = ("next to", "above", "below")


def caption(rng: random.Random, noun: Callable[[], Noun]) -> str:
    """One caption of one to three nouns; half of them open with `A picture of`."""
    main = rng.random() < 0.6
    opening = "A picture of" if main else rng.choice(OPENINGS)
    form = rng.random()
    if form < 0.35:
        body = _phrase(rng, noun(), plain=main)
    elif form < 0.55:
        body = f"{_phrase(rng, noun(), plain=main)} and {_phrase(rng, noun(), plain=main)}"
    elif form < 0.7:
        body = enumeration([_phrase(rng, noun(), plain=main) for _ in range(3)])
    else:
        relation = rng.choice(MAIN_RELATIONS if main else RELATIONS)
        body = f"{_phrase(rng, noun(), plain=main)} {relation} {_phrase(rng, noun(), plain=main)}"
    if not main and rng.random() < 0.4:
        body += f" {rng.choice(noun().places)}"
    return f"{opening} {body}."


def alternatives(rng: random.Random, noun: Callable[[], Noun]) -> str:
    """The same scene said twice."""
    one, two = noun(), noun()
    a, b = _phrase(rng, one, plain=False), _phrase(rng, two, plain=False)
    over, under = rng.choice([("above", "below"), ("on top of", "under"), ("to the left of", "to the right of")])
    return rng.choice(
        [
            f"There is {a} {over} {b}. So {b} is {under} {a}.",
            f"What is in the picture? {a[0].upper() + a[1:]} and {b}.",
            f"What do you see? I see {a} {over} {b}.",
            f"Is there {a} in the picture? Yes, there is {a} next to {b}.",
            f"Is there {a} in the picture? No, there is only {b}.",
        ]
    )


def _phrase(rng: random.Random, noun: Noun, *, plain: bool) -> str:
    if plain or noun.number != "count" or rng.random() < 0.4:
        return with_article(noun.name) if plain and rng.random() < 0.8 else noun.a
    return with_article(f"{rng.choice([*noun.colours, *noun.qualities, noun.size])} {noun.name}")
