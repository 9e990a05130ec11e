"""What runs over a data set, on models of one grid, models that cut tiles, and one whose positions show no place.

Everything is compared with plain PyTorch hooks on the untouched model and its own pixels.
"""

import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from lens_multimodal import attach_vision
from lens_multimodal.data import CaptionedPicture
from lens_multimodal.image.patch_cover import covered_positions
from lens_multimodal.store import StoreSettings, estimate_activations, write_activations
from lens_multimodal.train import CaptionBatch, FitSettings, batches_of, fit_projection, token_losses
from tests.vision_language.conftest import Pair
from tests.vision_language.models import build
from tests.vision_language.pictures import scenes_of_several_sizes
from tests.vision_language.test_exactness import decoder_layers

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
TEXT = " what is a dog"
LAYER = 1


@pytest.fixture(scope="module", params=["llava", "llava-next", "smolvlm", "blip-2", "gemma-3", "qwen2.5-vl"])
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    plain, processor = build(request.param, folder)
    model, own = build(request.param, folder)
    return Pair(family=request.param, plain=plain, processor=processor, lens=attach_vision(model, processor=own))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return scenes_of_several_sizes(tmp_path_factory.mktemp("pictures"), 6)


def neurons_on_pixels(pair, scene, text):
    """Activations of the layer's neurons at every position of one picture's prompt, from its pixels."""
    kept = []
    layer = decoder_layers(pair.plain)[LAYER]
    names = ("fc2", "feed_forward.down_proj", "mlp.down_proj")
    read = next(module for name, module in layer.named_modules() if name in names)
    handle = read.register_forward_pre_hook(lambda _m, args: kept.append(args[0]))
    pair.logits(f"IMAGE{text}", [scene.open()])
    handle.remove()
    return kept[0].reshape(-1, kept[0].shape[-1])


def store_of(pair, scenes, out, **options):
    settings = StoreSettings(at=f"blocks.{LAYER}.mlp.hook_post", text=TEXT, batch_size=4, **options)
    return write_activations(pair.lens, scenes, out, settings, progress=False)


def test_a_store_of_image_positions(pair, scenes, tmp_path):
    """Pictures of unequal length in one batch; the place of each row is that of the picture's layout."""
    stored = store_of(pair, scenes, tmp_path / "out")
    for scene in scenes:
        prompt = pair.lens.prompt(scene.path, TEXT)
        (span,) = prompt.spans[0]
        expected = neurons_on_pixels(pair, scene, TEXT)[list(span.positions)]
        found = stored.of_picture(scene.id, f"blocks.{LAYER}.mlp.hook_post")
        assert_close(found, expected, **CLOSE)
        rows = stored.rows[stored.rows["image_id"] == scene.id]
        assert rows["pos"].tolist() == list(span.positions)
        cells = [span.image.cell(index) or (-1, -1) for index in range(len(span.image))]
        assert list(zip(rows["patch_row"], rows["patch_col"], strict=True)) == cells
    settings = StoreSettings(at="blocks.0.hook_resid_post", batch_size=2)
    assert estimate_activations(pair.lens, scenes, settings, n_batches=1).bytes > 0


def test_a_store_of_objects(pair, scenes, tmp_path):
    if pair.family == "blip-2":
        with pytest.raises(ValueError, match="Blip2"):
            store_of(pair, scenes, tmp_path / "out", positions="objects")
        assert not (tmp_path / "out").exists()
        return
    stored = store_of(pair, scenes, tmp_path / "out", positions="objects", categories=["cat"], covered=0.6)
    for scene in scenes:
        image = pair.lens.embed([scene.path])[0]
        rows = stored.rows[stored.rows["image_id"] == scene.id]
        if "cat" not in scene.categories:
            assert len(rows) == 0
            continue
        share = covered_positions(image.layout, scene.seg_mask("cat"))
        expected = [index for index in range(len(image)) if share[index] >= 0.6]
        positions = pair.lens.prompt(scene.path, TEXT).spans[0][0].positions
        assert rows["pos"].tolist() == [positions[index] for index in expected]
        np.testing.assert_allclose(rows["share"], share[expected], rtol=1e-6)


def test_a_store_of_captions(pair, scenes, tmp_path):
    """Greedy tokens of the model from pixels, and its neurons where it has read them."""
    stored = store_of(pair, scenes[:4], tmp_path / "out", positions="caption", max_new_tokens=4)
    lengths = set()
    for scene in scenes[:4]:
        inputs = pair.inputs(f"IMAGE{TEXT}", [scene.open()])
        ids = pair.plain.generate(**inputs, max_new_tokens=4, do_sample=False, pad_token_id=0)[0]
        prompt = pair.lens.prompt(scene.path, TEXT)
        # Some releases return BLIP-2's new tokens alone.
        written = ids.tolist()[prompt.tokens.shape[1] if len(ids) > prompt.tokens.shape[1] else 0 :]
        expected = pair.lens.text.first_line([token for token in written if token not in pair.lens.text.stop_ids])
        rows = stored.rows[stored.rows["image_id"] == scene.id]
        assert rows["token"].tolist() == expected
        assert rows["pos"].tolist() == [prompt.tokens.shape[1] + n for n in range(len(expected))]
        lengths.add(len(expected))
    assert max(lengths) > 0


