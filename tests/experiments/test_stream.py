"""Rows survive kills at any moment, changed settings, bad pictures and full memory; the bytes are always equal."""

import json
import random
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import torch

from lens_multimodal import VisionLens
from lens_multimodal.data import Scene
from lens_multimodal.experiments import Context
from lens_multimodal.experiments.shared.picture_state import PictureSettings
from lens_multimodal.experiments.stream import SettingsChanged, stream
from lens_multimodal.experiments.stream.frames import as_arrow, joined
from lens_multimodal.experiments.stream.parts import read_parts, write_part
from lens_multimodal.experiments.stream.streaming import Batching, in_order
from tests.experiments.stream_world import Probe, ProbeSettings, make_scenes
from tests.forked import forked, kill
from tests.lenses import random_lens

COUNT = 14


@pytest.fixture(scope="module")
def lens(tmp_path_factory: pytest.TempPathFactory) -> VisionLens:
    return random_lens(tmp_path_factory.mktemp("lens"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Scene]:
    return make_scenes(tmp_path_factory.mktemp("pictures"), COUNT)


def run(
    lens: VisionLens,
    scenes: Sequence[Scene],
    out: Path,
    *,
    experiment: Probe | None = None,
    probe: ProbeSettings | None = None,
    seed: int = 0,
    limit: int | None = None,
    pictures: int = 3,
    batch_size: int = 64,
) -> None:
    stream(
        lens,
        [experiment or Probe()],
        scenes,
        out,
        settings={"picture": PictureSettings(), "probe": probe or ProbeSettings()},
        seed=seed,
        limit=limit,
        batching=Batching(pictures=pictures, batch_size=batch_size),
        progress=False,
    )


def bytes_of(out: Path) -> dict[str, bytes]:
    """Everything that must not depend on interruptions."""
    return {path.name: path.read_bytes() for path in [*(out / "tables").iterdir(), out / "errors.jsonl"]}


def n_parts(out: Path) -> int:
    """Number of finished parts: the progress of a run, whatever the speed of the machine."""
    return len(list((out / "parts").glob("[!.]*")))


@pytest.fixture(scope="module")
def whole(lens: VisionLens, scenes: list[Scene], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(lens, scenes, out)
    return out


def test_tables_hold_every_picture_in_the_order_of_the_run(whole: Path, scenes: list[Scene]) -> None:
    pictures = pd.read_parquet(whole / "tables" / "probe.pictures.parquet")
    assert list(pictures["image_id"]) == [scene.id for scene in in_order(scenes, 0)]
    assert sorted(pictures["image_id"]) != list(pictures["image_id"]), "the order would not be tested"
    neurons = pd.read_parquet(whole / "tables" / "probe.neurons.parquet")
    assert set(neurons["image_id"]) == {scene.id for scene in scenes if scene.id % 4}
    assert neurons.groupby("image_id")["draw"].apply(list).map(lambda draws: draws == [0, 1, 2]).all()
    assert pictures["rank"].isna().sum() == sum(scene.id % 3 == 0 for scene in scenes)


def test_rows_do_not_depend_on_how_many_pictures_make_a_part(
    lens: VisionLens, scenes: list[Scene], whole: Path, tmp_path: Path
) -> None:
    for pictures in (1, 5, 100):
        out = tmp_path / str(pictures)
        run(lens, scenes, out, pictures=pictures)
        assert bytes_of(out) == bytes_of(whole)
        assert len(read_parts(out)) == -(-COUNT // pictures)


@pytest.mark.newest
@pytest.mark.slow
def test_killed_at_random_moments_and_started_again_the_tables_are_equal_to_the_byte(
    lens: VisionLens, scenes: list[Scene], tmp_path: Path
) -> None:
    slow = ProbeSettings(seconds=0.02)
    run(lens, scenes, tmp_path / "whole", probe=slow, pictures=2)
    rng = random.Random(0)
    cut_short = 0
    for trial in range(20):
        out = tmp_path / f"trial_{trial}"
        for _ in range(6):
            wanted = n_parts(out) + rng.randint(0, 3)
            child = forked(lambda out=out: run(lens, scenes, out, probe=slow, pictures=2))
            while n_parts(out) < wanted and child.is_alive():
                time.sleep(0.001)
            child.join(timeout=rng.uniform(0, 0.05))
            if child.exitcode is None:
                kill(child)
                cut_short += 1
        child = forked(lambda out=out: run(lens, scenes, out, probe=slow, pictures=2))
        child.join()
        assert child.exitcode == 0
        assert bytes_of(out) == bytes_of(tmp_path / "whole")
        done = [i for part in read_parts(out) for i in part.done]
        assert len(done) == len(set(done)) == COUNT, "a picture was done twice"
        run(lens, scenes, out, probe=slow)
        assert bytes_of(out) == bytes_of(tmp_path / "whole"), "starting a finished run again changed it"
        assert not list((out / "parts").glob(".*")), "something was left behind"
        if cut_short >= 20:
            return
    pytest.fail(f"of {20 * 6} runs that were to be killed only {cut_short} were still running")


def test_a_part_that_was_being_written_does_not_count(
    lens: VisionLens, scenes: list[Scene], whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    last = sorted((out / "parts").iterdir())[-1]
    last.rename(last.with_name(f".{last.name}.partial"))
    (out / "tables" / "probe.neurons.parquet").write_bytes(b"half a file")
    run(lens, scenes, out)
    assert bytes_of(out) == bytes_of(whole)
    assert not list((out / "parts").glob(".*"))


def test_a_longer_run_continues_a_shorter_one(
    lens: VisionLens, scenes: list[Scene], whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(lens, scenes, out, limit=4)
    short = pd.read_parquet(out / "tables" / "probe.pictures.parquet")
    longer = pd.read_parquet(whole / "tables" / "probe.pictures.parquet")
    assert list(short["image_id"]) == list(longer["image_id"][:4])
    run(lens, scenes, out)
    assert bytes_of(out) == bytes_of(whole)
    assert json.loads((out / "manifest.json").read_text())["limit"] is None
    with pytest.raises(SettingsChanged, match=r"\ball pictures, .* 4\b"):
        run(lens, scenes, out, limit=4)


def test_changed_settings_are_refused_with_every_difference(
    lens: VisionLens, scenes: list[Scene], whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    before = bytes_of(out)
    with pytest.raises(SettingsChanged) as caught:
        run(lens, scenes[:-1], out, probe=ProbeSettings(draws=5), seed=1)
    said = str(caught.value)
    for line in ("settings.probe.draws: 3 there, 5 now", "seed: 0 there, 1 now", "data.scenes: 14 there, 13 now"):
        assert line in said
    assert str(out) in said
    assert bytes_of(out) == before


def test_other_weights_and_another_version_of_an_experiment_are_refused(
    scenes: list[Scene], whole: Path, tmp_path: Path
) -> None:
    class Newer(Probe):
        version = 2

    out = tmp_path / "out"
    shutil.copytree(whole, out)
    other = random_lens(tmp_path / "lens")
    with torch.no_grad():
        other.projection.linear.bias[0] += 1e-6
    with pytest.raises(SettingsChanged) as caught:
        run(other, scenes, out, experiment=Newer())
    assert "experiments.probe: 1 there, 2 now" in str(caught.value)
    assert "weights_sha256.projection" in str(caught.value)
    assert "weights_sha256.language" not in str(caught.value)


def test_a_folder_with_other_files_is_refused(lens: VisionLens, scenes: list[Scene], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"thesis\.txt .*manifest"):
        run(lens, scenes, tmp_path)


def test_unreadable_pictures_are_recorded_and_tried_again_next_time(
    lens: VisionLens, whole: Path, tmp_path: Path
) -> None:
    own = make_scenes(tmp_path / "pictures", COUNT)
    good = own[5].path.read_bytes()
    own[5].path.write_bytes(good[: len(good) // 2].ljust(len(good), b"\0"))
    out = tmp_path / "out"
    run(lens, own, out)
    (error,) = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert error["image_id"] == own[5].id
    assert error["file"] == "005.png"
    assert "005.png" in error["error"]
    assert own[5].id not in set(pd.read_parquet(out / "tables" / "probe.pictures.parquet")["image_id"])
    run(lens, own, out)
    assert len((out / "errors.jsonl").read_text().splitlines()) == 1
    own[5].path.write_bytes(good)
    run(lens, own, out)
    assert bytes_of(out) == bytes_of(whole)


class Hungry(Probe):
    """Requests far more memory than there is when the batch is larger than four."""

    def rows(self, context: Context) -> dict[str, pd.DataFrame]:
        if context.picture.batch_size > self.fits:
            torch.empty(2**50)
        return super().rows(context)

    def __init__(self, fits: int) -> None:
        self.fits = fits


def test_out_of_memory_halves_the_batch_and_continues(
    lens: VisionLens, scenes: list[Scene], whole: Path, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match=r"memory .*\b(8|4) rows") as warned:
        run(lens, scenes, tmp_path / "out", experiment=Hungry(4), batch_size=16)
    rows = [re.search(r"(\d+) rows", str(warning.message))[1] for warning in warned]
    assert rows == ["8", "4"], "16 to 8 to 4, once for the whole run"
    assert bytes_of(tmp_path / "out") == bytes_of(whole)
    assert {part.batch_size for part in read_parts(tmp_path / "out")} == {4}


@pytest.mark.filterwarnings("ignore:out of memory")
def test_a_row_that_never_fits_stops_with_advice(lens: VisionLens, scenes: list[Scene], tmp_path: Path) -> None:
    with pytest.raises(MemoryError, match=r"memory .* dtype"):
        run(lens, scenes, tmp_path / "out", experiment=Hungry(0), batch_size=4)


def test_errors_of_an_experiment_are_not_hidden(lens: VisionLens, scenes: list[Scene], tmp_path: Path) -> None:
    class Broken(Probe):
        def rows(self, context: Context) -> dict[str, pd.DataFrame]:
            if context.picture.scene.id == scenes[3].id:
                raise ValueError("a mistake")
            return super().rows(context)

    class OtherPicture(Probe):
        def rows(self, context: Context) -> dict[str, pd.DataFrame]:
            return {**super().rows(context), "neurons": pd.DataFrame({"image_id": [5]})}

    class Forgetful(Probe):
        def rows(self, context: Context) -> dict[str, pd.DataFrame]:
            return {"pictures": super().rows(context)["pictures"]}

    with pytest.raises(ValueError, match="a mistake"):
        run(lens, scenes, tmp_path / "broken", experiment=Broken())
    with pytest.raises(ValueError, match=r"probe\.neurons: .*\[5\].* picture"):
        run(lens, scenes, tmp_path / "other", experiment=OtherPicture())
    with pytest.raises(ValueError, match=r"'probe'.*\['neurons', 'pictures'\].*\['pictures'\]"):
        run(lens, scenes, tmp_path / "forgetful", experiment=Forgetful())


def test_invalid_limits_and_batch_sizes_are_refused(lens: VisionLens, scenes: list[Scene], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"limit .* 1, got 0"):
        run(lens, scenes, tmp_path / "out", limit=0)
    with pytest.raises(ValueError, match="no scene"):
        run(lens, [], tmp_path / "out")
    with pytest.raises(ValueError, match=r"batch_size .* got 0"):
        Batching(batch_size=0)


def test_a_damaged_part_or_manifest_says_what_to_delete(
    lens: VisionLens, scenes: list[Scene], whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    part = read_parts(out)[1].folder
    (part / "pictures.json").write_text("{")
    with pytest.raises(ValueError, match=rf"{part.name} is damaged"):
        run(lens, scenes, out)
    shutil.rmtree(part)
    run(lens, scenes, out)
    assert bytes_of(out) == bytes_of(whole)
    (out / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        run(lens, scenes, out)


def test_types_widen_the_same_way_in_any_grouping() -> None:
    frames = [
        pd.DataFrame({"image_id": [1], "value": [1], "names": [[]]}),
        pd.DataFrame({"image_id": [2], "value": [None], "names": [["a"]]}),
        pd.DataFrame({"image_id": [3], "value": [0.5], "names": [["b", "c"]]}),
        pd.DataFrame(),
    ]
    tables = [as_arrow(frame, image_id=i + 1, where="here") for i, frame in enumerate(frames)]
    at_once = joined(tables)
    assert joined([joined(tables[:2]), joined(tables[2:])]).equals(at_once)
    assert joined([joined(tables[:1]), joined(tables[1:])]).schema == at_once.schema
    assert at_once.schema.field("value").type == pa.float64()
    assert at_once["names"].to_pylist() == [[], ["a"], ["b", "c"]]
    with pytest.raises(ValueError, match="types"):
        joined([tables[0], pa.table({"image_id": [9], "value": ["text"]})])
    with pytest.raises(ValueError, match=r"here: .*'image_id', got \['value'\]"):
        as_arrow(pd.DataFrame({"value": [1]}), image_id=1, where="here")
    with pytest.raises(ValueError, match="here: "):
        as_arrow(pd.DataFrame({"image_id": [1, 1], "value": ["a", 1]}), image_id=1, where="here")


def test_an_empty_part_can_be_written_and_read(tmp_path: Path) -> None:
    failed = [{"image_id": 3, "file": "x.jpg", "error": "no"}]
    write_part(tmp_path, {"a.b": []}, done=[], failed=failed, first=0, last=0, rank=0, batch_size=8)
    (part,) = read_parts(tmp_path)
    assert part.table("a.b").num_rows == 0
    assert list(part.failed) == failed


def test_a_part_also_ends_after_some_time(lens: VisionLens, scenes: list[Scene], tmp_path: Path) -> None:
    start = time.monotonic()
    stream(
        lens,
        [Probe()],
        scenes,
        tmp_path / "out",
        settings={"picture": PictureSettings(), "probe": ProbeSettings(seconds=0.05)},
        limit=6,
        batching=Batching(pictures=100, seconds=0.08),
        progress=False,
    )
    assert len(read_parts(tmp_path / "out")) >= 2, time.monotonic() - start
