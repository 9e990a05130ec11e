"""Each answer against the library asked directly."""

import math
from io import BytesIO

import pytest
import torch
from PIL import Image

from lens_multimodal import transformer
from lens_multimodal.hooks import ablate, scale
from lens_multimodal.prompt.assembling import assemble
from tests.explorer.conftest import LIMITS, TEXT, in_format, png
from tests.lenses import picture

CLOSE = {"rel": 1e-4, "abs": 1e-7}


def probability(lens, prompt, token: int, hooks=()) -> float:
    with torch.no_grad(), transformer.fired_hooks(lens.model, list(hooks)):
        return float(lens.logits(prompt)[0, -1].softmax(-1)[token])


def prompt_at(lens, picture, place):
    """The picture, the text and the caption's tokens before the word, put together from their parts."""
    pieces = [lens.embed([picture])[0], lens.text.encode(place["text"]) + place["before"]]
    return assemble([pieces], pad_id=0, device=torch.device("cpu"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_uploaded_picture_is_captioned_as_by_the_library(page, lens, kind):
    data = in_format(picture(3), kind)
    seen = page.ask("/api/look", picture=page.upload(data, f"image/{kind.lower()}").json()["id"], text=TEXT)
    expected = lens.caption(Image.open(BytesIO(data)), TEXT, max_new_tokens=LIMITS.new_tokens)
    assert seen["caption"]["text"] == expected
    assert seen["unfamiliar"] is False, "nothing is known of this encoder's training"
    [grid] = seen["positions"]["grids"]
    assert (grid["grid_h"], grid["grid_w"], grid["indices"]) == (3, 3, list(range(9)))
    assert seen["positions"]["names"][5] == "row 1, column 2"
    assert sum(width * height for _, _, width, height in seen["positions"]["boxes"]) == pytest.approx(1)


@pytest.mark.parametrize("text", ["", "a", "\N{SNOWMAN} <|endoftext|>"])
def test_any_text_may_follow_the_picture(page, lens, two, text):
    seen = page.ask("/api/look", picture=two[1], text=text)
    assert seen["caption"]["text"] == lens.caption(picture(1), text, max_new_tokens=LIMITS.new_tokens)


def test_a_sample_is_captioned_and_shown(page, lens, scenes):
    [first, *others] = page.client.get("/api/samples").json()
    assert len(others) == len(scenes) - 1
    assert (first["id"], first["label"]) == (f"sample-{scenes[0].id}", ", ".join(scenes[0].categories))
    seen = page.ask("/api/look", picture=first["id"], text=TEXT)
    assert seen["caption"]["text"] == lens.caption(scenes[0].open(), TEXT, max_new_tokens=LIMITS.new_tokens)
    shown = page.client.get(f"/api/pictures/{first['id']}")
    assert shown.headers["content-type"] == "image/png"


def test_each_word_has_the_probability_with_which_it_was_chosen(page, lens, two):
    words = page.ask("/api/look", picture=two[0], text=TEXT)["caption"]["words"]
    assert words
    for index, word in enumerate(words):
        place = page.place(two[0], index)
        expected = probability(lens, prompt_at(lens, picture(0), place), word["token_id"])
        assert word["probability"] == pytest.approx(expected, **CLOSE)


@pytest.mark.parametrize("positions", ["image", "last"])
def test_the_neurons_behind_a_word_are_those_of_the_library(page, lens, two, positions):
    place = page.place(two[0], 1)
    why = page.ask("/api/why", picture=two[0], **place, positions=positions, top_k=12)
    prompt = prompt_at(lens, picture(0), place)
    expected = lens.neurons(prompt, place["target"], positions=positions, top_k=12)
    assert [(n["layer"], n["neuron"]) for n in why["neurons"]] == list(
        zip(expected["layer"], expected["neuron"], strict=True)
    )
    assert [n["attribution"] for n in why["neurons"]] == pytest.approx(expected["attribution"].tolist(), **CLOSE)
    assert [tuple(n["tokens"]) for n in why["neurons"]] == expected["tokens"].tolist()
    cells = [(-1, -1) if n["index"] is None else divmod(n["index"], 3) for n in why["neurons"]]
    assert cells == list(zip(expected["row"], expected["col"], strict=True))
    with torch.no_grad():
        _, cache = lens.model.run_with_cache(prompt.tokens)
    for neuron in why["neurons"]:
        active = cache[transformer.mlp_post(neuron["layer"])][0, prompt.image_pos[0], neuron["neuron"]]
        assert neuron["activations"] == pytest.approx(active.tolist(), rel=1e-4, abs=1e-5)
        assert neuron["field"].startswith("data:image/jpeg;base64,")
    assert why["likeliest"][0]["token_id"] == place["target"], "a greedy word is the likeliest"


@pytest.mark.parametrize("positions", ["image", "last"])
def test_ablation_and_scaling_change_the_word_as_the_library_does(page, lens, two, positions):
    place = page.place(two[0], 0)
    neurons = [(0, 3), (1, 7), (1, 8), (2, 30)]
    factors = [0.0, 0.0, 2.5, 0.0]
    asked = [{"layer": a, "neuron": b, "factor": f} for (a, b), f in zip(neurons, factors, strict=True)]
    changed = page.ask("/api/change", picture=two[0], **place, positions=positions, neurons=asked)
    prompt = prompt_at(lens, picture(0), place)
    at = prompt.image_pos[0] if positions == "image" else slice(prompt.last_pos, None)
    hooks = ablate(lens.model, [neurons[0], neurons[1], neurons[3]], positions=at)
    hooks += scale(lens.model, [neurons[2]], factor=2.5, positions=at)
    before, after = (probability(lens, prompt, place["target"], h) for h in ([], hooks))
    assert changed["before"]["probability"] == pytest.approx(before, **CLOSE)
    assert changed["after"]["probability"] == pytest.approx(after, **CLOSE)
    assert abs(after - before) > 1e-6, "these neurons matter"
    assert changed["random"]["probability"] != changed["after"]["probability"]
    with lens.model.hooks(fwd_hooks=hooks):
        [caption] = lens.generate(lens.prompt(picture(0), TEXT), max_new_tokens=LIMITS.new_tokens)
    assert changed["caption"]["text"] == caption


@pytest.mark.parametrize("neurons", [[], [{"layer": 1, "neuron": 4, "factor": 1.0}]])
def test_no_neurons_or_a_factor_of_one_change_nothing(page, two, neurons):
    caption = page.ask("/api/look", picture=two[0], text=TEXT)["caption"]
    changed = page.ask("/api/change", picture=two[0], **page.place(two[0], 0), neurons=neurons)
    assert changed["caption"]["text"] == caption["text"]
    found, expected = ([word["probability"] for word in said["words"]] for said in (changed["caption"], caption))
    assert found == pytest.approx(expected, rel=1e-5)  # without hooks, a pass runs through bare modules
    assert changed["after"] == changed["before"]
    assert changed["random"] is None


def test_no_random_control_where_a_layer_has_too_few_other_neurons(page, lens, two):
    most = lens.shape.d_mlp // 2 + 1
    asked = [{"layer": 0, "neuron": i, "factor": 0.0} for i in range(most)]
    assert page.ask("/api/change", picture=two[0], **page.place(two[0], 0), neurons=asked)["random"] is None


def test_patching_every_image_patch_gives_the_run_on_the_other_picture(page, two):
    clean, corrupted = two
    place = page.place(clean, 1)
    everything = {"layers": [0], "patches": list(range(9))}
    patched = page.ask("/api/patch", clean=clean, corrupted=corrupted, **place, **everything)
    word = patched["word"]
    assert word["patched"] == pytest.approx(word["clean"], **CLOSE)
    assert abs(word["clean"] - word["corrupted"]) > 1e-4, "the pictures differ"
    assert patched["caption"]["text"] == page.ask("/api/look", picture=clean, text=TEXT)["caption"]["text"]


def test_patching_a_picture_into_itself_changes_nothing(page, two):
    place = page.place(two[0], 0)
    patched = page.ask("/api/patch", clean=two[0], corrupted=two[0], **place, layers=[0, 1, 2], patches=[0, 4, 8])
    assert patched["word"]["patched"] == pytest.approx(patched["word"]["corrupted"], **CLOSE)
    assert patched["caption"]["text"] == page.ask("/api/look", picture=two[0], text=TEXT)["caption"]["text"]


def test_a_sweep_agrees_with_patching_each_image_patch_alone(page, two):
    clean, corrupted = two
    place = page.place(clean, 0)
    question = {"clean": clean, "corrupted": corrupted, **place}
    swept = page.ask("/api/sweep", **question, layer=1)
    for patch in range(9):
        one = page.ask("/api/patch", **question, layers=[1], patches=[patch])
        word, other = one["word"], one["other"]
        # Log-probabilities differ by what logits differ by.
        after, before = (math.log(word[run] / other[run]) for run in ("patched", "corrupted"))
        if word["token_id"] != other["token_id"]:
            assert swept["effect"][patch] == pytest.approx(after - before, abs=1e-3)
            assert swept["corrupted"] == pytest.approx(before, abs=1e-3)
    assert max(map(abs, swept["effect"])) > 1e-4


def test_the_oldest_uploads_are_dropped_with_their_vectors(page, lens):
    held = len(lens.virtual_tokens)
    names = [page.upload(png(picture(seed))).json()["id"] for seed in range(LIMITS.uploads_held + 2)]
    assert len(lens.virtual_tokens) == held + LIMITS.uploads_held
    assert page.post("/api/look", picture=names[0], text=TEXT).status_code == 404
    assert page.ask("/api/look", picture=names[-1], text=TEXT)
    assert "upload the picture again" in page.post("/api/look", picture=names[0], text=TEXT).json()["error"]


def test_what_the_page_says_of_the_lens(page, lens):
    about = page.client.get("/api/about").json()
    assert (about["n_layers"], about["d_mlp"]) == (lens.shape.n_layers, lens.shape.d_mlp)
    assert "3 x 3 image patches" in about["vision"]
    assert about["upload_bytes"] == LIMITS.upload_bytes
