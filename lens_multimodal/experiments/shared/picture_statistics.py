"""Statistics over pictures: a picture counts once, however many rows it gave.

Values are averaged within a picture first; the bootstrap (Efron 1979) resamples pictures, and pairs are formed within
them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from lens_multimodal.analysis import bootstrap_interval

LEVEL = 0.95

ALPHA = 0.05
"""A difference is established if its interval excludes zero and its p, corrected for the number of tests, is below."""

NO_VERDICT = "No verdict"

INTERVAL = ("mean", "low", "high")


def interval_table(
    rows: pd.DataFrame, value: str, *, by: Sequence[str] = (), seed: int = 0, level: float = LEVEL
) -> pd.DataFrame:
    """Mean of a column over pictures, with its bootstrap interval, for each group.

    Args:
        rows: has `image_id`, the column `value` and those of `by`; rows without a value are left out.
        by: columns that make the groups; () for one group.
        seed: decides the resampling.

    Returns:
        The columns of `by` in their order of first appearance, then `mean`, `low`, `high` (NaN for one picture) and
        `n`, the number of pictures. An empty table if there are no values.

    Raises: KeyError for columns that are not there; ValueError for values that are infinite.
    """
    found = []
    for key, group in _groups(rows, value, by):
        per_picture = group.groupby("image_id", sort=True)[value].mean()
        interval = bootstrap_interval(per_picture.to_numpy(dtype=np.float64), level=level, seed=seed)
        found.append((*key, interval.mean, interval.low, interval.high, interval.n))
    return pd.DataFrame(found, columns=[*by, "mean", "low", "high", "n"])


def table_against(
    rows: pd.DataFrame, value: str, *, threshold: float = 0.0, by: Sequence[str] = (), seed: int = 0
) -> pd.DataFrame:
    """`interval_table` with a column `p`: the sign-flip test of the values' distance from a threshold."""
    table = interval_table(rows, value, by=by, seed=seed)
    p_values = [
        sign_flip_p(group.groupby("image_id")[value].mean().to_numpy(dtype=np.float64) - threshold, seed=seed)
        for _, group in _groups(rows, value, by)
    ]
    return table.assign(p=np.array(p_values, dtype=np.float64))


def by_measure(
    rows: pd.DataFrame, measures: Mapping[str, str], *, keys: Sequence[str], name: str = "measure"
) -> pd.DataFrame:
    """Columns of measures under one another: the columns `keys`, then `measure` (its label) and `value` as a float.

    Args:
        measures: column to label; columns that are absent are left out.
        name: what to call the column of labels.
    """
    if not len(rows):
        return rows
    there = {column: label for column, label in measures.items() if column in rows}
    kept = rows[["image_id", *keys]]
    return pd.concat(
        [kept.assign(**{name: label, "value": rows[column].astype(float)}) for column, label in there.items()]
    )


def paired_table(
    rows: pd.DataFrame,
    value: str,
    *,
    pair: str,
    first: Any,
    second: Any,
    by: Sequence[str] = (),
    seed: int = 0,
    level: float = LEVEL,
) -> pd.DataFrame:
    """Difference `first - second` within pictures, its bootstrap interval and a sign-flip test, for each group.

    Args:
        pair: the column that tells the two kinds of rows apart ("neurons": "top" or "random").
        first, second: its two values; rows of one picture are averaged before the difference is taken.

    Returns:
        The columns of `by`, then `mean`, `low`, `high` of the difference, `p` (two-sided, see `sign_flip_p`) and `n`,
        the pictures that have both.
    """
    found = []
    for key, group in _groups(rows, value, by):
        sides = group.groupby(["image_id", pair], sort=True)[value].mean().unstack(pair)
        if first not in sides.columns or second not in sides.columns:
            continue
        differences = (sides[first] - sides[second]).dropna().to_numpy(dtype=np.float64)
        if not len(differences):
            continue
        interval = bootstrap_interval(differences, level=level, seed=seed)
        p = sign_flip_p(differences, seed=seed)
        found.append((*key, interval.mean, interval.low, interval.high, p, interval.n))
    return pd.DataFrame(found, columns=[*by, "mean", "low", "high", "p", "n"])


def sign_flip_p(differences: Float[np.ndarray, " picture"], *, seed: int = 0, n_flips: int = 10_000) -> float:
    """Two-sided p of the paired permutation test (Fisher 1935): how often random signs give a mean this large.

    Up to 13 pictures all sign patterns are tried; with more, `n_flips` random ones and the observed one.

    Raises: ValueError without a difference.
    """
    if len(differences) == 0:
        raise ValueError("no paired differences to test")
    observed = abs(differences.mean())
    n = len(differences)
    if n <= 13:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        extra = 0
    else:
        signs = np.random.default_rng(seed).choice([-1, 1], size=(n_flips, n))
        extra = 1
    # Sums of the same numbers in another order differ in the last bits.
    reached = np.abs(signs @ differences / n) >= observed * (1 - 1e-12)
    return float((reached.sum() + extra) / (len(signs) + extra))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for multiple tests (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.zeros(len(p_values))
    highest = 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return [float(p) for p in adjusted]


def is_above(tested: pd.Series, threshold: float = 0.0, *, p: float | None = None) -> bool | None:
    """Whether a mean is established above a threshold: True above, False below, None if neither is established.

    Args:
        tested: has `low`, `high` and `p`, as the rows of `table_against` and `paired_table`.
        p: the p corrected for several tests; None for `tested`'s own.
    """
    low, high = tested["low"], tested["high"]
    p = tested["p"] if p is None else p
    if np.isnan(low) or np.isnan(high) or low <= threshold <= high or not p < ALPHA:
        return None
    return bool(low > threshold)


def needed(tests: int = 1) -> int:
    """Fewest pictures with which one of several tests can come out: all signs agree, and p survives `holm`."""
    n = 1
    while 2 * tests / 2**n >= ALPHA:
        n += 1
    return n


def too_few(n: int, *, tests: int = 1) -> str:
    """The text in place of a verdict on fewer than `needed` pictures; "" for none at all."""
    corrected = f", since {tests} tests are made together" if tests > 1 else ""
    return f"{NO_VERDICT}: {n} pictures are too few, {needed(tests)} are needed{corrected}." if n else ""


def in_words(interval: pd.Series, *, digits: int = 2, percent: bool = False, signed: bool = False) -> str:
    """`0.31 [0.25, 0.38]`, or `31 % [25, 38]`, or with signs `+31 % [+25, +38]`.

    Args: interval: has `mean`, `low` and `high`, as the rows of `interval_table` and `paired_table`.
    """
    digits, unit = (max(digits - 2, 0), " %") if percent else (digits, "")
    numbers = [_rounded(100 * interval[key] if percent else interval[key], digits, signed) for key in INTERVAL]
    return f"{numbers[0]}{unit} [{numbers[1]}, {numbers[2]}]"


def _rounded(value: float, digits: int, signed: bool) -> str:
    if not np.isfinite(value):
        return "?"
    rounded = round(float(value), digits) + 0.0  # never -0
    return f"{rounded:{'+' if signed and rounded else ''}.{digits}f}"


def _groups(rows: pd.DataFrame, value: str, by: Sequence[str]) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    needed = ["image_id", value, *by]
    absent = [column for column in needed if column not in rows.columns]
    if len(rows) and absent:
        raise KeyError(f"rows have no column {absent}; they have {list(rows.columns)}")
    if not len(rows) or absent:
        return []
    kept = rows[rows[value].notna()]
    if not by:
        return [((), kept)] if len(kept) else []
    return [(key, group) for key, group in kept.groupby(list(by), sort=False, dropna=False)]
