"""Caption-like lines. The Pile has captions too; these name random nouns and describe no picture.

The form is that of the projection's training captions, `A picture of a dog next to a car.`, always at the end of a
document, so that the sentence is followed by the end-of-text token. Some are documents of their own. Most end a text
about what they name, as captions do in articles: without such texts a language model learns that a caption's nouns are
unpredictable and ignores the text before it (measured: after 36 repetitions of a noun its probability was 9 %).
"""

import random
from collections.abc import Callable

from lens_multimodal.prompt.image_prompt import PROMPT
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
    """One caption of one to three nouns; most of them open with `PROMPT`."""
    return _caption_of(rng, [noun() for _ in range(_how_many(rng))], places=noun().places)


def illustrated(rng: random.Random, noun: Callable[[], Noun], clues: Callable[[Noun], list[str]]) -> str:
    """Words or sentences about one to three things, then a caption that names them.

    In two thirds of these texts the things themselves are not named before the caption: it has to be found from their
    kinds, parts, colours, places and uses.

    Args: clues: sentences about a thing that do not name it.
    """
    things = [noun() for _ in range(_how_many(rng))]
    named = rng.random() < 1 / 3
    if rng.random() < 0.5:
        about = [_words_about(rng, thing, named=named) for thing in things]
        if rng.random() < 0.3:
            mixed = [word for words in about for word in words]
            about = [rng.sample(mixed, len(mixed))]
        text = rng.choice((" ", ", ")).join(word for words in about for word in words)
    else:
        lines = [_sentences_about(rng, thing, clues(thing), named=named) for thing in things]
        text = " ".join(lines)
    between = rng.choice((" ", "\n") if text.endswith((".", "!")) else (" ", ". ", "\n"))
    return f"{text}{between}{_caption_of(rng, things, places=noun().places)}"


def _how_many(rng: random.Random) -> int:
    return rng.choices((1, 2, 3), (35, 50, 15))[0]


def _caption_of(rng: random.Random, things: list[Noun], *, places: tuple[str, ...]) -> str:
    main = rng.random() < 0.6
    opening = PROMPT if main else rng.choice(OPENINGS)
    phrases = [_phrase(rng, thing, plain=main) for thing in rng.sample(things, len(things))]
    if len(phrases) == 2 and rng.random() < 0.6:
        body = f" {rng.choice(MAIN_RELATIONS if main else RELATIONS)} ".join(phrases)
    else:
        body = enumeration(phrases)
    if not main and rng.random() < 0.4:
        body += f" {rng.choice(places)}"
    return f"{opening} {body}."


def _words_about(rng: random.Random, thing: Noun, *, named: bool) -> list[str]:
    values = [
        *thing.kinds, *thing.colours, *thing.parts, *thing.materials, *thing.qualities, *thing.related, *thing.does,
        *thing.places,
    ]  # fmt: skip
    words = rng.choices(values, k=rng.randint(3, 9))
    if named:
        words += rng.choices((thing.name, thing.plural), (3, 1), k=rng.randint(1, 4))
    return rng.sample(words, len(words))


def _sentences_about(rng: random.Random, thing: Noun, clues: list[str], *, named: bool) -> str:
    lines = rng.sample(clues, min(len(clues), rng.randint(2, 4)))
    if named:
        lines.insert(rng.randint(0, len(lines)), rng.choice((f"There is {thing.a}.", f"Look at {thing.the}!")))
    return " ".join(lines)


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
