"""Which noun a drawing shows, from the name that its package gives it."""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import tomllib

from recipes.tiny.pictures.drawing import Drawing

HERE = Path(__file__).parent
FILLERS = {
    *(
        "a",
        "an",
        "the",
        "my",
        "simple",
        "cartoon",
        "small",
        "big",
        "little",
        "old",
        "new",
        "another",
        "lovely",
        "cute",
        "stylized",
        "color",
        "colour",
    ),
    *("red", "green", "blue", "yellow", "white", "black", "brown", "purple", "pink", "crazy", "happy"),
}
"""Words in front of a clip art's name that do not change what it shows."""
PREFIXED, SUFFIXED = {"openclipart", "art4apps"}, {"sh3f", "sh3f-view"}
"""Styles matched by the beginning and by the end of the name; all others by the whole name."""


@dataclass(frozen=True)
class Labels:
    """The nouns and the names that mean them."""

    nouns: tuple[str, ...]
    icons: dict[str, list[str]]
    begins: dict[str, list[str]]
    ends: dict[str, list[str]]

    def noun(self, drawing: Drawing) -> str:
        """The noun a drawing shows, or an empty string."""
        said = drawing.label.split()
        if drawing.style in PREFIXED:
            while len(said) > 1 and " ".join(said) not in self._begins and said[0] in FILLERS:
                exact = _longest(self._begins, [" ".join(said[:n]) for n in range(len(said), 1, -1)])
                if exact is not None:
                    return exact
                said = said[1:]
            return _longest(self._begins, [" ".join(said[:n]) for n in range(len(said), 0, -1)]) or ""
        if drawing.style in SUFFIXED:
            return _longest(self._ends, [" ".join(said[n:]) for n in range(len(said))]) or ""
        return self._icons.get("".join(said), "")

    @cached_property
    def _icons(self) -> dict[str, str]:
        named = {
            _squash(form): noun for noun in self.nouns for form in (noun, f"{noun}s", f"{noun} face", f"{noun} side")
        }
        return named | {
            _squash(name): noun for noun, names in self.icons.items() if noun in self.nouns for name in names
        }

    @cached_property
    def _begins(self) -> dict[str, str]:
        return self._phrases(self.begins)

    @cached_property
    def _ends(self) -> dict[str, str]:
        return self._phrases(self.ends)

    def _phrases(self, table: dict[str, list[str]]) -> dict[str, str]:
        own = {form: noun for noun in self.nouns for form in (noun, f"{noun}s")}
        return own | {
            name: "" if noun == "-" else noun
            for noun, names in table.items()
            for name in names
            if noun == "-" or noun in self.nouns
        }


def read_labels(concepts: Path, names: Path = HERE / "labels.toml") -> Labels:
    """The nouns of `concepts.csv` (column `concept`) with the table of names beside this module.

    A noun whose names the table gives to another noun (a laptop is a computer) has no pictures of its own.
    """
    with open(concepts, newline="", encoding="utf-8") as file:
        nouns = [row["concept"] for row in csv.DictReader(file)]
    table = tomllib.loads(names.read_text(encoding="utf-8"))
    return Labels(tuple(nouns), table["icons"], table["begins"], table["ends"])


def _longest(table: dict[str, str], candidates: Iterable[str]) -> str | None:
    return next((table[c] for c in candidates if c in table), None)


def _squash(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())
