"""Losses and penalties of prompts with images, against plain `transformers` with `inputs_embeds`."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import RepetitionPenaltyLogitsProcessor

from lens_multimodal import Sampling, VisionLens, transformer
from lens_multimodal.prompt.image_prompt import ImagePrompt
from lens_multimodal.transformer.losses_and_penalties import penalise
from tests.lenses import CASES, each_case, hugging_face, inputs_embeds, make_lens, plain_logits, random_prompt
from tests.models import D_VOCAB

ROWS = [[-2, 6, -4], [6, -3], [-1, 2, -2, 2, -1]]
"""Prompts of 12, 9 and 8 positions that begin and end with words or images, so a batch of them is padded."""


def word_losses(layout: str, prompt: ImagePrompt) -> list[Tensor]:
    """Of each row alone: the loss of each position's next token, nan where that is part of an image."""
    losses = []
    for row, logits in enumerate(plain_logits(hugging_face(layout, torch.float64), prompt)):
        alone = prompt.row(row)
        targets = alone.tokens[0].masked_fill(alone.image_mask[0], -100)[1:]
        each = cross_entropy(logits[:-1], targets, reduction="none", ignore_index=-100)
        losses.append(each.masked_fill(targets == -100, torch.nan))
    return losses


@each_case
def test_the_loss_is_the_mean_over_words(lens_of, layout, kind):
    lens = lens_of(layout, kind, torch.float64)
    prompt = random_prompt(lens, *ROWS, seed=1)
    expected = word_losses(layout, prompt)
    for row, losses in enumerate(expected):
        tokens = prompt.row(row).tokens
        torch.testing.assert_close(lens.model(tokens, return_type="loss"), losses.nanmean(), rtol=1e-5, atol=1e-5)
        logits, loss = lens.model(tokens, return_type="both")
        torch.testing.assert_close(loss, losses.nanmean(), rtol=1e-5, atol=1e-5)
        assert logits.shape == (1, tokens.shape[1], D_VOCAB)
        each = lens.model(tokens, return_type="loss", loss_per_token=True)
        torch.testing.assert_close(each[0], losses.nan_to_num(0.0), rtol=1e-5, atol=1e-5)
        hooked = lens.model.run_with_hooks(tokens, return_type="loss", fwd_hooks=[])
        torch.testing.assert_close(hooked, loss)


@each_case
def test_the_loss_of_a_padded_batch(lens_of, layout, kind):
    lens = lens_of(layout, kind)  # in float64, the mask of a padded row overflows in the attention of Llama and OPT
    prompt = random_prompt(lens, *ROWS, seed=2)
    settings = {"attention_mask": prompt.attention_mask, "return_type": "loss"}
    together = torch.cat(word_losses(layout, prompt)).float()
    torch.testing.assert_close(lens.model(prompt.tokens, **settings), together.nanmean(), rtol=1e-4, atol=1e-4)
    each = lens.model(prompt.tokens, **settings, loss_per_token=True)
    torch.testing.assert_close(each.sum(), together.nansum(), rtol=1e-4, atol=1e-4)
    assert int((each != 0).sum()) == int((~together.isnan()).sum())


@each_case
def test_gradients_of_the_loss_with_run_with_cache(layout, kind, tokenizers):
    """`incl_bwd=True` differentiates the loss; here with respect to the image's vectors, the weights being frozen."""
    lens = make_lens(layout, kind, dtype=torch.float64, tokenizer=tokenizers(layout))
    lens.model.requires_grad_(False)
    vectors = torch.randn(1, 5, lens.shape.d_model, dtype=torch.float64, requires_grad=True)
    prompt = lens.prompt_from_vectors(vectors, " a dog.")
    name = transformer.mlp_post(1)  # TransformerLens warns where it caches the gradients of norms
    kept = {"names_filter": name, "incl_bwd": True, "return_type": "loss"}
    _, cache = lens.model.run_with_cache(prompt.tokens, **kept)
    own = vectors.grad
    plain = hugging_face(layout, torch.float64)
    lookup = plain.get_input_embeddings()
    leaf = vectors.detach().clone().requires_grad_()
    start = prompt.spans[0][0].start
    words = prompt.tokens.masked_fill(prompt.image_mask, 0)
    embeds = torch.cat([lookup(words[:, :start]), leaf, lookup(words[:, start + 5 :])], dim=1).double()
    labels = prompt.tokens.masked_fill(prompt.image_mask, -100)
    logits = plain(inputs_embeds=embeds).logits[0, :-1]
    (expected,) = torch.autograd.grad(cross_entropy(logits, labels[0, 1:], ignore_index=-100), leaf)
    torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-6)
    assert cache[f"{name}_grad"].shape[:2] == prompt.tokens.shape
    assert cache[f"{name}_grad"].abs().max() > 0


