"""Analyses on a model with one grid and on one that reads tiles, against plain PyTorch hooks on pixels."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lens_multimodal import ablate, attach_vision, cut_attention, decode_neurons, logit_lens, patch_resid_pre
from lens_multimodal.analysis import effect_of, neuron_activations, neuron_attribution, receptive_field
from lens_multimodal.views.notebook.prompt_html import shown_images
from tests.vision_language.conftest import Pair, noise
from tests.vision_language.models import build
from tests.vision_language.test_exactness import decoder_layers

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
TEXT, TARGET, NEURON = " what is a dog", 20, (1, 7)


@pytest.fixture(scope="module", params=["llava", "internvl", "gemma-3", "qwen2.5-vl"])
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    plain, processor = build(request.param, folder)
    model, own = build(request.param, folder)
    return Pair(family=request.param, plain=plain, processor=processor, lens=attach_vision(model, processor=own))


@pytest.fixture
def prompt(pair):
    return pair.lens.prompt(noise(0), TEXT)


def on_pixels(pair, edits, picture=None):
    """Logits of the untouched model with forward pre-hooks, `(module, edit of its input)`."""
    handles = [
        module.register_forward_pre_hook(lambda _m, args, edit=edit: (edit(args[0]), *args[1:]))
        for module, edit in edits
    ]
    try:
        return pair.logits(f"IMAGE{TEXT}", [picture or noise(0)])
    finally:
        for handle in handles:
            handle.remove()


def read_by(pair, module):
    kept = []
    on_pixels(pair, [(module, lambda value: kept.append(value.clone()) or value)])
    return kept[0]


def test_neurons_are_ranked_by_the_attribution_on_pixels(pair, prompt):
    layers = decoder_layers(pair.plain)
    inputs = pair.inputs(f"IMAGE{TEXT}", [noise(0)])
    inputs["pixel_values"].requires_grad_()
    kept = []
    handles = [layer.mlp.down_proj.register_forward_pre_hook(lambda _m, args: kept.append(args[0])) for layer in layers]
    logits = pair.plain(**inputs).logits
    for handle in handles:
        handle.remove()
    grads = torch.autograd.grad(logits[0, -1, TARGET], kept)
    at = prompt.image_pos[0]
    score = torch.stack([(a * g)[0, at] for a, g in zip(kept, grads, strict=True)]).detach()
    found = pair.lens.neurons(prompt, TARGET, top_k=5)
    best = score.amax(dim=1).flatten().topk(5)
    assert [layer * 40 + neuron for layer, neuron in zip(found["layer"], found["neuron"], strict=True)] == best[
        1
    ].tolist()
    np.testing.assert_allclose(found["attribution"], best[0], rtol=1e-3, atol=1e-6)
    image = prompt.spans[0][0].image
    for row in found.itertuples():
        index = prompt.spans[0][0].positions.index(row.pos)
        assert score[row.layer, index, row.neuron] == score[row.layer, :, row.neuron].max()
        assert (row.row, row.col) == image.cell(index)


def test_words_of_neurons_are_the_decoders_own(pair):
    layer, neuron = NEURON
    found = decode_neurons(pair.lens.model, [NEURON]).iloc[0]
    block, head = decoder_layers(pair.plain)[layer], pair.plain.get_output_embeddings()
    written = block.mlp.down_proj.weight[:, neuron]
    if pair.family == "gemma-3":  # whose norm after the MLP multiplies by one more than its weight
        written = written * (1 + block.post_feedforward_layernorm.weight)
    expected = (head.weight @ written).topk(10)
    assert list(found["token_ids"]) == expected.indices.tolist()
    np.testing.assert_allclose(found["weights"], expected.values, rtol=1e-4)


def test_the_logit_lens_reads_image_positions(pair, prompt):
    """The input of the second block at each position, through the final norm and the head."""
    layers, norm = decoder_layers(pair.plain), pair.plain.get_decoder().norm
    residual = read_by(pair, layers[1])
    expected = pair.plain.get_output_embeddings()(norm(residual))[0, prompt.image_pos[0]]
    found = logit_lens(pair.lens.model, prompt.tokens, TARGET, prompt.image_pos[0])
    assert found.top_token[1].tolist() == expected.argmax(dim=-1).tolist()
    assert_close(found.logit[0, 1], expected[:, TARGET], **CLOSE)


def test_receptive_fields_are_of_the_activations_on_pixels(pair, prompt):
    layer, neuron = NEURON
    expected = read_by(pair, decoder_layers(pair.plain)[layer].mlp.down_proj)[0, prompt.image_pos[0], neuron]
    found = neuron_activations(pair.lens.model, prompt.tokens, [NEURON], prompt.image_pos[0])[0, 0]
    assert_close(found, expected, **CLOSE)
    field = receptive_field(found, prompt.spans[0][0].image.layout)
    assert field.heat.shape == (60, 96)
    if len(found) > 4:
        assert 0 < float(field.mask.float().mean()) < 0.2


def test_ablation_at_image_positions(pair, prompt):
    layer, neuron = NEURON
    at = prompt.image_pos[0]

    def zero(value):
        value = value.clone()
        value[:, at, neuron] = 0
        return value

    expected = on_pixels(pair, [(decoder_layers(pair.plain)[layer].mlp.down_proj, zero)])
    hooks = ablate(pair.lens.model, [NEURON], positions=at)
    with pair.lens.model.hooks(fwd_hooks=hooks):
        found = pair.lens.logits(prompt).detach()
    assert (found - pair.lens.logits(prompt)).abs().max() > 1e-4
    assert_close(found, expected, **CLOSE)
    effect = effect_of(pair.lens.model, prompt.tokens, hooks, TARGET)
    plain = on_pixels(pair, [])
    assert float(effect.logit_change[0]) == pytest.approx(float((expected - plain)[0, -1, TARGET]), abs=1e-4)


def test_patching_between_pictures(pair, prompt):
    """The residual stream of one picture's positions in the run of another."""
    layers, at = decoder_layers(pair.plain), prompt.image_pos[0]
    other = pair.lens.prompt(noise(9), TEXT)
    assert torch.equal(other.image_pos, prompt.image_pos)
    kept = []
    on_pixels(pair, [(layers[1], lambda value: kept.append(value.clone()) or value)], noise(9))

    def replaced(value):
        value = value.clone()
        value[:, at] = kept[0][:, at]
        return value

    expected = on_pixels(pair, [(layers[1], replaced)])
    _, run = pair.lens.model.run_with_cache(other.tokens)
    with pair.lens.model.hooks(fwd_hooks=patch_resid_pre(pair.lens.model, [1], run=run, positions=at)):
        found = pair.lens.logits(prompt).detach()
    assert_close(found, expected, **CLOSE)


