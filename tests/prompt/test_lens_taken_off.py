"""Other code removed one or both hooks of a lens: images are refused, never read as token 0."""

import re
from collections import OrderedDict

import pytest
import torch
from torch import nn

from lens_multimodal import attach_vision, transformer
from lens_multimodal.analysis import effect_of, top_neurons
from lens_multimodal.hooks import ablate
from lens_multimodal.prompt.virtual_tokens import UnknownImageTokens
from lens_multimodal.transformer.token_ids import LensDetached
from tests.lenses import assert_different, encoder, linear, make_lens, picture, random_prompt
from tests.models import MODEL_CLASSES

WORDS = torch.arange(3, 9)[None]


def cleared_after(model: nn.Module) -> None:
    for module in model.modules():
        module._forward_hooks.clear()


def new_dictionaries(model: nn.Module) -> None:
    for module in model.modules():
        module._forward_hooks = OrderedDict()


def cleared_before(model: nn.Module) -> None:
    for module in model.modules():
        module._forward_pre_hooks.clear()


def both(model: nn.Module) -> None:
    cleared_after(model)
    cleared_before(model)


def embedding_replaced(model: nn.Module) -> None:
    """As `resize_token_embeddings` does."""
    old = transformer.embedding_module(model)
    assert isinstance(old, nn.Embedding)
    new = nn.Embedding.from_pretrained(old.weight.data)
    model.embed._modules["_original_component"] = new


WAYS = [cleared_after, new_dictionaries, cleared_before, both, embedding_replaced]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_images_are_refused_and_the_lens_can_be_attached_again(kind, way, tokenizers):
    if kind == "hooked" and way is embedding_replaced:
        pytest.skip("the embedding of a HookedTransformer is one of its own modules")
    lens = make_lens("gpt-j", kind, tokenizer=tokenizers("gpt-j"))
    model = lens.model
    prompt = lens.prompt(picture(), " a dog")
    with torch.no_grad():
        words, expected = model(WORDS), lens.logits(prompt)
    assert lens.is_attached
    assert "detached" not in repr(lens)
    way(model)
    assert not lens.is_attached
    assert "detached" in repr(lens)
    assert "detached" in lens._repr_html_()
    calls = [
        lambda: lens.logits(prompt),
        lambda: lens.generate(prompt),
        lambda: lens.caption(picture()),
        lambda: lens.neurons(prompt, 40),
        lambda: effect_of(model, prompt.tokens, ablate(model, [(1, 3)]), 40),
        lambda: top_neurons(model, prompt.tokens, 40, positions=prompt.image_pos[0]),
        *([] if way is embedding_replaced else [lambda: lens.prompt(picture()), lambda: lens.prompt(picture(), "")]),
    ]
    for call in calls:
        with pytest.raises(LensDetached, match="attach_vision"):
            call()
    with torch.no_grad():
        # Without any code of this library, the embedding itself refuses ids outside its vocabulary.
        with pytest.raises((LensDetached, IndexError)):
            model(prompt.tokens)
        with pytest.raises((LensDetached, IndexError)):
            model.generate(prompt.tokens, max_new_tokens=1, verbose=False)
        assert torch.equal(model(WORDS), words)
    again = attach_vision(model, vision=lens.vision, projection=lens.projection.linear, tokenizer=lens.tokenizer)
    with torch.no_grad():
        torch.testing.assert_close(again.logits(again.prompt(picture(), " a dog")), expected)
    assert again.is_attached
    assert not lens.is_attached
    with pytest.raises((LensDetached, UnknownImageTokens)):
        lens.logits(lens.prompt(picture()))
    again.detach()
    embedding = transformer.embedding_module(model)
    assert not embedding._forward_hooks
    assert not embedding._forward_pre_hooks


def test_a_detached_lens_says_so():
    lens = make_lens("gpt-j", "bridge")
    prompt = random_prompt(lens, [3, -2])
    lens.detach()
    assert "detached" in repr(lens)
    first = str(int(prompt.tokens[0, 0]))
    with pytest.raises(LensDetached, match=re.escape(first)):
        lens.logits(prompt)
    text = random_prompt(lens, [-4])
    assert lens.logits(text).isfinite().all()  # text needs no lens


def test_hooks_of_other_people_stay():
    lens = make_lens("gpt-j", "bridge")
    embedding = transformer.embedding_module(lens.model)
    prompt = random_prompt(lens, [3, -2])
    with torch.no_grad():
        plain = lens.logits(prompt)
        handle = embedding.register_forward_hook(lambda _module, _args, out: out * 1.5)
        louder = lens.logits(prompt)
    assert_different(louder, plain)
    del embedding._forward_hooks[lens.virtual_tokens._hook_ids[1]]
    attach_vision(lens.model, vision=encoder(), projection=linear())
    assert handle.id in embedding._forward_hooks
