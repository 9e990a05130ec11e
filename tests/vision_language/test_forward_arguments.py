"""Models whose images change masks or positions: what a forward pass finds from token ids, and what stays behind."""

import copy

import pytest
import torch
from torch.testing import assert_close

from lens_multimodal import Sampling, attach_vision, transformer
from lens_multimodal.analysis import neuron_attribution
from lens_multimodal.prompt.forward_arguments import NoForwardArguments
from lens_multimodal.prompt.virtual_tokens import UnknownImageTokens
from lens_multimodal.transformer.token_ids import LensDetached
from tests.lenses import encoder, linear
from tests.vision_language import test_exactness as exactness
from tests.vision_language.conftest import Pair, noise, pair_of
from tests.vision_language.models import build
from tests.vision_language.test_exactness import EXACT, decoder_layers

FAMILIES = ["gemma-3", "paligemma", "paligemma-2", "qwen2-vl", "qwen2.5-vl"]
TEXT = " what is a dog"
STEP = 0.02
"""Of an activation; norms round to float32, so smaller steps would be lost to rounding."""

NUMBERED = ("qwen2-vl", "qwen2.5-vl")
"""Families that number image positions by row and column."""


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    yield from pair_of(request.param, tmp_path_factory.mktemp(request.param))


def new_tokens(pair, text, pictures, n=8, **settings):
    inputs = pair.inputs(text, pictures)
    length = inputs["input_ids"].shape[1]
    out = pair.plain.generate(
        **inputs, max_new_tokens=n, eos_token_id=None, pad_token_id=0, do_sample=False, **settings
    )
    return out[0, length:].tolist()


def text_ids(pair):
    return torch.tensor([pair.lens.text.encode("the dog is in the tree, a red sun")])


def test_the_vectors_alone_would_be_another_model(pair):
    hooks = pair.lens.virtual_tokens.on_forward
    prompt = pair.lens.prompt(noise(0), TEXT)
    expected = pair.logits(f"IMAGE{TEXT}", [noise(0)])
    module = pair.lens.model.original_model
    alone = module(inputs_embeds=pair.lens.model.embed(prompt.tokens)).logits
    assert hooks.is_attached
    assert (alone - expected).abs().max() > 0.1
    assert_close(pair.lens.logits(prompt).detach(), expected, **EXACT)


@pytest.mark.parametrize("how", ["hooked", "bare"])
def test_both_ways_to_run_are_exact(pair, how):
    with pair.lens.running_on(how):
        exactness.test_logits_of_a_picture_and_text(pair)
        exactness.test_pictures_and_text_in_any_order(pair)
        exactness.test_a_batch_of_unequal_length_equals_its_rows(pair)
        exactness.test_greedy_tokens_with_the_cache(pair)
        exactness.test_gradients_of_a_logit_at_the_neurons(pair)
        test_beams_are_hugging_faces_own(pair)
        test_prompts_of_unequal_length_are_generated_from(pair)
        test_nothing_stays_on_the_model(pair)


def test_other_hooks_on_the_forward_pass_are_noticed_and_the_lens_can_be_taken_off(pair):
    model, ids = pair.lens.model, text_ids(pair)
    assert pair.lens.runs_on == "bare modules"
    expected = transformer.logits_of(model, ids)

    def halved(_module, _args, output):
        output.logits = output.logits * 0.5
        return output

    handle = model.original_model.register_forward_hook(halved)
    assert pair.lens.runs_on != "bare modules"
    assert_close(transformer.logits_of(model, ids), expected * 0.5, **EXACT)
    handle.remove()
    assert pair.lens.runs_on == "bare modules"
    assert_close(transformer.logits_of(model, ids), expected, **EXACT)


def test_a_model_takes_pixels_and_virtual_tokens_in_turn(pair, tmp_path):
    """A bridge around the whole model; what a pass over pixels leaves behind does not reach a pass over text."""
    model, processor = build(pair.family, tmp_path)
    lens, ids = attach_vision(model, processor=processor), text_ids(pair)
    with torch.no_grad():
        expected = pair.plain(input_ids=ids).logits
        said = pair.logits(f"IMAGE{TEXT}", [noise(0)])
    for _ in range(3):
        with torch.no_grad():
            lens.images.model(**pair.inputs(f"IMAGE{TEXT}", [noise(3)]))
        assert_close(transformer.logits_of(lens.model, ids).detach(), expected, **EXACT)
        assert_close(lens.logits(lens.prompt(noise(0), TEXT)).detach(), said, **EXACT)
        assert lens.runs_on == "bare modules"
    lens.detach()
    assert transformer.why_hooked(lens.model) is None
    assert_close(transformer.logits_of(lens.model, ids).detach(), expected, **EXACT)


