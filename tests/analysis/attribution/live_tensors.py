"""The most bytes of tensors that are alive at once, counted at every operation: the same on each run."""

import gc
import weakref
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Counts the storages that operations return, until they are freed; scratch memory inside a kernel is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        given = {self._key(value) for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and self._key(value) not in given | set(self.alive):
                self._add(value)
        return result

    @staticmethod
    def _key(value: torch.Tensor) -> int:
        return value.untyped_storage()._cdata

    def _add(self, value: torch.Tensor) -> None:
        storage = value.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        self.alive[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.now -= self.alive.pop(key, 0)


def live_peak(run: Callable[[], object]) -> int:
    run()
    gc.collect(1)  # what the first run left; collecting everything that the tests hold would take longer than the runs
    with LiveTensors() as counted:
        run()
    return counted.peak
