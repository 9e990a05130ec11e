"""The bank of vectors behind token ids, and the two hooks on the embedding lookup."""

import gc
import threading
import weakref

import pytest
import torch
from torch import nn

from lens_multimodal import attach_vision, transformer
from lens_multimodal.prompt.soft_prompt import SoftPrompt
from lens_multimodal.prompt.virtual_tokens import UnknownImageTokens, VirtualTokens
from tests.lenses import (
    CASES,
    D_MODEL,
    each_case,
    encoder,
    hugging_face,
    linear,
    make_lens,
    picture,
    random_prompt,
    unchecked,
)
from tests.models import D_VOCAB, MODEL_CLASSES, wrapped_model


@pytest.fixture
def bank():
    torch.manual_seed(0)
    return VirtualTokens(nn.Embedding(5, 3), d_vocab=5, d_model=3)


# --- the bank ----------------------------------------------------------------------------------------------


def test_embedding_gives_the_stored_vectors_to_the_bit():
    embedding = nn.Embedding(5, 3)
    bank = VirtualTokens(embedding, d_vocab=5, d_model=3)
    first, second = bank.store(torch.randn(2, 3)), bank.store(torch.randn(4, 3))
    ids = torch.stack([second.ids.flip(0), torch.tensor([1, *first.ids.tolist(), 4])])
    out = embedding(ids)
    assert torch.equal(out[0], second.vectors.flip(0))
    assert torch.equal(out[1, 1:3], first.vectors)
    assert torch.equal(out[1, [0, 3]], embedding.weight[[1, 4]])
    assert torch.equal(ids[1], torch.tensor([1, *first.ids.tolist(), 4]))


def test_ids_are_never_used_twice_in_a_process(bank):
    other = VirtualTokens(nn.Embedding(400, 3), d_vocab=400, d_model=3)
    seen: set[int] = set()
    for round_ in range(20):
        for owner in (bank, other):
            ids = owner.store(torch.randn(1 + round_ % 3, 3)).ids.tolist()
            assert not seen & set(ids)
            assert min(ids) >= 400
            seen |= set(ids)
        bank.forget()


def test_an_image_of_one_lens_is_never_a_word_or_an_image_of_another():
    small, large = nn.Embedding(5, 3), nn.Embedding(50_000, 3)
    of_small, of_large = VirtualTokens(small, d_vocab=5, d_model=3), VirtualTokens(large, d_vocab=50_000, d_model=3)
    mine, theirs = of_small.store(torch.randn(2, 3)), of_large.store(torch.randn(2, 3))
    for ids, embedding in ((mine.ids, large), (theirs.ids, small)):
        with pytest.raises(UnknownImageTokens, match=str(int(ids[0]))):
            embedding(ids)
    of_small.remove()
    again = VirtualTokens(small, d_vocab=5, d_model=3)
    again.store(torch.randn(2, 3))
    with pytest.raises(UnknownImageTokens):
        small(mine.ids)


@pytest.mark.parametrize("unknown", [-1, 5, 2**24 - 1, 2**40])
def test_unknown_ids_raise(unknown):
    embedding = nn.Embedding(5, 3)
    bank = VirtualTokens(embedding, d_vocab=5, d_model=3)
    with pytest.raises(UnknownImageTokens, match=rf"token id {unknown}\b.* 4\)"):
        embedding(torch.tensor([0, unknown]))
    kept = bank.store(torch.randn(2, 3))
    for ids in ([unknown], [0, unknown], [*kept.ids.tolist(), unknown], [kept.first_id + 2], [kept.first_id - 1]):
        with pytest.raises(UnknownImageTokens):
            embedding(torch.tensor(ids))
    assert torch.equal(embedding(kept.ids), kept.vectors)
    assert torch.equal(embedding(torch.tensor([4])), embedding.weight[[4]])


def test_a_prompt_lives_as_long_as_somebody_holds_it(bank):
    bank.keep_latest = 2
    kept = bank.store(torch.zeros(3, 3))
    lost = bank.store(torch.ones(3, 3)).first_id
    for _ in range(2):
        bank.store(torch.ones(1, 3))
    gc.collect()
    assert torch.equal(bank.vectors_of(kept.ids), kept.vectors)
    with pytest.raises(UnknownImageTokens, match=str(lost)):
        bank.vectors_of(torch.tensor([lost]))
    assert len(bank) == 3
    assert bank.nbytes == (3 + 1 + 1) * 3 * 4


def test_forgetting_one_or_all(bank):
    one, two = bank.store(torch.zeros(1, 3)), bank.store(torch.ones(1, 3))
    bank.forget(one)
    bank.forget(one)
    with pytest.raises(UnknownImageTokens):
        bank.vectors_of(one.ids)
    assert bank.vectors_of(two.ids).tolist() == [[1, 1, 1]]
    bank.forget()
    assert len(bank) == bank.nbytes == 0


