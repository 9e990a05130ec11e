"""Tiny stories and dialogues: a few people, a few things, and what happens to them."""

import random
import re
from collections.abc import Callable

from recipes.tiny.text.knowledge import Noun
from recipes.tiny.text.words import capital, gerund, past, with_article, word_list

GIRLS = word_list(
    """
    Anna Mary Lily Emma Sara Lucy Nora Clara Ida Ruth Ella Jane Rosa Kate Alice Julia Mia Zoe Lena Grace
    Maya Olga Ines Fatima Mei Amara Priya Hana Leila Sofia
    """
)
BOYS = word_list(
    """
    Tom Ben Jack Peter Paul Max Leo Sam David John Adam Noah Oscar Felix Henry Karl Theo Luke Hugo George
    Omar Ravi Kenji Kofi Ivan Diego Amir Chen Yusuf Mateo
    """
)
OTHERS = (
    "the old woman", "the baker", "the farmer", "the teacher", "the little girl", "the boy next door", "my uncle",
    "my aunt", "the king", "the doctor", "the sailor", "grandmother", "grandfather", "the painter", "the neighbour",
    "the shopkeeper", "the gardener", "the thief", "the queen", "the policeman",
)  # fmt: skip
TIMES = (
    "One morning", "One day", "Last summer", "Late at night", "On Sunday", "Yesterday", "After lunch", "In the evening",
    "A long time ago", "When it was raining", "On a cold winter day", "Before school", "Once upon a time", "Last week",
    "On her birthday", "At noon", "In spring", "The next day", "On a sunny afternoon", "Two years ago",
)  # fmt: skip
FEELINGS = word_list(
    """
    happy sad proud tired afraid surprised angry glad curious worried calm excited thankful hungry
    """
)
FAMILY = ("mother", "father", "brother", "sister", "friend")
PART_LOOKS = ("big", "small", "broken", "clean", "dirty", "strange", "beautiful")
PLACES = (
    "in the park", "at school", "at home", "in the town", "by the river", "in the village", "at the market",
    "behind the house", "on the hill", "in a big city", "near the forest", "at the sea", "in the yard", "in the attic",
)  # fmt: skip
ENDINGS = (
    "That was a good day.", "In the end everybody laughed.", "Then they went home.", "It was time for bed.",
    "They never forgot that day.", "And that is how the story ends.", "From then on they were friends.",
    "Nobody knew why.", "After that all was quiet.", "It was not easy, but it worked.", "What a surprise!",
)  # fmt: skip


class _Person:
    def __init__(self, rng: random.Random) -> None:
        draw = rng.random()
        self.she = rng.random() < 0.5
        if draw < 0.75:
            self.name = rng.choice(GIRLS if self.she else BOYS)
        else:
            self.name = rng.choice(OTHERS)
            self.she = any(w in self.name for w in ("woman", "girl", "aunt", "mother", "queen", "teacher", "doctor"))
        self.he, self.his, self.him = ("she", "her", "her") if self.she else ("he", "his", "him")


def story(rng: random.Random, noun: Callable[[], Noun]) -> str:
    """Three to eight sentences about one or two people and one to three things."""
    hero, friend = _Person(rng), _Person(rng)
    thing, other = noun(), noun()
    sentences = [_opening(rng, hero, thing)]
    steps = [_alone, _quality, _doing, _part, _friend, _meeting, _wish, _question, _feeling]
    for step in rng.sample(steps, rng.randint(1, 5)):
        sentences.append(capital(step(rng, hero, friend, rng.choice((thing, thing, other)))))
    if rng.random() < 0.7:
        sentences.append(_close(rng, hero, thing, other))
    return " ".join(map(capital, sentences))


def dialogue(rng: random.Random, noun: Callable[[], Noun]) -> str:
    """Two voices about a thing."""
    one, two = _Person(rng), _Person(rng)
    thing, other = noun(), noun()
    lines = [
        f'"Have you seen my {thing.name}?" asked {one.name}.',
        rng.choice([
            f'"Yes," said {two.name}, "{thing.it} {thing.be} {rng.choice(thing.places)}."',
            f'"No," said {two.name}, "but I have seen {other.a} {rng.choice(other.places)}."',
            f'"Is {thing.it} {rng.choice([*thing.colours, *thing.qualities])}?" asked {two.name}.',
        ]),
        f'"I want to {rng.choice(thing.uses)}," said {one.name}.',
        f'"Can {thing.it} {rng.choice(thing.does)}?" asked {two.name}. "Of course," said {one.name}.',
        f'"What {rng.choice(thing.qualities)} {thing.plural}!" cried {two.name}.',
        f'"Give me the {other.name}, please," {two.name} answered.',
        f'"I like {thing.plural} more than {other.plural}," said {one.name}.',
    ]  # fmt: skip
    return rng.choice(["\n", " "]).join(map(capital, [lines[0], *rng.sample(lines[1:], rng.randint(1, 4))]))


