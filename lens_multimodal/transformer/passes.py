"""Where in its row a forward pass begins: how many positions its key-value cache already holds.

A hook function sees an activation and not the cache, so a pass over one position could be a prompt of one token or a
generated one. What the first block is called with tells them apart, on every model class.
"""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lens_multimodal.transformer.watched_modules import harmless


class Passes:
    """The forward pass that a model is in, for the hooks that run during it; made by `passes_of`.

    The model is watched for as long as an object like this lives: the hooks that need one hold it.
    """

    def __init__(self) -> None:
        self._of_this_thread = threading.local()

    @property
    def start(self) -> int:
        """Positions before those of this pass, whose keys and values come from the cache; 0 for a whole row."""
        return getattr(self._of_this_thread, "start", 0)

    @property
    def n_prompt(self) -> int | None:
        """The length of the last row that ran from its first position on; None if none was seen."""
        return getattr(self._of_this_thread, "n_prompt", None)

    def begin(self, start: int, n_pos: int) -> None:
        """A pass over `n_pos` positions begins."""
        self._of_this_thread.start = start
        if start == 0:
            self._of_this_thread.n_prompt = n_pos

    def end(self) -> None:
        """The pass is over."""
        self._of_this_thread.start = 0


_watched: "weakref.WeakKeyDictionary[nn.Module, weakref.ref[Passes]]" = weakref.WeakKeyDictionary()


def passes_of(model: nn.Module) -> Passes:
    """Watch a model's forward passes for as long as somebody holds the returned object."""
    alive = _watched[model]() if model in _watched else None
    if alive is None:
        alive = Passes()
        blocks = list(model.blocks)  # type: ignore[arg-type]
        weakref.finalize(alive, _remove, _watch(alive, blocks[0], blocks[-1]))
        _watched[model] = weakref.ref(alive)
    return alive


@contextmanager
def also_through(model: nn.Module, first_block: nn.Module, last_block: nn.Module) -> Iterator[None]:
    """Within the block, passes through these modules count as passes of the model, if it is watched."""
    alive = _watched[model]() if model in _watched else None
    handles = () if alive is None else _watch(alive, first_block, last_block)
    try:
        yield
    finally:
        _remove(handles)


def _watch(passes: Passes, first_block: nn.Module, last_block: nn.Module) -> tuple[RemovableHandle, ...]:
    watcher = _Watcher(passes)
    return (
        first_block.register_forward_pre_hook(watcher.begin, with_kwargs=True, prepend=True),
        last_block.register_forward_hook(watcher.end, always_call=True),
    )


class _Watcher:
    """PyTorch hooks that keep nothing alive; those of a copied or unpickled model watch nothing."""

    def __init__(self, passes: Passes | None) -> None:
        self._passes = None if passes is None else weakref.ref(passes)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Watcher, (None,)

    @harmless
    def begin(self, _block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = (*args, *kwargs.values())
        residual = next((value for value in given if isinstance(value, Tensor) and value.is_floating_point()), None)
        passes = None if self._passes is None else self._passes()
        if passes is not None and residual is not None:
            passes.begin(_cached(given), residual.shape[1])

    @harmless
    def end(self, _block: nn.Module, _args: Any, _output: Any) -> None:
        passes = None if self._passes is None else self._passes()
        if passes is not None:
            passes.end()


def _cached(given: tuple[Any, ...]) -> int:
    for value in given:
        if hasattr(value, "get_seq_length"):  # transformers' Cache
            return int(value.get_seq_length())
        if isinstance(keys := getattr(value, "past_keys", None), Tensor):  # HookedTransformer's cache of a layer
            return keys.shape[1]
    return 0


def _remove(handles: tuple[RemovableHandle, ...]) -> None:
    for handle in handles:
        handle.remove()
