"""The content of a report before it is laid out: verdicts, tables, figures, pictures, and facts about the run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from lens_multimodal.experiments.paper_reference import paper_setting
from lens_multimodal.experiments.registry import EXPERIMENTS
from lens_multimodal.experiments.run_results import Against, Results
from lens_multimodal.experiments.shared.summaries import Summary
from lens_multimodal.experiments.stream.parts import read_parts
from lens_multimodal.views.report.cases import Cases, cases_of
from lens_multimodal.views.report.summary_figures import figure_of
from lens_multimodal.views.report.tables import Table, table_of

ARTEFACT = "ARTEFACT"


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
    against: tuple[Against, ...]
    same_setting: bool
    """Model and data are those of the paper."""
    cases: Cases
    n_pictures: int
    errors: tuple[Mapping[str, Any], ...]
    smallest_batch: int | None
    """Set if memory ran out and the batch was halved."""
    manifest: Mapping[str, Any]

    @property
    def answers(self) -> list[tuple[Section, Entry]]:
        """The summaries that have a verdict."""
        return [(section, entry) for section in self.sections for entry in section.entries if entry.summary.verdict]

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
        against=tuple(results.against),
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
