"""Tables of the report as data: which rows, grouped by what, compared how, and what is concluded from them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from lens_multimodal.experiments.shared import picture_statistics as stats

KINDS = ("curve", "bars")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How a summary is drawn: which of its columns go where.

    Attributes:
        kind: "curve" (lines with bands) or "bars" (with whiskers).
        x, y: columns; with `low` and `high` in the frame beside `y="mean"`, intervals are drawn.
        series: the column whose values become lines or groups; None for one.
        panels: the column whose values become panels side by side; None for one.
        x_title, y_title: axes with units; "" for the column's name.
        log_x: a logarithmic horizontal axis.
        reference: a horizontal line, such as 1.0 for "nothing changed" or 0.0.
    """

    kind: str
    x: str
    y: str = "mean"
    series: str | None = None
    panels: str | None = None
    x_title: str = ""
    y_title: str = ""
    log_x: bool = False
    reference: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"the kind of a drawing must be one of {', '.join(KINDS)}; got {self.kind!r}")


YES = "yes"
OPPOSITE = "no, the opposite"
NOT_ESTABLISHED = "not established"
TOO_FEW = "too few pictures"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What follows from the numbers.

    Attributes:
        text: in sentences; "" where there is no verdict.
        answer: to the summary's claim: `YES`, `OPPOSITE`, `NOT_ESTABLISHED` or `TOO_FEW`; "" for a verdict that
            answers no claim.
        compared: the effect and its control, with columns `compared`, `mean`, `low`, `high`, `n`, and `control`
            where some of the rows are controls; None for none.
        unit: of the means.
        parts: verdicts on the single questions, by name, where a table answers several.
    """

    text: str = ""
    answer: str = ""
    compared: pd.DataFrame | None = None
    unit: str = ""
    parts: Mapping[str, "Verdict"] = field(default_factory=dict)


def answer_of(above: bool | None, *, expected: bool = True) -> str:
    """The answer to a claim that a difference is positive (or negative), from `stats.is_above`."""
    return NOT_ESTABLISHED if above is None else YES if above is expected else OPPOSITE


def too_few(n: int, *, tests: int = 1) -> Verdict:
    """The verdict on fewer than `stats.needed` pictures."""
    text = stats.too_few(n, tests=tests)
    return Verdict(text=text, answer=TOO_FEW if text else "")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One table of the report.

    Attributes:
        frame: plain columns; `mean`, `low`, `high` are shown as one column with its interval, `n` as pictures.
        title: a few words.
        caption: what is measured, over how many pictures, against what.
        n_pictures: pictures on which the table is based.
        conclusion: what follows from the numbers.
        claim: the statement that the verdict is about, or "".
        control: the effect of the experiment `controls` that tests the claim without the picture, or "".
        paper_keys: for each row of the frame the key of `paper_reference.json` that stands beside it, or None.
        drawing: how to draw it, or None for the table alone.
    """

    frame: pd.DataFrame
    title: str
    caption: str
    n_pictures: int
    conclusion: Verdict = Verdict()
    claim: str = ""
    control: str = ""
    paper_keys: tuple[str | None, ...] = ()
    drawing: Drawing | None = None

    def __post_init__(self) -> None:
        if self.paper_keys and len(self.paper_keys) != len(self.frame):
            raise ValueError(
                f"{self.title!r} has {len(self.frame)} rows but {len(self.paper_keys)} paper keys; give one for each "
                f"row (None where the paper has no number), or none at all"
            )
        if self.drawing is not None:
            used = (self.drawing.x, self.drawing.y, self.drawing.series, self.drawing.panels)
            absent = [c for c in used if c is not None and c not in self.frame.columns]
            if absent:
                raise ValueError(
                    f"the drawing of {self.title!r} uses columns {absent}, the frame has {list(self.frame.columns)}"
                )

    @property
    def verdict(self) -> str:
        """The conclusion in words, or "" where there is none."""
        return self.conclusion.text


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two values of a column, compared within pictures as `first - second`."""

    column: str
    first: str
    second: str

    def differences(
        self, rows: pd.DataFrame, value: str = "value", *, by: tuple[str, ...] = (), seed: int
    ) -> pd.DataFrame:
        """`stats.paired_table` of these two."""
        return stats.paired_table(rows, value, pair=self.column, first=self.first, second=self.second, by=by, seed=seed)

    def sides(self, rows: pd.DataFrame, value: str = "value", *, seed: int) -> pd.DataFrame:
        """Means and intervals of both over the pictures that have both, as in `Verdict.compared`."""
        known = rows[rows[value].notna() & rows[self.column].isin([self.first, self.second])]
        both = known.groupby("image_id")[self.column].nunique()
        known = known[known["image_id"].isin(both.index[both == 2])]
        means = stats.interval_table(known, value, by=[self.column], seed=seed).set_index(self.column)
        return means.loc[[self.first, self.second]].rename_axis("compared").reset_index().assign(control=[False, True])


TOP_AGAINST_RANDOM = Pair(column="neurons", first="top", second="random")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a verdict may use."""

    rows: pd.DataFrame
    """The rows on which the table is based."""
    frame: pd.DataFrame
    """The table."""
    facts: Mapping[str, Any]
    """What the caption's placeholders were filled with."""
    seed: int


