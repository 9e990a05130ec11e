"""The latest values of something that is costly to compute."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Latest(Generic[K, V]):
    """The latest values by key, each made when it is first needed. Not thread-safe.

    Args: keep: how many; the oldest is dropped.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._values: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key; `make` computes it if it is missing."""
        if key not in self._values:
            self._values[key] = make()
            if len(self._values) > self._keep:
                del self._values[next(iter(self._values))]
        return self._values[key]
