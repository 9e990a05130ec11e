"""Several devices on a machine that has none: real numbers, and errors where a GPU would raise them.

A pretend device is named `fpga:0`, `fpga:1`, ...: a name that PyTorch can read and that nobody treats specially. Inside
`pretend_devices()` a tensor sent there keeps its numbers in main memory and says that it lies on that device; results
lie where their inputs do, and an operation whose inputs lie apart raises as CUDA's does:

    with pretend_devices():
        a = torch.ones(3, device="fpga:0")
        b = torch.ones(3).to("fpga:1")
        a + b.to("fpga:0")          # fine
        a + b                       # DevicesMixed

What CUDA lets pass, passes: copies, numbers without dimension on the CPU in element-wise operations, indices on the
CPU. Not pretended: asynchrony, and other rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

PRETEND = "fpga"

BENEATH = "meta"
"""The device that autograd sees: the only kind that can have several indices and needs no driver."""

aten = torch.ops.aten

COPIES = {aten._to_copy.default, aten.copy_.default, aten.copy.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class DevicesMixed(RuntimeError):
    """An operation was given tensors of several devices."""


class Elsewhere(Tensor):
    """A tensor on a pretend device; `numbers` is the same one on the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor, device: torch.device) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            layout=numbers.layout,
            device=torch.device(BENEATH, device.index),
        )
        made.numbers = numbers
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device(PRETEND, super().device.index)

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    def __repr__(self, **_options: Any) -> str:
        return f"{self.numbers!r} on {self.device}"

    def __getitem__(self, index: Any) -> Tensor:
        return super().__getitem__(_as_tensors(index))

    def __setitem__(self, index: Any, values: Any) -> None:
        super().__setitem__(_as_tensors(index), values)

    def tolist(self) -> Any:
        return self.numbers.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


class _Everywhere(TorchDispatchMode):
    """Makes tensors on a pretend device, and sends them there, where none of the inputs is on one yet."""

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


class _FromNumbers(TorchFunctionMode):
    """`torch.tensor([1, 2], device=...)` asks the device for memory before any dispatch mode sees the call."""

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function not in (torch.tensor, torch.as_tensor, torch.asarray) or not _is_pretended(kwargs.get("device")):
            return function(*args, **kwargs)
        device = kwargs.pop("device")
        return function(*args, **kwargs).to(device)


@contextmanager
def pretend_devices() -> Iterator[None]:
    """Within the block tensors can be made on, and sent to, `fpga:0`, `fpga:1`, ..."""
    with _Everywhere(), _FromNumbers(), patch.object(torch, "is_autocast_enabled", _is_autocast_enabled):
        yield


def run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation on the CPU, its result where it belongs.

    Raises: DevicesMixed.
    """
    if function._can_decompose():  # in inference mode it has not been decomposed before
        with _Everywhere():
            return function.decompose(*args, **kwargs)
    named = kwargs.get("device")
    leaves, structure = tree_flatten((args, kwargs))
    if named is None and not any(isinstance(leaf, Elsewhere) for leaf in leaves):
        return function(*args, **kwargs)
    device = torch.device(named) if named is not None else place_of(function, leaves)
    pretended = _is_pretended(device)
    inner = [leaf.numbers if isinstance(leaf, Elsewhere) else leaf for leaf in leaves]
    inner_args, inner_kwargs = tree_unflatten(inner, structure)
    if named is not None and pretended:
        inner_kwargs = {**inner_kwargs, "device": torch.device("cpu")}
    found = function(*inner_args, **inner_kwargs)
    if not pretended:
        return found
    placed = tree_map_only(Tensor, lambda t: Elsewhere(t, device), found)
    return return_and_correct_aliasing(function, args, kwargs, placed)


def _is_autocast_enabled(device_type: str = "cuda", *, asked: Any = torch.is_autocast_enabled) -> bool:
    """PyTorch raises for a kind of device that has no autocast."""
    return device_type != PRETEND and asked(device_type)


def _as_tensors(index: Any) -> Any:
    """Lists in an index as tensors on the CPU: PyTorch would make them on the underlying device."""
    if isinstance(index, tuple):
        return tuple(map(_as_tensors, index))
    return torch.tensor(index) if isinstance(index, list) else index


def _is_pretended(device: Any) -> bool:
    if device is None:
        return False
    device = torch.device(device)
    return device.type in (PRETEND, BENEATH) and device.index is not None


def place_of(function: Any, leaves: list[Any]) -> torch.device:
    """The one device of an operation's tensors, which are among the leaves of its arguments.

    Raises: DevicesMixed.
    """
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not tensors:
        return torch.device("cpu")
    if function in COPIES:
        return tensors[0].device
    if function in INDEXING:
        counted = [tensors[0], *(t for t in tensors[1:] if t.device.type != "cpu" or t.dtype.is_floating_point)]
    elif torch.Tag.pointwise in function.tags:
        counted = [t for t in tensors if t.ndim or t.device.type != "cpu"] or tensors
    else:
        counted = tensors
    devices = {t.device for t in counted}
    if len(devices) > 1:
        shown = ", ".join(f"{list(t.shape)} on {t.device}" for t in tensors)
        raise DevicesMixed(f"{function} was given tensors of several devices: {shown}")
    return counted[0].device