Judge = Callable[[Evidence], Verdict]


@dataclass(frozen=True, kw_only=True)
class SummaryTable:
    """A table of the report before there are rows: `made_from` turns rows into a `Summary`.

    Attributes:
        name: key in `Experiment.summarise`'s result.
        table: the row table that it is about; without rows there is no summary.
        rows: picks and reshapes rows from all row tables of the experiment; None takes those of `table` as they are.
        value, by: the column that is averaged over pictures, and the columns that make the groups.
        difference: show differences of this pair instead of means.
        p_of: show means, and beside them the p value of this pair in each of the other groups.
        frame: makes the table from rows and seed where neither means nor differences do.
        caption: with placeholders `{n}` (pictures) and what `facts` gives.
        facts: further values for the caption, the paper keys and the verdict, from the rows.
        paper_key: from a row of the table and the facts to a key of `paper_reference.json`, or None.
        verdict: a conclusion from the evidence.
        claim, control: as in `Summary`.
        reference: the fact at which the drawing has a horizontal line.
    """

    name: str
    title: str
    caption: str
    table: str
    rows: Callable[[Mapping[str, pd.DataFrame]], pd.DataFrame] | None = None
    value: str = "value"
    by: tuple[str, ...] = ()
    difference: Pair | None = None
    p_of: Pair | None = None
    frame: Callable[[pd.DataFrame, int], pd.DataFrame] | None = None
    facts: Callable[[pd.DataFrame], Mapping[str, Any]] = lambda _: {}
    paper_key: Callable[[Any, Mapping[str, Any]], str | None] | None = None
    verdict: Judge = lambda _: Verdict()
    claim: str = ""
    control: str = ""
    drawing: Drawing | None = None
    reference: str | None = None

    def made_from(self, tables: Mapping[str, pd.DataFrame], *, seed: int) -> Summary | None:
        """The summary, or None without rows."""
        rows = tables[self.table]
        if len(rows) and self.rows is not None:
            rows = self.rows(tables)
        if not len(rows):
            return None
        n = rows["image_id"].nunique()
        facts = {"n": n, **self.facts(rows)}
        frame = self._frame(rows, seed)
        keyed, drawing = self.paper_key, self.drawing
        if drawing is not None and self.reference is not None:
            drawing = replace(drawing, reference=facts[self.reference])
        return Summary(
            frame=frame,
            title=self.title,
            caption=self.caption.format(**facts),
            n_pictures=n,
            conclusion=self.verdict(Evidence(rows=rows, frame=frame, facts=facts, seed=seed)),
            claim=self.claim,
            control=self.control,
            paper_keys=() if keyed is None else tuple(keyed(row, facts) for row in frame.itertuples()),
            drawing=drawing,
        )

    def _frame(self, rows: pd.DataFrame, seed: int) -> pd.DataFrame:
        if self.frame is not None:
            return self.frame(rows, seed)
        if self.difference is not None:
            return self.difference.differences(rows, self.value, by=self.by, seed=seed)
        means = stats.interval_table(rows, self.value, by=self.by, seed=seed)
        if self.p_of is None:
            return means
        column = f"p {self.p_of.first} against {self.p_of.second}"
        groups = tuple(name for name in self.by if name != self.p_of.column)
        paired = self.p_of.differences(rows, self.value, by=groups, seed=seed)[[*groups, "p"]]
        return means.merge(paired.rename(columns={"p": column}), on=list(groups), how="left", sort=False)


def summarised(tables: tuple[SummaryTable, ...], rows: Mapping[str, pd.DataFrame], *, seed: int) -> dict[str, Summary]:
    """The summaries that have rows, by name."""
    made = {table.name: table.made_from(rows, seed=seed) for table in tables}
    return {name: summary for name, summary in made.items() if summary is not None}


@dataclass(frozen=True, kw_only=True)
class PairedVerdict:
    """Says which of two kinds of rows has the larger value within pictures.

    Attributes:
        sentence: with placeholders `{said}`, `{difference}`, `{first}`, `{second}` (means with intervals) and `{n}`.
        finding: what `{said}` becomes if a difference is established, its `{more}` MORE or LESS.
        where: picks the rows.
        unit: of the values.
        percent, digits: as in `stats.in_words`.
    """

    pair: Pair
    sentence: str
    finding: str
    unit: str
    where: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows
    value: str = "value"
    percent: bool = False
    digits: int = 3

    def __call__(self, evidence: Evidence) -> Verdict:
        rows = self.where(evidence.rows)
        paired = self.pair.differences(rows, self.value, seed=evidence.seed)
        n = int(paired["n"].sum())
        if n < stats.needed():
            return too_few(n)
        sides = self.pair.sides(rows, self.value, seed=evidence.seed)
        first, second, difference = (
            stats.in_words(row, percent=self.percent, digits=self.digits)
            for row in (sides.iloc[0], sides.iloc[1], paired.iloc[0])
        )
        above = stats.is_above(paired.iloc[0])
        said = (
            "The difference is NOT established"
            if above is None
            else self.finding.format(more="MORE" if above else "LESS")
        )
        text = self.sentence.format(said=said, first=first, second=second, difference=difference, n=n)
        return Verdict(text=text, answer=answer_of(above), compared=sides, unit=self.unit)
