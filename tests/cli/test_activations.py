"""`activations` against the library's own answer."""

import re

import pytest
import torch

from lens_multimodal.data import scenes_in
from lens_multimodal.runs.picture_order import in_order
from lens_multimodal.store import Activations
from lens_multimodal.tiny import scenes_folder

AT = "blocks.2.hook_resid_post"


@pytest.fixture
def photos(tmp_path, pictures):
    folder = tmp_path / "photos"
    folder.mkdir()
    for picture in pictures[:3]:
        (folder / picture.name).write_bytes(picture.read_bytes())
    return folder


def test_stores_a_folder_of_pictures(run, lens, photos, tmp_path):
    out = tmp_path / "out"
    ended = run("activations", "--data", photos, "--at", AT, "--batch-size", 2, "--out", out)
    assert ended.code == 0, ended.err
    store = Activations(out)
    prompt = lens.prompt(sorted(photos.iterdir())[1])
    _, cache = lens.model.run_with_cache(prompt.tokens)
    torch.testing.assert_close(store.of_picture(1), cache[AT][0, prompt.image_pos[0]], rtol=1e-4, atol=1e-4)
    assert re.search(rf"\b{len(store)} rows", ended.out)


def test_object_patches_of_some_pictures_in_half_precision(run, tmp_path):
    wanted = in_order(scenes_in(scenes_folder()), 0)[:5]
    category = wanted[0].categories[0]
    out = tmp_path / "out"
    how = ["--positions", "objects", "--category", category, "--store-dtype", "float16", "--limit", 5]
    ended = run("activations", "--data", scenes_folder(), "--at", AT, *how, "--out", out)
    assert ended.code == 0, ended.err
    store = Activations(out)
    assert set(store.rows["category"]) == {category}
    assert set(store.rows["image_id"]) <= {scene.id for scene in wanted}
    assert store.take([0]).dtype == torch.float16


def test_the_estimate_writes_nothing(run, photos, tmp_path):
    out = tmp_path / "out"
    ended = run("activations", "--data", photos, "--at", AT, "--estimate", "--for-pictures", 118287, "--out", out)
    assert ended.code == 0, ended.err
    assert "118,287 pictures" in ended.out
    assert not out.exists()
