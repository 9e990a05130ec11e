"""What a misspelt name may have meant, for error messages."""

from collections.abc import Iterable
from difflib import get_close_matches


def closest(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """`; closest: dog, frog`: the known names that are most like a name; nothing if none is."""
    found = get_close_matches(name, list(known), n=most)
    return f"; closest: {', '.join(found)}" if found else ""
