"""A table of neurons is a DataFrame for programs and pictures for people."""

import io
import pickle

import pandas as pd
import pytest

from lens_multimodal.analysis.neuron_table import NeuronTable
from lens_multimodal.hooks import read_neurons
from tests.lenses import picture
from tests.views.notebook.html_reader import assert_self_contained, read


@pytest.fixture(scope="module")
def found(lens):
    return lens.neurons(lens.prompt(picture(), " dog"), " cat", top_k=60)


def test_it_is_a_table_like_any_other(lens, found):
    assert isinstance(found, pd.DataFrame)
    assert list(found.columns) == [
        "layer", "neuron", "attribution", "pos", "row", "col", "tokens", "interpretable",
        "whole_words",
    ]  # fmt: skip
    assert found.attrs["score"] == "activation_x_gradient"
    assert isinstance(found["layer"], pd.Series)
    assert len(read_neurons(lens.model, found.head(10))) > 0
    pd.testing.assert_frame_equal(pd.DataFrame(found), found, check_frame_type=False)


def test_slices_copies_and_pickles_keep_the_picture(found):
    half = found[found["interpretable"] | (found.index < 5)]
    for part in (found.head(3), found.iloc[2:5], half, found.copy(), pickle.loads(pickle.dumps(found))):
        assert isinstance(part, NeuronTable)
        assert read(part._repr_html_()).all(".sprite")
        assert part.picture.size == (30, 20)
    assert isinstance(found.sort_values("neuron").reset_index(drop=True), NeuronTable)


def test_merge_groupby_and_files_work(found):
    other = pd.DataFrame({"layer": found["layer"], "neuron": found["neuron"], "mine": range(len(found))})
    merged = found.merge(other, on=["layer", "neuron"])
    assert list(merged["mine"]) == list(range(len(found)))
    assert "mine" in merged._repr_html_()
    assert found.groupby("layer")["attribution"].max().max() == found["attribution"].max()
    both = pd.concat([found.head(2), found.tail(2)])
    assert len(both) == 4
    buffer = io.StringIO(found.drop(columns="tokens").to_csv(index=False))
    assert list(pd.read_csv(buffer)["neuron"]) == list(found["neuron"])


def test_parquet(found, tmp_path):
    pytest.importorskip("pyarrow")
    found.assign(tokens=found["tokens"].map(list)).to_parquet(tmp_path / "found.parquet")
    again = pd.read_parquet(tmp_path / "found.parquet")
    assert list(again["neuron"]) == list(found["neuron"])


def test_rows_show_what_the_table_says(found):
    html = found._repr_html_()
    assert_self_contained(html)
    root = read(html)
    rows = root.all("tr")[1:]
    assert len(rows) == 25
    assert "35 more rows" in root.whole_text
    for row, (_, entry) in zip(rows, found.iterrows(), strict=False):
        cells = [cell.whole_text.strip() for cell in row.all("td")]
        assert cells[1:3] == [str(entry["layer"]), str(entry["neuron"])]
        assert f"{entry['attribution']:.4g}" in cells[3]
        assert f"row {entry['row']}, column {entry['col']}" in cells[4]
        assert len(row.all(".tok")) == len(entry["tokens"])


def test_without_the_usual_columns(found):
    assert found[["layer", "neuron"]]._repr_html_().startswith('<div class="lens-multimodal')
    assert found[["attribution"]]._repr_html_() == pd.DataFrame(found[["attribution"]])._repr_html_()
    assert "0 neurons" in found.head(0)._repr_html_()
    doubled = pd.concat([found, found], axis=1)
    assert doubled._repr_html_() == pd.DataFrame(doubled)._repr_html_()
    renamed = found.rename(columns={"attribution": "share"})
    assert "share" in renamed._repr_html_()


def test_hostile_tokens_and_columns_are_escaped():
    evil = "<img src=x onerror=alert(1)>"
    table = NeuronTable({"layer": [1], "neuron": [2], "tokens": [(evil,)], evil: [evil]})
    table.attrs["score"] = evil
    html = table._repr_html_()
    assert not read(html).all("img")
    assert_self_contained(html)


def test_pandas_setting_is_respected(found):
    with pd.option_context("display.notebook_repr_html", False):
        assert found._repr_html_() is None


def test_several_images_have_no_single_picture(lens):
    prompt = lens.interleave([[picture(0), " dog", picture(1), " dog"]])
    table = lens.neurons(prompt, " cat", top_k=5)
    assert table.picture is None
    assert not read(table._repr_html_()).all(".sprite")
