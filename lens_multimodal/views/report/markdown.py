"""The report as a short Markdown file."""

import json

from lens_multimodal.experiments.claims import Claim
from lens_multimodal.views.report.content import Entry, Report

MOST_ROWS = 30
"""Rows shown of one table; the page has them all."""


def markdown(report: Report) -> str:
    """Findings, tables and settings; the page has the figures."""
    lines = [f"# {report.title}", "", facts(report), ""]
    if report.findings:
        lines += ["## Findings", ""]
        if not report.same_setting:
            lines += [f"The paper's setting is {report.paper_setting}: another model and data set.", ""]
        rows = [(c.claim or c.title, c.answer or "-", c.text, _paper(c)) for c in (f.claim for f in report.findings)]
        lines += _table(("claim", "here", "verdict", "paper"), rows)
    for section in report.sections:
        lines += [f"## {section.question}", ""]
        for entry in section.entries:
            lines += _entry(entry)
    lines += ["## Settings", "", "```json", json.dumps(report.manifest, indent=1, ensure_ascii=False), "```", ""]
    return "\n".join(lines)


def facts(report: Report) -> str:
    """One paragraph: pictures, model, data, what went wrong."""
    manifest = report.manifest
    of_them = f"{report.n_pictures} of {manifest['data']['scenes']} pictures, seed {manifest['seed']}"
    said = (
        f"{of_them}; language model with {manifest['model']['n_layers']} layers of d_mlp {manifest['model']['d_mlp']:,}"
    )
    if left_out := report.manifest.get("left_out"):
        counts = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        said += f". Left out of the data set, since they could not be read: {counts}"
    if report.errors:
        files = ", ".join(str(error["file"]) for error in report.errors[:5])
        more = f" and {len(report.errors) - 5} more" if len(report.errors) > 5 else ""
        said += f". {len(report.errors)} pictures could not be read and are left out ({files}{more})"
    if report.smallest_batch is not None:
        said += f". Memory ran out: the batch was halved down to {report.smallest_batch} rows"
    return said + "."


def _entry(entry: Entry) -> list[str]:
    lines = [f"### {entry.summary.title} ({entry.summary.n_pictures} pictures)", ""]
    lines += [entry.summary.caption, ""]
    lines += _table(entry.table.header, entry.table.rows[:MOST_ROWS])
    if len(entry.table.rows) > MOST_ROWS:
        lines += [f"({len(entry.table.rows) - MOST_ROWS} further rows in report.html)", ""]
    return lines


def _paper(claim: Claim) -> str:
    return "" if claim.paper is None else str(claim.paper)


def _table(header: tuple[str, ...], rows: object) -> list[str]:
    lines = ["| " + " | ".join(_cell(c) for c in header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]  # type: ignore[attr-defined]
    return [*lines, ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
