"""Errors about arguments name the public function and the argument: `ablate(positions=...): ...`.

A reader deep inside raises `ArgumentValueError("...", argument="positions")`. The outermost `@public` function that
is running and has an argument of this name is the one that the user called, so the message starts with it.
"""

from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_running: ContextVar[tuple[tuple[str, frozenset[str]], ...]] = ContextVar("running public functions", default=())
"""Names and argument names of the public functions that are running, the outermost first."""


class ArgumentError(Exception):
    """A public function was given an argument that it cannot use."""

    argument: str
    """The argument's name."""

    def __init__(self, message: str, argument: str = "") -> None:
        super().__init__(f"{called_as(argument)}: {message}" if argument else message)
        self.argument = argument


class ArgumentValueError(ArgumentError, ValueError):
    """The argument has the right type and a value that is not allowed."""


class ArgumentTypeError(ArgumentError, TypeError):
    """The argument has the wrong type."""


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function that users call, so that errors about its arguments name it.

    Only the call itself counts: a generator or a context manager must check its arguments before it is returned.
    """
    arguments = frozenset(signature(function).parameters)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        entered = _running.set((*_running.get(), (function.__qualname__, arguments | kwargs.keys())))
        try:
            return function(*args, **kwargs)
        finally:
            _running.reset(entered)

    return call


def called_as(argument: str) -> str:
    """`ablate(positions=...)`: the argument with the public function that the user called, if one is running."""
    for function, arguments in _running.get():
        if argument in arguments:
            return f"{function}({argument}=...)"
    return argument


def read_integer(value: Any, name: str) -> int:
    """A whole number: a Python or NumPy integer, or a tensor of one integer.

    Raises: ArgumentTypeError for anything else, booleans and floats included.
    """
    if not _is_integer(value):
        raise ArgumentTypeError(f"expected an integer, got {shown(value)}", name)
    return int(value)


def shown(value: Any) -> str:
    """A value for an error message: arrays, tensors and tables by their shape, anything long cut off."""
    kind, shape = type(value).__name__, getattr(value, "shape", ())
    if len(shape):
        return f"a {kind} of shape {list(shape)}"
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({kind})"


def _is_integer(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0 and not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
    return hasattr(value, "__index__") and not isinstance(value, bool | np.bool_ | np.ndarray)
