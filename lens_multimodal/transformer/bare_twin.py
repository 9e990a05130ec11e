"""A `TransformerBridge` without its wrappers: the same weights in plain Hugging Face modules.

A bridge calls some forty modules of its own in each layer, so that hooks can be anywhere. Without hooks that time is
wasted, most of all on a GPU. The twin copies the Hugging Face modules that have wrapped modules inside. The copies
share the dictionaries of parameters and buffers, so weights that are edited, replaced, moved or cast are the twin's
too. All other modules are the bridge's own, including the embedding with a lens's hooks.
"""

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from operator import is_
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from lens_multimodal.transformer.bare_hook_points import BareHookPoint, bare_hook_points
from lens_multimodal.transformer.passes import also_through
from lens_multimodal.transformer.watched_modules import (
    COPIED,
    HOOK_POINT,
    MODEL,
    SHARED,
    WRAPPER,
    WatchedModules,
    hooks_taken_along,
)


class NoBareTwin(ValueError):
    """A bridge that no twin can replace."""


class BareTwin:
    """The twin of one bridge as its modules are now.

    Attributes:
        model: a `TransformerBridge` around the bare modules: TransformerLens' own forward pass and generation, and
            `hooks(fwd_hooks=...)` for some of its hook points.
        hook_points: those, by name, with the module at which each lies.

    Raises: NoBareTwin for modules or weights that bare modules would lack.
    """

    def __init__(self, bridge: Any) -> None:
        self._copies: dict[int, tuple[nn.Module, nn.Module]] = {}
        found = [*bridge.named_modules(), *bridge.original_model.named_modules(prefix="original_model")]
        wrapped = {module: path for path, module in reversed(found)}  # the latter are not part of the bridge's own tree
        points = bare_hook_points(bridge, filter(_is_wrapper, wrapped))
        ends = [bridge.blocks[at].original_component for at in (0, -1)]
        self._wanted = {id(module) for module in (*ends, *(point.wrapped for point in points.values()))}
        inner = self._bare(bridge.original_model)
        if not all(id(block) in self._copies for block in ends):
            raise NoBareTwin("its blocks are not among the Hugging Face modules")
        copies = {name: self._copies[id(p.wrapped)][1] for name, p in points.items() if id(p.wrapped) in self._copies}
        self.hook_points: Mapping[str, tuple[BareHookPoint, nn.Module]] = {
            name: (points[name], module) for name, module in copies.items()
        }
        _check_weights(found, inner)
        self._weights = [tensors for module in wrapped for tensors in (module._parameters, module._buffers) if tensors]
        self._watched = WatchedModules((path, module, self._part(module)) for module, path in wrapped.items())
        self._settings = [(vars(cfg), dict(vars(cfg))) for cfg in (bridge.cfg, inner.config)]
        self.model = _bridge_around(inner, bridge)
        first, last = (self._copies[id(block)][1] for block in ends)
        self.model.__dict__["hooks"] = partial(_hooks, weakref.ref(bridge), first, last, self.hook_points)

    def look(self) -> tuple[bool, str | None]:
        """Whether the bridge's modules or settings have changed since the twin was made; and anything that acts in
        the bridge now but would not act in the twin, as `WatchedModules.look` finds it."""
        changed, obstacle = self._watched.look()
        for now, then in self._settings:
            changed = changed or len(now) != len(then) or not all(map(is_, map(now.get, then), then.values()))
        return changed, obstacle

    def layout(self) -> tuple[torch.device, list[torch.dtype]]:
        """The device of the embeddings, and the precision of every weight."""
        tensors = [tensor for own in self._weights for tensor in own.values() if tensor is not None]
        return tensors[0].device, [tensor.dtype for tensor in tensors]

    def devices(self) -> set[torch.device]:
        """Where the weights are."""
        return {tensor.device for own in self._weights for tensor in own.values() if tensor is not None}

    # --- inside ------------------------------------------------------------------------------------------

    def _bare(self, module: nn.Module) -> nn.Module:
        """A module without wrappers inside: a copy, or the module itself if there are none."""
        if _is_wrapper(module):
            original = module._modules.get("_original_component")
            if original is None:
                raise NoBareTwin(f"a {type(module).__name__} is among the Hugging Face modules and wraps none")
            return self._bare(original)
        if id(module) in self._copies:
            return self._copies[id(module)][1]
        children = {name: None if child is None else self._bare(child) for name, child in module._modules.items()}
        if id(module) not in self._wanted and all(child is module._modules[name] for name, child in children.items()):
            return module
        for name, value in vars(module).items():
            if name != "_modules" and _leads_to_module(value):
                raise NoBareTwin(f"{type(module).__name__}.{name} holds a module that is not in the module tree")
        made: nn.Module = object.__new__(type(module))
        made.__dict__.update(vars(module), _modules=children)
        made.__dict__.update(hooks_taken_along(vars(module)))
        self._copies[id(module)] = module, made
        return made

    def _part(self, module: nn.Module) -> str:
        if hasattr(module, "fwd_hooks"):
            return HOOK_POINT
        if hasattr(module, "original_model"):
            return MODEL
        if _is_wrapper(module):
            return WRAPPER
        return COPIED if id(module) in self._copies else SHARED


@contextmanager
def _hooks(
    bridge: Callable[[], Any],
    first_block: nn.Module,
    last_block: nn.Module,
    here: Mapping[str, tuple[BareHookPoint, nn.Module]],
    fwd_hooks: Sequence[tuple[str, Callable[..., Any]]] = (),
) -> Iterator[None]:
    """As `hooks` of a bridge, at the hook points that a twin has."""
    with ExitStack() as placed:
        placed.enter_context(also_through(bridge(), first_block, last_block))
        for name, function in fwd_hooks:
            point, module = here[name]
            placed.callback(point.put(function, module).remove)
        yield


def _is_wrapper(module: Any) -> bool:
    from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

    return isinstance(module, GeneralizedComponent)


def _leads_to_module(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple | set):
        return any(map(_leads_to_module, value))
    return isinstance(value, nn.Module) or isinstance(getattr(value, "__self__", None), nn.Module)


def _check_weights(modules: list[tuple[str, nn.Module]], inner: nn.Module) -> None:
    """Raise NoBareTwin unless the bridge computes with the twin's weights alone."""
    known = {id(tensor) for module in inner.modules() for tensor in _tensors(module)}
    for path, module in modules:
        for tensor in _tensors(module):
            if id(tensor) not in known:
                raise NoBareTwin(f"TransformerLens computes with a copy of some weights ({path})")


def _tensors(module: nn.Module) -> list[Tensor]:
    return [tensor for tensor in (*module._parameters.values(), *module._buffers.values()) if tensor is not None]


def _bridge_around(inner: nn.Module, bridge: Any) -> Any:
    """A copy of the bridge object that runs other Hugging Face modules; the bridge itself is unchanged."""
    made: Any = object.__new__(type(bridge))
    own = {name: value for name, value in vars(bridge).items() if not isinstance(value, MethodType)}
    made.__dict__.update(own, original_model=inner, _modules=dict(bridge._modules))
    if "_driver" in own:  # TransformerLens 4
        made.__dict__["_driver"] = copy.copy(own["_driver"])
        made._driver.set_underlying_model(inner)
    return made
