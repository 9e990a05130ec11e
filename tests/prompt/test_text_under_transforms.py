"""With a lens attached, text runs wherever it runs without: transforms, tensors without values, graphs."""

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from lens_multimodal import attach_vision, transformer
from lens_multimodal.prompt.soft_prompt import SoftPrompt
from lens_multimodal.prompt.virtual_tokens import UnknownImageTokens, VirtualTokens
from tests.lenses import D_MODEL, assert_different, encoder, linear, make_lens
from tests.models import D_VOCAB, MODEL_CLASSES, random_language_model, wrapped_model

pytestmark = pytest.mark.usefixtures("as_users_have_it")  # torch.compile cannot see through run-time type checks

WORDS = torch.tensor([[40, 41, 42, 3], [5, 60, 7, 8]])


@pytest.fixture(params=["gpt-2", "llama"])
def layout(request) -> str:
    return request.param


@pytest.fixture
def plain(layout) -> nn.Module:
    return random_language_model(layout, n_layers=1)


@pytest.fixture
def seeing(layout) -> nn.Module:
    """The same weights, with virtual tokens on the embedding and an image among them."""
    model = random_language_model(layout, n_layers=1)
    model.bank = VirtualTokens(model.get_input_embeddings(), d_vocab=D_VOCAB, d_model=D_MODEL)  # type: ignore[assignment]
    return model