def _the(rng: random.Random, thing: Noun) -> str:
    if rng.random() < 0.35:
        return f"the {rng.choice([*thing.colours, *thing.qualities])} {thing.name}"
    return thing.the


def _use(rng: random.Random, thing: Noun, name: str = "") -> str:
    """`feed it` becomes `feed the dog`."""
    return re.sub(r"\b(it|them|him|her)\b", name or thing.the, rng.choice(thing.uses), count=1)


def _some(rng: random.Random, thing: Noun) -> str:
    if thing.number == "count" and rng.random() < 0.5:
        return with_article(f"{rng.choice([*thing.colours, *thing.qualities, thing.size])} {thing.name}")
    return thing.a


def _opening(rng: random.Random, hero: _Person, thing: Noun) -> str:
    when, where, some = rng.choice(TIMES), rng.choice([*PLACES, *thing.places]), _some(rng, thing)
    return rng.choice([
        f"{when} {hero.name} found {some} {where}.",
        f"{when} {hero.name} saw {some} {where}.",
        f"{capital(hero.name)} had {some}.",
        f"There {thing.was} once {some} {where}.",
        f"{when} {hero.name} wanted to {_use(rng, thing, thing.a)}.",
        f"{capital(hero.name)} was {rng.choice(FEELINGS)} because of {some}.",
        f"{when} {hero.name} got {some} from {hero.his} {rng.choice(FAMILY)}.",
        f"{capital(hero.name)} lived {rng.choice(PLACES)} and loved {thing.plural}.",
        f"{capital(hero.name)} went out to look for {some}.",
    ])  # fmt: skip


def _alone(rng: random.Random, hero: _Person, _friend_: _Person, thing: Noun) -> str:
    return f"{hero.he} {past(_use(rng, thing))}."


def _quality(rng: random.Random, _hero: _Person, _friend_: _Person, thing: Noun) -> str:
    return f"{_the(rng, thing)} {thing.was} {rng.choice(['very ', 'so ', '', 'really '])}{rng.choice(thing.qualities)}."


def _doing(rng: random.Random, _hero: _Person, _friend_: _Person, thing: Noun) -> str:
    do = rng.choice(thing.does)
    return rng.choice(
        [
            f"{_the(rng, thing)} {past(do)}.",
            f"{_the(rng, thing)} {thing.was} {gerund(do)}.",
            f"suddenly {thing.the} {past(do)}.",
        ]
    )


def _part(rng: random.Random, hero: _Person, _friend_: _Person, thing: Noun) -> str:
    if not thing.parts:
        return f"{hero.he} looked at {thing.the} for a long time."
    part = rng.choice(thing.parts)
    return rng.choice(
        [
            f"{hero.he} looked at {thing.its} {part}.",
            f"{hero.he} touched the {part} of {thing.the}.",
            f"the {part} of {thing.the} was {rng.choice(PART_LOOKS)}.",
        ]
    )


def _friend(rng: random.Random, hero: _Person, friend: _Person, thing: Noun) -> str:
    return rng.choice([
        _praise(rng, friend, thing),
        f"{hero.he} showed {thing.the} to {friend.name}.",
        f"then {friend.name} helped {hero.him} to {_use(rng, thing)}.",
        f"{friend.name} asked where {thing.the} {thing.was}.",
    ])  # fmt: skip


def _praise(rng: random.Random, friend: _Person, thing: Noun) -> str:
    if thing.number != "count":
        return f"{friend.name} liked the {thing.name} too."
    return f'{friend.name} came and said: "What {with_article(rng.choice(thing.qualities))} {thing.name}!"'


def _meeting(rng: random.Random, hero: _Person, friend: _Person, thing: Noun) -> str:
    return f"on the way {hero.he} met {friend.name}, who had {_some(rng, thing)}."


def _wish(rng: random.Random, hero: _Person, _friend_: _Person, thing: Noun) -> str:
    return f"{hero.he} wished for {rng.choice(thing.related)} and {_some(rng, thing)}."


def _question(rng: random.Random, hero: _Person, friend: _Person, thing: Noun) -> str:
    return (
        f'"Where {thing.be} {thing.the}?" asked {hero.name}. "{capital(rng.choice(thing.places))}," said {friend.name}.'
    )


def _feeling(rng: random.Random, hero: _Person, _friend_: _Person, thing: Noun) -> str:
    return rng.choice(
        [f"{hero.he} was {rng.choice(FEELINGS)}.", f"{thing.the} made {hero.him} {rng.choice(FEELINGS)}."]
    )


def _close(rng: random.Random, hero: _Person, thing: Noun, other: Noun) -> str:
    return rng.choice([
        rng.choice(ENDINGS),
        f"{hero.name} put {thing.the} {rng.choice(thing.places)} and went home.",
        f"since that day {hero.name} has always had {thing.a}.",
        f"so {hero.name} gave {thing.the} away and got {_some(rng, other)}.",
        f"{hero.he} was {rng.choice(FEELINGS)} and dreamed of {thing.plural}.",
    ])  # fmt: skip
