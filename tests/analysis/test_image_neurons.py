"""Neurons at named positions, against gradients of plain `transformers`, and what the names mean in hooks."""

import pytest
import torch

from lens_multimodal import ablate
from lens_multimodal.analysis import CaptionCase, caption_effects_against_random, effects_against_random
from lens_multimodal.analysis.effects.against_random import Case
from tests.analysis.reference import neuron_readers
from tests.lenses import hugging_face, inputs_embeds, make_lens, random_lens, random_prompt
from tests.models import MODEL_CLASSES

TARGET, N_LAYERS, D_MLP = 12, 3, 40
LAYOUT = [-2, 6, -3]
"""Two words, an image of six patches, three words."""
WHERE = {"image": [2, 3, 4, 5, 6, 7], "text": [0, 1, 8, 9, 10], "last": [10], None: list(range(11))}


@pytest.fixture(scope="module", params=["gpt-j", "gpt-2", "llama"])
def layout(request):
    return request.param


@pytest.fixture(scope="module")
def lens(layout):
    return make_lens(layout, dtype=torch.float64)


def activation_times_gradient(layout, prompt):
    plain, kept = hugging_face(layout, torch.float64), []
    handles = [r.register_forward_pre_hook(lambda _m, args: kept.append(args[0])) for r in neuron_readers(plain)]
    with torch.enable_grad():
        logit = plain(inputs_embeds=inputs_embeds(plain, prompt).requires_grad_()).logits[0, -1, TARGET]
    for handle in handles:
        handle.remove()
    return torch.stack([(a * g)[0] for a, g in zip(kept, torch.autograd.grad(logit, kept), strict=True)])


@pytest.mark.parametrize("positions", WHERE)
@pytest.mark.parametrize("reduce", ["max", "sum"])
def test_neurons_at_named_positions(lens, layout, positions, reduce):
    prompt = random_prompt(lens, LAYOUT)
    scores = activation_times_gradient(layout, prompt)[:, WHERE[positions]]
    by_neuron = scores.amax(1) if reduce == "max" else scores.sum(1)
    found = lens.neurons(prompt, TARGET, positions=positions, reduce=reduce, top_k=25)
    expected = by_neuron.flatten().sort(descending=True)
    pairs = [(i // D_MLP, i % D_MLP) for i in expected.indices[:25].tolist()]
    assert list(zip(found["layer"], found["neuron"], strict=True)) == pairs
    assert found["attribution"].tolist() == pytest.approx(expected.values[:25].tolist(), rel=1e-5, abs=1e-7)
    best = [WHERE[positions][int(scores[layer, :, neuron].argmax())] for layer, neuron in pairs]
    assert found["pos"].tolist() == best
    on_image = [2 <= pos <= 7 for pos in best]
    assert (found["row"] == -1).tolist() == (found["col"] == -1).tolist() == [not image for image in on_image]
    assert found["col"][on_image].tolist() == [pos - 2 for pos in best if 2 <= pos <= 7]


def test_the_default_is_where_the_picture_is_read(lens):
    prompt = random_prompt(lens, LAYOUT)
    default, named = lens.neurons(prompt, TARGET), lens.neurons(prompt, TARGET, positions="image")
    assert default.equals(named)
    assert default.attrs["positions"] == "image"


def test_positions_by_number_and_by_name_are_the_same(lens):
    prompt = random_prompt(lens, LAYOUT)
    named, numbered = (lens.neurons(prompt, TARGET, positions=p) for p in ("text", [0, 1, 8, 9, -1]))
    assert named.equals(numbered)


def test_each_row_of_a_batch_has_its_own_image(lens):
    prompt = random_prompt(lens, [-1, 3, -4], [4, -1])
    assert prompt.at("image").mask(8).nonzero().tolist() == [[0, 1], [0, 2], [0, 3], [1, 3], [1, 4], [1, 5], [1, 6]]
    assert prompt.at("text").mask(8).nonzero().tolist() == [[0, 0], [0, 4], [0, 5], [0, 6], [0, 7], [1, 7]]
    assert prompt.at("last").index(8).tolist() == [7]


@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_last_means_each_new_token_while_a_caption_is_generated(tmp_path, kind):
    lens = random_lens(tmp_path, kind=kind)
    prompt = random_prompt(lens, [9, -2])
    every = [(layer, neuron) for layer in range(N_LAYERS) for neuron in range(0, D_MLP, 2)]
    with lens.model.hooks(fwd_hooks=ablate(lens.model, every, positions=prompt.at("last"))):
        (found,) = lens.generate_ids(prompt, max_new_tokens=5)
    step = prompt
    for expected in found:
        hooks = ablate(lens.model, every, positions=slice(prompt.last_pos, None))
        with torch.no_grad(), lens.model.hooks(fwd_hooks=hooks):
            assert int(lens.logits(step)[0, -1].argmax()) == expected
        step = step.followed_by([expected])
    assert len(found) == 5
    assert [found] != lens.generate_ids(prompt, max_new_tokens=5)


def test_a_case_of_a_caption_takes_the_names(tmp_path):
    lens = random_lens(tmp_path)
    free = random_prompt(lens, [9, -2])
    read = free.followed_by([5, 8])
    neurons = [(layer, neuron) for layer in range(N_LAYERS) for neuron in range(9)]
    case = CaptionCase(prompt=free, read=read, target=TARGET, neurons=neurons, positions="last")
    table = caption_effects_against_random(lens, [case], n_random=1, max_new_tokens=3)
    by_number = Case(tokens=read.tokens, target=TARGET, neurons=neurons, positions=[-1])
    expected = effects_against_random(lens.model, [by_number], n_random=1)
    assert table["value_after"].tolist() == pytest.approx(expected["value_after"].tolist(), abs=1e-6)
    with lens.model.hooks(fwd_hooks=ablate(lens.model, neurons, positions=slice(free.last_pos, None))):
        assert table["caption_after"][0] == lens.generate(free, max_new_tokens=3)[0]


def test_names_need_a_prompt(lens):
    prompt = random_prompt(lens, LAYOUT)
    with pytest.raises(ValueError, match=r"positions.*'image'.*prompt\.at\('image'\)"):
        ablate(lens.model, [(0, 1)], positions="image")
    with pytest.raises(ValueError, match=r"neurons\(positions=\.\.\.\): .*'image', 'text', 'last'.*'lats'"):
        lens.neurons(prompt, TARGET, positions="lats")
    with pytest.raises(ValueError, match=r"\[1, 5\]"):
        random_prompt(lens, [-5]).at("image")
