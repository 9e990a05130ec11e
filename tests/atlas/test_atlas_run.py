"""An atlas does not depend on interruptions and processes, finds a planted neuron, and refuses what it cannot do."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score

from lens_multimodal import VisionLens, attach_vision
from lens_multimodal.atlas import Atlas, AtlasSettings, atlas_run, build_atlas
from lens_multimodal.atlas.atlas_tables import COLUMNS
from lens_multimodal.atlas.layer_tally import LayerTally, thresholds_of
from lens_multimodal.atlas.selectivity_measures import average_precision
from lens_multimodal.data import Scene, SceneObject, pictures_as_scenes
from lens_multimodal.files import SettingsChanged
from tests.atlas.atlas_world import atlas_of, bytes_of, run_atlas, world_scenes
from tests.experiments import planted
from tests.forked import assert_finished, killed_until_done, two_forked
from tests.lenses import random_lens
from tests.models import wrapped_model


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def scenes(home):
    return world_scenes(home)


@pytest.fixture(scope="module")
def lens(home):
    return random_lens(home / "lens")


@pytest.fixture(scope="module")
def whole(lens, scenes, home) -> Atlas:
    return atlas_of(lens, scenes, home / "whole")


CELL = planted.CELL
CLEARLY, HARDLY = 0.8, 0.2
"""Dogs are patches with more red than `CLEARLY`, and less green and blue than `HARDLY`."""


def colourful_world(folder: Path) -> VisionLens:
    """The planted language model behind a projection that gives every colour strong directions of its own.

    With the projection of `planted`, any neuron that reads red at all would do as well as the planted one; so here no
    other reads what it reads or writes.
    """
    words = planted.make_tokenizer(folder / "tokenizer")
    projection = torch.nn.Linear(3, planted.D_MODEL).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        projection.weight.copy_(torch.randn(projection.weight.shape, generator=generator))
        projection.bias.copy_(-projection.weight.sum(dim=1) / 2)
        projection.weight[[planted.DOG, planted.NOTHING]] = 0
        projection.bias[[planted.DOG, planted.NOTHING]] = 0
        projection.weight[planted.RED] = 6 * torch.tensor([1.0, -1.0, -1.0])
        projection.bias[planted.RED] = 0
    language_model = planted.language_model(words)
    for layer, block in enumerate(language_model.transformer.h):
        others = [n for n in range(planted.D_MLP) if (layer, n) != (planted.LAYER, planted.NEURON)]
        for direction in (planted.RED, planted.DOG):
            block.mlp.fc_in.weight[others, direction] = 0
    model = wrapped_model("bridge", language_model, words)
    return attach_vision(model, vision=planted.encoder(), projection=projection, tokenizer=words)


def mosaics(folder: Path, count: int) -> list[Scene]:
    """Pictures of nine random colours; reds are dogs, blues are cats."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    scenes = []
    while len(scenes) < count:
        colours = generator.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        if len(scenes) % 2:
            colours[tuple(generator.integers(0, 3, 2))] = generator.integers((215, 0, 0), (256, 40, 40))
        red, green, blue = (colours / 255).transpose(2, 0, 1)
        shown = {
            "dog": (red > CLEARLY) & (green < HARDLY) & (blue < HARDLY),
            "cat": (blue > CLEARLY) & (red < 0.5) & (green < 0.5),
        }
        if ((red - green - blue > 0.2) & ~shown["dog"]).any():
            continue  # nearly red
        number = len(scenes)
        path = folder / f"{number}.png"
        Image.fromarray(colours.repeat(CELL, axis=0).repeat(CELL, axis=1)).save(path)
        objects = []
        for name, where in shown.items():
            for row, col in np.argwhere(where) * CELL:
                x, y = float(col), float(row)
                corners = [x, y, x + CELL, y, x + CELL, y + CELL, x, y + CELL]
                objects.append(
                    SceneObject(
                        id=len(objects),
                        category=name,
                        supercategory="animal",
                        area=float(CELL**2),
                        box=(x, y, float(CELL), float(CELL)),
                        is_crowd=False,
                        height=3 * CELL,
                        width=3 * CELL,
                        segmentation=[corners],
                        extra={},
                    )
                )
        scenes.append(
            Scene(id=number, path=path, height=3 * CELL, width=3 * CELL, captions=(), objects=tuple(objects), extra={})
        )
    return scenes


