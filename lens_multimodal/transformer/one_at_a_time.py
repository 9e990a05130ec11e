"""One thread at a time on a model: hooks belong to the model, so those of one thread would act in another's pass."""

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from torch import nn

P = ParamSpec("P")
R = TypeVar("R")

_locks: "weakref.WeakKeyDictionary[nn.Module, AbstractContextManager[bool]]" = weakref.WeakKeyDictionary()
_lock = threading.Lock()


@contextmanager
def one_at_a_time(model: nn.Module) -> Iterator[None]:
    """Wait until no other thread is in such a block of this model; a thread may enter blocks inside blocks."""
    with _lock:
        own = _locks.setdefault(model, threading.RLock())
    with own:
        yield


def runs_alone(
    function: Callable[Concatenate[nn.Module, P], R],
) -> Callable[Concatenate[nn.Module, P], R]:
    """Make a function run only while no other thread runs the model that is its first argument."""

    @wraps(function)
    def call(model: nn.Module, *args: P.args, **kwargs: P.kwargs) -> R:
        with one_at_a_time(model):
            return function(model, *args, **kwargs)

    return call


def _forget_locks() -> None:
    global _lock
    _lock = threading.Lock()
    _locks.clear()


if hasattr(os, "register_at_fork"):  # not on Windows; a forked process has none of the threads that held locks
    os.register_at_fork(after_in_child=_forget_locks)
