"""A neuron card's numbers against an independent computation, and its content."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from lens_multimodal import transformer
from lens_multimodal.analysis import neuron_attribution, receptive_field
from lens_multimodal.views import plots
from lens_multimodal.views.notebook.neuron_card_html import SHOWN_SAMPLES, _percent
from tests.lenses import CASES, GRID, IDS, picture
from tests.views.notebook.html_reader import assert_self_contained, read

PAIR = (1, 17)
GPT_J = [(case, name) for case, name in zip(CASES, IDS, strict=True) if case[0] == "gpt-j"]


@pytest.fixture(scope="module")
def pictures():
    return [picture(seed) for seed in range(5)]


@pytest.fixture(scope="module", params=[case for case, _ in GPT_J], ids=[name for _, name in GPT_J])
def case(request, lens_of, pictures):
    lens = lens_of(*request.param)
    prompt = lens.prompt(pictures[0], " dog")
    return lens, prompt, lens.show(PAIR, image=prompt, target=" cat", pictures=pictures)


def test_activations_are_those_of_a_plain_run(case):
    lens, prompt, card = case
    with torch.no_grad():
        _, cache = lens.model.run_with_cache(prompt.tokens)
    plain = cache[transformer.mlp_post(PAIR[0])][0, prompt.image_pos[0], PAIR[1]]
    torch.testing.assert_close(card.activations, plain, rtol=1e-5, atol=1e-5)
    field = receptive_field(plain.reshape(GRID), prompt.spans[0][0].image.geometry)
    torch.testing.assert_close(card.field.heat, field.heat, rtol=1e-4, atol=1e-5)


def test_attribution_and_words_are_the_librarys(case):
    lens, prompt, card = case
    whole = neuron_attribution(lens.model, prompt.tokens, " cat", prompt.image_pos[0])
    torch.testing.assert_close(card.attribution, whole[0, PAIR[0], :, PAIR[1]])
    last = neuron_attribution(lens.model, prompt.tokens, " cat", -1)
    assert card.last_attribution == pytest.approx(float(last[0, PAIR[0], 0, PAIR[1]]), rel=1e-5, abs=1e-7)
    written = transformer.w_out(lens.model, PAIR[0])[PAIR[1]].detach() @ transformer.w_u(lens.model).detach()
    assert list(card.tokens) == [lens.text.token(i) for i in written.topk(10).indices.tolist()]
    np.testing.assert_allclose(card.weights, written.topk(10).values.tolist(), rtol=1e-4)


@pytest.mark.parametrize("where", ["image", "last"])
def test_the_effect_is_that_of_setting_the_neuron_to_zero(case, where):
    lens, prompt, card = case
    at, effect = (prompt.image_pos[0], card.effect) if where == "image" else (prompt.last_pos, card.last_effect)

    def zero(activation, hook):
        activation = activation.clone()
        activation[:, at, PAIR[1]] = 0
        return activation

    target = lens.text.token_id(" cat")
    with torch.no_grad():
        before = lens.model(prompt.tokens)[0, -1].softmax(-1)[target]
        with lens.model.hooks(fwd_hooks=[(transformer.mlp_post(PAIR[0]), zero)]):
            after = lens.model(prompt.tokens)[0, -1].softmax(-1)[target]
    torch.testing.assert_close(effect.probability_before[0], before, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(effect.probability_after[0], after, rtol=1e-4, atol=1e-7)
    assert float(before) != float(after)


def test_samples_are_ordered_by_activity(case, pictures):
    lens, _, card = case
    assert sorted(sample.index for sample in card.samples) == list(range(5))
    largest = [sample.largest for sample in card.samples]
    assert largest == sorted(largest, reverse=True)
    best = card.samples[0]
    np.testing.assert_array_equal(np.asarray(best.picture), np.asarray(pictures[best.index]))
    prompt = lens.prompt(best.picture)
    with torch.no_grad():
        _, cache = lens.model.run_with_cache(prompt.tokens)
    plain = cache[transformer.mlp_post(PAIR[0])][0, prompt.image_pos[0], PAIR[1]]
    assert best.largest == pytest.approx(float(plain.max()), rel=1e-4)


def test_the_card_in_html(case, tmp_path):
    _, _, card = case
    html = card._repr_html_()
    assert_self_contained(html)
    root = read(html)
    text = root.whole_text
    assert "Layer 1, neuron 17" in text
    assert "·cat" in text
    assert f"{float(card.effect.probability_after[0]):.4g}" in text
    assert len(root.all(".cell")) == 2 * GRID[0] * GRID[1]
    assert len(root.all("img")) == 2 + min(SHOWN_SAMPLES, 5)
    assert len(html) < 200_000
    saved = card.save_html(tmp_path / "card.html")
    page = saved.read_text()
    assert html in page
    assert "<title>Layer 1, neuron 17</title>" in page


def test_the_cards_figures(case):
    _, _, card = case
    for figure, values in (
        (plots.activation_figure(card), card.activations.reshape(GRID)),
        (plots.attribution_figure(card), card.attribution.reshape(GRID)),
        (plots.receptive_field_figure(card), card.field.heat),
    ):
        assert isinstance(figure, go.Figure)
        np.testing.assert_allclose(figure.data[0].z, values.numpy(), rtol=1e-6)


def test_a_row_of_a_table_names_the_neuron(lens, pictures):
    prompt = lens.prompt(pictures[0], " dog")
    found = lens.neurons(prompt, " cat", top_k=3)
    cards = [
        lens.show(row, image=prompt, target=" cat", pictures=pictures[:1])
        for row in (found.iloc[0], next(found.itertuples()), found.head(1), tuple(found.iloc[0][["layer", "neuron"]]))
    ]
    assert {(card.layer, card.neuron) for card in cards} == {(found["layer"][0], found["neuron"][0])}
    assert float(cards[0].attribution.max()) == pytest.approx(float(found["attribution"][0]), rel=1e-4)


def test_without_an_image_the_most_active_picture_is_taken(lens, pictures):
    card = lens.show(PAIR, pictures=pictures)
    np.testing.assert_array_equal(np.asarray(card.picture), np.asarray(card.samples[0].picture))
    caption = lens.caption(card.picture)
    assert not caption or card.target.strip() in caption


def test_without_a_target_a_prompt_takes_the_next_token(lens, pictures):
    prompt = lens.prompt(pictures[1], " dog")
    card = lens.show(PAIR, image=prompt, pictures=pictures[:1])
    assert card.target == lens.text.token(int(lens.logits(prompt)[0, -1].argmax()))
    assert int(card.effect.rank_before[0]) == 0


def test_without_pictures_the_embedded_scenes_are_used(lens):
    card = lens.show(PAIR)
    assert len(card.samples) == 24
    assert card.picture.size == (128, 128)


def test_showing_leaves_no_images_and_no_hooks_behind(lens, pictures):
    prompt = lens.prompt(pictures[0], " dog")
    before = lens.logits(prompt).detach()
    held = len(lens.virtual_tokens)
    lens.show(PAIR, image=prompt, target=" cat", pictures=pictures)
    assert len(lens.virtual_tokens) == held
    assert torch.equal(lens.logits(prompt).detach(), before)


def test_what_cannot_be_shown(lens, pictures):
    prompt = lens.prompt(pictures[0], " dog")
    with pytest.raises(ValueError, match=r"3.*found\.iloc\[0\]"):
        lens.show(lens.neurons(prompt, " cat", top_k=3))
    with pytest.raises(ValueError, match=r"7.*3 layers"):
        lens.show((7, 0))
    with pytest.raises(ValueError, match="2 rows"):
        lens.show(PAIR, image=lens.prompt(pictures[:2]), pictures=pictures[:1])
    with pytest.raises(ValueError, match=r"lens\.prompt"):
        lens.show(PAIR, image=lens.prompt_from_vectors(torch.randn(1, 6, 24)), pictures=pictures[:1])
    with pytest.raises(ValueError, match="no picture"):
        lens.show(PAIR, pictures=[])


@pytest.mark.parametrize(
    ("change", "text"),
    [(0.0, "0%"), (-0.0003, "-0.03%"), (0.0003, "+0.03%"), (-3e-7, "-3e-05%"), (-0.126, "-12.6%"), (0.0005, "+0.1%")],
)
def test_a_small_change_keeps_its_sign(change, text):
    assert _percent(change) == text
