"""Composed scenes: exact masks, visible areas, determinism, captions, and what may be loaded."""

import csv
import hashlib
import math
from dataclasses import fields
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from recipes.tiny.scenes import (
    NATURAL,
    STRONG,
    CutOuts,
    Look,
    choose,
    compose,
    compose_with_removals,
    continuation,
    load,
    of_pixels,
    relation,
    with_article,
)
from recipes.tiny.scenes.backgrounds import backgrounds
from recipes.tiny.scenes.compose import _parts, arrange, colour_change, draw_objects, measure, object_grid, stack

PLAIN = Look(**{field.name: 0.0 for field in fields(Look)})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_pictures(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    """Straight-alpha noise inside ellipses of different shapes."""
    random = np.random.default_rng(seed)
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    rgba = random.integers(0, 256, (count, size, size, 4), dtype=np.uint8)
    for picture in rgba:
        wide, high = random.uniform(0.4, 0.95, 2)
        inside = (axis[None] / wide) ** 2 + (axis[:, None] / high) ** 2 < 1
        picture[..., 3] = np.where(inside, 255, 0)
    return torch.from_numpy(rgba)


@pytest.fixture(scope="module")
def cutouts() -> CutOuts:
    return of_pixels(random_pictures(7), side=32)


def bilinear(source: np.ndarray, x: float, y: float) -> np.ndarray:
    """Value at (x, y) in [-1, 1], zero outside: written out from the definition."""
    size = source.shape[-1]
    column, row = (x + 1) * size / 2 - 0.5, (y + 1) * size / 2 - 0.5
    left, top = math.floor(column), math.floor(row)
    total = np.zeros(len(source))
    for r, c in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= r < size and 0 <= c < size:
            total += source[:, r, c] * (1 - abs(row - r)) * (1 - abs(column - c))
    return total


def test_objects_lie_where_the_formula_says(cutouts: CutOuts) -> None:
    ids = torch.tensor([2, 5])
    sizes, places = torch.tensor([0.5, 0.8]), torch.tensor([[0.2, -0.3], [-0.1, 0.15]])
    size = 24
    flips = (2 * torch.rand(2, 11, generator=seeded(3)) - 1)[:, 1].sign()
    drawn = draw_objects(cutouts, ids, sizes, places, size=size, generator=seeded(3), look=PLAIN)
    for index in range(2):
        level = round(math.log2(cutouts.side / (sizes[index].item() * size)))
        source = cutouts.levels[max(level, 0)][ids[index]].numpy() / 255
        for row in range(size):
            for column in range(size):
                x = ((column + 0.5) * 2 / size - 1 - places[index, 0].item()) / sizes[index].item()
                y = ((row + 0.5) * 2 / size - 1 - places[index, 1].item()) / sizes[index].item()
                expected = bilinear(source, flips[index].item() * x, y)
                np.testing.assert_allclose(drawn[index, :, row, column], expected, atol=2e-5)


@pytest.mark.parametrize("look", [NATURAL, STRONG])
def test_layers_stay_premultiplied(cutouts: CutOuts, look: Look) -> None:
    sizes, places = torch.full((7,), 0.6), torch.zeros(7, 2)
    layers = draw_objects(cutouts, cutouts.ids, sizes, places, size=32, generator=seeded(), look=look)
    assert (layers >= 0).all()
    assert (layers[:, :3] <= layers[:, 3:] + 1e-6).all()
    assert (layers[:, 3] <= 1 + 1e-6).all()


def test_stacking_against_a_loop_over_pixels() -> None:
    present = torch.tensor([[True, True, True], [True, False, False], [True, True, False], [False, False, False]])
    alpha = torch.rand(int(present.sum()), 1, 5, 6, generator=seeded(1))
    layers = torch.cat([alpha * torch.rand(len(alpha), 3, 5, 6, generator=seeded(2)), alpha], dim=1)
    ground = torch.rand(4, 3, 5, 6, generator=seeded(3))
    image, label = stack(ground.clone(), layers, present)
    next_layer = 0
    for scene in range(4):
        mine = list(range(next_layer, next_layer + int(present[scene].sum())))
        next_layer += len(mine)
        for row in range(5):
            for column in range(6):
                colour, owner = ground[scene, :, row, column], 0
                for slot, layer in enumerate(mine):
                    a = layers[layer, 3, row, column]
                    colour = layers[layer, :3, row, column] + (1 - a) * colour
                    owner = slot + 1 if a > 0.5 else owner
                torch.testing.assert_close(image[scene, :, row, column], colour)
                assert label[scene, row, column] == owner


def test_areas_and_centres_are_counted_on_the_label_map(cutouts: CutOuts) -> None:
    counts = torch.tensor([1, 2, 3] * 6)
    scenes = compose(cutouts, choose(cutouts.ids, counts, generator=seeded()), size=32, generator=seeded(1))
    for scene in range(len(counts)):
        for slot in range(3):
            rows, columns = (scenes.label[scene] == slot + 1).nonzero(as_tuple=True)
            assert scenes.areas[scene, slot] == len(rows)
            if len(rows):
                middle = torch.stack([columns.float().mean() + 0.5, rows.float().mean() + 0.5]) / 32
                torch.testing.assert_close(scenes.centres[scene, slot], middle)
            else:
                assert scenes.centres[scene, slot].isnan().all()
            if slot >= counts[scene]:
                assert scenes.areas[scene, slot] == 0
                assert scenes.pictures[scene, slot] == -1


def test_a_lone_object_is_as_large_as_asked(cutouts: CutOuts) -> None:
    sizes, places = torch.tensor([0.5]), torch.zeros(1, 2)
    layer = draw_objects(cutouts, torch.tensor([0]), sizes, places, size=64, generator=seeded(), look=PLAIN)
    rows, columns = (layer[0, 3] > 0.5).nonzero(as_tuple=True)
    longest = max(rows.max() - rows.min(), columns.max() - columns.min()).item() + 1
    assert abs(longest - 32) <= 2


def test_later_objects_cover_earlier_ones() -> None:
    square = torch.full((2, 16, 16, 4), 255, dtype=torch.uint8)
    square[0, :, :, :3], square[1, :, :, :3] = 50, 200
    both = of_pixels(square, side=16)
    layers = draw_objects(
        both, torch.tensor([0, 1]), torch.tensor([0.8, 0.4]), torch.zeros(2, 2), size=20, generator=seeded(), look=PLAIN
    )
    image, label = stack(torch.zeros(1, 3, 20, 20), layers, torch.tensor([[True, True, False]]))
    areas, _ = measure(label)
    assert areas.tolist() == [[16 * 16 - 8 * 8, 8 * 8, 0]]
    torch.testing.assert_close(image[0, :, 10, 10], torch.full((3,), 200 / 255))
    torch.testing.assert_close(image[0, :, 4, 4], torch.full((3,), 50 / 255))


def test_same_seed_same_scene_and_other_seed_other_scene(cutouts: CutOuts) -> None:
    pictures = choose(cutouts.ids, torch.tensor([1, 2, 3]), generator=seeded())
    once, again, other = (compose(cutouts, pictures, size=32, generator=seeded(s), look=STRONG) for s in (4, 4, 5))
    assert torch.equal(once.image, again.image)
    assert torch.equal(once.label, again.label)
    assert not torch.equal(once.image, other.image)


@pytest.mark.parametrize("look", [NATURAL, STRONG, PLAIN])
def test_scenes_with_removals_are_the_scenes_to_the_bit(cutouts: CutOuts, look: Look) -> None:
    pictures = choose(cutouts.ids, torch.tensor([1, 2, 3, 3]), generator=seeded())
    once = compose(cutouts, pictures, size=32, generator=seeded(4), look=look)
    again = compose_with_removals(cutouts, pictures, size=32, generator=seeded(4), look=look)
    for field in ("image", "label", "pictures", "areas"):
        assert torch.equal(getattr(once, field), getattr(again, field)), field
    assert once.without is None
    assert again.without is not None
    assert torch.equal(again.without[0, 1], again.image[0]), "there is no second object to leave out"


def test_a_scene_without_an_object_equals_it_outside_of_the_object(cutouts: CutOuts) -> None:
    pictures = choose(cutouts.ids, torch.tensor([1, 2, 3] * 8), generator=seeded(1))
    scenes = compose_with_removals(cutouts, pictures, size=32, generator=seeded(5))
    _, layers, present = _parts(cutouts, pictures, size=32, generator=seeded(5), look=NATURAL)
    assert scenes.without is not None
    for layer, (scene, slot) in zip(layers, present.nonzero().tolist(), strict=True):
        differs = (scenes.without[scene, slot] != scenes.image[scene]).any(dim=0)
        near = torch.nn.functional.max_pool2d((layer[3:4] > 0).float()[None], 3, stride=1, padding=1)[0, 0] > 0
        assert not (differs & ~near).any(), "blur reaches one pixel; background, other objects and noise are the same"
        assert differs[scenes.label[scene] == slot + 1].float().mean() > 0.95


def test_a_scene_without_an_object_against_a_loop_over_pixels(cutouts: CutOuts) -> None:
    pictures = choose(cutouts.ids, torch.tensor([3, 2]), generator=seeded(2))
    scenes = compose_with_removals(cutouts, pictures, size=12, generator=seeded(6), look=PLAIN)
    ground, layers, present = _parts(cutouts, pictures, size=12, generator=seeded(6), look=PLAIN)
    assert scenes.without is not None
    places = present.nonzero().tolist()
    for scene, slot in places:
        others = [layer for layer, place in zip(layers, places, strict=True) if place[0] == scene and place[1] != slot]
        for row in range(12):
            for column in range(12):
                colour = ground[scene, :, row, column]
                for layer in others:
                    colour = layer[:3, row, column] + (1 - layer[3, row, column]) * colour
                torch.testing.assert_close(scenes.without[scene, slot, :, row, column], colour.clamp(0, 1))


def test_images_lie_in_the_unit_interval_and_backgrounds_vary(cutouts: CutOuts) -> None:
    counts = torch.arange(30) % 3 + 1
    scenes = compose(cutouts, choose(cutouts.ids, counts, generator=seeded()), size=32, generator=seeded(), look=STRONG)
    assert scenes.image.shape == (30, 3, 32, 32)
    assert scenes.image.min() >= 0
    assert scenes.image.max() <= 1
    ground = backgrounds(40, size=32, generator=seeded())
    assert ground.min() >= -0.1
    assert ground.max() <= 1.1
    assert ground.flatten(1).std(dim=1).gt(0.01).float().mean() > 0.9


def test_all_sizes_are_used_and_overlap_is_seldom() -> None:
    present = torch.ones(4000, 3, dtype=torch.bool)
    present[:2000, 1:] = False
    sizes, places = arrange(present, generator=seeded())
    assert sizes[:2000, 0].min() < 0.5
    assert sizes[:2000, 0].max() > 0.85
    assert places.abs().max() <= 1
    apart = (places[2000:, 0] - places[2000:, 1]).abs().amax(dim=-1)
    overlapping = (apart < (sizes[2000:, 0] + sizes[2000:, 1]) * 0.9).float().mean()
    assert 0.02 < overlapping < 0.8


def test_the_warp_moves_points_and_grey_takes_colour_away() -> None:
    sizes, places = torch.full((9,), 0.6), torch.zeros(9, 2)
    straight = object_grid(sizes, places, size=16, generator=seeded(), look=PLAIN)
    bent = object_grid(sizes, places, size=16, generator=seeded(), look=Look(**{**vars(PLAIN), "warp": 0.1}))
    assert 0.02 < (straight - bent).abs().max() <= 0.1 + 1e-6
    matrix, offset = colour_change(5, generator=seeded(), look=PLAIN)
    torch.testing.assert_close(matrix, torch.eye(3).expand(5, 3, 3))
    torch.testing.assert_close(offset, torch.zeros(5, 3))
    matrix, _ = colour_change(5, generator=seeded(), look=Look(**{**vars(PLAIN), "grey": 1.0}))
    torch.testing.assert_close(matrix, torch.full((5, 3, 3), 1 / 3))


def test_an_absent_picture_and_a_wrong_shape_are_refused(cutouts: CutOuts) -> None:
    with pytest.raises(ValueError, match=r"\[99\] .* 7 "):
        compose(cutouts, torch.tensor([[99, -1, -1]]), size=16, generator=seeded())
    with pytest.raises(ValueError, match=r"\(1, 2\).*\(scenes, 3\)"):
        compose(cutouts, torch.tensor([[1, -1]]), size=16, generator=seeded())


def write_pictures(folder: Path, pixels: torch.Tensor, splits: list[str], **columns: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "pixels.npy", pixels.numpy())
    with (folder / "pictures.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sha256", "split", *columns])
        for row, split in enumerate(splits):
            sha = hashlib.sha256(pixels[row].numpy().tobytes()).hexdigest()
            writer.writerow([row, sha, split, *(column[row] for column in columns.values())])
    return folder


