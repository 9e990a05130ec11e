"""A check that a decoder treats its residual stream as this library assumes, on which `written` and `unembed` rely.

Both are read off the model's modules. A family may still do something that no module shows, such as a multiplier in
the middle of its code. Decoded neurons and direct effects would then be silently wrong, so the model is refused.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lens_multimodal.transformer.agreement import SAME_WEIGHTS, disagreement
from lens_multimodal.transformer.families import architecture, facts
from lens_multimodal.transformer.hook_names import mlp_out, mlp_post, resid_post
from lens_multimodal.transformer.residual_stream import unembed
from lens_multimodal.transformer.sizes import shape
from lens_multimodal.transformer.weights import block, w_out


class UnknownResidualStream(RuntimeError):
    """The model does something with its residual stream that this library cannot follow."""


def check_residual_stream(
    model: nn.Module, shown: Mapping[str, Tensor], logits: Float[Tensor, "batch pos d_vocab"]
) -> None:
    """Compare a forward pass with what the library makes of its activations.

    Args:
        shown: activations by hook name, in the graph of `logits`, as the rest of the pass used them: `mlp_post`,
            `mlp_out` and `resid_post` of every layer.
    Raises: UnknownResidualStream if an MLP's output does not reach the residual stream as it is shown, if it is not
        what the neurons' rows give, or if the last residual stream does not give the logits.
    """
    n_layers = shape(model).n_layers
    for layer in range(n_layers):
        added, after = shown[mlp_out(layer)], shown[resid_post(layer)]
        probe = torch.randn(after.shape, generator=torch.Generator().manual_seed(layer)).to(after)
        (arriving,) = torch.autograd.grad(after, added, probe, retain_graph=True)
        _compare(model, arriving, probe, f"what block {layer} adds to its residual stream")
        told = _from_neurons(model, layer, shown[mlp_post(layer)])
        _compare(model, added, told, f"what the MLP of block {layer} gives")
    with torch.no_grad():
        told = unembed(model, shown[resid_post(n_layers - 1)])
    _compare(model, logits, told, "the logits")


@torch.no_grad()
def _from_neurons(model: nn.Module, layer: int, activations: Tensor) -> Tensor:
    """What a block's neurons add to the residual stream together, from their rows."""
    family, here = facts(model), block(model, layer)
    out = activations @ w_out(model, layer)
    bias = getattr(here.mlp, "b_out", None)
    if bias is not None:
        out = out + bias
    if family.norm_behind_mlp is not None:
        out = getattr(here, family.norm_behind_mlp)(out)
    return out * family.residual_multiplier


def _compare(model: nn.Module, found: Tensor, told: Tensor, what: str) -> None:
    off = disagreement(told, found, SAME_WEIGHTS, next(model.parameters()).dtype)
    if off is not None:
        raise UnknownResidualStream(
            f"{architecture(model)} is not supported: its weights do not explain {what} (off by {off:.3g} of the "
            f"largest value), so decoded neurons and direct effects would be wrong"
        )
