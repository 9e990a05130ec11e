"""The result of an activation patching sweep: the target's value for every patched cell."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from lens_multimodal.analysis.rank_correlation import rank_correlation
from lens_multimodal.notebook import ShownInNotebooks


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchSweep(ShownInNotebooks):
    """The target's value for every patched cell, and the first-order estimate of its change."""

    site: str
    """What was patched, such as `resid_pre`."""
    axes: dict[str, list[Any]]
    """Names and labels of the axes, in order: layers, positions, heads, or `(layer, neuron)` pairs."""
    patched: Float[Tensor, "..."]
    """The target's value in the corrupted run with one cell taken from the clean run."""
    estimate: Float[Tensor, "..."]
    """Attribution patching: estimated change of the target's value."""
    clean: float
    corrupted: float
    """The target's value in the two unpatched runs."""

    @property
    def effect(self) -> Float[Tensor, "..."]:
        """Change of the target's value by patching."""
        return self.patched - self.corrupted

    @property
    def recovered(self) -> Float[Tensor, "..."]:
        """Effect as a share of the whole difference between the runs: 0 corrupted, 1 clean."""
        return self.effect / (self.clean - self.corrupted)

    @property
    def correlation(self) -> float:
        """Pearson correlation over cells of the estimate with the effect; NaN if one of them is constant."""
        cells = pd.DataFrame({"effect": _column(self.effect), "estimate": _column(self.estimate)})
        return float(cells.corr().iloc[0, 1])

    @property
    def rank_correlation(self) -> float:
        """Spearman correlation over cells of the estimate with the effect; NaN if one of them is constant."""
        return rank_correlation(self.effect.flatten(), self.estimate.flatten())

    def table(self) -> pd.DataFrame:
        """One row for each cell: its labels, `patched`, `effect`, `recovered`, `estimate`."""
        rows = pd.DataFrame(product(*self.axes.values()), columns=list(self.axes))
        return rows.assign(
            **{name: _column(getattr(self, name)) for name in ("patched", "effect", "recovered", "estimate")}
        )


def _column(values: Tensor) -> Any:
    return values.flatten().cpu().numpy()
