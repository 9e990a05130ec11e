"""Hooks that must run: TransformerLens accepts many that never do."""

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from lens_multimodal.closest_names import closest
from lens_multimodal.transformer.one_at_a_time import one_at_a_time
from lens_multimodal.transformer.weights import config

HookFunction = Callable[..., Any]
"""`(activation, hook)`: returns a new activation to edit, or None to observe."""

NamedHook = tuple[str, HookFunction]
"""A hook name and its function, as `model.hooks(fwd_hooks=[...])` takes them."""

NamedHooks = Sequence[NamedHook]


class HookDidNotFire(RuntimeError):
    """A hook point accepted a hook but never ran it."""


def check_hook_names(model: nn.Module, names: Iterable[str]) -> None:
    """Check that the model has these hook points.

    Raises: ValueError naming the closest hook points it has.
    """
    hook_points: Any = model.hook_dict
    aliases = getattr(model, "_hook_alias_registry", None) or {}
    for name in dict.fromkeys(names):
        if name in hook_points or name in aliases:
            continue
        known: set[str] = {*hook_points, *aliases}
        raise ValueError(
            f"{type(model).__name__} has no hook point {name!r}{closest(name, known)} ({len(known)} names, blocks 0 to "
            f"{config(model).n_layers - 1})"
        )


@contextmanager
def fired_hooks(model: nn.Module, hooks: NamedHooks) -> Iterator[None]:
    """`model.hooks(fwd_hooks=hooks)` with known names, and an error on exit if one of them never ran.

    Other threads that run this model through the library wait until the block ends.

    Raises:
        ValueError: a name that the model does not have.
        HookDidNotFire: after the block, when a hook was accepted and no forward pass reached it.
    """
    check_hook_names(model, [name for name, _ in hooks])
    fired = [False] * len(hooks)

    def watched(index: int, function: HookFunction) -> HookFunction:
        def run(activation: Any, hook: Any) -> Any:
            fired[index] = True
            return function(activation, hook=hook)

        return run

    named = [(name, watched(i, function)) for i, (name, function) in enumerate(hooks)]
    with one_at_a_time(model), model.hooks(fwd_hooks=named):  # type: ignore[operator]
        yield
    silent = [name for (name, _), ran in zip(hooks, fired, strict=True) if not ran]
    if silent:
        raise HookDidNotFire(
            f"hook points {', '.join(dict.fromkeys(silent))} of {type(model).__name__} accepted a hook but never "
            f"ran it: no forward pass happened inside the block, or the model does not compute this activation"
        )


@contextmanager
def capture(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect activations by hook name during the block, graph included, nothing copied.

    Yields a dictionary filled by the forward pass (the last pass wins). Raises like `fired_hooks`.
    """
    kept: dict[str, Tensor] = {}
    with fired_hooks(model, keep(names, into=kept)):
        yield kept


def keep(names: Iterable[str], *, into: MutableMapping[str, Tensor]) -> list[NamedHook]:
    """Hooks that put activations into `into[name]`, graph included, nothing copied; the last pass wins."""
    return [(name, partial(keep_hook, name=name, into=into)) for name in names]


def keep_hook(activation: Tensor, hook: Any, *, name: str, into: MutableMapping[str, Tensor]) -> None:
    """Hook function: keep the activation itself."""
    into[name] = activation


def observe(names: Iterable[str], *, into: MutableMapping[str, list[Tensor]]) -> list[NamedHook]:
    """Hooks that append a copy of every activation they see to `into[name]`, detached.

    Around `generate` with its cache, the first entry is the prompt and each further one a generated token, so
    `torch.cat(into[name], dim=1)` has one row per token.
    """
    return [(name, partial(observe_hook, name=name, into=into)) for name in dict.fromkeys(names)]


def observe_hook(activation: Tensor, hook: Any, *, name: str, into: MutableMapping[str, list[Tensor]]) -> None:
    """Hook function: keep a copy of the activation, change nothing."""
    into.setdefault(name, []).append(activation.detach().clone())
