"""Fragments and pages: escaped, scoped, self-contained."""

import pandas as pd
import plotly.graph_objects as go
import pytest

from lens_multimodal.analysis.neuron_table import NeuronTable
from lens_multimodal.views.html import fragment
from lens_multimodal.views.notebook import page, save_html
from lens_multimodal.views.plots.theme import themed
from tests.views.notebook.html_reader import assert_self_contained, read


def table() -> NeuronTable:
    return NeuronTable({"layer": [1], "neuron": [2], "tokens": [("<script>alert(1)</script>",)]})


def test_pieces_do_not_share_rules_and_equal_pieces_are_equal():
    one, two = (fragment("heat.html", title=title, note="", map="", rest="") for title in ("one", "two"))
    assert one != two
    assert one == fragment("heat.html", title="one", note="", map="", rest="")
    scopes = [read(html).children[0].classes[1] for html in (one, two)]
    assert scopes[0] != scopes[1]
    assert all(scope.startswith("lm-") for scope in scopes)


def test_a_saved_page_is_whole(tmp_path):
    path = save_html(table(), tmp_path / "page.html", title="<b>title</b>")
    text = path.read_text()
    assert_self_contained(text.replace("<!doctype html>", ""))
    assert "prefers-color-scheme:dark" in text
    assert "<title>&lt;b&gt;title&lt;/b&gt;</title>" in text
    assert table()._repr_html_() in text


def test_a_figure_is_saved_on_a_page_that_follows_the_readers_theme(tmp_path):
    figure = themed(go.Figure(go.Scatter(y=[1, 2])), title="a <b> title")
    text = save_html(figure, tmp_path / "figure.html").read_text()
    assert "prefers-color-scheme:dark" in text
    assert "Plotly.newPlot" in text
    assert "<script src=" not in text


def test_lone_surrogates_do_not_break_a_page(tmp_path):
    broken = NeuronTable({"layer": [1], "neuron": [2], "tokens": [("\ud800",)]})
    broken.attrs["score"] = "\ud800"
    assert "&lt;U+D800&gt;" in save_html(broken, tmp_path / "page.html").read_text()


def test_things_that_cannot_be_saved(tmp_path):
    with pytest.raises(TypeError, match="int"):
        page(3, title="")
    with pytest.raises(FileNotFoundError, match=r"page\.html"):
        save_html(table(), tmp_path / "absent" / "page.html")
    with pd.option_context("display.notebook_repr_html", False), pytest.raises(TypeError):
        page(table(), title="")
