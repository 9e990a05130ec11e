"""Maps hold the numbers given, in the order given, and name every row and column."""

import numpy as np
import pytest
import torch

from lens_multimodal.views.plots import depth_map, head_map, sweep_map
from lens_multimodal.views.plots.heat_map import MOST_COLUMNS


def test_depth_map_holds_values_names_and_words():
    values = torch.rand(3, 4)
    words = [[f" w{depth}{pos}" for pos in range(4)] for depth in range(3)]
    figure = depth_map(values, position_names=["<image:0,0>", " a", " a", " dog"], token=" dog", words=words)
    (cells,) = figure.data
    np.testing.assert_allclose(cells.z, values.double().numpy())
    assert list(figure.layout.xaxis.ticktext) == ["0,0", "·a", "·a", "·dog"]
    assert list(figure.layout.xaxis.tickvals) == [0, 1, 2, 3]
    assert cells.text[2][1] == "·a, depth 2<br>top token ·w21"
    assert "·dog" in figure.layout.title.text
    assert cells.zmid is None


def test_equal_names_stay_separate_columns():
    values = torch.randn(2, 3)
    figure = sweep_map(values, layers=[4, 9], column_names=[" a", " a", " a"])
    assert figure.data[0].x is None
    np.testing.assert_allclose(figure.data[0].z, values.double().numpy())
    assert list(figure.layout.yaxis.ticktext) == ["4", "9"]
    assert figure.data[0].zmid == 0


def test_head_map_is_centred_only_where_signed():
    values = torch.randn(2, 3)
    signed, unsigned = (head_map(values, label="effect", signed=s, title="heads", layers=[3, 5]) for s in (True, False))
    assert signed.data[0].zmid == 0
    assert unsigned.data[0].zmid is None
    assert list(signed.layout.yaxis.ticktext) == ["3", "5"]
    np.testing.assert_allclose(signed.data[0].z, values.double().numpy())


def test_words_keep_their_ticks_among_many_image_patches():
    names = [*(f"<image:{i // 6},{i % 6}>" for i in range(36)), " A", " picture", " of"]
    figure = depth_map(torch.rand(3, 39), position_names=names, token=" dog", words=[["x"] * 39] * 3)
    assert list(figure.layout.xaxis.tickvals)[-3:] == [36, 37, 38]
    assert len(figure.layout.xaxis.tickvals) <= MOST_COLUMNS
    assert figure.layout.xaxis.tickfont.size >= 11
    assert figure.data[0].texttemplate is None, "no room for words"


def test_few_positions_show_their_words():
    words = [[" dog", " cat<b>"], [" a", " of"]]
    figure = depth_map(torch.rand(2, 2), position_names=["<image:0,0>", " A"], token=" dog", words=words)
    assert figure.data[0].texttemplate == "%{customdata}"
    assert [list(row) for row in figure.data[0].customdata] == [["·dog", "·cat&lt;b&gt;"], ["·a", "·of"]]


def test_many_columns_get_few_ticks():
    figure = sweep_map(torch.randn(2, 500), layers=[0, 1], column_names=[str(i) for i in range(500)])
    assert 5 <= len(figure.layout.xaxis.tickvals) <= MOST_COLUMNS
    assert list(figure.layout.xaxis.ticktext) == [str(i) for i in figure.layout.xaxis.tickvals]


def test_names_and_words_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\[2, 3\].* 2 row.* 2 column"):
        sweep_map(torch.randn(2, 3), layers=[0, 1], column_names=["a", "b"])
    with pytest.raises(ValueError, match=r"\b2 rows.* 3 words.* \[3\]"):
        depth_map(torch.rand(2, 3), position_names=list("abc"), token="a", words=[["a"] * 3])
