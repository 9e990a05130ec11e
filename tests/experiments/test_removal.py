"""Removal of an object: exact if the data set has the scene without it, else by a mean vector; the table says which."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from lens_multimodal.data import Scene, read_coco
from lens_multimodal.experiments.follow_ups import FollowUps, FollowUpsSettings
from lens_multimodal.experiments.follow_ups import object_removal as removal
from lens_multimodal.experiments.shared.context import Context, UnreadablePicture
from lens_multimodal.experiments.shared.picture_state import PictureSettings
from lens_multimodal.experiments.shared.summaries import Summary
from lens_multimodal.experiments.stream import stream
from lens_multimodal.tiny import scenes_folder
from tests.experiments.planted import CELL, World, make_world, plain_trio
from tests.experiments.stream_world import Probe, ProbeSettings, make_scenes
from tests.lenses import random_lens

SETTINGS = FollowUpsSettings(covered=0.5, mean_over=6)
GREY, RED, BLUE = (128, 128, 128), (255, 0, 0), (0, 0, 255)


def square(picture: Image.Image, row: int, col: int, colour: tuple[int, int, int]) -> Image.Image:
    picture = picture.copy()
    corner = (col * CELL, row * CELL, (col + 1) * CELL - 1, (row + 1) * CELL - 1)
    ImageDraw.Draw(picture).rectangle(corner, fill=colour)
    return picture


def composed(like: World, folder: Path) -> Scene:
    """A red dog and a blue cat on grey, and the two pictures that lack one of them."""
    (folder / "images").mkdir(parents=True)
    (folder / "without").mkdir()
    empty = Image.new("RGB", (3 * CELL, 3 * CELL), GREY)
    dog, cat = square(empty, 1, 1, RED), square(empty, 0, 2, BLUE)
    square(dog, 0, 2, BLUE).save(folder / "images" / "both.png")
    cat.save(folder / "without" / "1.png")
    dog.save(folder / "without" / "2.png")
    things = tuple(
        replace(like.scenes[index].objects[0], id=index + 1, extra={"without": f"without/{index + 1}.png"})
        for index in (0, 1)
    )
    return replace(like.scenes[0], id=99, path=folder / "images" / "both.png", folder=folder, objects=things)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    made = make_world(tmp_path_factory.mktemp("world"))
    scene = composed(made, tmp_path_factory.mktemp("composed"))
    return World(lens=made.lens, plain=made.plain, scenes=[scene, *made.scenes])


def test_exact_removal_shows_the_model_the_scene_without_the_object(world):
    plain, picture = plain_trio(world), world.picture(0)
    assert picture.nouns[0].name == "dog"
    noun, folder = picture.nouns[0], picture.scene.path.parents[1]
    table = FollowUps().rows(world.context(picture, SETTINGS))["regions"].set_index("condition")
    assert {removal.EXACT, removal.EXACT_CONTROL, removal.REPLACED, removal.REPLACED_CONTROL} <= set(table.index)
    ids = picture.tokens[0, 9 : noun.read_pos + 1].tolist()
    own = set(zip(picture.top[0]["layer"], picture.top[0]["neuron"], strict=True))
    whole = plain.activations(plain.embeds(plain.vectors(picture.scene.path), ids))
    for name, file in ((removal.EXACT, "1.png"), (removal.EXACT_CONTROL, "2.png")):
        vectors = plain.vectors(folder / "without" / file)
        expected = plain.probabilities(plain.embeds(vectors, ids))[noun.read_pos, noun.token]
        assert table.loc[name, "probability"] == pytest.approx(expected, rel=1e-5)
        said = plain.words.decode(plain.caption(vectors, plain.words("A picture of")["input_ids"], 4))
        assert table.loc[name, "caption"] == said.strip()
    falls = (whole - plain.activations(plain.embeds(plain.vectors(folder / "without" / "1.png"), ids)))[:, :9]
    largest = {divmod(int(i), 40) for i in np.argsort(-falls.max(axis=1).ravel(), kind="stable")[:12]}
    assert table.loc[removal.EXACT, "overlap_by_difference"] == pytest.approx(len(largest & own) / 12)
    assert table.loc[removal.EXACT, "probability"] < 0.1 * table.loc["picture", "probability"]
    assert table.loc[removal.EXACT_CONTROL, "probability"] > 0.5


def test_without_such_a_picture_only_the_mean_vector_is_used(world):
    picture = world.picture(1)
    found = FollowUps().rows(world.context(picture, SETTINGS))["regions"]
    assert removal.REPLACED in set(found["condition"])
    assert not {removal.EXACT, removal.EXACT_CONTROL} & set(found["condition"])


def test_several_objects_of_one_category_are_not_removed_exactly(world):
    scene = world.scenes[0]
    twice = replace(scene, objects=(*scene.objects, replace(scene.objects[0], id=3)))
    assert removal.picture_without(scene, "dog") is not None
    assert removal.picture_without(twice, "dog") is None


def test_the_control_lacks_the_object_closest_in_area(world):
    scene = world.scenes[0]
    dog, cat = scene.objects
    far = replace(cat, id=3, category="hat", area=10 * dog.area, extra={"without": "without/absent.png"})
    alone = replace(scene, objects=(dog,))
    chosen = removal.picture_without_another(replace(scene, objects=(dog, far, cat)), "dog")
    assert np.asarray(chosen)[5 * CELL // 2, 5 * CELL // 2].tolist() == list(GREY)
    assert np.asarray(chosen)[3 * CELL // 2, 3 * CELL // 2].tolist() == list(RED)
    assert removal.picture_without_another(alone, "dog") is None


@pytest.mark.parametrize(
    ("named", "said"),
    [("without/7.png", r"without/7\.png"), ("../1.png", r"\.\./1\.png"), ("images/small.png", r"5 x 5.* 48 x 48")],
)
def test_a_picture_that_is_named_and_not_there_or_not_of_this_scene_is_refused(world, tmp_path, named, said):
    folder = tmp_path / "data"
    shutil.copytree(world.scenes[0].path.parents[1], folder)
    Image.new("RGB", (5, 5)).save(folder / "images" / "small.png")
    scene = world.scenes[0]
    dog = replace(scene.objects[0], extra={"without": named})
    with pytest.raises(UnreadablePicture, match=said):
        removal.picture_without(replace(scene, folder=folder, objects=(dog,)), "dog")


def test_a_picture_beside_the_data_set_is_not_found(world, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copytree(world.scenes[0].path.parents[1], tmp_path, dirs_exist_ok=True)
    with pytest.raises(UnreadablePicture, match=r"without/1\.png"):
        removal.picture_without(replace(world.scenes[0], path=folder / "images" / "both.png", folder=folder), "dog")
    with pytest.raises(UnreadablePicture, match=r"Scene\.folder"):
        removal.picture_without(replace(world.scenes[0], folder=None), "dog")


class Unlucky(Probe):
    """Needs a picture that cannot be read, for one scene."""

    def rows(self, context: Context) -> dict[str, pd.DataFrame]:
        if context.picture.scene.id == context.scenes[1].id:
            raise UnreadablePicture("object 3 names 'without/3.png', which is damaged")
        return super().rows(context)


def test_a_run_continues_without_a_scene_whose_other_picture_is_unreadable(tmp_path):
    scenes = make_scenes(tmp_path / "pictures", 3)
    settings = {"picture": PictureSettings(), "probe": ProbeSettings()}
    stream(random_lens(tmp_path), [Unlucky()], scenes, tmp_path / "out", settings=settings, progress=False)
    (error,) = [json.loads(line) for line in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    assert (error["image_id"], error["file"]) == (scenes[1].id, "001.png")
    assert "without/3.png" in error["error"]
    left = pd.read_parquet(tmp_path / "out" / "tables" / "probe.pictures.parquet")["image_id"]
    assert set(left) == {scenes[0].id, scenes[2].id}


def summary_of(**changes: tuple[float, int]) -> Summary:
    """The summary for conditions given as change of the log probability and number of pictures."""
    noise = np.random.default_rng(0).normal(0, 0.05, 12)
    rows = [
        {
            "image_id": i, "noun": "dog", "n_object": 2, "n_positions": 9, "condition": condition,
            "log_probability": -2.0 + change + (noise[i] if condition != "picture" else 0.0), "overlap": 1.0,
            "caption_says_noun": True, "overlap_by_difference": None,
        }
        for condition, (change, n) in {"picture": (0.0, 12), **changes}.items()
        for i in range(n)
    ]  # fmt: skip
    empty = pd.DataFrame({"image_id": []})
    return FollowUps().summarise({"regions": pd.DataFrame(rows), "scores": empty, "neurons": empty}, seed=0)["regions"]


def test_the_verdict_distinguishes_both_ways_of_removal():
    found = summary_of(
        **{
            removal.EXACT: (-1.5, 8),
            removal.EXACT_CONTROL: (0.0, 6),
            removal.REPLACED: (0.0, 12),
            removal.REPLACED_CONTROL: (0.0, 12),
        }
    )
    exact, replaced = found.verdict.split(" Replacing")
    assert exact.startswith("Composing the scene without the object changes the noun's log probability by -1.5")
    assert "matters MORE than its control (n = 6 pictures)" in exact
    assert "is NOT established (n = 12 pictures)" in replaced
    assert found.conclusion.answer == "yes", "the exact removal answers the claim"
    assert found.conclusion.compared["compared"].tolist() == [removal.EXACT, removal.EXACT_CONTROL]
    assert "8 of 12 pictures" in found.caption


def test_the_verdict_of_a_data_set_without_such_scenes_names_only_the_mean_vector():
    found = summary_of(**{removal.REPLACED: (0.7, 12), removal.REPLACED_CONTROL: (-0.7, 12)})
    assert found.verdict.startswith("Replacing the object's patches by the mean vector changes")
    assert "matters LESS than its control" in found.verdict
    assert found.conclusion.answer == "no, the opposite"
    assert "nothing here is removed exactly" in found.caption


def test_every_object_of_the_shipped_scenes_has_its_scene_without_it():
    """Pixels are saved as JPEG in blocks of 16: away from those that the object touches, nothing may differ."""
    folder = scenes_folder()
    scenes = read_coco(folder)
    files = {path.name for path in (folder / "without").iterdir()}
    assert files == {f"{thing.id}.jpg" for scene in scenes for thing in scene.objects}
    exact = []
    for scene in scenes[::4]:
        whole = np.asarray(scene.open()).astype(int)
        for thing in scene.objects:
            with Image.open(folder / thing.extra["without"]) as file:
                differs = np.abs(np.asarray(file.convert("RGB")).astype(int) - whole).max(axis=2)
            away = ~touched_blocks(thing.seg_mask)
            assert (differs[thing.seg_mask] > 0).mean() > 0.9
            assert not away.any() or differs[away].mean() < 8
            exact.append(not differs[away].any())
    assert np.mean(exact) > 0.85, "only soft shadows reach further"


def touched_blocks(mask: np.ndarray) -> np.ndarray:
    """Blocks of 16 x 16 pixels within two pixels of the object, and the pixel beside them."""
    block = grown(mask, 2).reshape(mask.shape[0] // 16, 16, -1, 16).any(axis=(1, 3))
    return grown(block.repeat(16, axis=0).repeat(16, axis=1), 1)


def grown(mask: np.ndarray, by: int) -> np.ndarray:
    wide = np.pad(mask, by)
    moves = [(down, across) for down in range(-by, by + 1) for across in range(-by, by + 1)]
    return np.logical_or.reduce([np.roll(wide, move, axis=(0, 1)) for move in moves])[by:-by, by:-by]
