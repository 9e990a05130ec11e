"""The run-time type checks of the test run, compiled once for each function of the source.

jaxtyping asks the type checker to check an empty function with the signature of the one at hand, and asks anew each
time a `def` runs. A function inside another is defined at every call of the outer one, and compiling its check takes
longer than most calls.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from beartype import beartype

_compiled: defaultdict[Any, list[tuple[dict[str, Any], Callable[..., Any]]]] = defaultdict(list)
"""Annotations, which need not be hashable, and the check of them, by everything else about a function."""


def checked(empty: Callable[..., Any]) -> Callable[..., Any]:
    """The empty function with its arguments and its result checked by beartype."""
    if "<locals>" not in empty.__qualname__:
        return beartype(empty)
    optional = len(empty.__defaults__ or ()), frozenset(empty.__kwdefaults__ or ())
    known = _compiled[empty.__module__, empty.__qualname__, empty.__code__, optional]
    for annotations, check in known:
        if annotations == empty.__annotations__:
            return check
    known.append((empty.__annotations__, beartype(empty)))
    return known[-1][1]
