"""Activation times gradient, in every layer, from one forward pass and one backward pass per target.

    attribution = activation * d target / d activation

is the first-order estimate of what setting the activation to zero takes away from the target (paper section
2.1). Parameters need no gradient: only the paths from the activations to the logits are differentiated, from a
leaf placed in the residual stream below the first layer of interest. Gradients are handed over while the
backward pass runs and are not collected, so they never exist for all layers at once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.analysis.attribution.request import Request, Visit
from lens_multimodal.arguments.targets import ResolvedTarget, first_read
from lens_multimodal.precision import wide

GradientVisit = Callable[[int, int, Tensor, Tensor], None]
"""Called with the index of the backward pass, the layer, its activation and its gradient."""


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

    def __call__(self, request: Request, visit: Visit) -> None:
        if self.rows == 1 or len(request.tokens) > 1:
            self._visit(request, visit)
            return
        for first in range(0, len(request.passes), self.rows):
            self._side_by_side(request, first, visit)

    def _side_by_side(self, request: Request, first: int, visit: Visit) -> None:
        targets = tuple(target for (target,) in request.passes[first : first + self.rows])
        mask = request.attention_mask
        together = replace(
            request,
            tokens=request.tokens.expand(len(targets), -1),
            attention_mask=None if mask is None else mask.expand(len(targets), -1),
            passes=(targets,),
        )

        def each(_: int, layer: int, scores: Tensor) -> None:
            for row in range(len(targets)):
                visit(first + row, layer, scores[row : row + 1])

        self._visit(together, each)

    def _visit(self, request: Request, visit: Visit) -> None:
        everywhere = torch.equal(request.positions, torch.arange(request.tokens.shape[1]))

        def product(index: int, layer: int, activation: Tensor, gradient: Tensor) -> None:
            if not everywhere:
                at = request.positions.to(activation.device)
                activation, gradient = activation[:, at], gradient[:, at]
            visit(index, layer, wide(activation) * wide(gradient))

        visit_gradients(
            request.model,
            request.tokens,
            request.passes,
            {layer: transformer.mlp_post(layer) for layer in request.layers},
            product,
            attention_mask=request.attention_mask,
            offload=self.offload,
        )


def visit_gradients(
    model: nn.Module,
    tokens: Int[Tensor, "batch prompt_pos"],
    passes: Sequence[Sequence[ResolvedTarget]],
    names: Mapping[int, str],
    visit: GradientVisit,
    *,
    attention_mask: Tensor | None = None,
    offload: bool = False,
) -> None:
    """Hand over activations and gradients of one hook point per layer: one forward, `len(passes)` backwards.

    Args:
        passes: for each backward pass one target per row; rows do not touch, so one pass serves all of them.
        names: layer → hook name.
        visit: called once per pass and layer, deepest layer first. Must not keep the gradient.
        offload: as in `ActivationXGradient`.
    Raises:
        ValueError: the model cannot be differentiated here (made under inference mode, or dropout is on).
        FloatingPointError: the target or a gradient is infinite or not a number.
    """
    check_differentiable(model)
    lowest = min(names)
    kept: dict[int, Tensor] = {}
    extremes: list[Tensor] = []
    current = 0
    first = first_read(target for per_row in passes for target in per_row)

    def watch(layer: int) -> transformer.HookFunction:
        def keep(activation: Tensor, hook: Any) -> Tensor:
            if layer not in kept:
                kept[layer] = activation.detach()
                activation.register_hook(lambda gradient: arrive(layer, gradient))
                if layer == lowest:
                    inputs.append(activation)
            # Returned, though unchanged: a bridge shows hook_z a reshaped copy, which only so lies on the way.
            return activation

        return keep

    def arrive(layer: int, gradient: Tensor) -> None:
        gradient = gradient.detach()
        extremes.append(torch.stack(gradient.aminmax()))  # one pass, and NaN carries through
        visit(current, layer, kept[layer], gradient)

    inputs: list[Tensor] = []
    hooks = [(transformer.resid_pre(lowest), start_graph), *((name, watch(layer)) for layer, name in names.items())]
    saving = torch.autograd.graph.save_on_cpu(pin_memory=tokens.is_cuda) if offload else nullcontext()
    with gradients_on(), saving:
        with transformer.fired_hooks(model, hooks):
            logits = transformer.logits_of(model, tokens, attention_mask=attention_mask, first=first)
        values = [
            torch.stack([target.value(logits[row], first=first) for row, target in enumerate(per_row)])
            for per_row in passes
        ]
        del logits
        check_finite_targets(values, kept)
        for current, value in enumerate(values):
            extremes.clear()
            last = current == len(values) - 1
            torch.autograd.grad(value.sum(), inputs, retain_graph=not last)
            assert len(extremes) == len(names)
            _check_finite_gradients(extremes, names, attention_mask)


@contextmanager
def gradients_on() -> Iterator[None]:
    """Record gradients also when called under `torch.no_grad` or `torch.inference_mode`."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def start_graph(activation: Tensor, hook: Any) -> Tensor:
    """Hook: a fresh leaf that requires a gradient, so that frozen models can be differentiated above it."""
    return activation.detach().clone().requires_grad_()