def test_prompts_of_unequal_length_are_generated_from(pair):
    pictures = [noise(0), noise(1, width=40, height=90), noise(2, width=33, height=25)]
    texts = [TEXT, " a", " is the red sun in the tree"]
    prompt = pair.lens.prompt(pictures, texts)
    expected = [new_tokens(pair, f"IMAGE{text}", [one]) for text, one in zip(texts, pictures, strict=True)]
    assert len({tuple(row) for row in expected}) > 1
    found = []
    for row in range(3):
        own = prompt.row(row)
        found.append(transformer.generate(pair.lens.model, own.tokens, max_new_tokens=8, stop_ids=[])[0, -8:].tolist())
    assert found == expected
    together = pair.lens.model.generate(
        prompt.tokens, attention_mask=prompt.attention_mask, max_new_tokens=8, stop_at_eos=False, do_sample=False,
        return_type="tokens", prepend_bos=False, verbose=False,
    )  # fmt: skip
    assert together[:, -8:].tolist() == expected


def test_beams_are_hugging_faces_own(pair):
    prompt = pair.lens.prompt(noise(0), TEXT)
    expected = new_tokens(pair, f"IMAGE{TEXT}", [noise(0)], num_beams=3)
    found = transformer.generate(
        pair.lens.model, prompt.tokens, max_new_tokens=8, stop_ids=[], sampling=Sampling(num_beams=3)
    )
    assert found[0, -8:].tolist() == expected


def test_a_caption_behind_its_prompt_has_the_logits_with_which_it_was_written(pair):
    """PaliGemma's prompt attends both ways; what it writes attends only to earlier positions."""
    prompt = pair.lens.prompt(noise(0), TEXT)
    out = pair.plain.generate(
        **pair.inputs(f"IMAGE{TEXT}", [noise(0)]), max_new_tokens=6, eos_token_id=None, pad_token_id=0,
        do_sample=False, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    written = out.sequences[0, -6:].tolist()
    found = pair.lens.logits(prompt.followed_by(written[:-1])).detach()[0, -6:]
    assert_close(found, torch.cat(out.logits), **EXACT)


def test_a_row_of_text_beside_a_row_with_an_image(pair):
    prompt = pair.lens.interleave([[noise(0), TEXT], ["the dog is in the tree"], ["a ", noise(1), " and ", noise(2)]])
    logits = pair.lens.logits(prompt).detach()
    for row in range(3):
        alone = pair.lens.logits(prompt.row(row)).detach()
        assert_close(logits[row : row + 1, -alone.shape[1] :], alone, **EXACT)
    ids = prompt.row(1).tokens
    with torch.no_grad():
        expected = pair.plain(input_ids=ids).logits
    assert_close(logits[1:2, -ids.shape[1] :], expected, **EXACT)


def test_nothing_stays_on_the_model(pair):
    model, ids = pair.lens.model, text_ids(pair)
    with torch.no_grad():
        expected = pair.plain(input_ids=ids).logits
    said = pair.plain.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0)
    prompt = pair.lens.prompt([noise(0), noise(1)], TEXT)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    def stopped():
        hooks = [(transformer.mlp_post(1), interrupted)]
        with pytest.raises(KeyboardInterrupt), model.hooks(fwd_hooks=hooks):
            model(prompt.tokens)

    for use in (
        lambda: pair.lens.logits(prompt),
        lambda: transformer.generate(model, prompt.tokens, max_new_tokens=3, stop_ids=[]),
        lambda: transformer.generate(
            model, prompt.tokens[:1], max_new_tokens=3, stop_ids=[], sampling=Sampling(num_beams=2)
        ),
        stopped,
    ):
        use()
        assert getattr(pair.lens.images.model.model, "rope_deltas", None) is None
        assert_close(transformer.logits_of(model, ids).detach(), expected, **EXACT)
        assert torch.equal(transformer.generate(model, ids, max_new_tokens=6, stop_ids=[]), said)


def test_a_copied_cache_goes_on_as_the_original(pair):
    module, prompt = pair.lens.model.original_model, pair.lens.prompt(noise(0), TEXT)
    with torch.no_grad():
        cache = module(prompt.tokens, use_cache=True).past_key_values
        copied = copy.deepcopy(cache)
        steps = [
            module(torch.tensor([[30]]), past_key_values=own, use_cache=True).logits[:, -1] for own in (cache, copied)
        ]
    whole = pair.lens.logits(prompt.followed_by([30])).detach()[:, -1]
    for step in steps:
        assert_close(step, whole, **EXACT)


