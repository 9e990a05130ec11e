"""What a norm does, apart from the division: `norm(x) = weight * (x - mean) / scale + bias`.

LayerNorm subtracts the mean over d_model, RMSNorm does not. Gemma's norms multiply by `1 + w`, most by `w`, OLMo's by
nothing. No configuration says which reliably, so the norm itself is measured with three vectors.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lens_multimodal.precision import wide

PROBE_SIZE = 64.0
"""Large enough that the norm's epsilon does not count."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NormMap:
    """The linear part of a norm: all of it but the division by its scale and the bias."""

    weight: Float[Tensor, " d_model"]
    """Float32 or wider."""
    centres: bool
    """It subtracts the mean over d_model (LayerNorm)."""

    def carry(self, vectors: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """What becomes of vectors that are added before the norm, apart from the division by its scale."""
        return self._centred(vectors.to(self._dtype(vectors))) * self.weight.to(vectors.device)

    def carry_back(self, directions: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The transpose: directions after the norm as directions before it, apart from the division by its scale."""
        return self._centred(directions * self.weight.to(directions.device))

    def invert(self, vectors: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Vectors that `carry` turns into these. Raises: ValueError if the norm loses a part of them."""
        if self.centres or not bool(self.weight.all()):
            raise ValueError(
                f"the norm {'subtracts the mean' if self.centres else 'multiplies some dimensions by zero'}, so not "
                f"every vector can come out of it"
            )
        return vectors.to(self._dtype(vectors)) / self.weight.to(vectors.device)

    def _dtype(self, vectors: Tensor) -> torch.dtype:
        return torch.promote_types(vectors.dtype, self.weight.dtype)

    def _centred(self, vectors: Tensor) -> Tensor:
        return vectors - vectors.mean(dim=-1, keepdim=True) if self.centres else vectors


@torch.no_grad()
def norm_map(module: nn.Module) -> NormMap:
    """Read a norm of a `HookedTransformer` or a `TransformerBridge`.

    Raises: ValueError for a module that is not a LayerNorm or RMSNorm with weights `w` or `1 + w`.
    """
    if hasattr(module, "original_component"):
        return _free_of_weights(module) or _measured(module.original_component, module.config.d_model)  # type: ignore[union-attr, arg-type]
    weight: Any = getattr(module, "w", None)
    if weight is None:
        weight = torch.ones(module.cfg.d_model)  # type: ignore[union-attr, arg-type]
    return NormMap(weight=wide(weight.detach()), centres=type(module).__name__.startswith("LayerNorm"))


def _free_of_weights(module: Any) -> NormMap | None:
    """A bridge's norm that ignores the weights of the module that it wraps."""
    if type(module).__name__ not in ("LayerNormPreBridge", "RMSNormPreBridge"):
        return None
    return NormMap(weight=torch.ones(module.config.d_model), centres=not module.uses_rms_norm)


def _measured(norm: Any, d_model: int) -> NormMap:
    """The map of a Hugging Face norm, from what it does to zeros, to equal numbers and to numbers of mean zero."""
    parameter: Tensor | None = getattr(norm, "weight", None)
    like = torch.empty(d_model) if parameter is None else parameter.detach()
    balanced = torch.ones(d_model, dtype=torch.float32)
    balanced[1::2] = -1
    if len(balanced) % 2:
        balanced[-3:] = torch.tensor([1.0, 1.0, -2.0])
    probes = torch.stack([torch.zeros_like(balanced), torch.ones_like(balanced), balanced])
    at_zero, at_equal, at_balanced = norm((PROBE_SIZE * probes).to(like)).float()
    balanced = balanced.to(at_zero.device)
    measured = (at_balanced - at_zero) * balanced.square().mean().sqrt() / balanced
    centres = bool((at_equal - at_zero).norm() < 0.5 * measured.norm())
    candidates = [torch.ones_like(measured)] if parameter is None else [wide(like), 1 + wide(like)]
    errors = [float(((weight - measured).abs() / (1 + weight.abs())).max()) for weight in candidates]
    best = min(range(len(candidates)), key=errors.__getitem__)
    if not errors[best] < 0.03:
        raise ValueError(
            f"{type(norm).__name__} is neither a LayerNorm nor an RMSNorm with weights w or 1 + w (it is off by "
            f"{errors[best]:.3g}), so what passes through it cannot be traced"
        )
    return NormMap(weight=candidates[best], centres=centres)
