"""Numbers over the picture: the right values in the right cells of the right pixels."""

import numpy as np
import pytest
import torch

from lens_multimodal.views.plots import (
    attention_over_picture,
    layers_over_picture,
    receptive_field_over_picture,
    values_over_picture,
)
from tests.views.plots.figures import GRID_H, GRID_W, HEIGHT, WIDTH, geometry, picture


@pytest.mark.parametrize("crop", [(0, 0), (-6, -4)])
def test_cells_lie_where_the_image_patches_lie(crop):
    where = geometry(left=crop[0], top=crop[1])
    values = torch.arange(6.0).reshape(GRID_H, GRID_W)
    figure = values_over_picture(picture(), values, where)
    (cells,) = figure.data
    np.testing.assert_allclose(cells.z, values.double().numpy())
    for row in range(GRID_H):
        for col in range(GRID_W):
            box = where.patch_box(row, col)
            assert (cells.x[col], cells.x[col + 1]) == (box.left, box.right)
            assert (cells.y[row], cells.y[row + 1]) == (box.top, box.bottom)
    assert tuple(figure.layout.xaxis.range) == (0, WIDTH)
    assert tuple(figure.layout.yaxis.range) == (HEIGHT, 0)
    (image,) = figure.layout.images
    assert (image.sizex, image.sizey, image.layer) == (WIDTH, HEIGHT, "below")
    assert image.source.startswith("data:image/png;base64,")


def test_hover_names_the_patch_and_its_words():
    words = [f" word{i}" for i in range(6)]
    figure = values_over_picture(picture(), torch.rand(GRID_H, GRID_W), geometry(), words=words)
    assert figure.data[0].text[1][2] == "row 1, column 2<br>·word5"
    with pytest.raises(ValueError, match=r"5 words .* 6 image patches"):
        values_over_picture(picture(), torch.rand(GRID_H, GRID_W), geometry(), words=words[:5])


def test_signed_values_are_centred_on_zero():
    values = torch.tensor([[1.0, -3.0, 0.0], [2.0, 0.5, 0.25]])
    (cells,) = values_over_picture(picture(), values, geometry(), signed=True).data
    assert (cells.zmin, cells.zmax) == (-3, 3)
    (cells,) = values_over_picture(picture(), values, geometry()).data
    assert (cells.zmin, cells.zmax) == (-3, 2)


def test_the_slider_shows_one_layer_at_a_time():
    values = torch.randn(3, GRID_H, GRID_W)
    values[1, 0, 0] = 50
    figure = layers_over_picture(picture(), values, geometry(), layers=[2, 5, 7])
    assert [trace.visible for trace in figure.data] == [False, True, False]
    (slider,) = figure.layout.sliders
    assert [step.label for step in slider.steps] == ["2", "5", "7"]
    assert slider.active == 1
    for index, (step, trace) in enumerate(zip(slider.steps, figure.data, strict=True)):
        assert step.args[0]["visible"] == [i == index for i in range(3)]
        np.testing.assert_allclose(trace.z, values[index].double().numpy())
        assert (trace.zmin, trace.zmax) == (-50, 50)


def test_attention_has_a_panel_for_each_head_and_a_step_for_each_layer():
    attention = torch.rand(2, 5, GRID_H, GRID_W)
    figure = attention_over_picture(picture(), attention, geometry(), layers=[4, 6])
    assert len(figure.data) == 10
    for index, trace in enumerate(figure.data):
        layer, head = divmod(index, 5)
        np.testing.assert_allclose(trace.z, attention[layer, head].double().numpy())
        assert trace.name == f"layer {(4, 6)[layer]}, head {head}"
        assert trace.xaxis == ("x" if head == 0 else f"x{head + 1}")
    first, second = (step.args[0]["visible"] for step in figure.layout.sliders[0].steps)
    assert first == [True] * 5 + [False] * 5
    assert second == [False] * 5 + [True] * 5
    assert len(figure.layout.images) == 5


def test_receptive_field_is_outlined_at_its_threshold():
    heat = torch.rand(HEIGHT, WIDTH)
    heat[:2] = torch.nan
    seg_mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    seg_mask[5:9, 4:20] = True
    cells, field, outline = receptive_field_over_picture(picture(), heat, 0.75, seg_mask=seg_mask).data
    np.testing.assert_allclose(cells.z, heat.numpy(), equal_nan=True)
    assert field.contours.start == field.contours.end == 0.75
    assert np.isfinite(field.z).all()
    np.testing.assert_array_equal(outline.z, seg_mask)
    assert cells.x[0] == 0.5
    assert cells.y[-1] == HEIGHT - 0.5


def test_a_large_picture_makes_no_large_figure():
    large = picture().resize((1500, 1000))
    figure = receptive_field_over_picture(large, torch.rand(1000, 1500), 0.9)
    heat = figure.data[0]
    assert max(heat.z.shape) <= 160
    assert len(heat.x) == heat.z.shape[1]
    assert len(figure.to_json()) < 600_000


def test_numbers_of_another_picture_are_refused():
    right = torch.rand(GRID_H, GRID_W)
    with pytest.raises(ValueError, match=r"\[2, 3\], got \[3, 2\]"):
        values_over_picture(picture(), right.T, geometry())
    with pytest.raises(ValueError, match=r"picture .* 20 x 20, .*geometry .* 30 x 20"):
        values_over_picture(picture().resize((20, 20)), right, geometry())
    with pytest.raises(ValueError, match=r"\b1 layers .* 2 "):
        layers_over_picture(picture(), right[None], geometry(), layers=[0, 1])
    with pytest.raises(ValueError, match=r"attention .* 1 layers .* 2 "):
        attention_over_picture(picture(), right[None, None], geometry(), layers=[0, 1])
    with pytest.raises(ValueError, match=r"heat map .*\[30, 20\].*\[20, 30\]"):
        receptive_field_over_picture(picture(), torch.rand(WIDTH, HEIGHT), 0.5)
