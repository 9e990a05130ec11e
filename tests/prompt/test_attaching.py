"""An attached lens does not change a model: detached, copied, saved, in compatibility mode, with hooks reset."""

import copy

import pytest
import torch
from torch import nn

from lens_multimodal import attach_vision, transformer
from lens_multimodal.prompt.virtual_tokens import UnknownImageTokens, VirtualTokens, attached_to
from lens_multimodal.transformer.token_ids import LensDetached
from tests.lenses import each_case, encoder, hugging_face, linear, make_lens, picture, random_prompt
from tests.models import MODEL_CLASSES, wrapped_model


def hooks_of(model: nn.Module) -> dict[str, list[int]]:
    """Every PyTorch hook on every module."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {name: [id(h) for k in kinds for h in getattr(m, k).values()] for name, m in model.named_modules()}


@each_case
def test_detaching_restores_the_model(layout, kind):
    model = wrapped_model(kind, hugging_face(layout))
    words = torch.arange(3, 12)[None]
    with torch.no_grad():
        before_logits = model(words)  # TransformerLens puts hooks of its own on some norms in the first pass
    before_hooks, before = hooks_of(model), {k: v.clone() for k, v in model.state_dict().items()}
    lens = attach_vision(model, vision=encoder(), projection=linear())
    lens.logits(random_prompt(lens, [3, -2])).sum().backward()
    with torch.no_grad():
        assert torch.equal(model(words), before_logits)
    during = model.state_dict()
    assert list(during) == list(before)
    lens.detach()
    lens.detach()
    assert hooks_of(model) == before_hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(words), before_logits)


@each_case
def test_resetting_hooks_does_not_blind(lens_of, layout, kind):
    lens = lens_of(layout, kind)
    prompt = random_prompt(lens, [3, -2])
    expected = lens.logits(prompt)
    lens.model.reset_hooks()
    assert torch.equal(lens.logits(prompt), expected)
    lens.model.reset_hooks(including_permanent=True)
    assert torch.equal(lens.logits(prompt), expected)


@pytest.mark.parametrize("layout", ["gpt-j", "gpt-2", "llama"])
@pytest.mark.parametrize("no_processing", [True, False])
def test_compatibility_mode_after_attaching(layout, no_processing):
    lens = make_lens(layout, "bridge")
    prompt = random_prompt(lens, [3, -2])
    expected = lens.logits(prompt).log_softmax(-1)
    lens.model.enable_compatibility_mode(no_processing=no_processing)
    torch.testing.assert_close(lens.logits(prompt).log_softmax(-1), expected, rtol=1e-4, atol=2e-4)


def test_a_second_lens_is_an_error_and_the_first_still_sees(tokenizers):
    lens = make_lens("gpt-j", "bridge", tokenizer=tokenizers("gpt-j"))
    expected = lens.logits(lens.prompt(picture()))
    dtype = next(lens.model.parameters()).dtype
    with pytest.raises(RuntimeError, match=r"detach\(\)"):
        attach_vision(lens.model, vision=encoder(), projection=linear(), dtype=torch.float64)
    assert next(lens.model.parameters()).dtype == dtype
    assert torch.equal(lens.logits(lens.prompt(picture())), expected)
    lens.detach()
    again = attach_vision(lens.model, vision=encoder(), projection=linear(), tokenizer=tokenizers("gpt-j"))
    assert torch.equal(again.logits(again.prompt(picture())), expected)


@pytest.mark.parametrize("way", ["deepcopy", "save"])
@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_copies_and_files_of_a_model_with_a_lens(kind, way, tmp_path):
    def copied(model: nn.Module) -> nn.Module:
        if way == "deepcopy":
            return copy.deepcopy(model)
        torch.save(model, tmp_path / "model.pt")
        return torch.load(tmp_path / "model.pt", weights_only=False)

    bare = wrapped_model(kind, hugging_face("gpt-j"))
    words = torch.arange(3, 9)[None]
    try:
        copied(bare)
    except Exception as error:
        pytest.skip(f"a {type(bare).__name__} does not survive {way} without a lens either: {error}")
    lens = make_lens("gpt-j", kind)
    prompt = random_prompt(lens, [3, -2])
    twin = copied(lens.model)
    with torch.no_grad():
        assert torch.equal(twin(words), lens.model(words))
        with pytest.raises(UnknownImageTokens):
            twin(prompt.tokens)
        expected = lens.logits(prompt)
    assert attached_to(transformer.embedding_module(twin)) is None
    own = attach_vision(twin, vision=encoder(), projection=linear())
    again = random_prompt(own, [3, -2])
    assert torch.equal(own.logits(again), expected)
    own.detach()
    assert torch.equal(lens.logits(prompt), expected)
    assert not transformer.embedding_module(twin)._forward_hooks


def test_a_copied_lens_says_that_it_is_detached():
    embedding = nn.Embedding(5, 3)
    bank = VirtualTokens(embedding, d_vocab=5, d_model=3)
    bank.store(torch.zeros(1, 3))
    twin = copy.deepcopy(bank)
    assert len(twin) == 0
    with pytest.raises(LensDetached):
        twin.store(torch.zeros(1, 3))


def test_weights_saved_with_a_lens_load_without():
    lens = make_lens("gpt-j", "bridge")
    bare = wrapped_model("bridge", hugging_face("gpt-j"))
    assert lens.model.state_dict().keys() == bare.state_dict().keys()
    bare.load_state_dict(lens.model.state_dict())
