"""A check, in one forward and one backward pass, that hook points run and that edits there reach the logits."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.transformer.families import architecture
from lens_multimodal.transformer.residual_check import check_residual_stream


class HookHasNoEffect(RuntimeError):
    """A hook point runs, but ignores what its hook returns."""


def edited(model: nn.Module) -> list[str]:
    """Every hook point at which this library edits activations."""
    per_block = (
        transformer.resid_pre,
        transformer.resid_post,
        transformer.mlp_pre,
        transformer.mlp_post,
        transformer.mlp_out,
        transformer.attn_out,
        transformer.head_z,
    )
    n_layers = transformer.shape(model).n_layers
    return [transformer.EMBED, *(name(layer) for layer in range(n_layers) for name in per_block)]


def read_only(model: nn.Module) -> list[str]:
    """Hook points that are only read: where attention is left to Hugging Face, edits of patterns are dropped."""
    return [transformer.attn_pattern(layer) for layer in range(transformer.shape(model).n_layers)]


@torch.inference_mode(False)
@torch.enable_grad()
def self_check(model: nn.Module, names: Sequence[str] | None = None) -> None:
    """Check that every hook point this library edits fires, and that an edit there changes the logits.

    To each activation a random direction is added, times a gate of zero. The gradient of the logits with respect to the
    gates tells for all hook points at once whether an edit would reach the logits. The model is not changed.

    Raises:
        ValueError: TransformerLens splits the heads wrongly.
        HookDidNotFire: a hook point that never ran.
        HookHasNoEffect: hook points that ignore the activation their hook returns.
        UnknownResidualStream: decoded neurons would be wrong; see `residual_check`.
    """
    observed = read_only(model) if names is None else []
    names = edited(model) if names is None else list(names)
    n_tokens = min(4, transformer.shape(model).n_ctx)
    tokens = torch.arange(1, 1 + n_tokens, device=transformer.device(model))[None] % transformer.shape(model).d_vocab
    generator = torch.Generator().manual_seed(0)
    gates: dict[str, Tensor] = {}
    shown: dict[str, Tensor] = {}

    def gated(name: str) -> transformer.HookFunction:
        def add_gated_direction(activation: Tensor, hook: Any) -> Tensor:
            gate = torch.zeros((), dtype=torch.float32, device=activation.device, requires_grad=True)
            gates[name] = gate
            direction = torch.randn(activation.shape, generator=generator).to(activation)
            shown[name] = activation + (gate * direction.float()).to(activation.dtype)
            return shown[name]

        return add_gated_direction

    with transformer.capture(model, observed), transformer.fired_hooks(model, [(name, gated(name)) for name in names]):
        logits = transformer.logits_of(model, tokens)
    weights = torch.randn(logits.shape, generator=generator).to(logits.device)
    felt = torch.autograd.grad(
        (logits.float() * weights).sum(), list(gates.values()), allow_unused=True, retain_graph=True
    )
    deaf = [name for name, grad in zip(gates, felt, strict=True) if grad is None or grad == 0 or not grad.isfinite()]
    if deaf:
        raise HookHasNoEffect(
            f"editing {', '.join(deaf[:5])}{' ...' if len(deaf) > 5 else ''} of {type(model).__name__} does not change "
            f"the logits, so no intervention there can be trusted"
        )
    if observed:
        _check_heads(model, shown)
        check_residual_stream(model, shown, logits)


def _check_heads(model: nn.Module, shown: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless each block shows as many heads as the model has: latent attention (DeepSeek) does not."""
    sizes = transformer.shape(model)
    for layer in range(sizes.n_layers):
        n_heads = shown[transformer.head_z(layer)].shape[2]
        if n_heads != sizes.n_heads:
            raise ValueError(
                f"TransformerLens splits the {sizes.n_heads} attention heads of block {layer} of "
                f"{architecture(model)} into {n_heads}, so results about heads would be wrong"
            )