def test_cut_attention_to_the_image_hides_it(pair, prompt):
    """Cut from all later positions in all layers, an image has no effect on the last position's logits."""
    last, at = prompt.last_pos, prompt.image_pos[0]
    everyone = list(range(int(at.max()) + 1, last + 1))
    hooks = cut_attention(pair.lens.model, queries=everyone, keys=at)
    with pair.lens.model.hooks(fwd_hooks=hooks):
        one = pair.lens.logits(prompt)[0, -1]
        other = pair.lens.logits(pair.lens.prompt(noise(9), TEXT))[0, -1]
    assert_close(one, other, **CLOSE)


def test_a_card_and_a_prompt_show_themselves(pair, prompt):
    card = pair.lens.show(NEURON, image=prompt, target=TARGET, pictures=[noise(1), noise(2, width=40, height=90)])
    assert card.activations.shape == (len(prompt.spans[0][0].image),)
    whole = neuron_attribution(pair.lens.model, prompt.tokens, TARGET, prompt.image_pos[0])
    assert_close(card.attribution, whole[0, NEURON[0], :, NEURON[1]])
    for html in (card._repr_html_(), prompt._repr_html_(), pair.lens._repr_html_()):
        assert "<div" in html
    (shown,) = shown_images(prompt, pair.lens)
    assert len(shown["cells"]) == len(prompt.spans[0][0].image)
    assert all(cell["style"] and cell["words"] for cell in shown["cells"])
