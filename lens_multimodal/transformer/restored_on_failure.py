"""Attaching is a transaction: whatever fails, Ctrl-C included, the user's model is left as it was.

`TransformerBridge` replaces the modules of a Hugging Face model in place, edits its configuration and cannot undo
either. All of this lives in the dictionaries of modules and configurations, so they are copied before and put back.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def restored_on_failure(*modules: nn.Module) -> Iterator[None]:
    """Give modules back as they were if the block fails in any way: submodules, parameters, hooks, modes, dtype.

    Numbers inside tensors are not copied: the block may move and cast weights, but not edit them in place. Weights that
    are cast or moved inside the block are freed only after it.
    """
    before = _Snapshot(modules)
    try:
        yield
    except BaseException:
        before.restore()
        raise


class _Snapshot:
    """Everything that modules reach through attributes, dictionaries, lists, sets and configurations."""

    def __init__(self, roots: tuple[nn.Module, ...]) -> None:
        from transformer_lens.config import TransformerLensConfig
        from transformers import GenerationConfig, PretrainedConfig

        self._with_attributes = (nn.Module, PretrainedConfig, GenerationConfig, TransformerLensConfig)
        self._dictionaries: dict[int, tuple[dict[Any, Any], dict[Any, Any]]] = {}
        self._lists: dict[int, tuple[list[Any], list[Any]]] = {}
        self._sets: dict[int, tuple[set[Any], set[Any]]] = {}
        self._tensors: dict[int, tuple[Tensor, Tensor, bool]] = {}
        self._remember(list(roots))

    def _remember(self, waiting: list[Any]) -> None:
        """Remember values and what is inside them, each once."""
        while waiting:
            value = waiting.pop()
            if isinstance(value, self._with_attributes):
                value = vars(value)
            key = id(value)
            if isinstance(value, dict) and key not in self._dictionaries:
                self._dictionaries[key] = value, dict(value)
                waiting += value.values()
            elif isinstance(value, list) and key not in self._lists:
                self._lists[key] = value, list(value)
                waiting += value
            elif isinstance(value, set) and key not in self._sets:
                self._sets[key] = value, set(value)
            elif isinstance(value, Tensor) and key not in self._tensors:
                self._tensors[key] = value, value.data, value.requires_grad

    def restore(self) -> None:
        for dictionary, entries in self._dictionaries.values():
            dictionary.clear()
            dictionary.update(entries)
        for items, kept in self._lists.values():
            items[:] = kept
        for members, kept_members in self._sets.values():
            members.clear()
            members.update(kept_members)
        with torch.inference_mode(False), torch.no_grad():
            for tensor, data, requires_grad in self._tensors.values():
                if (tensor.dtype, tensor.device) != (data.dtype, data.device):
                    tensor.data = data
                if tensor.requires_grad != requires_grad:
                    tensor.requires_grad_(requires_grad)