def test_a_planted_neuron_comes_first_for_its_concept_and_recurs(tmp_path):
    lens = colourful_world(tmp_path)
    scenes = mosaics(tmp_path / "mosaics", 80)
    n_dogs = sum(thing.category == "dog" for scene in scenes for thing in scene.objects)
    assert n_dogs > 20
    settings = AtlasSettings(quantile=1 - n_dogs / 720, n_calibration=80, batch_size=7, pictures_per_chunk=20)
    atlas = build_atlas(lens, scenes, tmp_path / "out", settings, progress=False)
    first = atlas.concept("dog").iloc[0]
    assert (first["layer"], first["neuron"]) == (planted.LAYER, planted.NEURON)
    assert min(first[["iou", "average_precision", "recurrence_even", "recurrence_odd"]]) > 0.9
    assert first["iou"] > 1.5 * atlas.concept("dog").iloc[1]["iou"]
    assert atlas.concept("cat").iloc[0]["neuron"] != planted.NEURON
    entry = atlas.neuron(planted.LAYER, planted.NEURON)
    assert entry.facts["category"] == "dog"
    assert entry.facts["words"][0] == " dog"
    assert entry.facts["p"] == atlas.neurons["p"].min()
    assert entry.facts["iou_permuted"] < 0.3
    dogs = {scene.id for scene in scenes if "dog" in scene.categories}
    assert len(entry.patches) == 16
    assert set(entry.patches["image_id"]) <= dogs
    recurs = atlas.recurrence.set_index("category").loc["dog"]
    assert recurs["recurrence"] > recurs["random_high"]
    assert recurs["recurrence"] > recurs["other_concepts"]
    found = atlas.search("dog")
    assert (planted.LAYER, planted.NEURON) in set(zip(found["layer"], found["neuron"], strict=True))


def test_chunks_and_saves_do_not_show(lens, scenes, whole, tmp_path):
    """Integers and best pictures to the bit; the order of batches is the same."""
    again = atlas_of(lens, scenes, tmp_path / "out", save_every=0)
    assert bytes_of(again.folder) == bytes_of(whole.folder)
    assert sorted(path.name for path in again.folder.iterdir()) == ["manifest.json", "tables", "thresholds.safetensors"]


