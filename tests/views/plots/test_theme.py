"""All figures share one theme: transparent backgrounds, text and marks legible on light and on dark pages."""

import re

import plotly.graph_objects as go
import pytest

from lens_multimodal.views.plots import theme
from tests.views.plots.contrast import contrast
from tests.views.plots.figures import HOSTILE, all_figures

PAGES = {"white": "#ffffff", "notebook dark": "#111111", "editor dark": "#1e1e1e", "black": "#000000"}


def test_the_contrast_formula_at_its_extremes():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("page", PAGES)
def test_text_and_marks_stand_out_on_every_page(page):
    assert contrast(theme.TEXT, PAGES[page]) >= 4
    for colour in theme.PALETTE:
        assert contrast(colour, PAGES[page]) >= 3, colour


@pytest.fixture(scope="module")
def figures():
    return all_figures()


@pytest.mark.parametrize("name", sorted(all_figures()))
def test_figures_share_the_look(figures, name):
    figure = figures[name].figure
    assert isinstance(figure, go.Figure)
    template = figure.layout.template.layout
    assert template.paper_bgcolor == template.plot_bgcolor == theme.CLEAR
    assert template.font.color == theme.TEXT
    assert figure.layout.paper_bgcolor is None
    assert figure.layout.title.text


@pytest.mark.parametrize("name", sorted(all_figures()))
def test_names_and_tokens_cannot_become_markup(figures, name):
    """plotly draws a few tags and hands hovers on; ours come from `<br>` alone."""
    text = figures[name].figure.to_json().encode().decode("unicode_escape")
    assert HOSTILE not in text
    assert "<b>" not in text
    assert set(re.findall(r"</?[a-zA-Z]+", text)) <= {"<br", "<extra", "</extra"}


def test_zero_is_transparent():
    assert theme.RISING[0][1].endswith(", 0)")
    assert [colour for at, colour in theme.SIGNED if at == 0.5] == ["rgba(125, 125, 125, 0)"]
    assert theme.colour_scale(signed=True)["zmid"] == 0
    assert "zmid" not in theme.colour_scale(signed=False)