def test_only_the_splits_asked_for_are_loaded(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path, random_pictures(6), ["train", "held_out_style", "train"] * 2)
    assert load(folder, splits=["train"], side=16).ids.tolist() == [0, 2, 3, 5]
    assert load(folder, splits=["held_out_style"], side=16, ids=[4]).ids.tolist() == [4]
    torch.testing.assert_close(
        load(folder, splits=["train"], side=16).levels[0],
        of_pixels(random_pictures(6), side=16).levels[0][[0, 2, 3, 5]],
    )


def test_loading_refuses_leaks_wrong_hashes_and_wrong_names(tmp_path: Path) -> None:
    pixels = random_pictures(4)
    pixels[3] = pixels[0]
    leaky = write_pictures(tmp_path / "leaky", pixels, ["train", "train", "train", "held_out_drawing"])
    with pytest.raises(ValueError, match="split 'held_out_drawing'"):
        load(leaky, splits=["train"], side=16)
    changed = write_pictures(tmp_path / "changed", random_pictures(2), ["train", "train"])
    np.save(changed / "pixels.npy", random_pictures(2, seed=1).numpy())
    with pytest.raises(ValueError, match=r"picture 0 .*sha256"):
        load(changed, splits=["train"], side=16)
    with pytest.raises(ValueError, match=r"splits \['test'\]"):
        load(changed, splits=["test"], side=16)
    with pytest.raises(ValueError, match=r"no picture .*\['held_out_style'\]"):
        load(changed, splits=["held_out_style"], side=16)
    with pytest.raises(ValueError, match=r"side 40 .* 32\b"):
        of_pixels(random_pictures(1), side=40)