# --- training --------------------------------------------------------------------------------------------


@pytest.fixture
def trainable(pair, tmp_path):
    """A lens of its own, and the untouched twin of its model."""
    folder = tmp_path / "models"
    (plain, _), (model, processor) = build(pair.family, folder), build(pair.family, folder)
    return attach_vision(model, processor=processor), plain


def captioned(scenes):
    """Captions of unequal length."""
    return [" the red sun", " a dog", " is in the tree"][: len(scenes)], [scene.open() for scene in scenes]


def losses_on_pixels(pair, plain, captions, pictures):
    """Hugging Face's own loss from pixels, one caption at a time, times its number of tokens."""
    found = []
    for caption, picture in zip(captions, pictures, strict=True):
        inputs = pair.inputs(f"IMAGE what is{caption}", [picture])
        ids = torch.cat([inputs["input_ids"], torch.tensor([[0]])], dim=1)
        n_words = len(pair.lens.text.encode(caption)) + 1
        labels = torch.full_like(ids, -100)
        labels[:, -n_words:] = ids[:, -n_words:]
        inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        found.append(plain(**inputs, labels=labels).loss * n_words)
    return found


def test_the_loss_of_a_caption_and_its_gradient_in_the_projector(pair, trainable, scenes):
    lens, plain = trainable
    if pair.family == "qwen2.5-vl":
        with pytest.raises(ValueError, match="Qwen2_5_VL"):
            _ = lens.images.projector
        return
    captions, pictures = captioned(scenes[:3])
    batch = CaptionBatch(
        pixels=[lens.images.preprocessed(own) for own in pictures],
        captions=captions,
        sizes=[own.size for own in pictures],
    )
    name = list(lens.images.parts)[-1]
    own = lens.images.projector.requires_grad_(True)
    losses = token_losses(lens, batch, prompt=" what is")
    lengths = [len(lens.text.encode(caption)) + 1 for caption in captions]
    theirs = getattr(plain if hasattr(plain, name) else plain.model, name).requires_grad_(True)
    expected = losses_on_pixels(pair, plain, captions, pictures)
    for found, loss in zip(losses.split(lengths), expected, strict=True):
        assert_close(found.sum(), loss, **CLOSE)
    found = torch.autograd.grad(losses.sum(), list(own.parameters()))
    wanted = torch.autograd.grad(sum(expected), list(theirs.parameters()))
    for mine, other in zip(found, wanted, strict=True):
        assert other.abs().max() > 1e-3
        assert_close(mine, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def test_training_starts_from_the_models_own_projector(pair, trainable, scenes, tmp_path):
    lens, plain = trainable
    if pair.family == "qwen2.5-vl":
        pytest.skip("its projector is part of its encoder")
    frozen = {name: value.clone() for name, value in lens.images.model.state_dict().items()}
    settings = FitSettings(steps=6, batch_size=2, learning_rate=2e-3, dropout=0.0, prompt=" what is")
    texts, _ = captioned(scenes[:3])
    data = batches_of(
        [CaptionedPicture(key=s.path.name, picture=s.path, captions=(t,)) for s, t in zip(scenes, texts, strict=False)],
        preprocessed=lens.images.preprocessed,
        batch_size=2,
        shuffle=False,
    )
    fitted = fit_projection(lens, data, settings=settings, folder=tmp_path / "fit", progress=False)
    assert fitted is lens.images.projector
    prefix = next(name for name, module in lens.images.model.named_modules() if module is fitted)
    for name, value in lens.images.model.state_dict().items():
        assert torch.equal(value, frozen[name]) == (not name.startswith(prefix))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "fit" / "log.jsonl").read_text().splitlines()]
    captions, pictures = captioned(scenes[:2])
    n_tokens = sum(len(lens.text.encode(caption)) + 1 for caption in captions)
    with torch.no_grad():
        first = sum(losses_on_pixels(pair, plain, captions, pictures)) / n_tokens
    assert losses[0] == pytest.approx(float(first), rel=1e-4)
    assert losses[3] < losses[0]  # the same two of three pictures
    lens.save_pretrained(tmp_path / "saved")
    # Some releases load another backend of the image processor than was saved.
    again = attach_vision(tmp_path / "saved", processor=lens.images.processor)
    prompt, twin = (own.prompt(scenes[0].path, TEXT) for own in (lens, again))
    assert_close(again.logits(twin), lens.logits(prompt), **CLOSE)
