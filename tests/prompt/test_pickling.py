"""A prompt travels: pickled it stands for the same image where the image was made, and is refused everywhere else."""

import copy
import gc
import multiprocessing
import pickle

import pytest
import torch

from lens_multimodal import ImagePrompt
from lens_multimodal.prompt.virtual_tokens import UnknownImageTokens
from tests.lenses import make_lens, picture

OWN = 5
"""Images that the other process makes itself before it is given a prompt of this one."""


@pytest.fixture(scope="module")
def lens():
    return make_lens("gpt-j", "bridge")


@pytest.fixture
def prompt(lens) -> ImagePrompt:
    return lens.prompt([picture(0), picture(1)], "")


def other_logits(prompt: ImagePrompt) -> str:
    """In another process: the error that its own lens raises for a prompt it did not make."""
    lens = make_lens("gpt-j", "bridge")
    own = [lens.prompt(picture(i), "") for i in range(OWN)]
    own_ids = {i for made in own for i in made.tokens.flatten().tolist()}
    try:
        lens.logits(prompt)
    except UnknownImageTokens as error:
        return f"{len(own)} {len(own_ids)} {error}"
    return "it was not refused"


def assert_same_images(lens, found: ImagePrompt, expected: ImagePrompt) -> None:
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(lens.logits(found), lens.logits(expected))
    for row, own in zip(found.spans, expected.spans, strict=True):
        for span, its in zip(row, own, strict=True):
            assert span.image.soft_prompt is its.image.soft_prompt
            assert span.image.geometry == its.image.geometry
            assert span.image.picture.tobytes() == its.image.picture.tobytes()


def test_pickled_in_the_same_process_it_stands_for_the_same_image(lens, prompt):
    assert_same_images(lens, pickle.loads(pickle.dumps(prompt)), prompt)
    assert_same_images(lens, copy.deepcopy(prompt), prompt)


def test_torch_save_and_load(lens, prompt, tmp_path):
    torch.save(prompt, tmp_path / "prompt.pt")
    assert_same_images(lens, torch.load(tmp_path / "prompt.pt", weights_only=False), prompt)


def test_a_leaf_with_gradient_stays_the_leaf(lens):
    prompt = lens.prompt(picture(), "", with_gradient=True)
    found = pickle.loads(pickle.dumps(prompt))
    lens.logits(found)[0, -1, 5].backward()
    assert prompt.spans[0][0].image.soft_prompt.vectors.grad.abs().max() > 0


def test_the_copy_keeps_the_image_alive(lens):
    prompt = lens.prompt(picture(), "")
    expected = lens.logits(prompt)
    found = pickle.loads(pickle.dumps(prompt))
    del prompt
    lens.virtual_tokens._latest.clear()
    gc.collect()
    assert torch.equal(lens.logits(found), expected)


def test_after_the_image_is_gone_the_copy_is_refused(lens, prompt):
    packed = pickle.dumps(prompt)
    lens.forget(prompt)
    with pytest.raises(UnknownImageTokens, match=str(int(prompt.tokens[0, 0]))):
        lens.logits(pickle.loads(packed))
    first = int(prompt.tokens[0, 0])
    vectors = prompt.spans[0][0].image.soft_prompt.vectors.clone()
    del prompt
    gc.collect()
    found = pickle.loads(packed)
    assert torch.equal(found.spans[0][0].image.soft_prompt.vectors, vectors)
    with pytest.raises(UnknownImageTokens, match=str(first)):
        lens.logits(found)


@pytest.mark.newest
def test_a_spawned_process_refuses_it(prompt):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        said = pool.apply(other_logits, (prompt,))
    assert said.startswith(f"{OWN} {OWN * prompt.spans[0][0].stop} token id {int(prompt.tokens[0, 0])} ")
