"""Results in a notebook: the numbers of the result, escaped and self-contained."""

import pytest
import torch

from lens_multimodal.analysis import (
    act_patch_heads_by_position,
    act_patch_neurons,
    act_patch_resid_pre,
    effect_of,
    faithfulness,
    logit_lens,
)
from lens_multimodal.analysis.patching.patch_sweep import PatchSweep
from lens_multimodal.hooks import ablate
from lens_multimodal.views.notebook.svg import cells_svg, lines_svg
from tests.lenses import picture
from tests.views.notebook.html_reader import assert_self_contained, read


@pytest.fixture(scope="module")
def prompts(lens):
    return lens.prompt(picture(0), " dog"), lens.prompt(picture(1), " dog")


def test_lens(lens):
    html = lens._repr_html_()
    assert_self_contained(html)
    text = read(html).whole_text
    for part in ("TransformerBridge", "3 layers", "d_model 24", "120 MLP neurons", "2 x 3", "d_vision=10", "none"):
        assert part in text


def test_logit_lens(lens, prompts):
    result = logit_lens(lens.model, prompts[0].tokens, [" dog", " cat"])
    html = result._repr_html_()
    assert_self_contained(html)
    cells = [rect.all("title")[0].text for rect in read(html).all("rect")]
    assert len(cells) == 4 * 7
    expected = float(result.probability[0, 2, 3])
    assert f"depth 2, position 3: probability {expected:.3g}, rank {int(result.rank[0, 2, 3])}" in "\n".join(cells)
    assert "1 more tokens" in read(html).whole_text


def test_patch_sweeps_of_one_two_and_three_axes(lens, prompts):
    clean, corrupted = (prompt.tokens for prompt in prompts)
    two = act_patch_resid_pre(lens.model, clean, corrupted, " cat", layers=[0, 2], positions=[1, 4, 6])
    cells = read(two._repr_html_()).all("rect")
    assert len(cells) == 6
    assert cells[4].all("title")[0].text == f"layer 2 pos 4: recovered {float(two.recovered[1, 1]):.3g}"
    one = act_patch_neurons(lens.model, clean, corrupted, " cat", neurons=[(0, 1), (2, 5)])
    assert [c.all("title")[0].text for c in read(one._repr_html_()).all("rect")] == [
        f"neuron {pair}: recovered {float(value):.3g}"
        for pair, value in zip(one.axes["neuron"], one.recovered, strict=True)
    ]
    three = act_patch_heads_by_position(lens.model, clean, corrupted, " cat", layers=[1], positions=[1, 4])
    root = read(three._repr_html_())
    assert len(root.all("rect")) == 2
    assert "strongest along pos" in root.whole_text


def test_a_sweep_between_equal_prompts_is_still_shown():
    nothing = torch.zeros(2, 2)
    sweep = PatchSweep(
        site="resid_pre",
        axes={"layer": [0, 1], "pos": [0, 1]},
        patched=nothing,
        estimate=nothing,
        clean=0.0,
        corrupted=0.0,
    )
    assert len(read(sweep._repr_html_()).all("rect")) == 4


def test_receptive_field(lens, prompts):
    card = lens.show((1, 17), image=prompts[0], target=" cat", pictures=[picture(0)])
    html = card.field._repr_html_()
    assert_self_contained(html)
    assert f"above {card.field.threshold:.3g}" in read(html).whole_text


def test_effect(lens, prompts):
    result = effect_of(lens.model, prompts[0].tokens, ablate(lens.model, [(1, 17)]), lens.text.token_id(" cat"))
    html = result._repr_html_()
    assert_self_contained(html)
    text = read(html).whole_text
    assert f"{float(result.probability_before[0]):.4g}" in text
    assert f"{100 * float(result.relative_probability_change[0]):+.1f} %" in text
    many = effect_of(
        lens.model, prompts[0].tokens.expand(25, -1), ablate(lens.model, [(1, 17)]), lens.text.token_id(" cat")
    )
    root = read(many._repr_html_())
    assert len(root.all("tr")) == 21
    assert "5 more prompts" in root.whole_text


def test_faithfulness(lens, prompts):
    result = faithfulness(lens.model, prompts[0].tokens, " cat", neurons=[(0, 1), (1, 2), (2, 3)], n_points=3)
    html = result._repr_html_()
    assert_self_contained(html)
    root = read(html)
    rows = root.all("tr")[1:]
    assert [row.all("td")[0].whole_text.strip() for row in rows] == list(result.summary["score"])
    assert len(root.all("polyline")) == 2 * len(result.summary)


def test_cells_are_as_strong_as_their_values():
    values = torch.tensor([[0.0, 1.0], [-2.0, torch.nan]])
    svg = cells_svg(
        values,
        row_names=["<a>", "b"],
        column_names=["c", "d"],
        signed=True,
        title=lambda row, column: f"<{row}{column}>",
    )
    cells = read(str(svg)).all("rect")
    assert [(c.attributes["fill"], c.attributes["fill-opacity"]) for c in cells] == [
        ("#e05a0c", "0.06"),
        ("#e05a0c", "0.50"),
        ("#2f80ed", "1.00"),
        ("#e05a0c", "0.06"),
    ]
    assert int(cells[0].attributes["y"]) > int(cells[2].attributes["y"])
    assert cells[1].all("title")[0].text == "<01>"
    assert "<a>" in [text.text for text in read(str(svg)).all("text")]


def test_lines_reach_their_ends():
    (line,) = read(str(lines_svg([("#e05a0c", [0, 10], [1.0, 3.0])]))).all("polyline")
    first, last = [tuple(map(float, p.split(","))) for p in line.attributes["points"].split()]
    assert first == (44.0, 124.0)
    assert last == (312.0, 8.0)
    assert lines_svg([]) == ""
