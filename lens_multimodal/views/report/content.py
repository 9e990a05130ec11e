"""The content of a report before it is laid out: verdicts, tables, figures, pictures, and facts about the run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from lens_multimodal.experiments.claims import YES_BUT, Claim
from lens_multimodal.experiments.paper_reference import paper_setting
from lens_multimodal.experiments.registry import EXPERIMENTS
from lens_multimodal.experiments.run_results import Results
from lens_multimodal.experiments.shared.summaries import Drawing, Summary, Verdict
from lens_multimodal.experiments.stream.parts import read_parts
from lens_multimodal.views.plots.theme import COLOURS
from lens_multimodal.views.report.cases import Cases, cases_of
from lens_multimodal.views.report.summary_figures import figure_of
from lens_multimodal.views.report.tables import Table, table_of


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A claim with its figures."""

    claim: Claim
    figures: tuple[go.Figure, ...]

    @property
    def is_artefact(self) -> bool:
        return self.claim.answer == YES_BUT


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One summary, ready to be shown."""

    summary: Summary
    table: Table
    figure: go.Figure | None


@dataclass(frozen=True, kw_only=True)
class Section:
    """One experiment."""

    name: str
    question: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that the page and the Markdown summary show."""

    title: str
    sections: tuple[Section, ...]
    findings: tuple[Finding, ...]
    same_setting: bool
    """Model and data are those of the paper."""
    cases: Cases
    n_pictures: int
    errors: tuple[Mapping[str, Any], ...]
    smallest_batch: int | None
    """Set if memory ran out and the batch was halved."""
    manifest: Mapping[str, Any]

    @property
    def paper_setting(self) -> str:
        return paper_setting()


def report_of(results: Results) -> Report:
    """The content of the report of a finished run, from its files alone."""
    manifest = results.manifest
    same = results.same_setting
    sections = tuple(
        Section(
            name=name,
            question=EXPERIMENTS[name].question,
            entries=tuple(entry_of(summary, same_setting=same) for summary in summaries.values()),
        )
        for name, summaries in results.summaries.items()
    )
    parts = read_parts(results.out)
    sizes = [part.batch_size for part in parts]
    return Report(
        title=f"Multimodal neurons: {manifest['model']['name']}",
        sections=sections,
        findings=tuple(finding_of(claim) for claim in results.claims),
        same_setting=same,
        cases=cases_of(results.tables, manifest),
        n_pictures=len({image_id for part in parts for image_id in part.done}),
        errors=tuple(results.errors),
        smallest_batch=min(sizes) if sizes and min(sizes) < max(sizes) else None,
        manifest=manifest,
    )


def entry_of(summary: Summary, *, same_setting: bool) -> Entry:
    """A summary as it is shown."""
    table = table_of(summary, same_setting=same_setting)
    return Entry(summary=summary, table=table, figure=figure_of(summary))


def finding_of(claim: Claim) -> Finding:
    """A claim with a figure for each comparison behind its verdict."""
    titles = ("Effect and control", "With the picture, and without")
    figures = (_figure(verdict, title) for verdict, title in zip(claim.evidence, titles, strict=False))
    return Finding(claim=claim, figures=tuple(figure for figure in figures if figure is not None))


def _figure(verdict: Verdict, title: str) -> go.Figure | None:
    """An effect and its control with their intervals."""
    compared = verdict.compared
    if compared is None:
        return None
    drawing = Drawing(kind="bars", x="compared", x_title="", y_title=verdict.unit, reference=0.0)
    n = int(compared["n"].max())
    figure = figure_of(Summary(frame=compared, title=title, caption="", n_pictures=n, drawing=drawing))
    if figure is not None and "control" in compared:
        figure.update_traces(marker_color=[COLOURS["random" if control else "top"] for control in compared["control"]])
    return figure
