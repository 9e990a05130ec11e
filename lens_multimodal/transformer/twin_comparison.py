"""A comparison of a bare twin with its bridge on a few tokens: do they compute the same numbers?"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lens_multimodal.transformer.accepted_models import few_logits
from lens_multimodal.transformer.agreement import SAME_OPERATIONS, relative_difference
from lens_multimodal.transformer.bare_hook_points import SCALE
from lens_multimodal.transformer.bare_twin import BareTwin
from lens_multimodal.transformer.hook_names import resid_pre
from lens_multimodal.transformer.sizes import shape


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the twin of a bridge may be used for."""

    differs: str | None = None
    """Why it may not be used at all."""
    hook_points: frozenset[str] = frozenset()
    """Those at which it has the bridge's activations and gradients."""


def compare(bridge: Any, twin: BareTwin) -> Comparison:
    """Compare logits, and at each hook point of the twin activations and gradients."""
    if len(devices := twin.devices()) > 1:
        return Comparison(differs=f"its weights are on several devices ({', '.join(sorted(map(str, devices)))})")
    names = list(twin.hook_points)
    try:
        # These hooks override the caller's own hooks on saved tensors, which may count what the caller's pass saves.
        with torch.inference_mode(False), torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is):
            found, expected = (_Computed.by(model, names) for model in (twin.model, bridge))
        off = max(map(_steps, found.logits, expected.logits))
    except Exception as error:  # the model itself is then used, and may fail or not
        return Comparison(differs=f"its bare modules could not be compared with it ({type(error).__name__}: {error})")
    if not off <= 1:
        return Comparison(
            differs=f"its bare modules give different numbers, off by {off:.3g} times what rounding explains"
        )
    alike = (
        name
        for name, (point, _) in twin.hook_points.items()
        if found.agrees(expected, name, shown_only=point.shows == SCALE)
    )
    return Comparison(hook_points=frozenset(alike))


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _steps(found: Tensor, expected: Tensor) -> float:
    """The largest difference in units of what is tolerated; infinite for numbers that are not finite."""
    if found.shape != expected.shape or not found.isfinite().equal(expected.isfinite()):
        return float("inf")
    found, expected = found.nan_to_num(0, 0, 0), expected.nan_to_num(0, 0, 0)  # transformers masks with them
    return relative_difference(found, expected) / SAME_OPERATIONS.of(expected.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Computed:
    """What one model computes."""

    logits: list[Tensor]
    """Without padding, with padding and with a cache."""
    activations: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor | None]
    """None for an activation that the pass only shows, such as the scale of a norm."""

    @classmethod
    def by(cls, model: Any, names: list[str]) -> "_Computed":
        sizes = shape(model)
        n_pos = min(6, sizes.n_ctx)
        tokens = (torch.arange(2 * n_pos, device=model.W_E.device).view(2, n_pos) * 7 + 1) % sizes.d_vocab
        mask = torch.ones_like(tokens)
        mask[1, 0] = 0
        kept: dict[str, Tensor] = {}

        def keep(activation: Tensor, hook: Any, name: str) -> Tensor:
            if name == resid_pre(0):
                activation = activation.detach().requires_grad_()
            kept[name] = activation
            return activation  # a bridge puts a reshaped view into its graph only if a hook returns it

        with torch.enable_grad(), model.hooks(fwd_hooks=[(name, partial(keep, name=name)) for name in names]):
            logits = model(tokens, return_type="logits")
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)
        gradients = torch.autograd.grad((logits * weights).sum(), list(kept.values()), allow_unused=True)
        with torch.no_grad():
            padded = model(tokens, return_type="logits", attention_mask=mask)[mask.bool()]
            cached = few_logits(model.original_model)
        # Detached, so that what is computed with them later saves nothing for a backward pass.
        return cls(
            logits=[logits.detach(), padded, cached],
            activations={name: activation.detach() for name, activation in kept.items()},
            gradients=dict(zip(kept, gradients, strict=True)),
        )

    def agrees(self, other: "_Computed", name: str, *, shown_only: bool) -> bool:
        """Whether a hook point has the same activation, and the same gradient unless it is shown only."""
        if name not in self.activations or name not in other.activations:
            return False
        if _steps(self.activations[name], other.activations[name]) > 1:
            return False
        own, others = self.gradients[name], other.gradients[name]
        if own is None or others is None:
            return shown_only or own is others
        return _steps(own, others) <= 1