@pytest.mark.parametrize(
    ("noun", "phrase"),
    [("dog", "a dog"), ("apple", "an apple"), ("hourglass", "an hourglass"), ("unicorn", "a unicorn"),
     ("umbrella", "an umbrella"), ("ukulele", "a ukulele"), ("horse", "a horse"), ("ice cream", "an ice cream")],
)  # fmt: skip
def test_articles(noun: str, phrase: str) -> None:
    assert with_article(noun) == phrase


def test_captions_say_what_is_there_and_where() -> None:
    dog, car, egg = (0.2, 0.2), (0.25, 0.8), (0.9, 0.25)
    assert continuation(["dog"], [dog], random=Random(0)) == " a dog."
    pairs = {continuation(["dog", "car"], [dog, car], random=Random(seed)) for seed in range(40)}
    assert pairs == {" a dog and a car.", " a dog above a car."}
    assert " a car below a dog." in {
        continuation(["car", "dog"], [car, dog], random=Random(seed)) for seed in range(40)
    }
    beside = {continuation(["dog", "egg"], [dog, egg], random=Random(seed)) for seed in range(40)}
    assert " a dog next to an egg." in beside
    assert not any("above" in text or "below" in text for text in beside)
    triples = {continuation(["dog", "car", "egg"], [dog, car, egg], random=Random(seed)) for seed in range(80)}
    assert triples == {" a dog, a car and an egg."}
    assert relation((0.5, 0.5), (0.55, 0.55)) is None
    with pytest.raises(ValueError, match=r"1 nouns .*2 centres"):
        continuation(["dog"], [dog, car], random=Random(0))


def test_caption_relations_agree_with_the_label_map(cutouts: CutOuts) -> None:
    pictures = choose(cutouts.ids, torch.full((40,), 2), generator=seeded())
    scenes = compose(cutouts, pictures, size=32, generator=seeded())
    said = 0
    for scene in range(40):
        rows = [(scenes.label[scene] == slot).nonzero()[:, 0].float().mean() for slot in (1, 2)]
        centres = [tuple(point) for point in scenes.centres[scene, :2].tolist()]
        if relation(centres[0], centres[1]) == "above":
            assert rows[0] < rows[1]
            said += 1
    assert said > 3
