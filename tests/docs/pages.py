"""The pages as the tests read them: files, snippets, and the words that stand for a reader's own pictures."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"

_FENCE = re.compile(
    r"^(?:<!-- snippet: (?P<note>[^>]*?) -->\s*\n)?^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```", re.M | re.S
)


@dataclass(frozen=True, kw_only=True)
class Snippet:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    code: str
    note: str
    """What the comment `<!-- snippet: ... -->` before it says, or nothing."""


def pages() -> list[Path]:
    """The README and every page of the documentation."""
    return [README, *sorted(DOCS.rglob("*.md"))]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def snippets(page: Path, language: str) -> list[Snippet]:
    """The blocks of one language, in order."""
    text = page.read_text()
    return [
        Snippet(
            page=page,
            line=text[: found.start("code")].count("\n") + 1,
            language=found["language"],
            code=found["code"],
            note=found["note"] or "",
        )
        for found in _FENCE.finditer(text)
        if found["language"] == language
    ]
