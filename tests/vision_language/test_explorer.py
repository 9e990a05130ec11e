"""The explorer's answers on models of one grid and on models that cut tiles; what shows no place is refused."""

import pytest

pytest.importorskip("fastapi", reason="the explorer needs fastapi: pip install 'lens-multimodal[explore]'")

import torch
from fastapi.testclient import TestClient

from lens_multimodal import attach_vision
from lens_multimodal.explorer import create_app
from lens_multimodal.hooks import patch_resid_pre, record
from tests.explorer.conftest import LIMITS, Page, png
from tests.vision_language.conftest import AYA_NEEDS, noise, wrong_here
from tests.vision_language.models import build

pytestmark = pytest.mark.newest

TEXT = " what is"
TILES = ["llava-next", "llava-onevision", "internvl", "idefics3", "smolvlm", "mistral3", "aya", "llama-4", "qwen2.5-vl"]


def page_of(family, folder):
    if wrong_here(family):
        pytest.skip(AYA_NEEDS)
    model, processor = build(family, folder)
    lens = attach_vision(model, processor=processor)
    return lens, Page(TestClient(create_app(lens, scenes=[], limits=LIMITS), base_url="http://127.0.0.1:8000"))


@pytest.fixture(scope="module", params=["llava", *TILES])
def opened(request, tmp_path_factory):
    """A lens and its page, with two pictures of one shape and one of another."""
    lens, page = page_of(request.param, tmp_path_factory.mktemp(request.param))
    pictures = [noise(0), noise(9), noise(5, width=60, height=96)]
    return lens, page, pictures, [page.upload(png(own)).json()["id"] for own in pictures]


def target_of(lens, prompt):
    return int(lens.logits(prompt)[0, -1].argmax())


def test_a_picture_comes_with_what_each_position_shows(opened):
    lens, page, pictures, names = opened
    for picture, name in zip(pictures, names, strict=True):
        seen = page.ask("/api/look", picture=name, text=TEXT)
        assert seen["caption"]["text"] == lens.caption(picture, TEXT, max_new_tokens=LIMITS.new_tokens)
        [image] = lens.embed([picture])
        positions = seen["positions"]
        assert len(positions["boxes"]) == len(positions["names"]) == len(image)
        grids = [(g["grid_h"], g["grid_w"], tuple(g["indices"])) for g in positions["grids"]]
        assert grids == [(g.grid_h, g.grid_w, g.indices) for g in image.layout.grids]
        for index, (found, said) in enumerate(zip(positions["boxes"], positions["names"], strict=True)):
            place, box = image.layout.place(index), image.layout.box(index)
            if place is None:
                assert (found, said) == (None, "no part of the picture")
                continue
            assert said.startswith("row {}, column {}".format(*place[1:]))
            assert (found is None) == (box is None) == ("padding" in said)
            if box is not None:
                width, height = picture.size
                own = (
                    box.left / width,
                    box.top / height,
                    (box.right - box.left) / width,
                    (box.bottom - box.top) / height,
                )
                assert found == pytest.approx(own)


def test_neurons_name_the_position_where_they_are_strongest(opened):
    lens, page, (picture, *_), (name, *_) = opened
    prompt = lens.prompt(picture, TEXT)
    place = {"text": TEXT, "before": [], "target": target_of(lens, prompt)}
    (span,) = prompt.spans[0]
    for positions, is_image in (("image", True), ("last", False)):
        found = lens.neurons(prompt, place["target"], positions=positions, top_k=30)
        neurons = page.ask("/api/why", picture=name, **place, positions=positions, top_k=30)["neurons"]
        for neuron, row in zip(neurons, found.itertuples(), strict=True):
            assert (neuron["layer"], neuron["neuron"]) == (row.layer, row.neuron)
            assert neuron["index"] == (span.positions.index(row.pos) if is_image else None)
            assert len(neuron["activations"]) == len(span.positions)


def test_patching_copies_any_position_of_pictures_of_one_shape(opened):
    """All of them give the other picture's run; one alone what the library's own hook gives."""
    lens, page, (picture, other, _), (one, two, _) = opened
    prompt, receiving = lens.prompt(picture, TEXT), lens.prompt(other, TEXT)
    target = target_of(lens, prompt)
    question = {"clean": one, "corrupted": two, "text": TEXT, "before": [], "target": target}
    (span,) = prompt.spans[0]
    whole = page.ask("/api/patch", **question, layers=[0], patches=list(range(len(span.positions))))
    expected = float(lens.logits(prompt)[0, -1].detach().softmax(-1)[target])
    assert whole["word"]["patched"] == pytest.approx(expected, rel=1e-3)
    swept = page.ask("/api/sweep", **question, layer=1)
    assert len(swept["effect"]) == len(span.positions)
    run = record(lens.model, prompt.tokens, ["blocks.1.hook_resid_pre"])
    with torch.no_grad():
        before = lens.logits(receiving)[0, -1]
        likeliest = int(before.argmax())
        for index in (0, len(span.positions) // 2, len(span.positions) - 1):
            hooks = patch_resid_pre(lens.model, [1], run=run, positions=[span.positions[index]])
            with lens.model.hooks(fwd_hooks=hooks):
                change = lens.logits(receiving)[0, -1] - before
            moved = change[target] - (change[likeliest] if likeliest != target else 0)
            assert swept["effect"][index] == pytest.approx(float(moved), abs=1e-4)


def test_pictures_of_other_grids_do_not_correspond(opened):
    lens, page, pictures, names = opened
    prompt = lens.prompt(pictures[0], TEXT)
    question = {"text": TEXT, "before": [], "target": target_of(lens, prompt), "clean": names[0], "corrupted": names[2]}
    layouts = [lens.embed([pictures[number]])[0].layout for number in (0, 2)]
    asked = [("/api/patch", {"layers": [0], "patches": [0]}), ("/api/sweep", {"layer": 0})]
    for path, further in asked:
        response = page.post(path, **question, **further)
        if layouts[0].shapes == layouts[1].shapes:
            assert response.status_code == 200
            continue
        assert response.status_code == 400
        for named in ("96 x 60", "60 x 96", layouts[0].shapes, layouts[1].shapes):
            assert named in response.json()["error"]


def test_a_picture_larger_than_its_copy_on_the_page(tmp_path):
    """The model read the picture's own size; the page's copy is smaller, and its sides are rounded."""
    lens, page = page_of("qwen2.5-vl", tmp_path)
    picture = noise(0, width=541, height=60)
    name = page.upload(png(picture)).json()["id"]
    seen = page.ask("/api/look", picture=name, text=TEXT)
    assert seen["caption"]["text"] == lens.caption(picture, TEXT, max_new_tokens=LIMITS.new_tokens)
    right = max(left + width for left, _, width, _ in seen["positions"]["boxes"])
    assert right == pytest.approx(1, abs=0.01)


def test_a_model_whose_positions_show_no_place_is_refused(tmp_path):
    _, page = page_of("blip-2", tmp_path)
    picture = page.upload(png(noise(0))).json()["id"]
    response = page.post("/api/look", picture=picture, text=TEXT)
    assert response.status_code == 400
    assert "none" in response.json()["error"]
