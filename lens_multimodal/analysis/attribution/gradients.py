"""Activation times gradient, in every layer, from one forward pass and one backward pass per target.

    attribution = activation * d target / d activation

is the first-order estimate of what setting the activation to zero takes away from the target (paper section
2.1). Parameters need no gradient: only the paths from the activations to the logits are differentiated, from a
leaf placed in the residual stream below the first layer of interest. Gradients are handed over while the
backward pass runs and are not collected, so they never exist for all layers at once.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.analysis.attribution.attribution_inputs import AttributionInputs, Receive
from lens_multimodal.analysis.attribution.autograd_graph import (
    check_finite_targets,
    gradients_on,
    start_graph,
)
from lens_multimodal.arguments.targets import ResolvedTarget, first_read
from lens_multimodal.precision import wide

Key = TypeVar("Key", int, str)


@dataclass(frozen=True, kw_only=True)
class ActivationXGradient:
    """The paper's score: activation times gradient.

    Raises: ValueError if `rows` is not a positive integer.
    """

    offload: bool = False
    """Keep what the backward pass needs in main memory instead of on the GPU: slower, smaller."""
    rows: int = 1
    """Targets of one prompt that are done side by side, each in a row of its own. More rows take more memory and a
    forward pass for each. On a GPU, which spends its time on launching kernels, eight rows take little longer than
    one; on a CPU they are slower than one after the other."""

    def __post_init__(self) -> None:
        if isinstance(self.rows, bool) or not isinstance(self.rows, int) or self.rows < 1:
            raise ValueError(f"rows must be a positive integer, got {self.rows!r}")

    def __call__(self, inputs: AttributionInputs, receive: Receive) -> None:
        if self.rows == 1 or len(inputs.tokens) > 1:
            self._one_after_the_other(inputs, receive)
            return
        for first in range(0, len(inputs.targets), self.rows):
            self._side_by_side(inputs, first, receive)

    def _side_by_side(self, inputs: AttributionInputs, first: int, receive: Receive) -> None:
        targets = tuple(target for (target,) in inputs.targets[first : first + self.rows])
        mask = inputs.attention_mask
        together = replace(
            inputs,
            tokens=inputs.tokens.expand(len(targets), -1),
            attention_mask=None if mask is None else mask.expand(len(targets), -1),
            targets=(targets,),
        )

        def each(_: int, layer: int, scores: Tensor) -> None:
            for row in range(len(targets)):
                receive(first + row, layer, scores[row : row + 1])

        self._one_after_the_other(together, each)

    def _one_after_the_other(self, inputs: AttributionInputs, receive: Receive) -> None:
        everywhere = torch.equal(inputs.positions, torch.arange(inputs.tokens.shape[1]))

        def product(index: int, layer: int, activation: Tensor, gradient: Tensor) -> None:
            if not everywhere:
                at = inputs.positions.to(activation.device)
                activation, gradient = activation[:, at], gradient[:, at]
            receive(index, layer, wide(activation) * wide(gradient))

        each_gradient_by_layer(inputs, transformer.mlp_post, product, offload=self.offload)


def each_gradient_by_layer(
    inputs: AttributionInputs,
    name_of: Callable[[int], str],
    receive: Callable[[int, int, Tensor, Tensor], None],
    *,
    offload: bool = False,
) -> None:
    """`each_gradient` of one hook point in each of the layers asked for, from the lowest of them on."""
    lowest = min(inputs.layers)
    each_gradient(
        inputs.model,
        inputs.tokens,
        inputs.targets,
        {layer: name_of(layer) for layer in inputs.layers},
        receive,
        start=lowest,
        ends={lowest},
        attention_mask=inputs.attention_mask,
        offload=offload,
    )


def each_gradient(
    model: nn.Module,
    tokens: Int[Tensor, "batch prompt_pos"],
    targets: Sequence[Sequence[ResolvedTarget]],
    names: Mapping[Key, str],
    receive: Callable[[int, Key, Tensor, Tensor], None],
    *,
    start: int,
    ends: Collection[Key],
    attention_mask: Tensor | None = None,
    offload: bool = False,
) -> None:
    """Hand over activations and their gradients: one forward pass, and one backward pass for each target.

    Args:
        targets: each has one target for each row; rows do not affect each other, so one backward pass serves all.
        names: key → hook name. Keys are what `receive` is given.
        receive: called with the target's index, the key, the activation and its gradient, in the order of the backward
            pass. It must not keep the gradient.
        start: the layer in whose input the graph begins.
        ends: keys of the activations below which nothing is differentiated.
        offload: as in `ActivationXGradient`.
    Raises:
        ValueError: the model cannot be differentiated here (made under inference mode, or dropout is on).
        FloatingPointError: the target or a gradient is infinite or not a number.
    """
    kept: dict[Key, Tensor] = {}
    inputs: list[Tensor] = []
    extremes: dict[str, Tensor] = {}
    current = 0
    first = first_read(target for of_rows in targets for target in of_rows)

    def watch(key: Key) -> transformer.HookFunction:
        def keep(activation: Tensor, hook: Any) -> Tensor:
            if key not in kept:
                kept[key] = activation.detach()
                activation.register_hook(lambda gradient: arrive(key, gradient))
                if key in ends:
                    inputs.append(activation)
            # Returned although unchanged: a bridge shows a reshaped copy at hook_z, and what follows must use it.
            return activation

        return keep

    def arrive(key: Key, gradient: Tensor) -> None:
        gradient = gradient.detach()
        extremes[names[key]] = torch.stack(gradient.aminmax())  # one read of the gradient; NaN carries through
        receive(current, key, kept[key], gradient)

    hooks = [(transformer.resid_pre(start), start_graph), *((name, watch(key)) for key, name in names.items())]
    saving = torch.autograd.graph.save_on_cpu(pin_memory=tokens.is_cuda) if offload else nullcontext()
    with gradients_on(), saving:
        logits = transformer.logits_of(model, tokens, attention_mask=attention_mask, first=first, hooks=hooks)
        values = [
            torch.stack([target.value(logits[row], first=first) for row, target in enumerate(of_rows)])
            for of_rows in targets
        ]
        del logits
        check_finite_targets(values, {names[key]: activation for key, activation in kept.items()})
        for current, value in enumerate(values):
            extremes.clear()
            last = current == len(values) - 1
            torch.autograd.grad(value.sum(), inputs, retain_graph=not last)
            assert len(extremes) == len(names)
            _check_finite_gradients(extremes, attention_mask)


def _check_finite_gradients(extremes: Mapping[str, Float[Tensor, " 2"]], attention_mask: Tensor | None) -> None:
    """Raise FloatingPointError unless the smallest and the largest gradient at every hook point are finite."""
    pairs = list(extremes.values())
    flags = torch.stack([pair.to(pairs[0].device) for pair in pairs]).isfinite().all(dim=1)
    if not bool(flags.all()):
        padded = attention_mask is not None and not bool(attention_mask.all())
        name = list(extremes)[int((~flags).nonzero()[0])]
        advice = (
            "this model class may not be differentiable where whole rows of attention are masked: give the "
            "prompts one by one, without padding"
            if padded
            else "run the model in bfloat16 or float32 (float16 overflows early)"
        )
        raise FloatingPointError(
            f"the gradient of the target is infinite or not a number from {name} downwards; {advice}"
        )
