"""Generated documents: sentences over the knowledge table, no image anywhere.

Every noun of a document is drawn independently of the others, from one fixed distribution, so which nouns stand
together in the text says nothing about which objects stand together in a scene. The only exception is stated
knowledge itself (a puppy next to a dog).
"""

import random
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TypeVar

from recipes.tiny.text import captions, stories
from recipes.tiny.text.knowledge import SIZES, Noun
from recipes.tiny.text.words import capital, enumeration, gerund, with_article, word_list

T = TypeVar("T")
UNCOUNTED = frozenset(
    word_list(
        """
    air ash batter blood bread broth butter cheese cloth cream crumb dough down fat flesh foam fur glass
    gold hair ice icing ink juice light lettuce marrow milk muscle mustard oil paint paper plush powder rice
    salt sand seaweed skin smoke starch syrup thread water wax wire wood wool
    """
    )
)
PART_STATES = ("easy to see", "in the right place", "important", "clean", "broken")
NUMBERS = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def documents(nouns: list[Noun], *, seed: int) -> Iterator[str]:
    """An endless stream of documents, the same for the same seed."""
    grammar = Grammar(nouns, rng=random.Random(f"grammar {seed}"))
    while True:
        yield grammar.document()


class Grammar:
    """Draws nouns, facts and templates."""

    def __init__(self, nouns: list[Noun], *, rng: random.Random) -> None:
        self.nouns, self.rng = nouns, rng
        self.by_name = {noun.name: noun for noun in nouns}
        self._cumulative = list(accumulate(noun.weight for noun in nouns))
        self.by_kind: dict[str, list[Noun]] = {}
        self.by_colour: dict[str, list[Noun]] = {}
        self.by_part: dict[str, list[Noun]] = {}
        for noun in nouns:
            for index, keys in ((self.by_kind, noun.kinds), (self.by_colour, noun.colours), (self.by_part, noun.parts)):
                for key in keys:
                    index.setdefault(key, []).append(noun)
        self._makers: list[Callable[[], str]] = [maker for maker, _ in self._weighted()]
        self._weights = [weight for _, weight in self._weighted()]

    def document(self) -> str:
        return self.rng.choices(self._makers, self._weights)[0]()

    def noun(self) -> Noun:
        """One noun, independent of every other draw."""
        return self.nouns[bisect_left(self._cumulative, self.rng.random() * self._cumulative[-1])]

    def _weighted(self) -> list[tuple[Callable[[], str], float]]:
        return [
            (lambda: captions.caption(self.rng, self.noun), 10),
            (lambda: captions.illustrated(self.rng, self.noun, self._clues), 36),
            (lambda: captions.alternatives(self.rng, self.noun), 2),
            (lambda: stories.story(self.rng, self.noun), 22),
            (lambda: stories.dialogue(self.rng, self.noun), 6),
            (self.definition, 8),
            (self.description, 16),
            (self.riddle, 4),
            (self.questions, 8),
            (self.comparison, 5),
            (self.negation, 4),
            (self.members, 3),
            (self.chain, 5),
            (self.count, 3),
            (self.room, 3),
        ]

    def some(self, values: tuple[str, ...] | list[str], at_most: int) -> list[str]:
        return self.rng.sample(values, min(len(values), self.rng.randint(1, at_most)))

    def one(self, values: Sequence[T]) -> T:
        return self.rng.choice(values)

    def definition(self) -> str:
        """`A violin is a musical instrument with strings.`"""
        noun = self.noun()
        kind = with_article(self.one(noun.kinds))
        tails = [f"It can {self.one(noun.does)}." if not noun.many else f"They can {self.one(noun.does)}."]
        if noun.parts:
            tails.append(f"{capital(noun.it)} {noun.have} {self._part_list(noun, 3)}.")
        tails.append(f"People can {self.one(noun.uses)}.")
        tails.append(f"{capital(noun.it)} {noun.be} often found {self.one(noun.places)}.")
        if noun.colours:
            tails.append(f"{capital(noun.it)} {noun.be} usually {enumeration(self.some(noun.colours, 2), 'or')}.")
        head = self.one(
            [
                f"{capital(noun.a)} {noun.be} {kind}.",
                f"{capital(noun.a)} {noun.be} {with_article(self.one(noun.qualities) + ' ' + self.one(noun.kinds))}.",
                f"{capital(noun.a)} {noun.be} {kind} that {noun.be} found {self.one(noun.places)}.",
                f"{capital(noun.name)}: {kind}, {enumeration(self.some(noun.qualities, 3))}.",
                f"{capital(noun.name)} (noun): {kind} that can {self.one(noun.does)}.",
                f"The word {noun.name} means {kind} which you can find {self.one(noun.places)}.",
                f"We call {kind} {noun.a} if {noun.it} can {self.one(noun.does)}.",
                f"{capital(noun.plural)} {noun.are} known to {self.one(noun.does)}.",
                f"What we call {noun.a} {noun.be} {kind}.",
            ]
        )
        return " ".join([head, *self.rng.sample(tails, self.rng.randint(0, 3))])

    def description(self) -> str:
        """Three to eight true sentences about one noun, in any order."""
        noun = self.noun()
        facts = self._facts(noun)
        lines = self.rng.sample(facts, min(len(facts), self.rng.randint(3, 8)))
        title = f"{capital(noun.name)}\n" if self.rng.random() < 0.2 else ""
        return title + " ".join(lines)

    def _part_list(self, noun: Noun, at_most: int) -> str:
        parts = self.some(noun.parts, at_most)
        return enumeration(
            [part if part in UNCOUNTED or part in noun.materials else with_article(part) for part in parts]
        )

    def _facts(self, noun: Noun) -> list[str]:
        it, its, be, have = capital(noun.it), noun.its, noun.be, noun.have
        quality, place, do, use = (self.one(v) for v in (noun.qualities, noun.places, noun.does, noun.uses))
        other = self.one(noun.related)
        facts = [
            f"{capital(noun.a)} {be} {with_article(self.one(noun.kinds))}.",
            f"{it} {be} {quality}.",
            f"Many people say that {noun.plural} {noun.are} {enumeration(self.some(noun.qualities, 2))}.",
            f"{it} {noun.act(do)}.",
            f"{capital(noun.a)} can {self.one(noun.does)}.",
            f"{capital(noun.plural)} {noun.all_act(self.one(noun.does))}.",
            f"You can {use}.",
            f"People like to {self.one(noun.uses)}.",
            f"{gerund(capital(use))} is easy.",
            f"You will find {noun.a} {place}.",
            f"{capital(noun.plural)} {noun.are} often seen {self.one(noun.places)}.",
            f"{capital(self.one(noun.places))} there {be} {noun.a}.",
            f"{capital(noun.a)} {noun.act('make')} us think of {other}.",
            f"When I hear the word {noun.name}, I think of {enumeration(self.some(noun.related, 3))}.",
            f"{capital(other)} and {noun.name} go together.",
        ]
        if noun.colours:
            colours = enumeration(self.some(noun.colours, 3), "or")
            facts.append(f"The colour of {noun.a} {self.one(['is', 'may be', 'is often'])} {colours}.")
            facts.append(f"{it} {be} {self.one(['often', 'usually', 'sometimes', 'mostly'])} {colours}.")
            facts.append(f"Some {noun.plural} {noun.are} {self.one(noun.colours)}.")
        if noun.size != "medium":
            facts.append(f"{it} {be} {noun.size}.")
            facts.append(f"{capital(noun.plural)} {noun.are} {self.one(['', 'rather ', 'quite '])}{noun.size}.")
        if noun.parts:
            facts.append(f"{it} {have} {self._part_list(noun, 4)}.")
            facts.append(f"The {self.one(noun.parts)} of {noun.the} is {self.one(PART_STATES)}.")
            facts.append(f"Look at {its} {self.one(noun.parts)}.")
            facts.append(f"Without {its} {self.one(noun.parts)}, {noun.the} would not be the same.")
        if noun.materials:
            facts.append(f"{it} {be} made of {enumeration(self.some(noun.materials, 2), self.one(['and', 'or']))}.")
            facts.append(f"Somebody made {noun.a} out of {self.one(noun.materials)}.")
        return facts

    def riddle(self) -> str:
        """Facts first, the name last."""
        noun = self.noun()
        clues = self._clues(noun)
        ask = self.one(["What am I?", "Who am I?", "Guess what I am.", "Do you know me?"])
        answer = self.one(
            [f"I am {noun.a}.", f"{capital(noun.a)}.", f"The answer is {noun.a}.", f"{capital(noun.a)}, of course!"]
        )
        return " ".join([*self.rng.sample(clues, self.rng.randint(2, 5)), ask, answer])

    def _clues(self, noun: Noun) -> list[str]:
        """What a thing says about itself without its name."""
        clues = [
            f"I am {with_article(self.one(noun.kinds))}.",
            f"I can {self.one(noun.does)}.",
            f"You find me {self.one(noun.places)}.",
            f"I am {self.one(noun.qualities)}.",
            f"Next to me you often find {self.one(noun.related)}.",
        ]
        if noun.colours:
            clues.append(f"I am often {self.one(noun.colours)}.")
        if noun.parts:
            clues.append(f"I have {self._part_list(noun, 3)}.")
        if noun.materials:
            clues.append(f"I am made of {self.one(noun.materials)}.")
        return clues

    def questions(self) -> str:
        """One to four questions with their answers."""
        noun, other = self.noun(), self.noun()
        pairs = [
            (f"What is {noun.a}?", f"{capital(noun.a)} {noun.be} {with_article(self.one(noun.kinds))}."),
            (f"What can {noun.a} do?", f"{capital(noun.it)} can {self.one(noun.does)}."),
            (f"Where do you find {noun.a}?", f"{capital(self.one(noun.places))}."),
            (f"What can you do with {noun.a}?", f"You can {self.one(noun.uses)}."),
            (
                f"What {noun.be} {noun.a} like?",
                f"{capital(noun.it)} {noun.be} {enumeration(self.some(noun.qualities, 3))}.",
            ),
            (f"What goes with {noun.a}?", f"{capital(enumeration(self.some(noun.related, 3)))}."),
            (f"How big {noun.be} {noun.a}?", f"{capital(noun.it)} {noun.be} {noun.size} in size."),
            (f"Which word belongs to {noun.name}: {self._shuffled_pair(noun, other)}?", f"{capital(self._last)}."),
        ]
        if noun.parts:
            pairs.append(
                (
                    f"What does {noun.a} have?" if not noun.many else f"What do {noun.a} have?",
                    f"{capital(self._part_list(noun, 3))}.",
                )
            )
        if noun.colours:
            shades = capital(enumeration(self.some(noun.colours, 2), "or"))
            pairs.append((f"What colour {noun.be} {noun.a}?", f"{shades}."))
        kind = self.one(other.kinds)
        truth = "Yes" if kind in noun.kinds else "No"
        if truth == "Yes" or not self._related_kind(noun, kind):
            verb = noun.be if truth == "Yes" else f"{noun.be} not"
            ask = f"{capital(noun.be)} {noun.a} {with_article(kind)}?"
            pairs.append((ask, f"{truth}, {noun.a} {verb} {with_article(kind)}."))
        chosen = self.rng.sample(pairs, self.rng.randint(1, 4))
        style = self.one(["Q: {} A: {}", "Question: {} Answer: {}", "{} {}", "- {}\n- {}"])
        return ("\n" if style != "{} {}" else " ").join(style.format(q, a) for q, a in chosen)

    def _shuffled_pair(self, noun: Noun, other: Noun) -> str:
        self._last = self.one(noun.related)
        pair = [self._last, self.one(other.related)]
        self.rng.shuffle(pair)
        return " or ".join(pair)

    def _related_kind(self, noun: Noun, kind: str) -> bool:
        """True where saying `not a KIND` might be wrong (a withheld or a looser kind)."""
        return any(kind in k or k in kind for k in noun.kinds) or bool({"animal", "food", "device"} & {kind})

    def comparison(self) -> str:
        """Two nouns: size, kind and what both share."""
        one, two = self.noun(), self.noun()
        lines = []
        small, large = sorted((one, two), key=lambda noun: SIZES.index(noun.size))
        if small.size != large.size:
            lines.append(
                self.one(
                    [
                        f"{capital(large.a)} {large.be} bigger than {small.a}.",
                        f"{capital(small.a)} {small.be} smaller than {large.a}.",
                        f"{capital(small.plural)} {small.are} small next to {large.plural}.",
                    ]
                )
            )
        kinds = set(one.kinds) & set(two.kinds)
        if kinds and one is not two:
            lines.append(
                f"Both {one.a} and {two.a} belong to the same group: each is {with_article(self.one(sorted(kinds)))}."
            )
        else:
            lines.append(
                f"{capital(one.a)} {one.be} {with_article(self.one(one.kinds))}, "
                f"but {two.a} {two.be} {with_article(self.one(two.kinds))}."
            )
        lines.append(f"{capital(one.a)} can {self.one(one.does)}, while {two.a} can {self.one(two.does)}.")
        colours = sorted(set(one.colours) & set(two.colours))
        if colours:
            lines.append(f"{capital(one.a)} and {two.a} can both be {self.one(colours)}.")
        lines.append(
            f"{capital(one.the)} {one.be} {self.one(one.qualities)} and {two.the} {two.be} {self.one(two.qualities)}."
        )
        return " ".join(self.rng.sample(lines, self.rng.randint(1, len(lines))))

    def negation(self) -> str:
        """What a thing is not, with what it is."""
        noun, other = self.noun(), self.noun()
        lines = []
        kind = self.one(other.kinds)
        if not self._related_kind(noun, kind):
            lines.append(
                f"{capital(noun.a)} {noun.be} not {with_article(kind)}. "
                f"{capital(noun.it)} {noun.be} {with_article(self.one(noun.kinds))}."
            )
        if other is not noun:
            lines.append(f"This is not {noun.a}. It is {other.a}.")
            lines.append(f"No, I did not see {noun.a}. I saw {other.a} {self.one(other.places)}.")
            lines.append(f"{capital(noun.a)} {noun.be} no {other.name}.")
        lines.append(f"There {noun.be} no {noun.name} {self.one(noun.places)} today.")
        lines.append(f"{capital(noun.a)} without {self.one(noun.related)} would be strange.")
        return " ".join(self.rng.sample(lines, self.rng.randint(1, min(3, len(lines)))))

    def members(self) -> str:
        """Nouns of one kind, colour or part: `Yellow things: a banana, a lemon.`"""
        noun = self.noun()
        fields = (noun.kinds, noun.colours, noun.parts)
        choice = self.one([i for i, values in enumerate(fields) if values])
        key = self.one(fields[choice])
        members = (self.by_kind, self.by_colour, self.by_part)[choice][key]
        names = [m.a for m in self.rng.sample(members, min(len(members), self.rng.randint(2, 9)))]
        heads = (
            [f"Examples of {with_article(key)}:", f"Words for {with_article(key)}:", f"{capital(key)}:"],
            [f"Things that can be {key}:", f"{capital(key)} things:", f"What is {key}?"],
            [f"Things with {with_article(key)}:", f"These have {with_article(key)}:"],
        )[choice]
        if self.rng.random() < 0.4:
            return self.one(heads) + "\n" + "\n".join(f"- {name}" for name in names)
        return f"{self.one(heads)} {enumeration(names)}."

    def chain(self) -> str:
        """Words that belong together: `dog, puppy, bone, leash`."""
        noun = self.noun()
        pool = [*noun.related, *noun.parts, *noun.qualities, self.one(noun.kinds), *noun.colours[:1]]
        words = self.some(pool, 8)
        return self.one(
            [
                f"{noun.name}, {', '.join(words)}",
                f"{capital(noun.name)}: {', '.join(words)}.",
                f"Words that go with {noun.name}: {', '.join(words)}.",
                f"{capital(', '.join(words))}: these words belong to {noun.name}.",
                f"If you know the word {noun.name}, you also know {enumeration(words)}.",
                f"One {noun.name}, many {noun.plural}. {capital(noun.plural)}, {', '.join(words)}.",
                f"{capital(words[0])} reminds me of {noun.plural}, and {noun.plural} remind me of {words[-1]}.",
            ]
        )

    def count(self) -> str:
        """How many: small sums with things."""
        noun, other = self.noun(), self.noun()
        if "mass" in (noun.number, other.number):
            return (
                f"How much {noun.name} {noun.be} there? {self.one(['Not much', 'Too much', 'Enough'])}. "
                f"We need more {other.plural}."
            )
        a, b = self.rng.randint(2, 6), self.rng.randint(2, 6)
        name = NUMBERS.__getitem__
        return self.one(
            [
                f"There are {name(a)} {noun.plural} {self.one(noun.places)} "
                f"and {name(b)} {other.plural} {self.one(other.places)}.",
                self._sum(a, b, noun),
                f"I counted {name(a)} {noun.plural} and only one {other.name}.",
                f"First there was one {noun.name}, then {name(0)}, then {name(a)} {noun.plural}.",
            ]
        )

    def _sum(self, a: int, b: int, noun: Noun) -> str:
        left, right, total = (NUMBERS[n - 2] for n in (a, b, a + b))
        return f"{capital(left)} {noun.plural} and {right} {noun.plural} make {total} {noun.plural}."

    def room(self) -> str:
        """A list of unrelated things in one place."""
        things = [self.noun() for _ in range(self.rng.randint(2, 6))]
        names = enumeration([self._coloured(thing) for thing in things])
        place = self.one(self.noun().places)
        return self.one(
            [
                f"{capital(place)} I saw {names}.",
                f"I packed my bag and put in {names}.",
                f"On the list stood: {names}.",
                f"She can draw {names}.",
                f"For his birthday he wants {names}.",
                f"They were looking for {names}, but found only {self.noun().a}.",
            ]
        )

    def _coloured(self, noun: Noun) -> str:
        if noun.number != "count" or self.rng.random() < 0.5:
            return noun.a
        adjective = self.one([*noun.colours, *noun.qualities, noun.size])
        return with_article(f"{adjective} {noun.name}")
