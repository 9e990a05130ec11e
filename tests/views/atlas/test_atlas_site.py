"""The site: every link leads to a page, pages say what the tables say, and nothing is fetched from elsewhere."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from lens_multimodal.atlas import Atlas
from lens_multimodal.data import Scene
from lens_multimodal.views.atlas import write_site
from tests.atlas.atlas_world import atlas_of, world_scenes
from tests.lenses import random_lens

HOSTILE = "</script><img src=x onerror=alert(1)>/../cat"


def with_name(scene: Scene, name: str) -> Scene:
    return replace(scene, objects=tuple(replace(o, category=name) if o.category == "cat" else o for o in scene.objects))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Atlas, list[Scene], Path]:
    home = tmp_path_factory.mktemp("site")
    scenes = [with_name(scene, HOSTILE) for scene in world_scenes(home / "pictures")]
    atlas = atlas_of(random_lens(home), scenes, home / "out", layers=[0, 2])
    return atlas, scenes, write_site(atlas, scenes, home / "site", n_neurons=50, progress=False)


def test_every_link_and_picture_is_there(made):
    _, _, index = made
    pages = [path for path in index.parent.rglob("*.html")]
    assert len(pages) == 1 + 50 + 2 + len(set(made[0].neurons["layer"]))
    for page in pages:
        text = page.read_text()
        for target in re.findall(r'(?:href|src)="([^"]+)"', text):
            assert "//" not in target
            assert (page.parent / unquote(target)).is_file(), (page, target)


def test_names_cannot_become_markup(made):
    _, _, index = made
    for page in index.parent.rglob("*.html"):
        assert "<img src=x" not in page.read_text()
    assert html.escape(HOSTILE, quote=False) in index.read_text()


def test_the_best_neurons_have_pages_that_say_what_the_tables_say(made):
    atlas, _, index = made
    best = atlas.neurons.sort_values("iou", ascending=False).iloc[0]
    page = (index.parent / "neuron" / f"L{best['layer']}N{best['neuron']}.html").read_text()
    assert f"{best['iou']:.3f}" in page
    entry = atlas.neuron(int(best["layer"]), int(best["neuron"]))
    for row in entry.patches.itertuples():
        assert f"../pictures/{row.image_id}.jpg" in page
        assert f"{row.activation:.3g} " in page
    worst = atlas.neurons.sort_values("iou").iloc[0]
    assert not (index.parent / "neuron" / f"L{worst['layer']}N{worst['neuron']}.html").exists()


def test_the_search_knows_every_page(made):
    _, _, index = made
    text = (index.parent / "neurons.js").read_text()
    columns = json.loads(text.removeprefix("const NEURONS = ").rstrip().rstrip(";"))
    pages = {f"L{a}N{b}.html" for a, b in zip(columns["layer"], columns["neuron"], strict=True)}
    assert pages == {path.name for path in (index.parent / "neuron").iterdir()}


def test_the_outlined_patch_is_the_one_of_the_table(made):
    """Patches of a squashed picture are a third of its sides."""
    atlas, _, index = made
    entry = atlas.neuron(*map(int, atlas.neurons.sort_values("iou", ascending=False).iloc[0][["layer", "neuron"]]))
    page = (index.parent / "neuron" / f"L{entry.layer}N{entry.neuron}.html").read_text()
    styles = re.findall(r'class="cell" style="[^"]*left:([\d.]+)%;top:([\d.]+)%', page)
    for (left, top), row in zip(styles, entry.patches.itertuples(), strict=True):
        assert float(left) == pytest.approx(100 * row.patch_col / 3, abs=0.1)
        assert float(top) == pytest.approx(100 * row.patch_row / 3, abs=0.1)


def test_refusals_and_replacement(made, tmp_path):
    atlas, scenes, index = made
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="other files"):
        write_site(atlas, scenes, tmp_path, progress=False)
    with pytest.raises(ValueError, match="not among"):
        write_site(atlas, scenes[:2], tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()
    before = index.read_bytes()
    write_site(atlas, scenes, index.parent, n_neurons=50, progress=False)
    assert index.read_bytes() == before


def test_without_concepts(tmp_path):
    scenes = [replace(scene, objects=()) for scene in world_scenes(tmp_path / "pictures", 4)]
    atlas = atlas_of(random_lens(tmp_path), scenes, tmp_path / "out", layers=[1])
    index = write_site(atlas, scenes, tmp_path / "site", progress=False)
    assert len(list((index.parent / "neuron").iterdir())) == 40
    assert "Concepts" not in index.read_text()