def test_few_bytes_for_the_quantiles_change_nothing(lens, scenes, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(atlas_run.calibrated, "__kwdefaults__", {"budget_bytes": 1})
    again = atlas_of(lens, scenes, tmp_path / "out")
    assert bytes_of(again.folder) == bytes_of(whole.folder)


@pytest.mark.slow
def test_killed_again_and_again_gives_the_same_tables(home, whole, tmp_path):
    out = tmp_path / "out"
    kills = killed_until_done(lambda: run_atlas(home, out), lambda: len(list((out / "moments").glob("0*"))), seed=1)
    assert kills >= 2
    assert bytes_of(out) == bytes_of(whole.folder)


@pytest.mark.slow
def test_two_processes_give_the_tables_of_one(home, whole, tmp_path):
    assert_finished(two_forked(lambda: run_atlas(home, tmp_path / "two")))
    assert bytes_of(tmp_path / "two") == bytes_of(whole.folder)


def test_states_of_two_processes_are_continued_by_one(lens, scenes, whole, tmp_path, monkeypatch):
    """The first process dies after its share, the second in the middle of its own; one process goes on."""
    from lens_multimodal.runs.processes import Processes

    out = tmp_path / "out"

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(atlas_run, "write_tables", fail)
        patched.setattr(Processes, "of_environment", classmethod(lambda cls: cls(rank=0, world=2)))
        with pytest.raises(KeyboardInterrupt):
            atlas_of(lens, scenes, out, save_every=0)
        patched.setattr(Processes, "of_environment", classmethod(lambda cls: cls(rank=1, world=2)))
        count = atlas_run.Counter.count
        seen = []

        def twice(self, chunk, bar):
            seen.append(chunk)
            return fail() if len(seen) > 2 else count(self, chunk, bar)

        patched.setattr(atlas_run.Counter, "count", twice)
        with pytest.raises(KeyboardInterrupt):
            atlas_of(lens, scenes, out, save_every=0)
    assert sorted(path.name for path in (out / "states").iterdir()) == ["r0.safetensors", "r1.safetensors"]
    assert bytes_of(atlas_of(lens, scenes, out).folder) == bytes_of(whole.folder)


def test_merging_is_the_same_in_any_order_also_with_ties():
    generator = torch.Generator().manual_seed(0)

    def tally(first: int) -> LayerTally:
        made = LayerTally.empty(n_neurons=5, n_categories=2, n_levels=1, n_top=3, device=torch.device("cpu"))
        values = torch.randint(0, 3, (5, 6), generator=generator).float()
        made._keep_best(values, torch.arange(first, first + 6).repeat(5, 1))
        made.positive += torch.randint(0, 9, (5,), generator=generator)
        return made

    tallies = [tally(6 * n) for n in range(4)]

    def merged(order) -> dict[str, torch.Tensor]:
        total = LayerTally.empty(n_neurons=5, n_categories=2, n_levels=1, n_top=3, device=torch.device("cpu"))
        for n in order:
            total.merge(tallies[n])
        return total.tensors()

    first = merged([0, 1, 2, 3])
    for order in ([3, 2, 1, 0], [2, 0, 3, 1]):
        assert all(torch.equal(value, first[name]) for name, value in merged(order).items())


def test_the_counts_of_gpt_j_on_coco_are_as_large_as_documented():
    """docs/how-to/atlas.md: 8 bytes times neurons times (12 categories + 34)."""
    one = LayerTally.empty(n_neurons=16384, n_categories=80, n_levels=8, n_top=16, device=torch.device("meta"))
    n_bytes = sum(tensor.nbytes for tensor in one.tensors().values())
    assert n_bytes == 8 * 16384 * (12 * 80 + 34)
    assert 28 * n_bytes == pytest.approx(3.65e9, rel=0.01)


def test_thresholds_leave_at_most_their_share_above():
    values = torch.randn(200, 7, generator=torch.Generator().manual_seed(0))
    for level, threshold in zip((0.5, 0.9, 0.995), thresholds_of(values, (0.5, 0.9, 0.995)), strict=True):
        assert ((values > threshold).sum(0) == round((1 - level) * 200)).all()
        ordered = values.sort(0, descending=True).values
        n_above = round((1 - level) * 200)
        torch.testing.assert_close(threshold, ordered[n_above - 1 : n_above + 1].mean(0))
    neighbours = torch.tensor([[1.0], [1 - 2**-8]], dtype=torch.bfloat16)
    assert (neighbours > thresholds_of(neighbours, (0.5,))).sum() == 1, "no number lies between them"
    largest = thresholds_of(values, (0.999,))[0]
    torch.testing.assert_close(largest - values.max(0).values, (values.max(0).values - ordered[1]) / 2)
    tied = thresholds_of(torch.ones(10, 1), (0.9,))
    assert (torch.ones(10) > tied).sum() == 0


def test_average_precision_is_scikit_learns_where_each_level_is_a_value():
    generator = np.random.default_rng(0)
    score, label = generator.integers(0, 5, 60), generator.integers(0, 2, 60)
    levels = [0, 1, 2, 3]
    inside = torch.tensor([[[float(((score > t) & (label == 1)).sum())]] for t in levels])
    above = torch.tensor([[float((score > t).sum())] for t in levels])
    found = average_precision(inside.double(), above.double(), torch.tensor([float(label.sum())]).double(), 60.0)
    assert float(found) == pytest.approx(average_precision_score(label, score))


def test_every_column_is_described_in_the_files(whole):
    for name, columns in COLUMNS.items():
        schema = pq.read_schema(whole.folder / "tables" / f"{name}.parquet")
        assert {field.name: field.metadata[b"description"].decode() for field in schema} == columns


def test_pictures_without_objects_and_unreadable_ones(lens, scenes, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    plain = pictures_as_scenes([scene.path for scene in scenes[:5]])
    atlas = atlas_of(lens, [*plain, replace(plain[0], id=77, path=broken)], tmp_path / "out", layers=[1])
    assert [failure["image_id"] for failure in atlas.failed] == [77]
    assert set(atlas.neurons["n_patches"]) == {45}
    assert len(atlas.categories) == len(atlas.concepts) == len(atlas.recurrence) == 0
    facts = atlas.neuron(1, 0).facts
    assert facts["category"] is None
    assert np.isnan(facts["iou"])
    assert np.isnan(facts["p"])
    assert len(atlas.neuron(1, 0).patches) == 4


def test_refusals(lens, scenes, whole, tmp_path):
    with pytest.raises(ValueError, match="scenes"):
        build_atlas(lens, [], tmp_path / "out")
    with pytest.raises(ValueError, match="quantile"):
        atlas_of(lens, scenes, tmp_path / "out", quantile=1.0)
    with pytest.raises(ValueError, match="7"):
        atlas_of(lens, scenes, tmp_path / "out", layers=[7])
    with pytest.raises(SettingsChanged, match="n_top"):
        atlas_of(lens, scenes, whole.folder, n_top=3)
    with pytest.raises(FileNotFoundError, match="manifest"):
        Atlas(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "atlas"}))
    with pytest.raises(FileNotFoundError, match="not finished"):
        Atlas(tmp_path)
    with pytest.raises(ValueError, match="zebra"):
        whole.concept("zebra")
    with pytest.raises(ValueError, match="99"):
        whole.neuron(0, 99)


def test_the_whole_world_is_that_of_the_program(home, whole, tmp_path):
    """What the killed and the launched runs are compared with."""
    assert bytes_of(run_atlas(home, tmp_path / "out").folder) == bytes_of(whole.folder)
