"""Work in background threads: pictures opened before they are needed, results written after they were handed over."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(function: Callable[[T], R], items: Iterable[T], *, workers: int = 4, waiting: int = 64) -> Iterator[R]:
    """`map(function, items)`, computed in threads up to `waiting` items ahead; results come in the order of the items.

    An error in `function` is raised in place of its result. If the loop ends early, only calls that have begun finish.
    """
    results: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="ahead") as pool:
        try:
            for item in items:
                results.append(pool.submit(function, item))
                if len(results) > waiting:
                    yield results.popleft().result()
            while results:
                yield results.popleft().result()
        finally:
            for result in results:
                result.cancel()


class Background:
    """Calls that run one after another in a thread of their own, in the order in which they were handed over.

    At most `waiting` calls wait; `run` then blocks, so that memory stays flat. The first error of a call is raised by
    the next `run`, or when the block ends.
    """

    def __init__(self, *, waiting: int = 2) -> None:
        self._most = waiting
        self._calls: deque[Future[None]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="background")

    def run(self, function: Callable[..., None], *args: Any) -> None:
        """Hand over a call."""
        while len(self._calls) > self._most or (self._calls and self._calls[0].done()):
            self._calls.popleft().result()
        self._calls.append(self._pool.submit(function, *args))

    def __enter__(self) -> "Background":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._calls and error is None:
                self._calls.popleft().result()
        finally:
            for call in self._calls:
                call.cancel()
            self._pool.shutdown()