def test_a_cache_that_is_used_again_for_text_forgets_the_image(pair):
    if pair.family in ("gemma-3", "paligemma-2"):
        pytest.skip("a cache of sliding windows cannot be emptied")
    module, prompt, ids = pair.lens.model.original_model, pair.lens.prompt(noise(0), TEXT), text_ids(pair)
    with torch.no_grad():
        expected = pair.plain(input_ids=ids).logits[:, -1]
        cache = module(prompt.tokens, use_cache=True).past_key_values
        cache.crop(-cache.get_seq_length())
        module(ids[:, :-1], past_key_values=cache, use_cache=True)
        found = module(ids[:, -1:], past_key_values=cache, use_cache=True).logits[:, -1]
    assert_close(found, expected, **EXACT)


def test_images_behind_cached_positions_are_refused(pair):
    module, prompt = pair.lens.model.original_model, pair.lens.prompt(noise(0), TEXT)
    with torch.no_grad():
        cache = module(text_ids(pair), use_cache=True).past_key_values
        with pytest.raises(NoForwardArguments, match="cached"):
            module(prompt.tokens, past_key_values=cache, use_cache=True)


def test_other_vectors_in_an_images_place(pair):
    """The mean vector everywhere, against the untouched model whose image features are replaced."""
    prompt = pair.lens.prompt(noise(0), TEXT)
    (image,) = (span.image for span in prompt.spans[0])
    mean = image.soft_prompt.vectors.mean(dim=0).expand_as(image.soft_prompt.vectors)
    stored = pair.lens.virtual_tokens.store(mean, forward_arguments=image.soft_prompt.forward_arguments)
    tokens = prompt.tokens.clone()
    tokens[0, list(prompt.spans[0][0].positions)] = stored.ids

    def replaced(_module, args, kwargs):
        at_images = pair.inputs(f"IMAGE{TEXT}", [noise(0)])["input_ids"] == pair.lens.images.image_token_id
        embeds = kwargs["inputs_embeds"].clone()
        embeds[at_images] = mean
        return args, {**kwargs, "inputs_embeds": embeds}

    handle = pair.plain.get_decoder().register_forward_pre_hook(replaced, with_kwargs=True)
    expected = pair.logits(f"IMAGE{TEXT}", [noise(0)])
    handle.remove()
    assert_close(transformer.logits_of(pair.lens.model, tokens).detach(), expected, **EXACT)


