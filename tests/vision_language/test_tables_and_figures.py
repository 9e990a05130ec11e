"""Tables and figures of models that cut tiles: every position with a place is drawn at its box, on its own grid."""

import re

import numpy as np
import pytest

from lens_multimodal import attach_vision
from lens_multimodal.views import plots
from tests.views.notebook.html_reader import read
from tests.vision_language.models import build
from tests.vision_language.pictures import scenes_of_several_sizes


@pytest.fixture(scope="module", params=["llava-next", "llama-4", "qwen2.5-vl"])
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model, processor = build(request.param, folder)
    lens = attach_vision(model, processor=processor)
    scene = scenes_of_several_sizes(folder / "pictures", 1)[0]
    prompt = lens.prompt(scene.path, " a")
    return lens, prompt, prompt.spans[0][0]


def test_a_figure_has_a_panel_for_each_grid(case):
    lens, prompt, span = case
    layout = span.image.layout
    card = lens.show((1, 3), image=prompt, target=int(lens.logits(prompt)[0, -1].argmax()))
    for figure, values in (
        (plots.activation_figure(card), card.activations),
        (plots.attribution_figure(card), card.attribution),
    ):
        assert len(figure.data) == len(layout.grids)
        for cells, grid in zip(figure.data, layout.grids, strict=True):
            np.testing.assert_allclose(np.ravel(cells.z), values[list(grid.indices)], rtol=1e-6)
            for row, col in ((0, 0), (grid.grid_h - 1, grid.grid_w - 1)):
                box = grid.geometry.patch_box(row, col)
                assert (cells.x[col], cells.y[row]) == pytest.approx((box.left, box.top))
                assert (cells.x[col + 1], cells.y[row + 1]) == pytest.approx((box.right, box.bottom))
        assert len({(cells.zmin, cells.zmax) for cells in figure.data}) == 1, "one colour scale"
    with pytest.raises(ValueError, match=str(layout.n_positions)):
        plots.values_over_picture(card.picture, card.activations[:-1], layout)


def test_a_table_shows_the_part_of_the_picture_at_each_position(case):
    lens, prompt, span = case
    layout = span.image.layout
    found = lens.neurons(prompt, int(lens.logits(prompt)[0, -1].argmax()), positions="image", top_k=25)
    width, height = layout.picture_size
    rows = read(found._repr_html_()).all("tr")[1:]
    for row, pos in zip(rows, found["pos"], strict=True):
        index = span.positions.index(pos)
        assert layout.name(index) in row.whole_text
        box, cut = layout.box(index), row.all(".sprite")
        assert len(cut) == (box is not None)
        if box is not None:
            across, down = map(float, re.search(r"--bs:([\d.]+)% ([\d.]+)%", cut[0].attributes["style"]).groups())
            assert across == pytest.approx(100 * width / (box.right - box.left), rel=1e-3)
            assert down == pytest.approx(100 * height / (box.bottom - box.top), rel=1e-3)
