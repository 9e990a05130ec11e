"""Stored rows are those of the plain Hugging Face model at the requested positions, whatever interrupted the run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lens_multimodal.data import Scene, SceneObject
from lens_multimodal.files import SettingsChanged
from lens_multimodal.store import Activations, StoreSettings, estimate_activations
from tests.experiments.stream_world import make_scenes
from tests.forked import assert_finished, killed_until_done, two_forked
from tests.lenses import SQUARE, hugging_face, inputs_embeds, random_lens
from tests.models import MLP_OUT, MODEL_CLASSES
from tests.store.store_world import AT, bytes_of, run_store, store_of


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def scenes(home: Path) -> list[Scene]:
    return make_scenes(home, 23)


@pytest.fixture(scope="module", params=MODEL_CLASSES)
def lens(request, home):
    return random_lens(home / f"lens.{request.param}", kind=request.param)


def plain(prompt, layer: int) -> tuple[Tensor, Tensor]:
    """Neurons of a layer and the residual stream after it, of a prompt of one row, from the bare model."""
    model = hugging_face("gpt-j")
    kept = {}
    block = model.transformer.h[layer]
    hooks = [
        block.get_submodule(MLP_OUT["gpt-j"]).register_forward_pre_hook(lambda _, args: kept.update(post=args[0][0])),
        block.register_forward_hook(lambda _, __, out: kept.update(resid=(out[0] if isinstance(out, tuple) else out))),
    ]
    with torch.no_grad():
        model(inputs_embeds=inputs_embeds(model, prompt))
    for hook in hooks:
        hook.remove()
    return kept["post"], kept["resid"].reshape(-1, kept["resid"].shape[-1])


def test_image_rows_are_those_of_the_plain_model(lens, scenes, tmp_path):
    store = store_of(lens, scenes[:7], tmp_path / "out")
    assert len(store) == 7 * SQUARE.n_patches
    assert store.pictures == tuple(scene.id for scene in scenes[:7])
    assert len(bytes_of(tmp_path / "out")) == 3
    for number in (0, 4, 6):
        prompt = lens.prompt(scenes[number].open())
        post, _ = plain(prompt, 1)
        _, resid = plain(prompt, 2)
        pos = prompt.image_pos[0]
        torch.testing.assert_close(store.of_picture(scenes[number].id, AT[0]), post[pos], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(store.of_picture(scenes[number].id, AT[1]), resid[pos], rtol=1e-4, atol=1e-5)
    rows = store.rows
    assert rows["image_id"].tolist() == [s.id for s in scenes[:7] for _ in range(9)]
    assert list(zip(rows["patch_row"], rows["patch_col"], strict=True))[:9] == [
        (r, c) for r in range(3) for c in range(3)
    ]
    assert set(rows["token"]) == {-1}
    assert rows["category"].isna().all()


def test_words_of_the_caption_are_those_of_the_plain_model(lens, scenes, tmp_path):
    store = store_of(lens, scenes[:5], tmp_path / "out", positions="caption", max_new_tokens=4, text="a picture")
    lengths = set()
    for scene in scenes[:5]:
        prompt = lens.prompt(scene.open(), "a picture")
        with torch.no_grad():
            ids: list[int] = []
            while len(ids) < 4:
                full = prompt.followed_by(ids)
                embeds = inputs_embeds(hugging_face("gpt-j"), full)
                ids.append(int(hugging_face("gpt-j")(inputs_embeds=embeds).logits[0, -1].argmax()))
                if ids[-1] in lens.text.stop_ids:
                    ids.pop()
                    break
        ids = lens.text.first_line(ids)
        lengths.add(len(ids))
        mine = store.rows[store.rows["image_id"] == scene.id]
        assert mine["token"].tolist() == ids
        assert mine["pos"].tolist() == list(range(prompt.last_pos + 1, prompt.last_pos + 1 + len(ids)))
        if ids:
            post, _ = plain(prompt.followed_by(ids), 1)
            found = store.of_picture(scene.id, AT[0])
            torch.testing.assert_close(found, post[prompt.last_pos + 1 :], rtol=1e-4, atol=1e-5)
    assert max(lengths) > 0


def test_text_and_all(lens, scenes, tmp_path):
    everything = store_of(lens, scenes[:3], tmp_path / "all", positions="all")
    words = store_of(lens, scenes[:3], tmp_path / "text", positions="text")
    prompt = lens.prompt(scenes[1].open())
    assert everything.of_picture(scenes[1].id, AT[0]).shape[0] == 9 + len(prompt.text_pos[0])
    own = everything.rows
    is_word = (own["token"] >= 0).to_numpy()
    assert torch.equal(everything.take(np.flatnonzero(is_word), AT[1]), words.take(range(len(words)), AT[1]))
    assert words.rows["token"].tolist()[: len(prompt.text_pos[0])] == prompt.tokens[0, prompt.text_pos[0]].tolist()


def with_cat(scene: Scene) -> Scene:
    """A cat in the lower right quarter besides the dog in the upper left sixth."""
    h, w = scene.height, scene.width
    corner = [w / 2, h / 2, w, h / 2, w, h, w / 2, h]
    cat = SceneObject(
        id=scene.id, category="cat", supercategory="animal", area=1.0, box=(0.0, 0.0, 1.0, 1.0), is_crowd=False,
        height=h, width=w, segmentation=[corner], extra={},
    )  # fmt: skip
    return replace(scene, objects=(*scene.objects, cat))


def test_patches_under_objects(lens, scenes, tmp_path):
    """The squashed picture of 30 x 20 pixels has patches of 10 x 6.67: the cat (15-30, 10-20) covers the lower right
    patch whole, its upper neighbour half, its left neighbour half, the middle a quarter."""
    cats = [with_cat(scene) for scene in scenes[:4]]
    geometry = lens.vision.geometry(30, 20)
    boxes = {(r, c): geometry.patch_box(r, c) for r in range(3) for c in range(3)}

    def share(row, col):
        box = boxes[row, col]
        width = max(0.0, min(box.right, 30) - max(box.left, 15))
        height = max(0.0, min(box.bottom, 20) - max(box.top, 10))
        return width * height / box.area

    expected = [cell for cell in boxes if share(*cell) >= 0.4]
    store = store_of(lens, cats, tmp_path / "out", positions="objects", categories=["cat"], covered=0.4)
    assert 0 < len(expected) < 9
    assert len(store) == 4 * len(expected)
    assert set(store.rows["category"]) == {"cat"}
    assert store.rows["share"].tolist()[: len(expected)] == pytest.approx([share(*c) for c in expected], abs=1e-5)
    cells = list(zip(store.rows["patch_row"], store.rows["patch_col"], strict=True))
    assert cells[: len(expected)] == expected
    whole = store_of(lens, cats, tmp_path / "image")
    at = [row * 3 + col for row, col in expected]
    assert torch.equal(store.of_picture(cats[2].id, AT[0]), whole.of_picture(cats[2].id, AT[0])[at])


def test_every_precision_and_what_it_cannot_hold(lens, scenes, tmp_path):
    exact = store_of(lens, scenes[:2], tmp_path / "32").take(range(18), AT[1])
    for dtype in (torch.bfloat16, torch.float16):
        found = store_of(lens, scenes[:2], tmp_path / str(dtype), dtype=dtype).take(range(18), AT[1])
        assert torch.equal(found, exact.to(dtype))
    huge = float(torch.finfo(torch.float16).max)

    def enlarge(activation, hook):
        return activation * huge

    with lens.model.hooks(fwd_hooks=[(AT[0], enlarge)]), pytest.raises(FloatingPointError, match=AT[0]):
        store_of(lens, scenes[:2], tmp_path / "too large", dtype="float16")


def test_unreadable_pictures_are_named_and_left_out(lens, scenes, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    some = [scenes[0], replace(scenes[1], path=broken), scenes[2]]
    store = store_of(lens, some, tmp_path / "out", batch_size=3)
    assert store.pictures == (scenes[0].id, scenes[2].id)
    assert [failure["image_id"] for failure in store.failed] == [scenes[1].id]
    assert "broken.png" in store.failed[0]["file"]


@pytest.mark.usefixtures("as_users_have_it")
def test_refusals_come_before_anything_is_written(lens, scenes, tmp_path):
    out = tmp_path / "out"
    for error, named, options in (
        (ValueError, "hook_nothing", {"at": "blocks.0.hook_nothing"}),
        (ValueError, "hook_pattern", {"at": "blocks.0.attn.hook_pattern"}),
        (ValueError, "patches", {"positions": "patches"}),
        (ValueError, "zebra", {"positions": "objects", "categories": ["zebra"]}),
        (ValueError, "float8", {"dtype": "float8"}),
        (ValueError, "0", {"batch_size": 0}),
    ):
        with pytest.raises(error, match=named):
            store_of(lens, scenes[:3], out, **options)
    with pytest.raises(ValueError, match="scenes"):
        store_of(lens, [], out)
    with pytest.raises(ValueError, match="id"):
        store_of(lens, [scenes[0], scenes[0]], out)
    assert not out.exists()


def test_a_store_is_continued_only_as_it_was_made(lens, scenes, tmp_path):
    store_of(lens, scenes[:4], tmp_path / "out")
    before = bytes_of(tmp_path / "out")
    same = {"at": list(AT), "dtype": next(lens.model.parameters()).dtype}
    assert bytes_of(store_of(lens, scenes[:4], tmp_path / "out", **same).folder) == before, "said in another way"
    with pytest.raises(SettingsChanged, match="batch_size"):
        store_of(lens, scenes[:4], tmp_path / "out", batch_size=1)
    weight = next(p for name, p in lens.model.named_parameters() if "mlp" in name and p.ndim == 2)
    with torch.no_grad():
        weight[0, 0] += 1
    with pytest.raises(SettingsChanged, match="weights_sha256"):
        store_of(lens, scenes[:4], tmp_path / "out")
    with torch.no_grad():
        weight[0, 0] -= 1
    assert bytes_of(tmp_path / "out") == before


def test_a_missing_shard_is_told_and_made_again(lens, scenes, tmp_path):
    store_of(lens, scenes[:7], tmp_path / "out")
    before = bytes_of(tmp_path / "out")
    (tmp_path / "out" / "shards" / "000001.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 3"):
        Activations(tmp_path / "out")
    store_of(lens, scenes[:7], tmp_path / "out")
    assert bytes_of(tmp_path / "out") == before


def test_the_manifest_tells_where_the_numbers_come_from(lens, scenes, tmp_path):
    store_of(lens, scenes[:2], tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["settings"]["at"] == list(AT)
    assert manifest["model"]["weight_processing"] == "none"
    assert set(manifest["weights_sha256"]) == {"language", "vision", "projection"}
    assert "transformer-lens" in manifest["versions"]


def test_the_lens_keeps_no_image(lens, scenes, tmp_path):
    before = len(lens.virtual_tokens)
    store_of(lens, scenes[:5], tmp_path / "out", positions="caption")
    estimate_activations(lens, scenes[:5], StoreSettings(at=AT, batch_size=2), n_batches=1)
    assert len(lens.virtual_tokens) == before


def test_the_estimate_is_the_size_of_the_store(lens, scenes, tmp_path):
    settings = StoreSettings(at=AT, batch_size=2)
    plan = estimate_activations(lens, scenes, settings, n_batches=4, out=tmp_path / "not yet there")
    store_of(lens, scenes, tmp_path / "out")
    tensors = sum(len(data) for data in bytes_of(tmp_path / "out").values())
    assert plan.bytes == pytest.approx(tensors, rel=0.1)
    assert plan.pictures == len(scenes)
    assert plan.seconds > 0
    assert plan.free_bytes
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    large = estimate_activations(lens, scenes, settings, n_batches=4, n_pictures=118_287)
    assert large.bytes == pytest.approx(plan.bytes * 118_287 / len(scenes), rel=0.01)
    assert "118,287" in str(large)


@pytest.mark.slow
def test_killed_again_and_again_gives_the_same_bytes(home, tmp_path):
    make_scenes(home, 23)
    run_store(home, tmp_path / "whole")
    out = tmp_path / "out"
    kills = killed_until_done(lambda: run_store(home, out), lambda: len(list((out / "shards").glob("*"))), seed=0)
    assert kills >= 2
    assert bytes_of(out) == bytes_of(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(home, tmp_path):
    make_scenes(home, 23)
    run_store(home, tmp_path / "one")
    assert_finished(two_forked(lambda: run_store(home, tmp_path / "two")))
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")
