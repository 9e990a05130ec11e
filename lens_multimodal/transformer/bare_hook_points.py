"""Hook points of a bridge among bare modules: what a wrapper shows there, without the wrapper.

A wrapper shows the input of the module that it wraps, its output, or what a norm divides by. PyTorch hooks on a copy of
that module can show, and replace, the same.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lens_multimodal.precision import wide
from lens_multimodal.transformer.hook_names import (
    FINAL_NORM_SCALE,
    attn_out,
    head_z,
    mlp_out,
    mlp_post,
    resid_post,
    resid_pre,
)
from lens_multimodal.transformer.residual_stream import written_scale

INPUT, OUTPUT, SCALE = "hook_in", "hook_out", "hook_scale"
"""What a wrapper calls the hook points that bare modules can have as well."""

BY_LAYER = (resid_pre, resid_post, mlp_post, mlp_out, attn_out, head_z)
"""The hook points that the library's own analyses use most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BareHookPoint:
    """Where a hook point of a bridge is among bare modules."""

    wrapper: Any
    """The bridge's."""
    point: Any
    """The bridge's own hook point, which hook functions are given."""
    shows: str
    """`INPUT`, `OUTPUT` or `SCALE`."""

    @property
    def wrapped(self) -> nn.Module:
        """The module of the bridge at which the hook point lies."""
        return self.wrapper._modules["_original_component"]  # type: ignore[no-any-return]

    def put(self, function: Callable[..., Any], module: nn.Module) -> RemovableHandle:
        """Run a hook function here in each pass through `module`, a copy of the wrapped one."""
        change = partial(self._changed, function)
        if self.shows == INPUT:
            return module.register_forward_pre_hook(partial(_on_input, change), with_kwargs=True)
        act = partial(_on_output, change) if self.shows == OUTPUT else partial(_on_scale, change, self.wrapper)
        return module.register_forward_hook(act, with_kwargs=True)

    def _changed(self, function: Callable[..., Any], activation: Tensor) -> Tensor | None:
        """What the function replaces an activation with, in the shape that the module knows; None for nothing."""
        shape = self.point.hook_conversion
        if shape is None:
            return function(activation, hook=self.point)  # type: ignore[no-any-return]
        new = function(shape.convert(activation), hook=self.point)
        return None if new is None else shape.revert(new)  # type: ignore[no-any-return]


def bare_hook_points(bridge: Any, wrappers: Iterable[Any]) -> dict[str, BareHookPoint]:
    """The hook points of `BY_LAYER`, and the scales of norms, that show something of a wrapped module."""
    found: dict[int, BareHookPoint] = {}
    for wrapper in wrappers:
        for shows in (INPUT, OUTPUT, SCALE):
            point = wrapper._modules.get(shows)
            if point is not None and wrapper._modules.get("_original_component") is not None:
                found[id(point)] = BareHookPoint(wrapper=wrapper, point=point, shows=shows)
    points = bridge.hook_dict
    return {name: found[id(points[name])] for name in _names(bridge) if id(points.get(name)) in found}


def _names(bridge: Any) -> Iterator[str]:
    yield FINAL_NORM_SCALE
    for layer in range(len(bridge.blocks)):
        yield from (name_of(layer) for name_of in BY_LAYER)
        if (scale := written_scale(bridge, layer)) is not None:
            yield scale


def _on_input(
    change: Callable[[Tensor], Tensor | None], _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    new = change(_input(args, kwargs))
    if new is None:
        return None
    return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})


def _on_output(
    change: Callable[[Tensor], Tensor | None],
    _module: nn.Module,
    _args: tuple[Any, ...],
    _kwargs: dict[str, Any],
    output: Any,
) -> Any:
    if not isinstance(output, tuple):
        return change(output)
    new = change(output[0])
    return None if new is None else (new, *output[1:])


def _on_scale(
    change: Callable[[Tensor], Tensor | None],
    wrapper: Any,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    _output: Tensor,
) -> Tensor | None:
    given = _input(args, kwargs)
    resid = wide(given)
    if not wrapper.uses_rms_norm:
        resid = resid - resid.mean(dim=-1, keepdim=True)
    own = (getattr(module, name, None) for name in ("eps", "variance_epsilon"))
    eps = next((value for value in own if value is not None), getattr(wrapper.config, "eps", 0.0))
    scale = (resid.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    new = change(scale)
    if new is None or new is scale:
        return None
    return wrapper._apply_weight_and_bias(resid / new, given.dtype)  # type: ignore[no-any-return]


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]  # type: ignore[no-any-return]