def test_vectors_of_two_pictures_of_one_size_in_one_image(pair):
    """Half of another picture's vectors: the positions are those that both pictures have."""
    prompt, other = (pair.lens.prompt(noise(seed), TEXT) for seed in (0, 1))
    half = prompt.image_pos[0][: prompt.image_pos.shape[1] // 2]
    mixed = prompt.tokens.clone()
    mixed[0, half] = other.tokens[0, half]
    vectors = prompt.spans[0][0].image.soft_prompt.vectors.clone()
    vectors[: len(half)] = other.spans[0][0].image.soft_prompt.vectors[: len(half)]
    arguments = prompt.spans[0][0].image.soft_prompt.forward_arguments
    same = prompt.tokens.clone()
    same[0, prompt.image_pos[0]] = (kept := pair.lens.virtual_tokens.store(vectors, forward_arguments=arguments)).ids
    assert len(kept.vectors) == len(vectors)
    one, two = (transformer.logits_of(pair.lens.model, tokens) for tokens in (mixed, same))
    assert_close(one, two, **EXACT)
    assert (one - pair.lens.logits(prompt)).abs().max() > 1e-3


def test_vectors_that_no_picture_places_are_refused_where_places_matter(pair):
    prompt = pair.lens.prompt_from_vectors(torch.randn(1, 4, pair.lens.shape.d_model), " a dog")
    image = pair.lens.prompt(noise(0), TEXT)
    part = image.tokens[:, int(image.image_pos[0, 1]) :]
    if pair.family in NUMBERED:
        with pytest.raises(NoForwardArguments, match="picture"):
            pair.lens.logits(prompt)
        with pytest.raises(NoForwardArguments, match="whole"):
            transformer.logits_of(pair.lens.model, part)
    else:
        assert pair.lens.logits(prompt).isfinite().all()
        assert transformer.logits_of(pair.lens.model, part).isfinite().all()


def test_attribution_is_the_slope_of_the_logit(pair):
    """Activation times gradient at image positions against finite differences in float64 on the untouched model."""
    prompt = pair.lens.prompt(noise(0), TEXT)
    layer, target = 0, 20
    scores = neuron_attribution(pair.lens.model, prompt.tokens, target, prompt.image_pos[0])
    plain = copy.deepcopy(pair.plain).double()
    inputs = pair.inputs(f"IMAGE{TEXT}", [noise(0)])
    inputs["pixel_values"] = inputs["pixel_values"].double()
    reads = decoder_layers(plain)[layer].mlp.down_proj
    for flat in scores[0, layer].abs().flatten().topk(4).indices.tolist():
        index, neuron = divmod(flat, scores.shape[-1])
        position, logits = int(prompt.image_pos[0, index]), []
        for change in (STEP, -STEP):

            def scaled(_module, args, position=position, neuron=neuron, change=change):
                value = args[0].clone()
                value[0, position, neuron] *= 1 + change
                return (value,)

            handle = reads.register_forward_pre_hook(scaled)
            with torch.no_grad():
                logits.append(float(plain(**inputs).logits[0, -1, target]))
            handle.remove()
        slope = (logits[0] - logits[1]) / (2 * STEP)
        assert float(scores[0, layer, index, neuron]) == pytest.approx(slope, rel=1e-3)


# --- the model itself ------------------------------------------------------------------------------------


@pytest.fixture(params=["gemma-3", "qwen2.5-vl"])
def fresh(request, tmp_path):
    return request.param, *build(request.param, tmp_path)


def test_detaching_takes_the_hooks_off(fresh):
    _, model, processor = fresh
    lens = attach_vision(model, processor=processor)
    inner = lens.model.original_model
    assert inner._forward_pre_hooks
    assert inner._forward_hooks
    lens.detach()
    assert not inner._forward_pre_hooks
    assert not inner._forward_hooks


def test_hooks_that_other_code_removed_are_missed(fresh):
    _, model, processor = fresh
    lens = attach_vision(model, processor=processor)
    prompt = lens.prompt(noise(0), TEXT)
    lens.model.original_model._forward_pre_hooks.clear()
    assert not lens.is_attached
    with pytest.raises(LensDetached):
        lens.logits(prompt)


def test_a_copied_model_runs_text_and_refuses_images(fresh):
    _, model, processor = fresh
    lens = attach_vision(model, processor=processor)
    prompt = lens.prompt(noise(0), TEXT)
    copied = copy.deepcopy(lens.model)
    ids = torch.tensor([[1, 30, 31]])
    assert_close(transformer.logits_of(copied, ids), transformer.logits_of(lens.model, ids), **EXACT)
    with pytest.raises(UnknownImageTokens):
        transformer.logits_of(copied, prompt.tokens)


def test_a_decoder_that_comes_only_with_its_encoder_is_not_given_another(tmp_path):
    model, processor = build("qwen2-vl", tmp_path)
    with pytest.raises(ValueError, match="Qwen2VLForConditionalGeneration"):
        attach_vision(model, vision=encoder(), projection=linear(), processor=processor)


def test_a_model_that_has_just_read_an_image_can_be_attached_to(fresh):
    family, model, processor = fresh
    pair = Pair(family=family, plain=model, processor=processor, lens=None)
    expected = pair.logits(f"IMAGE{TEXT}", [noise(0)])
    lens = attach_vision(model, processor=processor)
    assert_close(lens.logits(lens.prompt(noise(0), TEXT)).detach(), expected, **EXACT)
    ids = torch.tensor([[1, 30, 31]])
    assert transformer.generate(lens.model, ids, max_new_tokens=3, stop_ids=[]).shape == (1, 6)


@pytest.mark.filterwarnings("ignore:Hook alias")
def test_a_bridge_around_the_whole_model(fresh):
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    family, model, processor = fresh
    pair = Pair(family=family, plain=model, processor=processor, lens=None)
    bridge = build_bridge_from_module(model, type(model).__name__, hf_config=model.config, tokenizer=None).eval()
    expected = pair.logits(f"IMAGE{TEXT}", [noise(0)])  # TransformerLens 3 changes Gemma 3's image encoder
    lens = attach_vision(bridge, processor=processor)
    assert_close(lens.logits(lens.prompt(noise(0), TEXT)).detach(), expected, rtol=0, atol=1e-4)
