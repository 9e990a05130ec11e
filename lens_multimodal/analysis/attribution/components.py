"""Attribution to other parts of the model: attention heads, and positions of the residual stream.

The same first-order estimate as for neurons: activation times gradient, summed over the component's own width.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.analysis.attribution.gradients import visit_gradients
from lens_multimodal.analysis.attribution.request import request_for_targets
from lens_multimodal.arguments.targets import Targets
from lens_multimodal.precision import wide


def head_attribution(
    model: nn.Module,
    tokens: Int[Tensor, "1 prompt_pos"],
    target: Targets,
    positions: Any = None,
    *,
    layers: Any = None,
    attention_mask: Tensor | None = None,
) -> Float[Tensor, "target layer pos head"]:
    """First-order effect of setting an attention head's output at a position to zero.

    Args and errors: as `neuron_attribution`; the position is the one that attends, not the one looked at.
    """
    return _attribute(model, tokens, target, positions, layers, attention_mask, transformer.head_z)


def position_attribution(
    model: nn.Module,
    tokens: Int[Tensor, "1 prompt_pos"],
    target: Targets,
    positions: Any = None,
    *,
    layers: Any = None,
    attention_mask: Tensor | None = None,
) -> Float[Tensor, "target layer pos"]:
    """First-order effect of setting the residual stream that enters a layer to zero at a position.

    Layer 0 is the model's input: which image patches and words the target comes from.
    Args and errors: as `neuron_attribution`.
    """
    return _attribute(model, tokens, target, positions, layers, attention_mask, transformer.resid_pre)


def _attribute(
    model: nn.Module,
    tokens: Tensor,
    target: Targets,
    positions: Any,
    layers: Any,
    attention_mask: Tensor | None,
    name: Callable[[int], str],
) -> Tensor:
    request = request_for_targets(model, tokens, target, positions, layers=layers, attention_mask=attention_mask)
    found: dict[tuple[int, int], Tensor] = {}

    def keep(index: int, layer: int, activation: Tensor, gradient: Tensor) -> None:
        at = request.positions.to(activation.device)
        product = wide(activation[0, at]) * wide(gradient[0, at])
        found[index, layer] = product.sum(dim=-1).to(tokens.device)

    visit_gradients(
        model,
        request.tokens,
        request.passes,
        {layer: name(layer) for layer in request.layers},
        keep,
        attention_mask=attention_mask,
    )
    return torch.stack([torch.stack([found[i, layer] for layer in request.layers]) for i in range(len(request.passes))])