def check_differentiable(model: nn.Module) -> None:
    """Raise ValueError for a model made under inference mode, or one whose dropout is switched on."""
    for module in _modules(model):
        for parameter in module._parameters.values():
            if parameter is not None and parameter.is_inference():
                name = next(name for name, own in model.named_parameters() if own is parameter)
                raise ValueError(
                    f"the model was made under torch.inference_mode (parameter {name}), so nothing can be "
                    f"differentiated through it; make it outside, torch.no_grad is fine"
                )
        if isinstance(module, nn.Dropout) and module.training and module.p > 0:
            name = next(name for name, own in model.named_modules() if own is module)
            raise ValueError(f"dropout is on ({name}, p={module.p}): attributions would be random; call model.eval()")


def check_finite_targets(values: Sequence[Float[Tensor, " row"]], activations: Mapping[int, Tensor]) -> None:
    """Raise FloatingPointError if a target overflowed, naming the first layer whose activations did."""
    if bool(torch.stack([value.detach().isfinite().all() for value in values]).all()):
        return
    bad = [layer for layer in sorted(activations) if not bool(activations[layer].isfinite().all())]
    dtype = next(iter(activations.values())).dtype if activations else "its precision"
    where = f"activations are so from layer {bad[0]} on" if bad else "all watched activations are finite"
    raise FloatingPointError(
        f"the target is infinite or not a number in {dtype} ({where}); check the weights and the image "
        f"vectors, or run the model in float32"
    )


def _modules(model: nn.Module) -> Iterator[nn.Module]:
    """Every module once, without names: a bridge has a thousand, and `model.modules()` spells out each one's path."""
    seen: set[nn.Module] = set()
    waiting: list[nn.Module | None] = [model]
    while waiting:
        module = waiting.pop()
        if module is not None and module not in seen:
            seen.add(module)
            waiting.extend(module._modules.values())
            yield module


def _check_finite_gradients(
    extremes: Sequence[Float[Tensor, " 2"]], names: Mapping[int, str], attention_mask: Tensor | None
) -> None:
    """Raise FloatingPointError unless the smallest and the largest gradient of every layer, deepest first, are."""
    flags = torch.stack([pair.to(extremes[0].device) for pair in extremes]).isfinite().all(dim=1)
    if not bool(flags.all()):
        padded = attention_mask is not None and not bool(attention_mask.all())
        first = sorted(names, reverse=True)[int((~flags).nonzero()[0])]
        advice = (
            "this model class may not be differentiable where whole rows of attention are masked: give the "
            "prompts one by one, without padding"
            if padded
            else "run the model in bfloat16 or float32 (float16 overflows early)"
        )
        raise FloatingPointError(
            f"the gradient of the target is infinite or not a number from layer {first} downwards; {advice}"
        )
