"""What a report says, before it is a page: verdicts, tables, figures, cases, and what the run was."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from lens_multimodal.experiments.experiment import Summary
from lens_multimodal.experiments.reference import PaperNumber, paper_number, paper_setting
from lens_multimodal.experiments.results import Results
from lens_multimodal.experiments.stream.parts import read_parts
from lens_multimodal.views.report.cases import Cases, cases_of
from lens_multimodal.views.report.summary_figures import figure_of
from lens_multimodal.views.report.tables import Table, table_of

QUESTIONS = {
    "projection": "Do image prompts already decode into words?",
    "discovery": "Which neurons turn the image into a word, and where are they?",
    "selectivity": "Do these neurons look at the object?",
    "causal": "Do these neurons cause the word?",
    "depth": "At which depth does the image become words?",
    "faithfulness": "How far can the attribution scores be trusted?",
    "controls": "What survives when there is nothing to see, or nothing learned?",
    "follow_ups": "What do later methods say about the same neurons?",
}
"""Headings of the experiments."""

ANSWERS = {"projection": "positions", "discovery": "layers", "selectivity": "overlap", "causal": "probability"}
"""The summary whose verdict answers what the paper finds, by experiment."""

ARTEFACT = "ARTEFACT"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One summary, ready to be shown."""

    title: str
    caption: str
    verdict: str
    n_pictures: int
    table: Table
    figure: go.Figure | None


@dataclass(frozen=True, kw_only=True)
class Section:
    """One experiment."""

    name: str
    question: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, kw_only=True)
class Against:
    """A finding of the paper beside what was found here."""

    question: str
    paper: PaperNumber
    here: str


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
    """Below what was asked for where memory ran out."""
    manifest: Mapping[str, Any]

    @property
    def answers(self) -> list[tuple[Section, Entry]]:
        """Everything that has a verdict."""
        return [(section, entry) for section in self.sections for entry in section.entries if entry.verdict]

    @property
    def paper_setting(self) -> str:
        return paper_setting()


def report_of(results: Results) -> Report:
    """The content of the report of a finished run, from its files alone."""
    manifest = results.manifest
    same = is_paper_setting(manifest)
    sections = tuple(
        Section(
            name=name,
            question=QUESTIONS.get(name, name),
            entries=tuple(entry_of(summary, same_setting=same) for summary in summaries.values()),
        )
        for name, summaries in results.summaries.items()
    )
    parts = read_parts(results.out)
    sizes = [part.batch_size for part in parts]
    return Report(
        title=f"Multimodal neurons: {manifest['model']['name']}",
        sections=sections,
        against=tuple(against_of(results.summaries)),
        same_setting=same,
        cases=cases_of(results.tables, manifest),
        n_pictures=len({image_id for part in parts for image_id in part.done}),
        errors=tuple(results.errors),
        smallest_batch=min(sizes) if sizes and min(sizes) < max(sizes) else None,
        manifest=manifest,
    )


def entry_of(summary: Summary, *, same_setting: bool) -> Entry:
    """A summary as it is shown."""
    return Entry(
        title=summary.title,
        caption=summary.caption,
        verdict=summary.verdict,
        n_pictures=summary.n_pictures,
        table=table_of(summary, same_setting=same_setting),
        figure=figure_of(summary),
    )


def is_paper_setting(manifest: Mapping[str, Any]) -> bool:
    """Whether model and data are those of the paper: GPT-J-6B under 14 x 14 image patches, and COCO 2017."""
    model = manifest["model"]
    shape = (model["n_layers"], model["d_model"], tuple(model["grid"]))
    return shape == (28, 4096, (14, 14)) and "2017" in str(manifest["folder"])


def against_of(summaries: Mapping[str, Mapping[str, Summary]]) -> Iterator[Against]:
    """Every finding of the paper beside the verdict on the same question."""
    for name, answer in ANSWERS.items():
        summary = summaries.get(name, {}).get(answer)
        if summary is not None and summary.verdict:
            finding = paper_number(f"{name}.finding")
            yield Against(question=finding.what, paper=finding, here=summary.verdict)
