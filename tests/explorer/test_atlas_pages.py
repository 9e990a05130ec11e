"""The explorer with an atlas: what neurons are shown with, and which files of the site are served."""

import pytest
from fastapi.testclient import TestClient

from lens_multimodal.atlas import Atlas
from lens_multimodal.explorer import create_app
from tests.explorer.conftest import LIMITS, Page, atlas_with_site
from tests.explorer.test_refusals import TRICKS
from tests.lenses import random_lens


@pytest.fixture(scope="module")
def atlas(lens, tmp_path_factory) -> Atlas:
    home = tmp_path_factory.mktemp("atlas")
    made = atlas_with_site(lens, home, n_neurons=30)
    (home / "out" / "site" / "link.html").symlink_to(home / "out" / "manifest.json")
    (home / "out" / "site" / "notes.txt").write_text("mine")
    return made


@pytest.fixture
def with_atlas(lens, scenes, atlas) -> Page:
    app = create_app(lens, scenes=scenes, limits=LIMITS, atlas=atlas.folder)
    return Page(TestClient(app, base_url="http://127.0.0.1:8000"))


def test_neurons_come_with_what_the_atlas_says(with_atlas, page, atlas):
    picture = with_atlas.client.get("/api/samples").json()[0]["id"]
    place = with_atlas.place(picture, 0)
    found = with_atlas.ask("/api/why", picture=picture, positions="image", top_k=40, **place)["neurons"]
    pages = 0
    for neuron in found:
        if neuron["layer"] == 1:
            assert neuron["atlas"] is None
            continue
        entry = atlas.neuron(neuron["layer"], neuron["neuron"])
        known = neuron["atlas"]
        assert known["category"] == entry.facts["category"]
        assert known["iou"] == pytest.approx(entry.facts["iou"])
        assert known["p"] == pytest.approx(entry.facts["p"])
        if known["page"]:
            pages += 1
            text = with_atlas.client.get(known["page"]).text
            assert f"Layer {entry.layer}, neuron {entry.neuron}" in text
            wanted = [f"/atlas/pictures/{p.image_id}.jpg" for p in entry.pictures[:4]]
            assert known["pictures"] == wanted
            assert with_atlas.client.get(wanted[0]).headers["content-type"] == "image/jpeg"
    assert 0 < pages < len(found)
    assert 1 in {neuron["layer"] for neuron in found}
    bare = page.ask("/api/why", picture=picture, positions="image", top_k=40, **place)["neurons"]
    assert [neuron | {"atlas": None} for neuron in found] == bare
    assert page.client.get("/api/about").json()["atlas"] is None
    assert with_atlas.client.get("/api/about").json()["atlas"] == {"pictures": 9, "index": "/atlas/index.html"}


def test_pages_may_have_styles_but_no_scripts_of_their_own(with_atlas):
    policy = with_atlas.client.get("/atlas/index.html").headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in with_atlas.client.get("/").headers["content-security-policy"]
    other = with_atlas.client.get("/atlas/index.html", headers={"sec-fetch-site": "cross-site"})
    assert other.status_code == 403


OTHERS = ["link.html", "notes.txt", "../manifest.json", "..%2fmanifest.json", "neuron", "neuron/", "", "x%00.html"]


@pytest.mark.parametrize("trick", [*(t for t in TRICKS if t != "index.html"), *OTHERS])
def test_only_files_of_the_site_are_served(with_atlas, trick):
    response = with_atlas.client.get("/atlas/" + trick, follow_redirects=False)
    if response.status_code == 200:
        assert response.content == with_atlas.client.get("/").content, "another spelling of the page itself"
    else:
        assert response.status_code == 404, response.text


def test_without_an_atlas_there_is_none(page):
    assert page.client.get("/atlas/index.html").status_code == 404


def test_an_atlas_of_another_lens_is_refused(tmp_path, atlas, lens):
    kind = "hooked" if type(lens.model).__name__ == "HookedTransformer" else "bridge"
    with pytest.raises(ValueError, match=r"create_app\(atlas="):
        create_app(random_lens(tmp_path, kind=kind, seed=1), atlas=atlas)
    with pytest.raises(FileNotFoundError, match="manifest"):
        create_app(lens, atlas=tmp_path)