def test_prompts_without_a_scored_word(lens):
    image = random_prompt(lens, [-1, 6])
    with pytest.raises(ValueError, match="no word"):
        lens.model(image.tokens, return_type="loss")
    assert not lens.model(image.tokens, return_type="loss", loss_per_token=True).any()
    with pytest.raises(ValueError, match="image positions"):
        lens.model.tokens_to_residual_directions(image.tokens)
    words = torch.tensor([[5, 7]])
    assert lens.model.tokens_to_residual_directions(words).shape == (1, 2, lens.shape.d_model)


@each_case
def test_words_alone_go_the_way_of_transformer_lens(layout, kind, tokenizers):
    lens = make_lens(layout, kind, dtype=torch.float64, tokenizer=tokenizers(layout))
    words = torch.randint(3, D_VOCAB, (2, 9), generator=torch.Generator().manual_seed(4))
    new = {"max_new_tokens": 6, "stop_at_eos": False, "verbose": False, "return_type": "tokens"}

    def everything() -> list[Tensor]:
        torch.manual_seed(0)
        sampled = lens.model.generate(words, **new, do_sample=True, freq_penalty=1.5)
        return [lens.model(words, return_type="loss"), lens.model.generate(words, **new, do_sample=False), sampled]

    attached = everything()
    copied = copy.deepcopy(lens.model)
    lens.detach()
    assert not {"loss_fn", "generate", "forward"} & set(vars(lens.model))
    for one, other in zip(attached, everything(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(copied(words, return_type="loss"), attached[0])


# --- penalties -------------------------------------------------------------------------------------------


def greedy_by_transformers(layout: str, prompt: ImagePrompt, n_new: int, *, repetition: float, frequency: float):
    """Token by token from plain logits, penalised over the words of the prompt and those said."""
    model, said = hugging_face(layout, torch.float64), []
    words = prompt.tokens[0][~prompt.image_mask[0]].tolist()
    processor = RepetitionPenaltyLogitsProcessor(repetition)
    embedded = inputs_embeds(model, prompt)
    for _ in range(n_new):
        so_far = torch.tensor([words + said])
        added = model.get_input_embeddings()(torch.tensor([said]).long()).to(embedded)
        with torch.no_grad():
            logits = model(inputs_embeds=torch.cat([embedded, added], dim=1)).logits[:, -1]
        logits = processor(so_far, logits) - frequency * torch.bincount(so_far[0], minlength=D_VOCAB)
        said.append(int(logits.argmax()))
    return said


def generated(lens: VisionLens, prompt: ImagePrompt, **settings) -> list[int]:
    row = lens.model.generate(
        prompt.tokens, max_new_tokens=8, stop_at_eos=False, return_type="tokens", verbose=False, **settings
    )
    return row[0, prompt.tokens.shape[1] :].tolist()


@each_case
def test_greedy_tokens_under_penalties(lens_of, layout, kind):
    from lens_multimodal.prompt import generation

    lens = lens_of(layout, kind, torch.float64)
    changed = 0
    for seed in range(2):
        prompt = random_prompt(lens, [-2, 6, -4], seed=seed)
        free = greedy_by_transformers(layout, prompt, 8, repetition=1.0, frequency=0.0)
        for repetition, frequency in ((1.7, 0.0), (1.0, 3.0), (0.6, 1.0)):
            expected = greedy_by_transformers(layout, prompt, 8, repetition=repetition, frequency=frequency)
            sampling = Sampling(repetition_penalty=repetition, frequency_penalty=frequency)
            assert generation.generate(
                lens.model, prompt, max_new_tokens=8, stop_ids=[], sampling=sampling
            ) == [expected]  # fmt: skip
            changed += expected != free
            if kind != "hooked" and frequency == 0:  # TransformerLens has no other without sampling
                for use_past_kv_cache in (True, False):
                    found = generated(
                        lens, prompt, do_sample=False, repetition_penalty=repetition,
                        use_past_kv_cache=use_past_kv_cache,
                    )  # fmt: skip
                    assert found == expected
    assert changed > 3
    assert "forward" not in vars(lens.model)


@each_case
def test_samples_under_penalties(lens_of, layout, kind):
    """A frequency penalty, subtracted after the temperature, leaves the same distribution as TransformerLens' own."""
    lens = lens_of(layout, kind, torch.float64)
    words, image = random_prompt(lens, [-6], seed=5), random_prompt(lens, [6, -3], seed=5)
    settings = {"do_sample": True, "temperature": 0.7, "freq_penalty": 1.5}
    torch.manual_seed(3)
    own = generated(lens, words, **settings)
    torch.manual_seed(3)
    sampling = Sampling(do_sample=True, temperature=0.7, frequency_penalty=1.5)
    assert lens.generate_ids(words, max_new_tokens=8, sampling=sampling)[0] == lens.text.first_line(own)
    for cached in (True, False):
        torch.manual_seed(4)
        found = generated(lens, image, **settings, use_past_kv_cache=cached)
        torch.manual_seed(4)
        assert lens.generate_ids(image, max_new_tokens=8, sampling=sampling)[0] == lens.text.first_line(found)


def test_beams_under_penalties_equal_transformers(lens_of):
    """On words alone `transformers` can penalise them itself."""
    for layout in {layout for layout, _ in CASES}:
        lens = lens_of(layout, "bridge", torch.float64)
        words = random_prompt(lens, [-7], seed=6)
        expected = hugging_face(layout, torch.float64).generate(
            words.tokens, attention_mask=torch.ones_like(words.tokens), num_beams=3, repetition_penalty=1.4,
            max_new_tokens=8, do_sample=False, eos_token_id=0, pad_token_id=0,
        )[0, 7:].tolist()  # fmt: skip
        found = lens.generate_ids(words, max_new_tokens=8, sampling=Sampling(num_beams=3, repetition_penalty=1.4))[0]
        assert found == lens.text.first_line(expected)
        image = random_prompt(lens, [6, -3], seed=6)
        lens.generate_ids(image, max_new_tokens=4, sampling=Sampling(num_beams=2, frequency_penalty=0.5))


def test_penalties_by_hand():
    logits = torch.tensor([[2.0, -2.0, 1.0, -1.0]])
    tokens = torch.tensor([[1, 1, 0, 4, 2**40, -1]])
    found = penalise(logits, tokens, repetition=2.0, frequency=0.5)
    assert found.tolist() == [[2.0 / 2 - 0.5, -2.0 * 2 - 2 * 0.5, 1.0, -1.0]]


@pytest.mark.parametrize(
    "settings",
    [{"repetition_penalty": 0.0}, {"repetition_penalty": float("nan")}, {"frequency_penalty": -0.1},
     {"frequency_penalty": float("inf")}],
)  # fmt: skip
def test_penalties_out_of_range(settings, lens_of):
    with pytest.raises(ValueError, match="penalty"):
        Sampling(**settings)
    lens = lens_of()
    own = {"freq_penalty" if name.startswith("freq") else name: value for name, value in settings.items()}
    with pytest.raises(ValueError, match="penalty"):
        lens.model.generate(random_prompt(lens, [6, -2]).tokens, **own, verbose=False)


@pytest.mark.parametrize("method", ["generate_stream", "hf_generate"])
def test_penalties_where_they_would_index_by_image_ids_are_refused(lens_of, method):
    model, prompt = lens_of("gpt-2", "bridge").model, random_prompt(lens_of("gpt-2", "bridge"), [-2, 6], seed=1)
    if not hasattr(type(model), method):
        pytest.skip(f"this TransformerLens has no {method}")
    run = getattr(model, method)
    with pytest.raises(ValueError, match=rf"{method}\(repetition_penalty.*Sampling"):
        list(run(prompt.tokens, max_new_tokens=2, repetition_penalty=1.5))
    settings = {"max_new_tokens": 2, "do_sample": False, "return_type": "tokens", "stop_at_eos": False}
    assert len(list(run(prompt.tokens, **settings))) > 0
    words = torch.tensor([[5, 9, 2]])
    assert len(list(run(words, **settings, repetition_penalty=1.5))) > 0
