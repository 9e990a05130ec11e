"""How much memory an attribution will take, before it is run.

What a backward pass needs is counted, not modelled: the model runs on three short prompts while everything that
autograd saves is added up, and the exact quadratic in the prompt's length (linear layers plus attention) is read at
the length asked for. So it is right for any architecture, attention implementation and precision.

The estimate is of tensors that are alive at once (what `torch.cuda.max_memory_allocated` or torch's profiler counts),
within 15 % in the tests of all layers. For the last few layers alone the forward pass's own temporaries
can be larger, and the estimate is too high for a model whose parameters require gradients. The size of a process is
something else: it depends on what the allocator kept, on fragmentation, and on weights touched for the first time.

To need less: `ActivationXGradient(offload=True)` keeps the saved part in main memory; `layers=range(k, n_layers)`
records nothing below layer k; `top_neurons` keeps no result of `targets * layers * positions * d_mlp`; the
`batch_size` of integrated gradients and ablation, and the `budget_bytes` of decoding, trade time for memory directly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.analysis.attribution.autograd_graph import gradients_on, start_graph
from lens_multimodal.arguments.boundary import public
from lens_multimodal.arguments.units import Layers, read_layers

PROBE_LENGTHS = (8, 16, 24)


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes by purpose. `peak` does not include the weights, which are loaded already."""

    weights: int
    saved: int
    """What the forward pass keeps for the backward pass, the neurons' activations included."""
    logits: int
    """Logits and their gradient."""
    gradients: int
    """Gradients that exist at the same time: around one layer's neurons, or around its attention pattern."""
    result: int
    n_targets: int

    @property
    def peak(self) -> int:
        """The larger of two moments: the logits' gradient, or the gradients of a layer beside the result.

        The result is allocated when the first layer's gradient arrives, so it exists while a second target's logits do.
        """
        there = self.result if self.n_targets > 1 else 0
        return self.saved + max(there + self.logits, self.result + self.gradients)


@public
def estimate_attribution(
    model: nn.Module,
    n_pos: int,
    *,
    batch: int = 1,
    n_targets: int = 1,
    n_positions: int | None = None,
    n_read: int = 1,
    layers: Layers = None,
    keeps_all: bool = True,
) -> MemoryEstimate:
    """Memory of `neuron_attribution` by activation times gradient, from three short runs of the model.

    Args:
        n_pos: length of the prompt.
        batch: rows; `ActivationXGradient.rows` or `IntegratedGradients.batch_size` for those scores.
        n_targets: targets share the forward pass; further ones add to the result only.
        n_positions: number of positions at which neurons are scored; None for all.
        n_read: positions from the first whose logits a target reads to the end of the prompt; `n_pos` for a function
            of all logits.
        layers: as in `neuron_attribution`.
        keeps_all: False for `top_neurons`, which keeps only the best.
    Raises: ValueError for sizes that are not positive, or a prompt longer than the model's context.
    """
    sizes = transformer.shape(model)
    looked_at = n_pos if n_positions is None else n_positions
    if min(n_pos, batch, n_targets, looked_at, n_read) < 1:
        raise ValueError(
            f"sizes must be positive, got n_pos={n_pos}, batch={batch}, n_targets={n_targets}, "
            f"n_positions={n_positions}, n_read={n_read}"
        )
    if max(looked_at, n_read) > n_pos:
        raise ValueError(
            f"n_positions={n_positions} and n_read={n_read} lie within a prompt of n_pos={n_pos} positions"
        )
    if n_pos > sizes.n_ctx:
        raise ValueError(f"a prompt of {n_pos} positions is longer than the model's context of {sizes.n_ctx}")
    found = read_layers(model, layers)
    lengths = [length for length in PROBE_LENGTHS if length <= sizes.n_ctx]
    counted = [saved_bytes(model, length, layers=found) for length in lengths]
    fit = np.polyfit(lengths, counted, deg=len(lengths) - 1)
    saved = float(np.polyval(fit, n_pos))
    width = transformer.w_u(model).element_size()
    wide_width = max(4, width)
    cells = batch * looked_at * sizes.d_mlp
    # Nothing grows with the square of the length where attention does not store its pattern.
    per_layer = max(0.0, float(fit[0])) / (sizes.n_layers - min(found)) if len(lengths) == 3 else 0.0
    pattern = batch * n_pos**2 * min(2.0 * sizes.n_heads * wide_width, per_layer)
    around = batch * n_pos * sizes.d_mlp * width
    # The gradient and its product; copies where positions are picked out or the product is wider than the model.
    product = around + cells * wide_width * (1 if looked_at == n_pos and width == wide_width else 3)
    # Nothing below the lowest layer's neurons is differentiated; elsewhere the non-linearity has gradients of its own.
    through = 4 * around if len(found) > 1 else 0
    return MemoryEstimate(
        weights=sum(p.numel() * p.element_size() for p in model.parameters()),
        saved=batch * max(0, round(saved)),
        logits=2 * batch * n_read * sizes.d_vocab * width,
        gradients=max(product, through, round(pattern) if len(found) > 1 else 0),
        result=n_targets * len(found) * cells * wide_width if keeps_all else 0,
        n_targets=n_targets,
    )


def saved_bytes(model: nn.Module, n_pos: int, *, layers: Sequence[int]) -> int:
    """Bytes of distinct tensors that one forward pass on `n_pos` tokens keeps for the backward pass, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Tensor] = {}

    def count(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    def keep(activation: Tensor, hook: Any) -> None:
        count(activation.detach())

    tokens = torch.zeros(1, n_pos, dtype=torch.long, device=transformer.device(model))
    hooks = [
        (transformer.resid_pre(min(layers)), start_graph),
        *((transformer.mlp_post(layer), keep) for layer in layers),
    ]
    with gradients_on(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        logits = transformer.logits_of(model, tokens, hooks=hooks)
        del logits
    return sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in weights)
