"""Which modules a forward pass of the library runs through: those of the TransformerLens model, or a bare twin's.

The twin is taken only where that cannot change a result: no hook is on the model that the twin lacks, its modules are
those that the twin was made of, and the two gave the same logits, activations and gradients when they were compared
(`twin_comparison`). The comparison is made on each model, before its twin is first used; no list of families decides.
"""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import _len_torch_function_stack
from torch.utils._python_dispatch import _len_torch_dispatch_stack

from lens_multimodal.transformer.bare_twin import BareTwin, NoBareTwin
from lens_multimodal.transformer.model_class import BRIDGE, class_name, weight_processing
from lens_multimodal.transformer.one_at_a_time import runs_alone
from lens_multimodal.transformer.twin_comparison import Comparison, compare

AUTO, HOOKED, BARE = "auto", "hooked", "bare"
"""Choices: the twin wherever that is safe; always the TransformerLens model; the twin, or else an error."""

_TWIN = "_lens_multimodal_twin"
"""Where a model keeps its twin: both are freed together."""

PATIENCE = 50
"""How often a twin is made again before a model counts as one that changes all the time."""

_forced: "weakref.WeakKeyDictionary[nn.Module, str]" = weakref.WeakKeyDictionary()


def which_model(model: nn.Module, names: Sequence[str] = ()) -> Any:
    """The model itself, or a bridge like it around bare modules.

    Args: names: hook points that the pass needs.
    Raises: RuntimeError with the reason, if bare modules are required but cannot be used.
    """
    reason = why_hooked(model, names)
    if reason is None:
        return vars(model)[_TWIN].twin.model
    if _forced.get(model) == BARE:
        raise RuntimeError(f"this model cannot run on bare modules: {reason}")
    return model


@contextmanager
def running_on(model: nn.Module, how: str) -> Iterator[None]:
    """Within the block, every pass of the library runs in this way, in every thread.

    Args: how: "auto", "hooked" (the TransformerLens model itself) or "bare" (an error where that is not safe).
    Raises: ValueError for another word.
    """
    if how not in (AUTO, HOOKED, BARE):
        raise ValueError(f'expected "{AUTO}", "{HOOKED}" or "{BARE}", got {how!r}')
    before = _forced.get(model, AUTO)
    _forced[model] = how
    try:
        yield
    finally:
        _forced[model] = before


@contextmanager
def running_alike(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Within the block, all passes of the library run alike: on bare modules only if those have these hook points.

    For passes with different hooks whose results are compared: TransformerLens' norms round in another way than bare
    modules, so a hook that changes nothing would seem to have an effect.

    Raises: RuntimeError with the reason, if bare modules are required but cannot be used.
    """
    with running_on(model, HOOKED) if which_model(model, list(names)) is model else nullcontext():
        yield


def forget_twin(model: nn.Module) -> None:
    """Free what was made to run a model on bare modules."""
    vars(model).pop(_TWIN, None)


@runs_alone
def why_hooked(model: nn.Module, names: Sequence[str] = ()) -> str | None:
    """Why a pass that needs these hook points runs through the TransformerLens model now; None if it does not."""
    if _forced.get(model) == HOOKED:
        return "the TransformerLens model was requested"
    if class_name(model) != BRIDGE or weight_processing(model) != "none":
        return f"it is a {class_name(model)}" if weight_processing(model) == "none" else "its weights were processed"
    if (reason := _unusual_state()) is not None:
        return reason
    twin: _Twin = vars(model).get(_TWIN) or vars(model).setdefault(_TWIN, _Twin())
    return twin.why_not(model, names)


class _Twin:
    """The twin of one model, made again when the model changes, and what a comparison with the model gave."""

    def __init__(self) -> None:
        self.twin: BareTwin | None = None
        self._made = 0
        self._never: str | None = None
        self._layout: Any = None
        self._compared: Comparison | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _Twin, ()  # a copied or unpickled model makes its own twin

    def why_not(self, model: Any, names: Sequence[str]) -> str | None:
        changed, obstacle = (True, None) if self.twin is None else self.twin.look()
        if changed and obstacle is None and self._never is None:
            self._make(model)
            obstacle = None if self.twin is None else self.twin.look()[1]
        if self.twin is None or obstacle is not None:
            return obstacle or self._never
        layout = self.twin.layout()
        if self._compared is None or layout != self._layout:
            self._layout, self._compared = layout, compare(model, self.twin)
        if self._compared.differs is not None:
            return self._compared.differs
        lacking = next((name for name in names if name not in self._compared.hook_points), None)
        return None if lacking is None else f"bare modules have no {lacking}"

    def _make(self, model: Any) -> None:
        self._compared, self.twin = None, None
        if self._made == PATIENCE:
            self._never = f"its modules or settings changed {PATIENCE} times"
            return
        try:
            self.twin = BareTwin(model)
            self._made += 1
        except NoBareTwin as error:
            self._never = str(error)


def _unusual_state() -> str | None:
    """What may treat the operations of a pass differently, anywhere in this process."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.compiler.is_exporting():
        return "a graph is being made"
    if _len_torch_function_stack() or _len_torch_dispatch_stack():
        return "a torch function mode or dispatch mode is on"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a transform of torch.func is on"
    if any(torch.is_autocast_enabled(device) for device in ("cpu", "cuda")):
        return "autocast is on"
    return None
