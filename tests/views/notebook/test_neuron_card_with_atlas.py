"""A card shows what an atlas says of its neuron, and refuses an atlas of another lens."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lens_multimodal import VisionLens
from lens_multimodal.atlas import Atlas
from lens_multimodal.data import Scene
from lens_multimodal.image.geometry import ImageGeometry
from lens_multimodal.views.atlas import write_site
from tests.atlas.atlas_world import atlas_of, world_scenes
from tests.lenses import random_lens
from tests.views.notebook.html_reader import assert_self_contained, read


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[VisionLens, list[Scene], Path]:
    home = tmp_path_factory.mktemp("atlas")
    lens = random_lens(home)
    scenes = world_scenes(home / "pictures")
    atlas = atlas_of(lens, scenes, home / "out", layers=[1])
    write_site(atlas, scenes, n_neurons=10, progress=False)
    return lens, scenes, atlas.folder


def shown(lens: VisionLens, scenes: list[Scene], neuron: int, atlas: Atlas | Path | str | None):
    return lens.show((1, neuron), pictures=[scenes[0].open()], atlas=atlas)


def test_the_card_says_what_the_tables_say(made):
    lens, scenes, folder = made
    atlas = Atlas(folder)
    best = int(atlas.neurons.sort_values("iou", ascending=False).iloc[0]["neuron"])
    card = shown(lens, scenes, best, str(folder))
    html = card._repr_html_()
    assert_self_contained(html)
    text = read(html).whole_text
    facts = card.atlas.facts
    assert f"atlas of {len(scenes)} pictures" in text
    assert f"{facts['iou']:.3f}" in text
    assert f"p = {facts['p']:.4f}" in text
    assert facts["category"] in text
    for picture in card.atlas.pictures:
        assert f"{picture.activation:.3g} " in text
        assert picture.file in text
    assert [link.attributes["href"] for link in read(html).all("a")] == [
        (folder / "site" / "neuron" / f"L1N{best}.html").resolve().as_uri()
    ]


def test_pictures_and_patches_are_those_that_drive_it(made):
    lens, scenes, folder = made
    by_id = {scene.id: scene for scene in scenes}
    atlas = Atlas(folder)
    best = int(atlas.neurons.sort_values("iou", ascending=False).iloc[0]["neuron"])
    card = shown(lens, scenes, best, atlas)
    for picture, row in zip(card.atlas.pictures, card.atlas.patches.itertuples(), strict=True):
        scene = by_id[picture.image_id]
        assert (picture.width, picture.height) == (scene.width, scene.height)
        geometry = lens.vision.geometry(scene.width, scene.height)
        assert isinstance(geometry, ImageGeometry)
        assert picture.patch == geometry.patch_box(row.patch_row, row.patch_col)
        prompt = lens.prompt(scene.open())
        with torch.no_grad():
            _, cache = lens.model.run_with_cache(prompt.tokens)
        activation = cache["blocks.1.mlp.hook_post"][0, prompt.image_pos[0], best]
        assert float(activation.max()) == pytest.approx(picture.activation, rel=1e-4, abs=1e-5)
        assert int(activation.argmax()) == row.patch_row * lens.vision.grid_w + row.patch_col
        lens.forget(prompt)
    first = re.findall(r'src="data:image/jpeg;base64,([^"]+)" alt="([^"]+\.png)"', card._repr_html_())[0]
    assert first[1] == card.atlas.pictures[0].file
    embedded = np.asarray(Image.open(io.BytesIO(base64.b64decode(first[0]))).resize((30, 20)), dtype=float)
    far = {scene.id: np.abs(embedded - np.asarray(scene.open().resize((30, 20)))).mean() for scene in scenes}
    assert min(far, key=far.get) == card.atlas.pictures[0].image_id


def test_a_neuron_without_a_page_and_an_atlas_without_a_site(made, tmp_path):
    lens, scenes, folder = made
    worst = int(Atlas(folder).neurons.sort_values("iou").iloc[0]["neuron"])
    card = shown(lens, scenes, worst, folder)
    assert card.atlas.page is None
    assert not read(card._repr_html_()).all("a")
    bare = atlas_of(lens, scenes[:4], tmp_path / "out", layers=[1])
    card = shown(lens, scenes, worst, bare)
    assert all(picture.small is None for picture in card.atlas.pictures)
    assert card.atlas.pictures[0].file in read(card._repr_html_()).whole_text
    assert shown(lens, scenes, worst, None).atlas is None


def test_refusals(made, tmp_path):
    lens, scenes, folder = made
    atlas = Atlas(folder)
    with pytest.raises(ValueError, match=r"show\(neuron=.*layers \[1\]"):
        lens.show((0, 3), pictures=[scenes[0].open()], atlas=atlas)
    with pytest.raises(FileNotFoundError, match="manifest"):
        shown(lens, scenes, 3, tmp_path)
    with pytest.raises(TypeError):
        lens.show((1, 3), atlas=3)
    weight = next(lens.vision.parameters())
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.view(-1)[0] += 1
    try:
        with pytest.raises(ValueError, match=r"show\(atlas=.*vision"):
            shown(lens, scenes, 3, folder)
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert shown(lens, scenes, 3, folder).atlas is not None
    kind = "hooked" if type(lens.model).__name__ == "HookedTransformer" else "bridge"
    with pytest.raises(ValueError, match=r"language|class"):
        shown(random_lens(tmp_path, kind=kind, seed=1), scenes, 3, folder)