@pytest.fixture
def image(seeing) -> SoftPrompt:
    return seeing.bank.store(torch.randn(3, D_MODEL, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def mixed(image) -> Tensor:
    """Two rows of words and image positions."""
    return torch.stack([torch.cat([image.ids, torch.tensor([4, 5])]), torch.cat([torch.tensor([6, 7]), image.ids])])


@pytest.fixture
def compiled() -> Iterator[Callable[..., Callable[[Tensor], Tensor]]]:
    """Compile without a graph break, and forget what was compiled."""
    torch._dynamo.reset()
    yield lambda function, **how: torch.compile(function, fullgraph=True, **{"backend": "aot_eager", **how})
    torch._dynamo.reset()


def logits(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda tokens: model(tokens, use_cache=False).logits


def both_equal(run: Callable[[nn.Module], object], plain: nn.Module, seeing: nn.Module) -> None:
    expected, found = run(plain), run(seeing)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


# --- transforms of torch.func ------------------------------------------------------------------------------


def loss_of(model: nn.Module) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    return lambda weights, tokens: torch.func.functional_call(model, weights, (tokens[None],)).logits[0, -1, 5]


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters()}


def test_vmap_over_words(plain, seeing):
    both_equal(lambda model: torch.vmap(lambda tokens: logits(model)(tokens[None])[0])(WORDS), plain, seeing)


def test_gradients_of_each_row(plain, seeing):
    def run(model: nn.Module) -> dict[str, Tensor]:
        return torch.vmap(torch.func.grad(loss_of(model)), (None, 0))(weights_of(model), WORDS)

    both_equal(run, plain, seeing)


def test_forward_mode_gradients(plain, seeing):
    def run(model: nn.Module) -> Tensor:
        weights = weights_of(model)
        direction = {name: torch.ones_like(weight) for name, weight in weights.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch itself, whose forward mode uses what it deprecates
            return torch.func.jvp(lambda own: loss_of(model)(own, WORDS[0]), (weights,), (direction,))[1]

    both_equal(run, plain, seeing)


def test_images_under_vmap(seeing, mixed):
    found = torch.vmap(lambda tokens: logits(seeing)(tokens[None])[0])(mixed)
    torch.testing.assert_close(found, logits(seeing)(mixed), rtol=1e-5, atol=5e-5)
    nested = torch.vmap(torch.vmap(seeing.get_input_embeddings()))(mixed)
    assert torch.equal(nested, seeing.get_input_embeddings()(mixed))
    with pytest.raises(UnknownImageTokens):
        torch.vmap(seeing.get_input_embeddings())(mixed + 1000 * (mixed >= D_VOCAB))


def test_gradients_of_an_image_in_each_row(seeing, mixed, image):
    """Each row's gradient by `torch.func` equals autograd's over that row alone."""
    weights = weights_of(seeing)
    found = torch.vmap(torch.func.grad(loss_of(seeing)), (None, 0))(weights, mixed)
    for row, tokens in enumerate(mixed):
        seeing.zero_grad()
        logits(seeing)(tokens[None])[0, -1, 5].backward()
        for name, weight in seeing.named_parameters():
            torch.testing.assert_close(found[name][row], weight.grad, rtol=1e-4, atol=1e-4)
    assert not image.vectors.requires_grad


# --- tensors without values --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODEL_CLASSES)
@pytest.mark.parametrize("layout", ["gpt-j"])
def test_fake_tensors(kind, layout):
    lens = make_lens(layout, kind)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert transformer.embedding_module(lens.model)(mode.from_tensor(WORDS)).shape == (2, 4, D_MODEL)
        assert transformer.embedding_module(lens.model)(WORDS).shape == (2, 4, D_MODEL)
        if kind != "hooked":
            assert lens.model.original_model(mode.from_tensor(WORDS)).logits.shape == (2, 4, D_VOCAB)


def test_the_meta_device(layout):
    model = random_language_model(layout)
    bridge = wrapped_model("bridge", model)
    lens = attach_vision(bridge, vision=encoder(), projection=linear())
    lens.model.original_model.to("meta")
    assert lens.model.original_model(WORDS.to("meta")).logits.shape == (2, 4, D_VOCAB)


# --- graphs ------------------------------------------------------------------------------------------------


@pytest.mark.newest
@pytest.mark.parametrize("strict", [False, True])
def test_export(plain, seeing, strict):
    def run(model: nn.Module) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of transformers itself, about what its forward passes set
            exported = torch.export.export(model, (WORDS,), {"use_cache": False}, strict=strict)
        assert "lens_multimodal" not in str(exported.graph)
        return exported.module()(WORDS, use_cache=False).logits

    both_equal(run, plain, seeing)


def test_graphs_that_leave_the_process_refuse_images(seeing, mixed):
    embedding = seeing.get_input_embeddings()
    exported = torch.export.export(embedding, (WORDS,), dynamic_shapes=({1: torch.export.Dim.DYNAMIC},)).module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(embedding, (WORDS,))
    drawn = make_fx(embedding)(WORDS)
    for graph in (exported, traced, drawn):
        assert torch.equal(graph(WORDS), embedding(WORDS))
        with pytest.raises((IndexError, RuntimeError)):
            graph(mixed[:, :4])


@pytest.mark.newest
def test_compiled_text_and_images(plain, seeing, mixed, compiled):
    both_equal(lambda model: compiled(logits(model))(WORDS), plain, seeing)
    run = compiled(logits(seeing), dynamic=True)
    torch.testing.assert_close(run(mixed), logits(seeing)(mixed), rtol=1e-5, atol=5e-5)
    torch.testing.assert_close(run(WORDS), logits(plain)(WORDS), rtol=1e-5, atol=5e-5)
    assert_different(run(mixed), logits(plain)(mixed.masked_fill(mixed >= D_VOCAB, 0)))
    with pytest.raises(UnknownImageTokens):
        run(mixed + 1000 * (mixed >= D_VOCAB))


@pytest.mark.newest
def test_compiled_by_inductor(seeing, mixed, compiled):
    run = compiled(seeing.get_input_embeddings(), backend="inductor")
    assert torch.equal(run(mixed), seeing.get_input_embeddings()(mixed))
    assert torch.equal(run(WORDS), seeing.get_input_embeddings()(WORDS))


@pytest.mark.newest
def test_compiled_training(plain, seeing, mixed, compiled):
    def gradients(model: nn.Module, run: Callable[[Tensor], Tensor], tokens: Tensor) -> dict[str, Tensor]:
        model.zero_grad()
        run(tokens)[:, -1, 5].sum().backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    both_equal(lambda model: gradients(model, compiled(logits(model)), WORDS), plain, seeing)
    found = gradients(seeing, compiled(logits(seeing)), mixed)
    expected = gradients(seeing, logits(seeing), mixed)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_vmap_inside_a_compiled_function(seeing, mixed, compiled):
    embedding = seeing.get_input_embeddings()
    assert torch.equal(compiled(torch.vmap(lambda tokens: embedding(tokens)))(mixed), embedding(mixed))
    assert torch.equal(compiled(torch.vmap(lambda tokens: embedding(tokens)))(WORDS), embedding(WORDS))


def test_a_compiled_graph_gives_no_gradient_to_an_image(seeing, compiled):
    leaf = seeing.bank.store(torch.randn(3, D_MODEL, requires_grad=True))
    run = compiled(seeing.get_input_embeddings())
    with pytest.raises(RuntimeError, match="with_gradient=False"):
        run(leaf.ids[None])
    with torch.no_grad():
        assert torch.equal(run(leaf.ids[None])[0], leaf.vectors)
    seeing.get_input_embeddings()(leaf.ids[None]).sum().backward()
    assert torch.equal(leaf.vectors.grad, torch.ones(3, D_MODEL))


@pytest.mark.parametrize("kept", [(), (0,), (1,)], ids=["no hook", "the first hook", "the second hook"])
def test_compiled_without_all_hooks_no_image_becomes_a_word(seeing, mixed, compiled, kept):
    embedding = seeing.get_input_embeddings()
    for index, hooks in enumerate((embedding._forward_pre_hooks, embedding._forward_hooks)):
        if index not in kept:
            hooks.clear()
    with pytest.raises((IndexError, RuntimeError)):
        compiled(embedding)(mixed)


def test_hooks_removed_after_compiling(seeing, mixed, compiled):
    embedding = seeing.get_input_embeddings()
    run, expected = compiled(embedding), embedding(mixed)
    assert torch.equal(run(mixed), expected)
    embedding._forward_hooks.clear()
    try:
        found = run(mixed)
    except (IndexError, RuntimeError):
        return
    assert torch.equal(found, expected)
