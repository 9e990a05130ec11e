"""Attribution to other parts of the model: attention heads, and positions of the residual stream.

The same first-order estimate as for neurons: activation times gradient, summed over the component's own width.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.analysis.attribution.attribution_inputs import AttributionInputs, inputs_for_targets
from lens_multimodal.analysis.attribution.gradients import each_gradient_by_layer
from lens_multimodal.arguments.boundary import public
from lens_multimodal.arguments.positions import Positions
from lens_multimodal.arguments.targets import Targets
from lens_multimodal.arguments.units import Layers
from lens_multimodal.precision import wide


@public
def head_attribution(
    model: nn.Module,
    tokens: Int[Tensor, "1 prompt_pos"],
    target: Targets,
    positions: Positions = None,
    *,
    layers: Layers = None,
    attention_mask: Tensor | None = None,
) -> Float[Tensor, "target layer pos head"]:
    """First-order effect of setting an attention head's output at a position to zero.

    Args and errors: as `neuron_attribution`; the position is the one that attends, not the one attended to.
    """
    inputs = inputs_for_targets(model, tokens, target, positions, layers=layers, attention_mask=attention_mask)
    return _attribution(inputs, transformer.head_z)


@public
def position_attribution(
    model: nn.Module,
    tokens: Int[Tensor, "1 prompt_pos"],
    target: Targets,
    positions: Positions = None,
    *,
    layers: Layers = None,
    attention_mask: Tensor | None = None,
) -> Float[Tensor, "target layer pos"]:
    """First-order effect of setting the residual stream that enters a layer to zero at a position.

    Layer 0 is the model's input: which image patches and words the target comes from.
    Args and errors: as `neuron_attribution`.
    """
    inputs = inputs_for_targets(model, tokens, target, positions, layers=layers, attention_mask=attention_mask)
    return _attribution(inputs, transformer.resid_pre)


def _attribution(inputs: AttributionInputs, name_of: Callable[[int], str]) -> Tensor:
    found: dict[tuple[int, int], Tensor] = {}

    def keep(index: int, layer: int, activation: Tensor, gradient: Tensor) -> None:
        at = inputs.positions.to(activation.device)
        product = wide(activation[0, at]) * wide(gradient[0, at])
        found[index, layer] = product.sum(dim=-1).to(inputs.tokens.device)

    each_gradient_by_layer(inputs, name_of, keep)
    return torch.stack(
        [torch.stack([found[index, layer] for layer in inputs.layers]) for index in range(len(inputs.targets))]
    )
