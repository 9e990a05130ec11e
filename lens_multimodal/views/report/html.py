"""The report as one page that fetches nothing: plotly's code is inside it once."""

import json
import re
from importlib.resources import files

import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from plotly.offline import get_plotlyjs

from lens_multimodal.experiments.shared.picture_statistics import ENOUGH
from lens_multimodal.views.report.content import ARTEFACT, Report
from lens_multimodal.views.report.markdown import facts


def page(report: Report) -> str:
    """The whole page as text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = figure_html
    environment.filters["tied"] = lambda text: text.replace(" %", "\u00a0%")  # no line ends before the sign
    template = environment.from_string(
        files("lens_multimodal").joinpath("views/templates/report.html").read_text("utf-8")
    )
    return template.render(
        report=report,
        facts=facts(report),
        artefact=ARTEFACT,
        enough=ENOUGH,
        plotly=get_plotlyjs() if any(e.figure is not None for s in report.sections for e in s.entries) else "",
        manifest=_compact(json.dumps(report.manifest, indent=1, ensure_ascii=False)),
    )


def figure_html(figure: go.Figure) -> str:
    """A figure's element, without plotly's code."""
    html: str = figure.to_html(
        full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True}
    )
    return html


def _compact(text: str) -> str:
    """Lists of plain values in one line."""
    return re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda found: "[" + re.sub(r",\s+", ", ", found[1]) + "]", text)
