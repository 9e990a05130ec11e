"""The latest values of something that is costly to compute."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Latest(Generic[K, V]):
    """The most recently used values by key. Not thread-safe.

    Args:
        keep: how many; the one unused for longest is dropped.
        forget: called with each dropped value.
    """

    def __init__(self, keep: int, *, forget: Callable[[V], None] | None = None) -> None:
        self._keep = keep
        self._forget = forget
        self._values: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key; `make` computes it if it is missing."""
        if key not in self._values:
            self.put(key, make())
        return self._used(key)

    def find(self, key: K) -> V | None:
        """The value of a key, or None."""
        return self._used(key) if key in self._values else None

    def put(self, key: K, value: V) -> None:
        """Keep a value under a new key."""
        self._values[key] = value
        if len(self._values) > self._keep:
            oldest = self._values.pop(next(iter(self._values)))
            if self._forget is not None:
                self._forget(oldest)

    def _used(self, key: K) -> V:
        """The value, as the last that was used."""
        self._values[key] = value = self._values.pop(key)
        return value
