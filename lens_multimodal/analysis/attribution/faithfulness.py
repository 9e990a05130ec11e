"""Which attribution score to believe: each is compared with what ablating the neurons really does.

The true effect of a neuron is what the target loses when it is set to zero at all the given positions. A score is
faithful if it orders neurons as their effects do. Activation times gradient is known to fail where a neuron's
effect saturates or cancels (paper notes, section 5); this report shows by how much.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.analysis.attribution.ablation_effect import ablated_effects, values_by_row
from lens_multimodal.analysis.attribution.attribution_inputs import (
    AttributionInputs,
    Score,
    inputs_for_targets,
    run_score,
)
from lens_multimodal.analysis.attribution.neuron_attribution import reduce_positions
from lens_multimodal.analysis.attribution.scores import COMPARED, read_score
from lens_multimodal.analysis.effects.by_row import Replaced, replaced_neurons
from lens_multimodal.analysis.rank_correlation import rank_correlation
from lens_multimodal.arguments.boundary import public
from lens_multimodal.arguments.positions import Positions, PositionSet, read_positions
from lens_multimodal.arguments.targets import Targets
from lens_multimodal.arguments.units import Neurons, read_neurons
from lens_multimodal.notebook import ShownInNotebooks

TRUE_EFFECT = "ablation"
RANDOM_ORDER = "random"


@dataclass(frozen=True, kw_only=True, eq=False)
class Faithfulness(ShownInNotebooks):
    """How well scores predict the effect of ablation, for one prompt and target."""

    summary: pd.DataFrame
    """One row per score, `ablation` (the truth itself) and `random` as the two ends of the scale:
    `spearman`: rank correlation with the true effects; `top_k_overlap`: share of the k neurons of largest effect among
    the k of largest score; `deletion_auc`: mean target while neurons are ablated best first (lower is better);
    `insertion_auc`: mean target while they are restored best first, all others ablated (higher is better)."""
    neurons: pd.DataFrame
    """`layer`, `neuron`, `effect`, and one column per score."""
    curves: pd.DataFrame
    """`score`, `kind` (deletion or insertion), `n_neurons`, `value` of the target."""
    target: str
    clean_value: float
    all_ablated_value: float
    top_k: int
    reduce: str


@public
def faithfulness(
    model: nn.Module,
    tokens: Int[Tensor, "1 prompt_pos"],
    target: Targets,
    positions: Positions = None,
    *,
    scores: Sequence[str] | Mapping[str, str | Score] = COMPARED,
    neurons: Neurons | None = None,
    n_neurons: int = 512,
    top_k: int | None = None,
    reduce: str = "sum",
    n_points: int = 16,
    batch_size: int = 32,
    seed: int = 0,
    attention_mask: Tensor | None = None,
) -> Faithfulness:
    """Compare scores with the true effect of ablating neurons.

    Args:
        positions: where neurons are scored and ablated; None for everywhere, image positions for the paper's case.
        scores: names of `SCORES`, or names of your own with score objects.
        neurons: those to compare. None takes all if there are at most `n_neurons`; otherwise one half are the best
            neurons of each score in turn, and the others are random.
        top_k: size of the sets whose overlap is taken; None for a tenth of the neurons.
        reduce: over positions. The sum is what estimates a joint ablation; the paper ranks by the maximum.
        n_points: points of each curve.
        batch_size: ablations in one forward pass.
        seed: decides the random neurons and the random order.
    Raises: ValueError, TypeError as `neuron_attribution`; ValueError for fewer than two neurons.
    Cost: one forward row per neuron, and `2 * n_points` per score.
    """
    chosen = _read_scores(scores)
    if n_points < 2:
        raise ValueError(f"n_points must be at least 2, got {n_points}")
    inputs = inputs_for_targets(model, tokens, target, positions, attention_mask=attention_mask)
    if len(inputs.targets) != 1:
        raise ValueError(f"expected one target, got {len(inputs.targets)}")
    given = None if neurons is None else read_neurons(model, neurons)
    generator = torch.Generator().manual_seed(seed)
    by_score = {name: _reduced(inputs, score, reduce) for name, score in chosen.items()}
    flat = _flat_indices(given, model) if given is not None else _candidates(by_score, n_neurons, generator)
    if len(flat) < 2:
        raise ValueError(f"expected at least two neurons to compare, got {len(flat)}")
    k = max(1, len(flat) // 10) if top_k is None else top_k
    if not 1 <= k <= len(flat):
        raise ValueError(f"top_k must lie between 1 and the {len(flat)} neurons compared, got {k}")

    comparison = _Comparison(
        inputs=inputs,
        positions=read_positions(inputs.positions),
        flat=flat,
        d_mlp=transformer.shape(model).d_mlp,
        batch_size=batch_size,
    )
    values = {
        **{name: scored.flatten()[flat] for name, scored in by_score.items()},
        TRUE_EFFECT: comparison.effects(),
        RANDOM_ORDER: -torch.randperm(len(flat), generator=generator).argsort(),
    }
    orders = {name: of_neurons.argsort(descending=True, stable=True) for name, of_neurons in values.items()}
    curves = comparison.curves(orders, n_points)
    ends = curves[(curves["score"] == RANDOM_ORDER) & (curves["kind"] == "deletion")]["value"]
    return Faithfulness(
        summary=_summary(values, orders, curves, k),
        neurons=comparison.table(values[TRUE_EFFECT], {name: values[name] for name in by_score}),
        curves=curves,
        target=inputs.targets[0][0].label,
        clean_value=float(ends.iloc[0]),
        all_ablated_value=float(ends.iloc[-1]),
        top_k=k,
        reduce=reduce,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Comparison:
    """The neurons compared, as indices `layer * d_mlp + neuron`, and how to ablate them."""

    inputs: AttributionInputs
    positions: PositionSet
    flat: Int[Tensor, " neuron"]
    d_mlp: int
    batch_size: int

    def table(self, effects: Tensor, scores: Mapping[str, Tensor]) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "layer": (self.flat // self.d_mlp).numpy(),
                "neuron": (self.flat % self.d_mlp).numpy(),
                "effect": effects.numpy(),
                **{name: values.numpy() for name, values in scores.items()},
            }
        )

    def effects(self) -> Float[Tensor, " neuron"]:
        ablations = [self._ablated(self.flat[i : i + 1]) for i in range(len(self.flat))]
        return self._measured(ablated_effects, ablations)

    def curves(self, orders: Mapping[str, Tensor], n_points: int) -> pd.DataFrame:
        counts = np.unique(np.linspace(0, len(self.flat), n_points).round().astype(int))
        labels, ablations = [], []
        for name, order in orders.items():
            for count in counts.tolist():
                labels += [(name, "deletion", count), (name, "insertion", count)]
                ablations += [self._ablated(self.flat[order[:count]]), self._ablated(self.flat[order[count:]])]
        table = pd.DataFrame(labels, columns=["score", "kind", "n_neurons"])
        return table.assign(value=self._measured(values_by_row, ablations).numpy())

    def _measured(
        self, measure: Callable[..., Tensor], ablations: Sequence[list[Replaced]]
    ) -> Float[Tensor, " ablation"]:
        inputs = self.inputs
        size, mask = self.batch_size, inputs.attention_mask
        found = measure(inputs.model, inputs.tokens, inputs.targets[0], ablations, batch_size=size, attention_mask=mask)
        return found[0].cpu()

    def _ablated(self, flat: Tensor) -> list[Replaced]:
        layers = flat // self.d_mlp
        by_layer = {int(layer): flat[layers == layer] % self.d_mlp for layer in layers.unique()}
        return replaced_neurons(by_layer, self.positions)


def _read_scores(scores: Sequence[str] | Mapping[str, str | Score]) -> dict[str, Score]:
    named = scores if isinstance(scores, Mapping) else {name: name for name in scores}
    if not named or {TRUE_EFFECT, RANDOM_ORDER} & set(named):
        raise ValueError(
            f"expected at least one score to compare, none named {TRUE_EFFECT} or {RANDOM_ORDER} (those are always "
            f"there), got {list(named)}"
        )
    return {name: read_score(score) for name, score in named.items()}


def _reduced(inputs: AttributionInputs, score: Score, reduce: str) -> Float[Tensor, "layer d_mlp"]:
    kept: dict[int, Tensor] = {}

    def keep(index: int, layer: int, scores: Tensor) -> None:  # noqa: ARG001
        kept[layer] = reduce_positions(scores[0], reduce).cpu()

    run_score(score, inputs, keep)
    return torch.stack([kept[layer] for layer in inputs.layers])


def _flat_indices(by_layer: Mapping[int, Tensor], model: nn.Module) -> Int[Tensor, " neuron"]:
    d_mlp = transformer.shape(model).d_mlp
    return torch.cat([layer * d_mlp + index.cpu() for layer, index in by_layer.items()])


def _candidates(by_score: Mapping[str, Tensor], n_neurons: int, generator: torch.Generator) -> Int[Tensor, " neuron"]:
    """All neurons, or the best of each score in turn for one half and random others for the rest."""
    total = next(iter(by_score.values())).numel()
    if total <= n_neurons:
        return torch.arange(total)
    best = torch.stack([values.flatten().topk(n_neurons).indices for values in by_score.values()], dim=1)
    top = list(dict.fromkeys(best.flatten().tolist()))[: n_neurons // 2]
    taken = torch.zeros(total, dtype=torch.bool)
    taken[top] = True
    others = (~taken).nonzero().flatten()
    drawn = others[torch.randperm(len(others), generator=generator)[: n_neurons - len(top)]]
    return torch.cat([torch.tensor(top, dtype=torch.long), drawn]).sort().values


def _summary(values: Mapping[str, Tensor], orders: Mapping[str, Tensor], curves: pd.DataFrame, k: int) -> pd.DataFrame:
    strongest = set(orders[TRUE_EFFECT][:k].tolist())
    rows = []
    for name, order in orders.items():
        row: dict[str, Any] = {
            "score": name,
            "spearman": rank_correlation(values[name], values[TRUE_EFFECT]),
            "top_k_overlap": len(strongest & set(order[:k].tolist())) / k,
        }
        for kind in ("deletion", "insertion"):
            curve = curves[(curves["score"] == name) & (curves["kind"] == kind)]
            fraction = torch.tensor(curve["n_neurons"].tolist(), dtype=torch.float64) / len(order)
            values_at = torch.tensor(curve["value"].tolist(), dtype=torch.float64)
            row[f"{kind}_auc"] = float(torch.trapezoid(values_at, fraction))
        rows.append(row)
    return pd.DataFrame(rows)
