"""The nouns of a caption, found without a tagger, from the data set alone.

These are nouns, in this order:

1. A category of the data set, of one word or several, singular or plural.
2. A common synonym of a COCO category that the data set has (`coco_synonyms`): "sofa" for couch.
3. A word that the data set's own captions use as the head of a phrase, at least twice and in at least half of its
   occurrences: it follows an article, number or possessive and at most three other words, and precedes a preposition,
   a form of "to be", punctuation or the end. It has no category.

Words for pictures and amounts ("photo", "group") are left out. The rule misses bare plurals that are neither categories
nor seen with an article, and it cannot tell homographs apart.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lens_multimodal.data import Scene
from lens_multimodal.lens import VisionLens

SYNONYMS: dict[str, list[str]] = json.loads(Path(__file__).with_name("coco_synonyms.json").read_text(encoding="utf-8"))
"""Everyday names of COCO's categories, by category; used only for the categories that a data set has."""

HEADS_NEEDED = 2
SHARE_NEEDED = 0.5
LONGEST_PHRASE = 4

_DETERMINERS = frozenset({
    "a", "an", "the", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "some",
    "several", "many", "his", "her", "its", "their", "this", "these", "those", "another", "each", "every",
    "both",
})  # fmt: skip
_BOUNDARIES = frozenset({
    "of", "in", "on", "at", "with", "near", "next", "to", "by", "under", "over", "above", "below", "behind",
    "beside", "between", "inside", "into", "onto", "from", "for", "is", "are", "was", "were", "be", "has",
    "have", "that", "which", "who", "while", "as", "or", "and", "up", "down", "out", "off", "around", "through",
    "across", "along", "against", "during", "without", "top", "there",
})  # fmt: skip
_NOT_THINGS = frozenset({
    "picture", "photo", "photograph", "image", "view", "shot", "close", "closeup", "group", "couple", "bunch",
    "lot", "pair", "piece", "number", "set", "row", "line", "top", "side", "front", "back", "bottom", "middle",
    "end", "left", "right", "way", "kind", "type", "variety", "background", "foreground", "scene",
})  # fmt: skip
_IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "mice": "mouse", "geese": "goose",
    "feet": "foot", "teeth": "tooth", "knives": "knife", "wives": "wife", "leaves": "leaf", "loaves": "loaf",
    "wolves": "wolf", "shelves": "shelf", "scarves": "scarf", "calves": "calf", "halves": "half", "buses": "bus",
    "shoes": "shoe", "toes": "toe", "canoes": "canoe", "oxen": "ox", "skis": "ski", "movies": "movie",
    "cookies": "cookie", "zombies": "zombie", "pies": "pie", "ties": "tie", "taxis": "taxi",
}  # fmt: skip
_UNCHANGED = frozenset({
    "sheep", "fish", "deer", "scissors", "glasses", "pants", "jeans", "shorts", "series", "species",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Noun:
    """A noun in a text."""

    text: str
    """As written there."""
    name: str
    """Lower case, singular: the form in which nouns are compared."""
    category: str | None
    """The data set's category; None for a noun that is not one."""
    start: int
    """Characters from the beginning of the text."""
    stop: int


def noun_finder(lens: VisionLens, scenes: Iterable[Scene]) -> "NounFinder":
    """Learn the nouns of a data set: its categories, their synonyms, and the heads of its captions' phrases."""
    categories: dict[str, str] = {}
    heads: Counter[str] = Counter()
    all_words: Counter[str] = Counter()
    for scene in scenes:
        categories.update((_phrase_name(o.category), o.category) for o in scene.objects)
        for caption in scene.captions:
            pieces = _pieces(caption)
            heads.update(_heads(pieces))
            all_words.update(singular(piece) for piece in pieces if piece.isalpha())
    names = set(categories.values())
    synonyms = {
        _phrase_name(word): category
        for category, listed in SYNONYMS.items()
        if category in names
        for word in listed
        if _phrase_name(word) not in categories
    }
    others = {
        word
        for word, count in heads.items()
        if count >= HEADS_NEEDED and count >= SHARE_NEEDED * all_words[word] and word not in _NOT_THINGS
    }
    return NounFinder(known={**dict.fromkeys(others), **synonyms, **categories}, encode=lens.text.encode)


@dataclass(frozen=True, kw_only=True, eq=False)
class NounFinder:
    """Finds the nouns of texts; made by `noun_finder`."""

    known: dict[str, str | None] = field(repr=False)
    """Singular name, lower case → category or None."""
    encode: Callable[[str], list[int]] = field(repr=False)

    def __call__(self, text: str) -> tuple[Noun, ...]:
        """The nouns of a text in order of appearance, each name once; longer names win."""
        words = list(re.finditer(r"[A-Za-z]+", text))
        found: dict[str, Noun] = {}
        index = 0
        while index < len(words):
            for length in range(min(LONGEST_PHRASE, len(words) - index), 0, -1):
                run = words[index : index + length]
                name = _phrase_name(" ".join(word.group() for word in run))
                start, stop = run[0].start(), run[-1].end()
                if name in self.known and re.fullmatch(r"[A-Za-z\s-]+", text[start:stop]):
                    noun = Noun(text=text[start:stop], name=name, category=self.known[name], start=start, stop=stop)
                    found.setdefault(name, noun)
                    break
            index += length
        return tuple(found.values())

    def names(self, text: str) -> set[str]:
        """The names of a text's nouns."""
        return {noun.name for noun in self(text)}

    def of_scene(self, scene: Scene) -> tuple[str, ...]:
        """Names of the nouns of a picture's human captions, and of its annotated categories."""
        said = [noun.name for caption in scene.captions for noun in self(caption)]
        return tuple(dict.fromkeys([*said, *map(_phrase_name, scene.categories)]))

    def first_token(self, name: str) -> int:
        """The first token of a noun after a space: the paper's target for nouns of several tokens."""
        return self.encode(f" {name}")[0]


def says(token: str, names: Collection[str]) -> bool:
    """Whether a decoded token is one of some nouns, ignoring case, number and leading space.

    For a noun of several words its first word counts.

    >>> says(" Dogs", {"dog"}), says(" traffic", {"traffic light"}), says(" do", {"dog"})
    (True, True, False)
    """
    return said(token) in first_words(names)


def said(token: str) -> str:
    """The noun that a decoded token would say: lower case, singular; "" for spaces."""
    return singular(token.strip().lower())


def first_words(names: Iterable[str]) -> set[str]:
    """The word of each name that a token has to say."""
    return {name.split()[0] for name in names}


def singular(word: str) -> str:
    """The singular of a lower-case English noun, by rules and a list of exceptions.

    >>> [singular(word) for word in ("dogs", "buses", "berries", "glass", "boxes", "houses", "children")]
    ['dog', 'bus', 'berry', 'glass', 'box', 'house', 'child']
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word in _UNCHANGED or len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses", "oes", "zzes")):
        return word[:-2]
    return word[:-1]


def _phrase_name(phrase: str) -> str:
    *before, last = phrase.lower().split()
    return " ".join([*before, singular(last)])


def _pieces(text: str) -> list[str]:
    return re.findall(r"[a-z]+|[^a-z\s]", text.lower())


def _heads(pieces: Sequence[str]) -> Iterator[str]:
    """The last word of every phrase that a determiner opens."""
    phrase: list[str] | None = None
    for index, piece in enumerate([*pieces, "."]):
        following = pieces[index + 1] if index + 1 < len(pieces) else "."
        joins = piece == "and" and following not in _DETERMINERS
        ends = not piece.isalpha() or piece in _DETERMINERS or (piece in _BOUNDARIES and not joins)
        if ends and phrase and len(phrase) <= LONGEST_PHRASE:
            yield singular(phrase[-1])
        if piece in _DETERMINERS:
            phrase = []
        elif ends:
            phrase = None
        elif phrase is not None and not joins:
            phrase.append(piece)
