"""Several pictures in one pass of the model's own tower, against Hugging Face's own features of each picture alone."""

import torch
from torch.testing import assert_close

from lens_multimodal import attach_vision
from tests.vision_language.conftest import noise
from tests.vision_language.models import build

SIZES = [(96, 60), (60, 96), (96, 60), (64, 64), (96, 60), (60, 96), (96, 60)]
PICTURES = [noise(number, width=width, height=height) for number, (width, height) in enumerate(SIZES)]


def passes_of(tower, run):
    """How often the encoder ran, and what `run` gave."""
    encoder = next(iter(tower.parts.values()))
    count = []
    handle = encoder.register_forward_hook(lambda *_: count.append(1))
    try:
        return run(), len(count)
    finally:
        handle.remove()


@torch.no_grad()
def read_by_hugging_face(pair, picture):
    """The image vectors of the untouched model: what stands at image positions in the input of its decoder."""
    kept = []
    language_model = pair.plain.get_decoder()
    handle = language_model.register_forward_pre_hook(
        lambda _m, _a, given: kept.append(given["inputs_embeds"]), with_kwargs=True
    )
    inputs = pair.inputs("IMAGE what is", [picture])
    pair.plain(**inputs)
    handle.remove()
    config = pair.plain.config
    return kept[0][inputs["input_ids"] == config.image_token_id]


def test_the_vectors_are_those_of_each_picture_alone(pair):
    """In the order given, in fewer passes, with each picture's own forward arguments."""
    tower = pair.lens.images
    twice = [*PICTURES, *PICTURES]
    tower.vectors(twice)  # measures each shape once
    found, n_passes = passes_of(tower, lambda: tower.encoded(twice))
    assert n_passes <= len(set(SIZES))
    for own, picture in zip(found, twice, strict=True):
        expected = read_by_hugging_face(pair, picture)
        scale = float(expected.abs().max())
        assert_close(own.vectors / scale, expected / scale, rtol=0, atol=1e-5)
        alone = tower.preprocessed(picture)
        assert own.forward_arguments.keys() == alone.keys() - {"pixel_values"}
        for name, value in own.forward_arguments.items():
            assert torch.equal(value, alone[name])


def test_a_tower_in_which_pictures_are_not_independent_runs_one_by_one(tmp_path):
    model, processor = build("llava", tmp_path)
    lens = attach_vision(model, processor=processor)
    tower = lens.images

    def mix(_module, _args, output):
        return output + output.mean(dim=0, keepdim=True)

    handle = tower.projector.register_forward_hook(mix)
    alone = [tower.vectors([picture])[0] for picture in PICTURES]
    together, n_passes = passes_of(tower, lambda: tower.vectors(PICTURES))
    handle.remove()
    assert n_passes >= len(PICTURES)
    for own, expected in zip(together, alone, strict=True):
        assert_close(own, expected, rtol=0, atol=1e-6)


def test_a_model_that_leaves_out_tiles_of_one_colour_keeps_each_picture_apart(tmp_path):
    """Idefics 3 takes a tile of zeros for padding, so such a picture has fewer vectors than others of its size."""
    model, processor = build("idefics3", tmp_path)
    lens = attach_vision(model, processor=processor)
    tower = lens.images
    inputs = [tower.preprocessed(noise(number)) for number in range(4)]
    inputs[2]["pixel_values"][0, 1] = 0
    alone = [tower.encoded_of([own])[0].vectors for own in inputs]
    assert len(alone[2]) < len(alone[0])
    for _ in range(2):
        for own, expected in zip(tower.encoded_of(inputs), alone, strict=True):
            assert_close(own.vectors, expected, rtol=0, atol=1e-5)


def test_gradients_of_pictures_in_one_pass(tmp_path):
    model, processor = build("llava", tmp_path)
    lens = attach_vision(model, processor=processor)
    tower = lens.images
    weight = tower.projector.linear_1.weight.requires_grad_(True)
    inputs = [tower.preprocessed(picture) for picture in PICTURES[:3]]
    apart = sum(tower.encoded_of([own])[0].vectors.square().sum() for own in inputs)
    together = sum(own.vectors.square().sum() for own in tower.encoded_of(inputs))
    expected, found = (torch.autograd.grad(loss, weight)[0] for loss in (apart, together))
    assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
