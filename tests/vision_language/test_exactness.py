"""Virtual tokens against Hugging Face's own `pixel_values` on every family: logits, gradients, generated tokens."""

import pytest
import torch
from torch.testing import assert_close

from lens_multimodal import transformer
from tests.vision_language.conftest import noise

EXACT = {"rtol": 0, "atol": 1e-5}
TALL, SMALL = noise(1, width=40, height=90), noise(2, width=33, height=25)


def test_logits_of_a_picture_and_text(pair):
    for picture in (noise(0), TALL, SMALL):
        prompt = pair.lens.prompt(picture, " what is a dog")
        expected = pair.logits("IMAGE what is a dog", [picture])
        assert expected.abs().max() > 1
        assert_close(pair.lens.logits(prompt).detach(), expected, **EXACT)


def test_another_picture_gives_other_logits(pair):
    one, other = (pair.lens.logits(pair.lens.prompt(noise(seed), " a dog")) for seed in (3, 4))
    assert (one - other)[0, -1].abs().max() > 1e-2


def test_pictures_and_text_in_any_order(pair):
    if pair.family == "blip-2":
        pytest.skip("BLIP-2's processor writes one image, before the text")
    prompt = pair.lens.interleave([["the ", noise(0), " dog", TALL, " what is"]])
    assert_close(
        pair.lens.logits(prompt).detach(), pair.logits("the IMAGE dogIMAGE what is", [noise(0), TALL]), **EXACT
    )
    assert [span.image.picture.size for span in prompt.spans[0]] == [(96, 60), (40, 90)]


def test_a_text_can_say_where_its_image_stands(pair):
    if pair.family == "blip-2":
        pytest.skip("BLIP-2's processor writes one image, before the text")
    text = f"a picture{pair.lens.images.placeholder} of a dog"
    assert_close(
        pair.lens.logits(pair.lens.prompt(TALL, text)).detach(), pair.logits("a pictureIMAGE of a dog", [TALL]), **EXACT
    )


def test_a_batch_of_unequal_length_equals_its_rows(pair):
    pictures, texts = [noise(0), TALL, SMALL], [" what is a red dog in the tree", " a", " is the sun"]
    prompt = pair.lens.prompt(pictures, texts)
    logits = pair.lens.logits(prompt).detach()
    for row, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        expected = pair.logits(f"IMAGE{text}", [picture])
        assert_close(logits[row : row + 1, -expected.shape[1] :], expected, **EXACT)


def test_greedy_tokens_with_the_cache(pair):
    said = set()
    for picture in (noise(0), TALL, noise(5)):
        inputs = pair.inputs("IMAGE what is a dog", [picture])
        expected = pair.plain.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
        # BLIP-2 returns the new tokens alone, with or without the prompt's own.
        expected = expected[0, -8:].tolist()
        prompt = pair.lens.prompt(picture, " what is a dog")
        found = transformer.generate(pair.lens.model, prompt.tokens, max_new_tokens=8, stop_ids=[])
        assert found[0, -8:].tolist() == expected
        said.add(tuple(expected))
    assert len(said) > 1


def test_gradients_of_a_logit_at_the_neurons(pair):
    """At each layer's MLP output, by plain PyTorch hooks on the untouched model."""
    layers = decoder_layers(pair.plain)
    inputs = pair.inputs("IMAGE what is a dog", [TALL])
    inputs["pixel_values"].requires_grad_()
    reads = [layer.fc2 if hasattr(layer, "fc2") else mlp_of(layer).down_proj for layer in layers]
    kept = []
    handles = [read.register_forward_pre_hook(lambda _m, args: kept.append(args[0])) for read in reads]
    logits = pair.plain(**inputs).logits
    for handle in handles:
        handle.remove()
    expected = torch.autograd.grad(logits[0, -1, 20], kept)

    prompt = pair.lens.prompt(TALL, " what is a dog", with_gradient=True)
    names = [transformer.mlp_post(layer) for layer in range(len(reads))]
    own = {}

    def keep(name):
        def hook_function(value, hook):
            own[name] = value
            return value  # the bridge puts a reshaped view of OPT's activation back only if a hook returns it

        return hook_function

    logits = transformer.logits_of(pair.lens.model, prompt.tokens, hooks=[(name, keep(name)) for name in names])
    found = torch.autograd.grad(logits[0, -1, 20], [own[name] for name in names])
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 1e-3
        assert_close(ours.reshape(theirs.shape), theirs, **EXACT)


def decoder_layers(model):
    decoder = model.get_decoder()
    inner = getattr(decoder, "model", decoder)
    return getattr(inner, "decoder", inner).layers


def mlp_of(layer):
    return layer.feed_forward if hasattr(layer, "feed_forward") else layer.mlp
