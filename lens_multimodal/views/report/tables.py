"""A summary's frame as text: intervals in one column, the paper's number in the next."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lens_multimodal.experiments.paper_reference import paper_number, paper_setting
from lens_multimodal.experiments.shared.summaries import Summary

NOTHING = "-"

NAMES = {
    "n": "pictures",
    "p": "p (sign flips)",
    "n_neurons": "neurons ablated",
    "iou": "IoU",
    "iou_lowest": "lowest IoU",
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Text, ready to be shown."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    """Columns aligned on the right."""


def table_of(summary: Summary, *, same_setting: bool, level: float = 0.95) -> Table:
    """The frame of a summary as text.

    Args:
        same_setting: model and data are the paper's; otherwise the heading of its column says so.
        level: the intervals' level.
    """
    frame = summary.frame
    columns: list[tuple[str, list[str], bool]] = []
    for name in frame.columns:
        if name in ("low", "high") and "mean" in frame.columns:
            continue
        if name == "mean" and {"low", "high"} <= set(frame.columns):
            cells = [_interval(*row) for row in frame[["mean", "low", "high"]].itertuples(index=False)]
            columns.append((f"mean [{level:.0%} interval]", cells, True))
        else:
            columns.append((heading(name), [text_of(value, name) for value in frame[name]], _is_numeric(frame[name])))
    if any(summary.paper_keys):
        cells = ["" if key is None else str(paper_number(key)) for key in summary.paper_keys]
        columns.append((paper_heading(same_setting=same_setting), cells, False))
    return Table(
        header=tuple(name for name, _, _ in columns),
        rows=tuple(zip(*(cells for _, cells, _ in columns), strict=True)),
        numeric=tuple(numeric for _, _, numeric in columns),
    )


def paper_heading(*, same_setting: bool) -> str:
    """The heading of the paper's numbers."""
    return "paper" if same_setting else f"paper: {paper_setting()} — another model and data set"


def heading(name: str) -> str:
    """A column's name for readers."""
    return NAMES.get(name, name.replace("_", " "))


def text_of(value: Any, name: str = "") -> str:
    """A cell for readers: three digits, thousands separated, a dash for nothing."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return " ".join(str(part) for part in value)
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return NOTHING
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    if isinstance(value, (float, np.floating)):
        return _p(float(value)) if name.split(" ")[0] == "p" else number(float(value))
    return str(value)


def number(value: float) -> str:
    """Three significant digits for small numbers, separated thousands for large ones."""
    return numbers(value)[0]


def numbers(*values: float) -> list[str]:
    """Numbers that belong together, with the decimals of the largest."""
    largest = max((abs(value) for value in values if np.isfinite(value)), default=0.0)
    if 0 < largest < 0.0005:
        return [f"{value:.1e}" if np.isfinite(value) else NOTHING for value in values]
    decimals = next((count for limit, count in ((1, 3), (10, 2), (100, 1)) if largest < limit), 0)
    # Adding zero turns a rounded -0 into 0.
    return [f"{round(value, decimals) + 0.0:,.{decimals}f}" if np.isfinite(value) else NOTHING for value in values]


def _interval(mean: float, low: float, high: float) -> str:
    """`0.31 [0.25, 0.38]`; the mean alone where one picture gives no interval."""
    if np.isnan(mean):
        return NOTHING
    if np.isnan(low) or np.isnan(high):
        return number(mean)
    texts = numbers(mean, low, high)
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _is_numeric(values: pd.Series) -> bool:
    return all(isinstance(v, (int, float, np.integer, np.floating)) and not isinstance(v, bool) for v in values)
