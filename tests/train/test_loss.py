"""The loss equals that of plain transformers with `inputs_embeds` and labels, for every decoder family."""

from functools import partial
from pathlib import Path

import pytest
import torch

from lens_multimodal import VisionLens
from lens_multimodal.train import CaptionBatch, token_losses
from lens_multimodal.train.loss import dropout_by_place
from tests.lenses import SQUARE, make_lens, picture, random_lens
from tests.models import MODEL_CLASSES, random_language_model
from tests.tokenizers import make_tokenizer

CAPTIONS = [" big dog", "", " red boat in sea sun", " cat"]


def batch_of(lens: VisionLens, captions: list[str]) -> CaptionBatch:
    pictures = [picture(seed) for seed in range(len(captions))]
    return CaptionBatch(pixels=lens.vision.preprocessing(pictures), captions=captions)


def transformers_losses(lens: VisionLens, layout: str, batch: CaptionBatch, *, prompt: str) -> list[torch.Tensor]:
    """One caption at a time, unpadded: transformers' own mean loss over labels times their number."""
    plain = random_language_model(layout)
    bos = [lens.tokenizer.bos_token_id] if layout == "llama" else []
    found = []
    for pixels, caption in zip(batch.pixels, batch.captions, strict=True):
        vectors = lens.projection(lens.vision(pixels[None]))
        words = [*lens.text.encode(caption), 0]
        before, after = torch.tensor([bos]).long(), torch.tensor([lens.text.encode(prompt) + words])
        lookup = plain.get_input_embeddings()
        embeds = torch.cat([lookup(before), vectors, lookup(after)], dim=1)
        labels = torch.full(embeds.shape[:2], -100)
        labels[0, -len(words) :] = torch.tensor(words)
        found.append(plain(inputs_embeds=embeds, labels=labels).loss * len(words))
    return found


@pytest.mark.parametrize(("kind", "layout"), [*((kind, "gpt-j") for kind in MODEL_CLASSES), ("bridge", "llama")])
@pytest.mark.parametrize("prompt", ["", " the picture of"])
def test_equals_transformers(kind: str, layout: str, prompt: str, tmp_path: Path) -> None:
    """Loss and gradient; where the tokenizer puts BOS before a text, it stands before the image, as in prompts."""
    lens = make_lens(layout, kind, tokenizer=make_tokenizer(tmp_path, layout), sizes=SQUARE)
    batch = batch_of(lens, CAPTIONS)
    linear = lens.projection.linear.requires_grad_(True)
    losses = token_losses(lens, batch, prompt=prompt)
    lengths = [len(lens.text.encode(c)) + 1 for c in CAPTIONS]
    assert losses.shape == (sum(lengths),)
    (gradient,) = torch.autograd.grad(losses.sum(), linear.weight)
    expected = transformers_losses(lens, layout, batch, prompt=prompt)
    for own, theirs in zip(losses.split(lengths), expected, strict=True):
        torch.testing.assert_close(own.sum(), theirs, rtol=1e-5, atol=1e-5)
    (reference,) = torch.autograd.grad(sum(expected[1:], expected[0]), linear.weight)
    torch.testing.assert_close(gradient, reference, rtol=1e-3, atol=1e-4 * float(reference.abs().max()))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_the_tokenizers_padding_side_does_not_matter(kind: str, side: str, tmp_path: Path) -> None:
    lens = random_lens(tmp_path, kind=kind)
    batch = batch_of(lens, CAPTIONS)
    before = token_losses(lens, batch)
    lens.tokenizer.padding_side = side
    lens.model.tokenizer.padding_side = side  # type: ignore[union-attr]
    torch.testing.assert_close(token_losses(lens, batch), before)


def test_the_picture_matters_and_nothing_is_kept(tmp_path: Path) -> None:
    lens = random_lens(tmp_path)
    batch = batch_of(lens, CAPTIONS)
    other = CaptionBatch(pixels=batch.pixels.flip(0), captions=CAPTIONS)
    losses = token_losses(lens, batch)
    assert not torch.allclose(losses, token_losses(lens, other), atol=1e-2)
    assert len(lens.virtual_tokens) == 0


def test_several_positions_of_each_patch(tmp_path: Path) -> None:
    """As LiMBeR's NF-ResNet50: the map is twice as wide as the language model."""
    lens = random_lens(tmp_path)
    lens.projection.linear = torch.nn.Linear(SQUARE.d_vision, 48)
    batch = batch_of(lens, CAPTIONS[:1])
    prompt = lens.prompt([picture(0)], CAPTIONS[0])
    assert prompt.tokens.shape[1] == 2 * SQUARE.n_patches + 2
    words = torch.tensor([*lens.text.encode(CAPTIONS[0]), 0])
    expected = torch.nn.functional.cross_entropy(lens.logits(prompt)[0, -3:], words, reduction="none")
    torch.testing.assert_close(token_losses(lens, batch), expected)


def test_vectors_are_edited_and_nothing_else(tmp_path: Path) -> None:
    lens = random_lens(tmp_path)
    batch = batch_of(lens, CAPTIONS)
    seen = []

    def halve(vectors: list[torch.Tensor]) -> list[torch.Tensor]:
        seen.append(torch.stack(vectors).detach())
        return [own / 2 for own in vectors]

    edited = token_losses(lens, batch, edit_vectors=halve)
    assert torch.equal(seen[0], lens.projection(lens.vision(batch.pixels)))
    with torch.no_grad():
        for parameter in lens.projection.linear.parameters():
            parameter /= 2
    torch.testing.assert_close(edited, token_losses(lens, batch))


def test_dropout_depends_on_the_place_in_the_step() -> None:
    """The mask of a picture does not depend on how the step is cut into batches, and differs between places."""
    vectors = list(torch.rand(6, 50, 40) + 1)
    drop = partial(dropout_by_place, share=0.25, seed=3, step=7)
    whole = torch.stack(drop(vectors, first_place=0))
    assert torch.equal(torch.stack([*drop(vectors[:2], first_place=0), *drop(vectors[2:], first_place=2)]), whole)
    dropped = whole == 0
    torch.testing.assert_close(whole[~dropped], (torch.stack(vectors) / 0.75)[~dropped])
    assert abs(float(dropped.float().mean()) - 0.25) < 0.02
    masks = [dropped[i] for i in range(6)]
    masks += [dropout_by_place(vectors, share=0.25, seed=3, step=8, first_place=0)[0] == 0]
    masks += [dropout_by_place(vectors, share=0.25, seed=4, step=7, first_place=0)[0] == 0]
    assert all(not torch.equal(a, b) for i, a in enumerate(masks) for b in masks[:i])


def test_refused_batches(tmp_path: Path) -> None:
    lens = random_lens(tmp_path)
    batch = batch_of(lens, CAPTIONS)
    with pytest.raises(ValueError, match=r"4 pictures .*3 captions"):
        token_losses(lens, CaptionBatch(pixels=batch.pixels, captions=CAPTIONS[:3]))
    long = CaptionBatch(pixels=batch.pixels[:1], captions=[" dog" * 60])
    with pytest.raises(ValueError, match=rf"\b{SQUARE.n_patches} positions .* 61 tokens .* 64\b"):
        token_losses(lens, long)
    assert len(lens.virtual_tokens) == 0
