"""Hook for mkdocs: shows examples in docstrings (`>>> ...` and their output) as code."""

from typing import Any

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor

BEFORE_FENCES = 100


class Doctests(Preprocessor):
    """Puts a fence around each block of lines that starts with `>>>`, up to the next empty line."""

    def run(self, lines: list[str]) -> list[str]:
        shown: list[str] = []
        inside = fenced = False
        for line in [*lines, ""]:
            fenced ^= line.lstrip().startswith("```")
            if not inside and not fenced and line.startswith(">>>"):
                shown += ["", "```pycon"]
                inside = True
            elif inside and not line.strip():
                shown.append("```")
                inside = False
            shown.append(line)
        return shown[:-1]


class DoctestExtension(Extension):
    """Registers `Doctests` before fenced code is parsed."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.register(Doctests(md), "doctests", BEFORE_FENCES)


def on_config(config: Any) -> Any:
    """Called by mkdocs."""
    config.markdown_extensions.append(DoctestExtension())
    return config
