"""Tokens and names as readable text that no page can mistake for markup."""

import html
import unicodedata
from collections.abc import Iterable

_SHOWN = {" ": "·", "\n": "↵", "\t": "⇥"}


def visible(text: str) -> str:
    """A token without hidden characters: spaces as `·`, line ends as `↵`, control and formatting characters by number.

    >>> visible(" dog\\n")
    '·dog↵'
    >>> visible("\\u202eevil")
    '<U+202E>evil'
    """
    return "".join(_visible_character(character) for character in text) or "∅"


def escaped(text: object) -> str:
    """Text for places that read markup, such as plotly's titles and hovers."""
    return html.escape(str(text))


def token_list(tokens: Iterable[str]) -> str:
    """Tokens in one line for a hover, readable and escaped."""
    return escaped("  ".join(visible(token) for token in tokens))


def _visible_character(character: str) -> str:
    if character in _SHOWN:
        return _SHOWN[character]
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return f"<U+{ord(character):04X}>" if hidden else character
