"""Neurons that `reproduce` found: their nouns, and their ablation against the plain model with a hook of its own."""

import json
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lens_multimodal import VisionLens, attach_vision
from lens_multimodal.atlas import AtlasSettings, estimate_atlas
from lens_multimodal.atlas import atlas_run as run_module
from lens_multimodal.atlas.found_neurons import FoundNeurons
from lens_multimodal.data import Scene, read_coco
from lens_multimodal.files import SettingsChanged
from lens_multimodal.reproduction import reproduce
from lens_multimodal.runs.picture_order import in_order
from lens_multimodal.runs.processes import Processes
from lens_multimodal.runs.provenance import provenance
from lens_multimodal.tiny import scenes_folder
from tests.atlas.atlas_world import OPTIONS, atlas_of, bytes_of, world_scenes
from tests.lenses import hugging_face, inputs_embeds, random_lens
from tests.models import MLP_OUT, MODEL_CLASSES

TEXT, LENGTH = "a dog", 5


def found_in(lens: VisionLens, scenes: list[Scene], folder: Path) -> tuple[Path, pd.DataFrame]:
    """A run's `discovery` tables whose nouns are words of the lens' own captions, with random neurons."""
    generator = np.random.default_rng(0)
    nouns, rows = [], []
    for scene in scenes:
        prompt = lens.prompt(scene.open(), TEXT)
        (ids,) = lens.generate_ids(prompt, max_new_tokens=LENGTH)
        for index, token in list(enumerate(ids))[:2]:
            read_pos = prompt.tokens.shape[1] + index - 1
            nouns.append((scene.id, f"word {index}", token, read_pos))
            for layer, neuron in {(int(n) // 8, int(n) % 8) for n in generator.choice(24, 9)}:
                rows.append((scene.id, f"word {index}", layer, neuron, float(generator.normal())))
        lens.forget(prompt)
    (folder / "tables").mkdir(parents=True)
    columns = ["image_id", "noun", "layer", "neuron", "attribution"]
    neurons = pd.DataFrame(rows, columns=columns)
    neurons.to_parquet(folder / "tables" / "discovery.neurons.parquet")
    table = pd.DataFrame(nouns, columns=["image_id", "noun", "token", "read_pos"])
    table.to_parquet(folder / "tables" / "discovery.nouns.parquet")
    settings = {"picture": {"text": TEXT, "max_new_tokens": LENGTH}}
    manifest = {"experiments": {"discovery": 2}, "limit": None, "settings": settings, **provenance(lens, scenes)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder, neurons.merge(table, on=["image_id", "noun"])


@pytest.fixture(scope="module", params=MODEL_CLASSES)
def made(request, tmp_path_factory):
    home = tmp_path_factory.mktemp("found")
    lens, scenes = random_lens(home, kind=request.param), world_scenes(home / "pictures", 11)
    folder, rows = found_in(lens, scenes, home / "run")
    atlas = atlas_of(lens, scenes, home / "out", found=folder, n_ablations=2)
    return atlas, lens, scenes, folder, rows


def loss(plain, lens: VisionLens, scene: Scene, row, *, mlp: str) -> float:
    """What the noun's logit loses in the plain model when a hook sets one neuron to zero at the image positions."""
    prompt = lens.prompt(scene.open(), TEXT)
    (ids,) = lens.generate_ids(prompt, max_new_tokens=LENGTH)
    words = lens.prompt(scene.open(), TEXT).followed_by(ids)
    embedded = inputs_embeds(plain, words)[:, : row.read_pos + 1]

    def zero(_, args):
        changed = args[0].clone()
        changed[:, prompt.image_pos[0], row.neuron] = 0
        return (changed, *args[1:])

    with torch.no_grad():
        before = plain(inputs_embeds=embedded).logits[0, -1, row.token]
        handle = plain.transformer.h[row.layer].get_submodule(mlp).register_forward_pre_hook(zero)
        after = plain(inputs_embeds=embedded).logits[0, -1, row.token]
    handle.remove()
    return float(before - after)


def test_the_mean_loss_without_each_neuron_is_that_of_the_plain_model(made):
    atlas, lens, scenes, _, rows = made
    plain = deepcopy(hugging_face("gpt-j")).double()
    by_id = {scene.id: scene for scene in scenes}
    place = {scene.id: n for n, scene in enumerate(in_order(scenes, 0))}
    measured = 0
    for (layer, neuron), own in rows.groupby(["layer", "neuron"]):
        facts = atlas.neuron(int(layer), int(neuron)).facts
        own = own.assign(place=own["image_id"].map(place)).sort_values(["place", "read_pos"]).head(2)
        expected = [loss(plain, lens, by_id[row.image_id], row, mlp=MLP_OUT["gpt-j"]) for row in own.itertuples()]
        assert facts["n_ablated"] == len(own)
        assert facts["ablation"] == pytest.approx(np.mean(expected), rel=1e-3, abs=2e-5)
        measured += 1
    assert measured > 15
    values = atlas.neurons["ablation"].dropna()
    assert len(values) == measured
    assert (values.abs() > 1e-3).sum() > 5


def test_nouns_counts_and_attributions(made):
    atlas, _, _, _, rows = made
    for (layer, neuron), own in rows.groupby(["layer", "neuron"]):
        facts = atlas.neuron(int(layer), int(neuron)).facts
        assert set(facts["found_for"]) == set(own["noun"])
        assert facts["n_found"] == len(own)
        assert facts["attribution"] == pytest.approx(own["attribution"].mean())
    others = atlas.neurons[atlas.neurons["n_found"] == 0]
    assert len(others)
    assert (others["n_ablated"] == 0).all()
    assert others[["attribution", "ablation"]].isna().all(axis=None)
    assert all(len(nouns) == 0 for nouns in others["found_for"])


def test_interrupted_ablations_go_on(made, tmp_path, monkeypatch):
    atlas, lens, scenes, folder, _ = made
    ablate, seen = FoundNeurons.ablate, []

    def fails(self, run, noun):
        seen.append(noun)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return ablate(self, run, noun)

    monkeypatch.setattr(FoundNeurons, "ablate", fails)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        atlas_of(lens, scenes, out, found=folder, n_ablations=2)
    assert len(list((out / "ablations").iterdir())) == 3
    again = atlas_of(lens, scenes, out, found=folder, n_ablations=2)
    assert len(seen) == len(set(seen)) + 1
    assert bytes_of(out) == bytes_of(atlas.folder)
    assert not (again.folder / "ablations").exists()


def test_two_processes_share_the_nouns(made, tmp_path, monkeypatch):
    """The second process stops before the tables, which the first writes: they are those of one process."""
    atlas, lens, scenes, folder, _ = made
    out = tmp_path / "out"

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for rank in (0, 1):
        with monkeypatch.context() as patched:
            patched.setattr(Processes, "of_environment", classmethod(lambda cls, rank=rank: cls(rank=rank, world=2)))
            patched.setattr(run_module, "mean_ablations", stop)
            with pytest.raises(KeyboardInterrupt):
                atlas_of(lens, scenes, out, found=folder, n_ablations=2)
    atlas_of(lens, scenes, out, found=folder, n_ablations=2)
    assert bytes_of(out) == bytes_of(atlas.folder)


def test_none_is_measured_where_none_is_asked_for_or_pictures_are_others(made, tmp_path):
    _, lens, scenes, folder, _ = made
    none = atlas_of(lens, scenes[:4], tmp_path / "none", found=folder, n_ablations=0)
    assert (none.neurons["n_ablated"] == 0).all()
    assert none.neurons["n_found"].sum() > 0
    pages = world_scenes(tmp_path / "pictures", 12)[11:]
    others = atlas_of(lens, pages, tmp_path / "others", found=folder)
    assert (others.neurons["n_ablated"] == 0).all()


def test_another_run_is_another_atlas_and_another_lens_is_refused(made, tmp_path):
    atlas, lens, scenes, folder, _ = made
    with pytest.raises(SettingsChanged, match="found"):
        atlas_of(lens, scenes, atlas.folder, n_ablations=2)
    with pytest.raises(FileNotFoundError, match="discovery"):
        atlas_of(lens, scenes, tmp_path / "out", found=tmp_path)
    with pytest.raises(ValueError, match="n_ablations"):
        atlas_of(lens, scenes, tmp_path / "out", found=folder, n_ablations=-1)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["weights_sha256"]["language"] = "0"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tables").symlink_to(folder / "tables")
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="language"):
        atlas_of(lens, scenes, tmp_path / "out", found=tmp_path / "run")


def test_the_estimate_counts_the_ablations(made, monkeypatch):
    _, lens, scenes, folder, rows = made
    settings = AtlasSettings(batch_size=OPTIONS["batch_size"], quantile=OPTIONS["quantile"])
    with_found = estimate_atlas(lens, scenes, settings, found=folder, n_batches=1)
    assert with_found.pictures == len(scenes)
    asked = []
    ablate = FoundNeurons.ablate
    monkeypatch.setattr(FoundNeurons, "ablate", lambda *args: (time.sleep(1), asked.append(args[2]), ablate(*args))[2])
    slowly = estimate_atlas(lens, scenes, replace(settings, n_ablations=2), found=folder, n_batches=1)
    n_rows = rows.groupby(["layer", "neuron"]).size().clip(upper=2).sum()
    assert len(asked) == 1
    assert slowly.seconds > n_rows / len(asked[0].neurons)


@pytest.mark.newest
@pytest.mark.slow
def test_after_a_real_run_on_the_trio(tmp_path):
    with attach_vision() as lens:
        scenes = list(read_coco(scenes_folder()))[:40]
        reproduce(lens, data=scenes, only="discovery", limit=3, out=tmp_path / "run", progress=False)
        made = atlas_of(lens, scenes, tmp_path / "out", layers=[0, 1], found=tmp_path / "run", n_ablations=1)
        found = made.neurons[made.neurons["n_found"] > 0]
        assert len(found) > 20
        assert (found["n_ablated"] == 1).all()
        assert np.isfinite(found["ablation"]).all()
        assert np.corrcoef(found["ablation"], found["attribution"])[0, 1] > 0.3
