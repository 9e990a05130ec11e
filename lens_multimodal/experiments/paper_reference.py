"""What the paper reports, as far as it is known here: `paper_reference.json`."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("paper_reference.json")

STATUSES = ("seen", "recalled", "unknown")


@dataclass(frozen=True, kw_only=True)
class PaperNumber:
    """One number or finding of the paper."""

    key: str
    what: str
    unit: str
    value: float | int | None
    """None where the number is not known here; it is never guessed."""
    finding: str | None
    """What the paper says in words."""
    status: str
    """seen: read in the source. recalled: from memory. unknown: in the paper, but not known here."""
    source: str

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"{self.key}: status is {self.status!r}, expected one of {', '.join(STATUSES)}")
        if self.status == "unknown" and (self.value is not None or self.finding is not None):
            raise ValueError(f"{self.key}: an unknown number has neither a value nor a finding")
        if self.status != "unknown" and self.value is None and self.finding is None:
            raise ValueError(f"{self.key}: status is {self.status}, but there is no value and no finding")

    def __str__(self) -> str:
        """As shown beside our number: `-0.8 (recalled)`, or `not available`."""
        if self.value is None:
            return f"{self.finding} ({self.status})" if self.finding else "not available"
        return f"{self.value:,.10g} ({self.status})"


def paper_number(key: str) -> PaperNumber:
    """One entry by its key.

    Raises: KeyError, which lists the keys.
    """
    known = paper_numbers()
    if key not in known:
        raise KeyError(f"paper_reference.json has no entry {key!r}; it has {', '.join(known)}")
    return known[key]


@cache
def paper_numbers() -> dict[str, PaperNumber]:
    """All entries by key, in the order of the file."""
    return {entry["key"]: PaperNumber(**entry) for entry in _content()["entries"]}


def paper_setting() -> str:
    """Model and data of the paper's numbers."""
    return str(_content()["setting"])


def _content() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return content
