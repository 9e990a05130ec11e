"""The knowledge table: what the grammar knows about each noun, written by hand in `knowledge.csv`.

A small share of the facts (kind, colour, part) is withheld from the grammar, so that the cloze test includes facts
that no generated sentence states.
"""

import csv
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recipes.tiny.text import words

TABLE = Path(__file__).with_name("knowledge.csv")
CORE = 171
"""The first rows: nouns with many permissive drawings. They are sampled `CORE_WEIGHT` times as often."""
CORE_WEIGHT = 2
SIZES = ("tiny", "small", "medium", "large", "huge")
CLOZE_FIELDS = ("kinds", "colours", "parts")


@dataclass(frozen=True, kw_only=True)
class Noun:
    """One row of the table. `does` and `uses` hold verb phrases in the base form."""

    name: str
    plural: str
    number: str
    """`count`, `mass` or `plural`."""
    size: str
    weight: int
    kinds: tuple[str, ...]
    colours: tuple[str, ...]
    materials: tuple[str, ...]
    parts: tuple[str, ...]
    places: tuple[str, ...]
    does: tuple[str, ...]
    uses: tuple[str, ...]
    qualities: tuple[str, ...]
    related: tuple[str, ...]

    @property
    def a(self) -> str:
        """`a dog`, `bread`, `scissors`."""
        return words.with_article(self.name) if self.number == "count" else self.name

    @property
    def the(self) -> str:
        return f"the {self.name}"

    @property
    def many(self) -> bool:
        return self.number == "plural"

    def verb(self, singular: str, plural: str) -> str:
        return plural if self.many else singular

    @property
    def be(self) -> str:
        return self.verb("is", "are")

    @property
    def was(self) -> str:
        return self.verb("was", "were")

    @property
    def have(self) -> str:
        return self.verb("has", "have")

    @property
    def it(self) -> str:
        return {"man": "he", "woman": "she"}.get(self.name, self.verb("it", "they"))

    @property
    def its(self) -> str:
        return {"man": "his", "woman": "her"}.get(self.name, self.verb("its", "their"))

    @property
    def them(self) -> str:
        return {"man": "him", "woman": "her"}.get(self.name, self.verb("it", "them"))

    @property
    def are(self) -> str:
        """The verb of `noun.plural`: `dogs are`, but `bread is`."""
        return "is" if self.number == "mass" else "are"

    def all_act(self, phrase: str) -> str:
        """A verb phrase that agrees with `noun.plural`."""
        return words.third_person(phrase) if self.number == "mass" else phrase.replace(" its ", " their ")

    def act(self, phrase: str) -> str:
        """A verb phrase in the present tense that agrees with this noun."""
        return phrase if self.many else words.third_person(phrase)


@dataclass(frozen=True)
class Fact:
    noun: str
    field: str
    value: str


def load(path: Path = TABLE) -> list[Noun]:
    """Every noun with all its facts.

    Raises: ValueError naming the line, if a row has an unknown size or no kind.
    """
    with path.open(newline="") as file:
        return [_noun(row, line) for line, row in enumerate(csv.DictReader(file), start=2)]


def withhold(nouns: list[Noun], *, share: float, seed: int) -> tuple[list[Noun], list[Fact]]:
    """Take a share of the kinds, colours and parts out of the table; at least two values of a field remain."""
    rng = random.Random(f"withhold {seed}")
    told, withheld = [], []
    for noun in nouns:
        for field in CLOZE_FIELDS:
            values = getattr(noun, field)
            if len(values) > 2 and rng.random() < share:
                gone = rng.choice(values)
                withheld.append(Fact(noun.name, field, gone))
                fewer: dict[str, Any] = {field: tuple(v for v in values if v != gone)}
                noun = replace(noun, **fewer)
        told.append(noun)
    return told, withheld


def _noun(row: dict[str, str], line: int) -> Noun:
    if row["size"] not in SIZES or not row["kinds"]:
        raise ValueError(
            f"knowledge.csv line {line} ({row['noun']!r}): size {row['size']!r} must be one of {SIZES} "
            "and at least one kind must be given"
        )
    number = {"m": "mass", "p": "plural"}.get(row["number"], "count")
    regular = words.plural(row["noun"]) if number == "count" else row["noun"]
    lists = {
        key: tuple(filter(None, row[key].split(";")))
        for key in ("kinds", "colours", "materials", "parts", "places", "does", "uses", "qualities", "related")
    }
    return Noun(
        name=row["noun"],
        plural=row["number"][1:] if row["number"].startswith("=") else regular,
        number=number,
        size=row["size"],
        weight=CORE_WEIGHT if line - 1 <= CORE else 1,
        **lists,
    )
