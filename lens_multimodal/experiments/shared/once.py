"""What is expensive to make and used again: made at its first use, then kept."""

from collections.abc import Callable
from typing import Any, TypeVar

MadeT = TypeVar("MadeT")


class Once:
    """Values by name. Names are shared by all experiments, so each value has one of its own."""

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}

    def __call__(self, name: str, make: Callable[[], MadeT]) -> MadeT:
        """The value of this name; `make` computes it if it is missing."""
        if name not in self.made:
            self.made[name] = make()
        kept: MadeT = self.made[name]
        return kept
