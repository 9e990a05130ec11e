"""`reproduce` from end to end on the embedded trio, and what it refuses."""

import time
from html import unescape
from pathlib import Path

import pandas as pd
import pytest

from lens_multimodal.experiments import EXPERIMENTS, Experiment, Results, SettingsChanged
from lens_multimodal.experiments.shared.picture_state import PictureSettings
from lens_multimodal.experiments.stream import Batching
from lens_multimodal.experiments.stream.parts import read_parts
from lens_multimodal.reproduction import all_settings, chosen, reproduce
from lens_multimodal.views.report import write_report
from tests.experiments.test_stream import bytes_of
from tests.forked import forked, kill


def test_the_registry_names_finished_experiments_with_frozen_settings() -> None:
    assert set(EXPERIMENTS) >= {"projection", "discovery", "selectivity", "causal"}
    for name, experiment in EXPERIMENTS.items():
        assert isinstance(experiment, Experiment)
        assert experiment.name == name
        assert experiment.settings.__dataclass_params__.frozen
        assert experiment.settings() == experiment.settings()
        assert len(set(experiment.tables)) == len(experiment.tables) > 0


def test_experiments_come_in_the_order_of_the_report_and_unknown_names_are_refused() -> None:
    assert [e.name for e in chosen(["causal", "projection"])] == ["projection", "causal"]
    assert [e.name for e in chosen("causal")] == ["causal"]
    assert [e.name for e in chosen(None)] == list(EXPERIMENTS)
    with pytest.raises(ValueError, match=r"'casual' .* projection.*closest: causal"):
        chosen(["casual"])
    with pytest.raises(ValueError, match="projection, discovery"):
        chosen([])


def test_settings_are_instances_or_mappings_and_unknown_fields_are_refused() -> None:
    experiments = chosen(["causal"])
    made = all_settings(experiments, {"causal": {"counts": [1, 2]}, "picture": {"top_k": 7}})
    assert made["causal"].counts == (1, 2)
    assert made["picture"] == PictureSettings(top_k=7)
    own = PictureSettings(max_nouns=1)
    assert all_settings(experiments, {"picture": own})["picture"] is own
    with pytest.raises(ValueError, match=r"'causal'.* 'count'.* counts.*closest: counts"):
        all_settings(experiments, {"causal": {"count": 3}})
    with pytest.raises(ValueError, match=r"'projection'.* picture, causal"):
        all_settings(experiments, {"projection": {}})
    with pytest.raises(TypeError, match=r"CausalSettings .* 3"):
        all_settings(experiments, {"causal": 3})


def test_missing_data_are_listed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"instances"):
        reproduce(data=tmp_path, out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_finished_run_has_no_results(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        Results(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        write_report(tmp_path)


@pytest.mark.slow
def test_the_tiny_trio_on_its_scenes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = ["discovery", "causal"]
    results = reproduce(only=names, limit=3, out=out, progress=False)
    assert sorted(results.tables) == sorted(f"{n}.{t}" for n in names for t in EXPERIMENTS[n].tables)
    captions = results.tables["discovery.captions"]
    assert len(captions) == 3
    ablations = results.tables["causal.ablations"]
    assert set(ablations["image_id"]) <= set(captions["image_id"])
    page = unescape(results.html.read_text())
    for summaries in results.summaries.values():
        for summary in summaries.values():
            assert summary.title in page
    markdown = results.markdown.read_text()
    assert "3 of 440 pictures" in markdown
    assert "not for comparison" in page
    before = {path.name: path.read_bytes() for path in out.rglob("*.parquet")}
    again = reproduce(only=names, limit=3, out=out, progress=False)
    assert {path.name: path.read_bytes() for path in out.rglob("*.parquet")} == before
    pd.testing.assert_frame_equal(again.tables["causal.ablations"], ablations)
    with pytest.raises(SettingsChanged, match=r"settings\.causal\.n_random: 1 .* 2 "):
        reproduce(only=names, limit=3, out=out, progress=False, settings={"causal": {"n_random": 2}})
    (out / "tables" / "causal.ablations.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"no table causal\.ablations"):
        Results(out)


@pytest.mark.newest
@pytest.mark.slow
def test_a_killed_and_restarted_run_gives_equal_bytes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    child = forked(lambda: reproduce(out=out, limit=2, progress=False, batching=Batching(pictures=1)))
    while not read_parts(out):
        assert child.is_alive()
        time.sleep(0.01)
    kill(child)
    assert len(read_parts(out)) == 1
    assert not (out / "tables").exists()
    continued = reproduce(out=out, limit=2, progress=False)
    assert set(continued.manifest["experiments"]) == set(EXPERIMENTS)
    reproduce(out=tmp_path / "whole", limit=2, progress=False)
    assert bytes_of(out) == bytes_of(tmp_path / "whole")
    assert len(bytes_of(out)) == sum(len(experiment.tables) for experiment in EXPERIMENTS.values()) + 1
