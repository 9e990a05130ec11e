"""The exact effect of ablating neurons: what the target loses when they are set to zero.

Each ablation is one row of a forward pass (see `effects.by_row`). This is what the other scores estimate, and what
`faithfulness` compares them with. Positive: the neuron raised the target.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.analysis.attribution.attribution_inputs import AttributionInputs, Receive, inputs_for_targets
from lens_multimodal.analysis.attribution.autograd_graph import check_finite_targets
from lens_multimodal.analysis.effects.by_row import Replaced, distinct, logits_by_row, replaced_neurons
from lens_multimodal.arguments.boundary import public
from lens_multimodal.arguments.positions import Positions, read_positions
from lens_multimodal.arguments.targets import ResolvedTarget, Targets, first_read
from lens_multimodal.arguments.units import Neurons, read_neurons
from lens_multimodal.hooks.ablate import ZERO
from lens_multimodal.hooks.replacement import Replacement


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """The exact effect of each neuron at each position by itself: one forward row for every one of them.

    For a real model ask for few layers, or use `ablation_effects` for the neurons of interest.
    """

    batch_size: int = 32
    """Rows of one forward pass; memory grows with it."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {self.batch_size}")

    def __call__(self, inputs: AttributionInputs, receive: Receive) -> None:
        d_mlp = transformer.shape(inputs.model).d_mlp
        for layer in inputs.layers:
            ablations = [
                replaced_neurons({layer: torch.tensor([neuron])}, position)
                for position in map(read_positions, inputs.positions.tolist())
                for neuron in range(d_mlp)
            ]
            effects = [
                ablated_effects(
                    inputs.model,
                    inputs.tokens[row : row + 1],
                    [of_rows[row] for of_rows in inputs.targets],
                    ablations,
                    batch_size=self.batch_size,
                    attention_mask=None if inputs.attention_mask is None else inputs.attention_mask[row : row + 1],
                )
                for row in range(len(inputs.tokens))
            ]
            for index in range(len(inputs.targets)):
                scores = torch.stack([effect[index] for effect in effects])
                receive(index, layer, scores.reshape(len(effects), len(inputs.positions), d_mlp))


@public
def ablation_effects(
    model: nn.Module,
    tokens: Int[Tensor, "1 prompt_pos"],
    target: Targets,
    neurons: Neurons,
    positions: Positions = None,
    *,
    batch_size: int = 32,
    attention_mask: Tensor | None = None,
) -> pd.DataFrame:
    """What a target loses when each of some neurons is set to zero at all the given positions (paper section 3.3).

    Args:
        neurons: as `ablate` takes them.
        positions: where they are set to zero; None for everywhere. The paper takes the image positions.
        batch_size: ablations in one forward pass.
    Returns: columns `target`, `layer`, `neuron`, `effect` (target minus target without the neuron), ordered by target
        and layer.
    Raises: ValueError, TypeError for bad targets, neurons or positions; FloatingPointError for an overflow.
    """
    inputs = inputs_for_targets(model, tokens, target, positions, attention_mask=attention_mask)
    pairs = [(layer, int(unit)) for layer, units in read_neurons(model, neurons).items() for unit in units]
    where = read_positions(inputs.positions)
    single = [replaced_neurons({layer: torch.tensor([unit])}, where) for layer, unit in pairs]
    targets = [of_rows[0] for of_rows in inputs.targets]
    effects = ablated_effects(
        model, inputs.tokens, targets, single, batch_size=batch_size, attention_mask=attention_mask
    )
    tables = [
        pd.DataFrame(pairs, columns=["layer", "neuron"]).assign(effect=effect.cpu().numpy()) for effect in effects
    ]
    for table, resolved in zip(tables, targets, strict=True):
        table.insert(0, "target", resolved.label)
    return pd.concat(tables, ignore_index=True)


def ablated_effects(
    model: nn.Module,
    tokens: Int[Tensor, "1 prompt_pos"],
    targets: Sequence[ResolvedTarget],
    ablations: Sequence[Sequence[Replaced]],
    *,
    batch_size: int = 32,
    attention_mask: Tensor | None = None,
) -> Float[Tensor, "target ablation"]:
    """Value of each target in the untouched prompt minus its value under each ablation.

    A difference within the rounding of the target is zero. Matrix products round the last rows of a batch in another
    way, so neurons without any effect would otherwise be ranked by their places in the batch.
    """
    values = values_by_row(
        model, tokens, targets, [[], *ablations], batch_size=batch_size, attention_mask=attention_mask
    )
    clean = values[:, :1]
    effects = clean - values[:, 1:]
    return effects.masked_fill(effects.abs() <= 4 * torch.finfo(values.dtype).eps * clean.abs(), 0)


def values_by_row(
    model: nn.Module,
    tokens: Int[Tensor, "1 prompt_pos"],
    targets: Sequence[ResolvedTarget],
    rows: Sequence[Sequence[Replaced]],
    *,
    batch_size: int,
    to: Replacement = ZERO,
    attention_mask: Tensor | None = None,
) -> Float[Tensor, "target row"]:
    """Each target in each row of one prompt, every row with its own units replaced; equal rows are run once.

    Raises: FloatingPointError if a value is infinite or not a number.
    """
    first = first_read(targets)
    different, index = distinct(rows)
    parts = []
    for logits in logits_by_row(
        model, tokens, different, batch_size=batch_size, first=first, to=to, attention_mask=attention_mask
    ):
        values = [torch.stack([target.value(row, first=first) for row in logits]) for target in targets]
        check_finite_targets(values, {})
        parts.append(torch.stack(values))
    return torch.cat(parts, dim=1)[:, index]