def test_ten_thousand_images_leave_no_growth(tokenizers):
    lens = make_lens("gpt-j", "bridge", tokenizer=tokenizers("gpt-j"))

    def alive() -> int:
        gc.collect()
        return sum(type(thing) is SoftPrompt for thing in gc.get_objects())

    before = alive()
    vectors = torch.randn(1, 2, D_MODEL)
    for index in range(10_000):
        prompt = lens.virtual_tokens.store(vectors[0] + index)
    assert prompt.vectors[0, 0] == vectors[0, 0, 0] + index
    for _ in range(20):
        lens.logits(lens.prompt_from_vectors(vectors, " dog"))
    list(lens.caption_stream([picture(seed) for seed in range(70)], max_new_tokens=1))
    assert len(lens.virtual_tokens) <= 64
    assert lens.virtual_tokens.nbytes <= 64 * 6 * D_MODEL * 4
    assert alive() - before <= 65


def test_a_lens_and_its_images_can_be_collected():
    lens = make_lens("gpt-j", "bridge")
    vectors = weakref.ref(lens.prompt(picture(), "").spans[0][0].image.soft_prompt)
    model = weakref.ref(lens.model)
    del lens
    gc.collect()
    assert vectors() is None
    assert model() is None


def test_vectors_that_cannot_be_stored(bank):
    store = unchecked(VirtualTokens.store)
    for shape in ([2, 4], [3], [1, 2, 3], [0, 3]):
        with pytest.raises(ValueError, match=r"\[pos, d_model=3\].* \["):
            store(bank, torch.zeros(shape))
    for value in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(ValueError, match=r"NaN.* 65,504"):
            bank.store(torch.tensor([[0.0, value, 0.0]]))
    assert len(bank) == 0


# --- gradients and modes -----------------------------------------------------------------------------------


@each_case
def test_gradients_equal_finite_differences(lens_of, layout, kind):
    lens = lens_of(layout, kind, torch.float64)
    prompt = random_prompt(lens, [-2, 3, -2])
    soft = prompt.spans[0][0].image.soft_prompt
    soft.vectors.requires_grad_(True)

    def value() -> torch.Tensor:
        return lens.logits(prompt)[0, -1].double().log_softmax(-1)[17]

    (gradient,) = torch.autograd.grad(value(), soft.vectors)
    assert gradient.abs().max() > 1e-3
    # Hugging Face rounds attention to float32 in most layouts: a wide step there.
    exact = layout == "gpt-2" or kind == "hooked"
    step = 1e-5 if exact else 3e-3
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        direction = torch.randn(soft.vectors.shape, generator=generator, dtype=torch.float64)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                soft.vectors.add_(sign * step * direction)
                ends.append(value())
                soft.vectors.sub_(sign * step * direction)
        slope = (ends[0] - ends[1]) / (2 * step)
        rtol, atol = (1e-6, 1e-8) if exact else (1e-2, 1e-3)
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=rtol, atol=atol)


