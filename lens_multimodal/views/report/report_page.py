"""The report as one page that fetches nothing: it holds plotly's code once."""

import json
import re

from plotly.offline import get_plotlyjs

from lens_multimodal.experiments.shared.picture_statistics import ALPHA, needed
from lens_multimodal.views.html import render
from lens_multimodal.views.report.content import Report
from lens_multimodal.views.report.markdown import facts


def page(report: Report) -> str:
    """The whole page as text."""
    return render(
        "report.html",
        title=report.title,
        report=report,
        facts=facts(report),
        enough=needed(),
        alpha=ALPHA,
        plotly=get_plotlyjs() if _has_figures(report) else "",
        manifest=_compact(json.dumps(report.manifest, indent=1, ensure_ascii=False)),
    )


def _has_figures(report: Report) -> bool:
    shown = any(finding.figures for finding in report.findings)
    return shown or any(entry.figure is not None for section in report.sections for entry in section.entries)


def _compact(text: str) -> str:
    """Lists of plain values in one line."""
    return re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda found: "[" + re.sub(r",\s+", ", ", found[1]) + "]", text)
