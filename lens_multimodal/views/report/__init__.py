"""The report of a run: one page that needs no network, and a Markdown summary."""

from pathlib import Path

from lens_multimodal.experiments.run_results import Results
from lens_multimodal.files import write_text
from lens_multimodal.views.report.content import report_of
from lens_multimodal.views.report.markdown import markdown
from lens_multimodal.views.report.report_page import page

__all__ = ["markdown", "page", "report_of", "write_report"]


def write_report(out: str | Path) -> Path:
    """Write `report.html` and `report.md` from the tables of a finished run; no model is needed.

    Returns: the path of the page.
    Raises: FileNotFoundError for a folder without a finished run.
    """
    results = Results(Path(out))
    report = report_of(results)
    write_text(results.markdown, markdown(report))
    write_text(results.html, page(report))
    return results.html
