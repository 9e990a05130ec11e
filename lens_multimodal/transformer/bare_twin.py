"""A `TransformerBridge` without its wrappers: the same weights in plain Hugging Face modules.

A bridge calls some forty modules of its own in each layer, so that hooks can be anywhere. Without hooks that time is
wasted, most of all on a GPU. The twin copies the Hugging Face modules that have wrapped modules inside. The copies
share the dictionaries of parameters and buffers, so weights that are edited, replaced, moved or cast are the twin's
too. All other modules are the bridge's own, including the embedding with a lens's hooks.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from lens_multimodal.transformer.hook_names import mlp_post, resid_pre
from lens_multimodal.transformer.watched_modules import (
    COPIED,
    HOOK_FIELDS,
    HOOK_POINT,
    MODEL,
    SHARED,
    WRAPPER,
    WatchedModules,
)


class NoBareTwin(ValueError):
    """A bridge that no twin can replace."""


class BareTwin:
    """The twin of one bridge as its modules are now.

    Attributes:
        model: a `TransformerBridge` around the bare modules: TransformerLens' own forward pass and generation, and
            `hooks(fwd_hooks=...)` for some of its hook points.

    Raises: NoBareTwin for modules or weights that bare modules would lack.
    """

    def __init__(self, bridge: Any) -> None:
        self._copies: dict[int, tuple[nn.Module, nn.Module]] = {}
        readers = [getattr(getattr(block.mlp, "out", None), "original_component", None) for block in bridge.blocks]
        blocks = [block.original_component for block in bridge.blocks]
        self._wanted = {id(module) for module in (*readers, *blocks)}
        inner = self._bare(bridge.original_model)
        self._places: dict[str, tuple[nn.Module, Any]] = {}
        for site, modules in ((resid_pre, blocks), (mlp_post, readers)):
            for layer, module in enumerate(modules):
                point = bridge.hook_dict.get(site(layer))
                if id(module) in self._copies and point is not None and point.hook_conversion is None:
                    self._places[site(layer)] = self._copies[id(module)][1], point
        found = [*bridge.named_modules(), *bridge.original_model.named_modules(prefix="original_model")]
        wrapped = {module: path for path, module in reversed(found)}  # the latter are not part of the bridge's own tree
        _check_weights(found, inner)
        self._weights = [tensors for module in wrapped for tensors in (module._parameters, module._buffers) if tensors]
        self._watched = WatchedModules((path, module, self._part(module)) for module, path in wrapped.items())
        self._settings = [(vars(cfg), dict(vars(cfg))) for cfg in (bridge.cfg, inner.config)]
        self.model = _bridge_around(inner, bridge)
        self.model.__dict__["hooks"] = partial(_hooks, self._places)

    def look(self) -> tuple[bool, str | None]:
        """Whether the bridge's modules or settings have changed since the twin was made; and anything that acts in
        the bridge now but would not act in the twin, as `WatchedModules.look` finds it."""
        changed, obstacle = self._watched.look()
        for now, then in self._settings:
            changed = changed or len(now) != len(then) or any(now.get(name) is not then[name] for name in then)
        return changed, obstacle

    def lacks(self, names: Sequence[str]) -> str | None:
        """The first of these hook points that the twin does not have, or None."""
        return next((name for name in names if name not in self._places), None)

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
        made.__dict__.update({name: OrderedDict() for name in HOOK_FIELDS if name in vars(module)})
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
    places: Mapping[str, tuple[nn.Module, Any]], fwd_hooks: Sequence[tuple[str, Callable[..., Any]]] = ()
) -> Iterator[None]:
    """As `hooks` of a bridge, on the inputs of blocks and the activations of neurons."""
    with ExitStack() as placed:
        for name, function in fwd_hooks:
            module, point = places[name]
            handle = module.register_forward_pre_hook(_on_first_input(function, point), with_kwargs=True)
            placed.callback(handle.remove)
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


def _on_first_input(function: Callable[..., Any], point: Any) -> Callable[..., Any]:
    """A function of a hook point as a PyTorch hook that sees, and may replace, a module's first input."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            new = function(args[0], hook=point)
            return None if new is None else ((new, *args[1:]), kwargs)
        new = function(kwargs["hidden_states"], hook=point)
        return None if new is None else (args, {**kwargs, "hidden_states": new})

    return hook