def test_with_gradient_makes_a_leaf_of_each_image(tokenizers):
    lens = make_lens("gpt-j", "bridge", tokenizer=tokenizers("gpt-j"))
    prompt = lens.prompt([picture(0), picture(1)], with_gradient=True)
    leaves = [spans[0].image.soft_prompt.vectors for spans in prompt.spans]
    assert all(leaf.is_leaf and leaf.requires_grad for leaf in leaves)
    lens.logits(prompt)[0].sum().backward()
    assert leaves[0].grad.abs().max() > 0
    assert leaves[1].grad is None or leaves[1].grad.abs().max() == 0
    without = lens.prompt(picture(0))
    assert not without.spans[0][0].image.soft_prompt.vectors.requires_grad
    torch.testing.assert_close(lens.logits(without)[0], lens.logits(prompt)[0].detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_made_under_inference_mode_used_with_autograd(kind, tokenizers):
    lens = make_lens("gpt-j", kind, tokenizer=tokenizers("gpt-j"))
    with torch.inference_mode():
        prompts = [
            lens.prompt(picture(), with_gradient=True),
            lens.prompt(picture()),
            lens.prompt_from_vectors(torch.randn(1, 6, D_MODEL)),
            lens.interleave([[picture(), " dog"]]),
        ]
        without_graph = [lens.logits(prompt) for prompt in prompts]
    for prompt, expected in zip(prompts, without_graph, strict=True):
        logits = lens.logits(prompt)
        assert torch.equal(logits, expected)
        logits.sum().backward()
    assert prompts[0].spans[0][0].image.soft_prompt.vectors.grad.abs().max() > 0
    with torch.no_grad():
        assert torch.equal(lens.logits(prompts[0]), without_graph[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_half_precision(kind, dtype, tokenizers):
    tokenizer = tokenizers("gpt-j")
    model = wrapped_model(kind, hugging_face("gpt-j"), tokenizer=tokenizer)
    lens = attach_vision(model, vision=encoder(), projection=linear(), tokenizer=tokenizer, dtype=dtype)
    assert {p.dtype for part in (lens.model, lens.vision, lens.projection) for p in part.parameters()} == {dtype}
    prompt = lens.prompt(picture())
    logits = lens.logits(prompt)
    assert logits.dtype == dtype
    assert prompt.spans[0][0].image.soft_prompt.vectors.dtype == dtype
    full = make_lens("gpt-j", kind, tokenizer=tokenizer)
    expected = full.logits(full.prompt(picture())).detach()
    spread = expected.std()
    assert (logits.float() - expected).abs().mean() < (0.1 if dtype == torch.bfloat16 else 0.02) * spread
    assert isinstance(lens.caption(picture()), str)


def test_parts_of_different_precision_and_device_names(tokenizers):
    """The projection may stay in float32 (so it can be trained) while the rest runs in bfloat16."""
    tokenizer = tokenizers("gpt-j")
    parts = {"vision": encoder(torch.float64), "projection": linear(dtype=torch.float32), "tokenizer": tokenizer}
    lens = attach_vision(wrapped_model("bridge", hugging_face("gpt-j", torch.bfloat16)), **parts)
    prompt = lens.prompt(picture())
    assert prompt.spans[0][0].image.soft_prompt.vectors.dtype == torch.float32
    assert lens.logits(prompt).dtype == torch.bfloat16
    lens.detach()
    moved = attach_vision(lens.model, **parts, device="cpu:0")
    assert torch.equal(moved.logits(moved.prompt(picture())), moved.logits(moved.prompt(picture())))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_encoder_and_language_model_on_different_devices(kind, tokenizers):
    tokenizer = tokenizers("gpt-j")
    parts = {"vision": encoder(), "projection": linear(), "tokenizer": tokenizer}
    on_cpu = make_lens("gpt-j", kind, tokenizer=tokenizer)
    model = wrapped_model(kind, hugging_face("gpt-j"), tokenizer=tokenizer)
    transformer.move(model, device="cuda")
    lens = attach_vision(model, **parts)
    prompt = lens.prompt(picture())
    assert prompt.tokens.device.type == "cuda"
    assert prompt.spans[0][0].image.soft_prompt.vectors.device.type == "cpu"
    expected = on_cpu.logits(on_cpu.prompt(picture()))
    torch.testing.assert_close(lens.logits(prompt).cpu(), expected, rtol=1e-3, atol=1e-3)
    assert lens.caption(picture()) == on_cpu.caption(picture())


# --- threads -----------------------------------------------------------------------------------------------


def test_threads_do_not_see_each_others_images():
    lens = make_lens("gpt-j", "bridge")
    prompts = [random_prompt(lens, [4, -2], seed=seed) for seed in range(4)]
    with torch.no_grad():
        expected = [lens.logits(prompt) for prompt in prompts]
    wrong: list[object] = []

    def run(index: int) -> None:
        try:
            for _ in range(25):
                lens.virtual_tokens.store(torch.randn(2, D_MODEL))
                with torch.no_grad():
                    found = lens.model.embed(prompts[index].tokens)
                    logits = lens.logits(prompts[index])
                if not torch.equal(found[0, :4], prompts[index].spans[0][0].image.soft_prompt.vectors):
                    wrong.append("vectors")
                if not torch.allclose(logits, expected[index], atol=1e-5):
                    wrong.append("logits")
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_get_different_ids(bank):
    bank.keep_latest = 10_000
    threads = [threading.Thread(target=lambda: [bank.store(torch.zeros(3, 3)) for _ in range(300)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bank) == 1200
    ids = sorted(i for prompt in bank._latest.values() for i in prompt.ids.tolist())
    assert len(set(ids)) == 3600


def test_unknown_ids_raise_before_any_layer_runs(lens_of):
    ran: list[torch.Tensor] = []
    watch = [(transformer.resid_pre(0), lambda value, hook: ran.append(value))]
    for layout, kind in CASES:
        lens = lens_of(layout, kind)
        with lens.model.hooks(fwd_hooks=watch), pytest.raises(UnknownImageTokens):
            lens.model(torch.tensor([[3, D_VOCAB]]))
    assert not ran
