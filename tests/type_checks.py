"""The run-time type checks of the test run: those of jaxtyping and beartype, at a fraction of their price.

`jaxtyping.jaxtyped` binds the arguments of each call to the signature and checks them twice, and has a function inside
another compiled anew at each call of the outer one. Together that was a third of the suite's processor time. Here
beartype checks a function directly, once a call; where arrays are named, within jaxtyping's context, in which their
axes must agree. Functions inside others are checked only if they name arrays; they go through jaxtyping, but are
compiled once. Importing this module puts it in place.
"""

import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import partial, wraps
from inspect import isgeneratorfunction
from types import CodeType
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

checks = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))
jaxtyped_slowly = jaxtyping.jaxtyped


def jaxtyped(thing: Any = None, *, typechecker: Callable[..., Any]) -> Any:
    """In place of `jaxtyping.jaxtyped`, as the import hook calls it: for the functions and classes of a package."""
    if thing is None:
        return partial(jaxtyped, typechecker=typechecker)
    if isinstance(thing, type):
        if is_dataclass(thing) and "__init__" in vars(thing):
            thing.__init__ = jaxtyped(thing.__init__, typechecker=typechecker)
        return thing
    if "<locals>" in thing.__qualname__:
        return jaxtyped_slowly(thing, typechecker=typechecker) if _names_axes_inside(thing) else thing
    if isgeneratorfunction(thing):
        return jaxtyped_slowly(thing, typechecker=typechecker)
    stated, hints = thing.__annotations__, _hints(thing)
    thing.__annotations__ = hints
    checked_alone = checks(thing)
    thing.__annotations__ = stated
    if checked_alone is thing:  # it states nothing to check
        return thing

    @wraps(thing)
    def call(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return thing(*args, **kwargs)
        return checked_alone(*args, **kwargs)

    @wraps(thing)
    def call_with_axes(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return thing(*args, **kwargs)
        with jaxtyped_slowly("context"):
            return checked_alone(*args, **kwargs)

    return call_with_axes if any(map(_names_axes, hints.values())) else call


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The types that are meant by the annotations of a function."""
    return {name: _resolved(hint, sys.modules[function.__module__]) for name, hint in function.__annotations__.items()}


def _names_axes_inside(function: Callable[..., Any]) -> bool:
    """Whether a function inside another names arrays, found out once for all that are made from the same code."""
    code = function.__code__
    if code not in _known_to_name_axes:
        _known_to_name_axes[code] = any(map(_names_axes, _hints(function).values()))
    return _known_to_name_axes[code]


_known_to_name_axes: dict[CodeType, bool] = {}


def _names_axes(hint: Any) -> bool:
    """Whether an array type of jaxtyping is anywhere in a type."""
    if isinstance(hint, list):  # the arguments of a Callable
        return any(map(_names_axes, hint))
    return isinstance(hint, type(jaxtyping.Shaped[Any, ""])) or any(map(_names_axes, get_args(hint)))


def _resolved(hint: Any, module: Any) -> Any:
    """The type that is meant; Any for a name that only type checkers import."""

    def stated(value: hint) -> None:
        """Nothing but its annotation counts."""

    try:
        return get_type_hints(stated, vars(module), include_extras=True)["value"]
    except Exception:
        return Any


_compiled: defaultdict[Any, list[tuple[dict[str, Any], Callable[..., Any]]]] = defaultdict(list)
"""Annotations, which need not be hashable, and the check of them, by everything else about a function."""


def checked(empty: Callable[..., Any]) -> Callable[..., Any]:
    """The empty function that jaxtyping makes for the signature of another, checked by beartype."""
    optional = len(empty.__defaults__ or ()), frozenset(empty.__kwdefaults__ or ())
    known = _compiled[empty.__module__, empty.__qualname__, empty.__code__, optional]
    for annotations, check in known:
        if annotations == empty.__annotations__:
            return check
    known.append((empty.__annotations__, beartype(empty)))
    return known[-1][1]


jaxtyping.jaxtyped = jaxtyped
