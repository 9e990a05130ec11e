"""The explorer's answers on a model of one grid; models without one are refused, and the error names their grids."""

import pytest

pytest.importorskip("fastapi", reason="the explorer needs fastapi: pip install 'lens-multimodal[explore]'")

from fastapi.testclient import TestClient

from lens_multimodal import attach_vision
from lens_multimodal.explorer import create_app
from tests.explorer.conftest import LIMITS, Page, png
from tests.vision_language.conftest import noise
from tests.vision_language.models import build

TEXT = " what is"


def page_of(family, folder):
    model, processor = build(family, folder)
    lens = attach_vision(model, processor=processor)
    return lens, Page(TestClient(create_app(lens, scenes=[], limits=LIMITS), base_url="http://127.0.0.1:8000"))


def test_answers_are_those_of_the_lens(tmp_path):
    lens, page = page_of("llava", tmp_path)
    one, other = (page.upload(png(noise(seed))).json()["id"] for seed in (0, 9))
    seen = page.ask("/api/look", picture=one, text=TEXT)
    assert seen["caption"]["text"] == lens.caption(noise(0), TEXT, max_new_tokens=LIMITS.new_tokens)
    assert (seen["patches"]["grid_h"], seen["patches"]["grid_w"]) == (4, 4)
    prompt = lens.prompt(noise(0), TEXT)
    target = int(lens.logits(prompt)[0, -1].argmax())
    place = {"text": TEXT, "before": [], "target": target}
    why = page.ask("/api/why", picture=one, **place, positions="image", top_k=5)
    found = lens.neurons(prompt, target, top_k=5)
    assert [(n["layer"], n["neuron"]) for n in why["neurons"]] == list(
        zip(found["layer"], found["neuron"], strict=True)
    )
    whole = page.ask("/api/patch", clean=one, corrupted=other, **place, layers=[0], patches=list(range(16)))
    expected = float(lens.logits(prompt)[0, -1].detach().softmax(-1)[target])
    assert whole["word"]["patched"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("family", "named"), [("llava-next", "6 x 8, 4 x 4"), ("blip-2", "none")])
def test_a_model_without_one_grid_is_refused_by_name(family, named, tmp_path):
    _, page = page_of(family, tmp_path)
    picture = page.upload(png(noise(0))).json()["id"]
    response = page.post("/api/look", picture=picture, text=TEXT)
    assert response.status_code == 400
    assert named in response.json()["error"]
