"""Folders of experiments whose files were damaged, cut off or edited by hand."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_multimodal.experiments import SettingsChanged
from lens_multimodal.experiments.shared.picture_state import PictureSettings
from lens_multimodal.experiments.stream import Batching, stream
from lens_multimodal.views.report import write_report
from tests.experiments.stream_world import Probe, ProbeSettings, make_scenes
from tests.fuzz.test_files import spoilt

COUNT = 4


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("pictures"), COUNT)


@pytest.fixture(scope="module")
def finished(lens, scenes, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    _run(lens, scenes, out)
    return out


@given(st.data())
def test_a_manifest_edited_by_hand(attempt, lens, scenes, finished, tmp_path_factory, data):
    """Any difference is named, and no row of the existing run is lost."""
    out = _copy(finished, tmp_path_factory)
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(data.draw(spoilt(manifest))))
    attempt(lambda: _run(lens, scenes, out), lens)
    assert _tables(out) == _tables(finished)
    attempt(lambda: write_report(out))


@given(st.binary(max_size=50))
def test_a_manifest_of_noise(attempt, lens, scenes, finished, tmp_path_factory, content):
    out = _copy(finished, tmp_path_factory)
    (out / "manifest.json").write_bytes(content)
    attempt(lambda: _run(lens, scenes, out), lens)
    attempt(lambda: write_report(out))


@given(st.data())
def test_damaged_parts(attempt, lens, scenes, finished, tmp_path_factory, data):
    """What cannot be read is named, or made again: never merged into other rows."""
    out = _copy(finished, tmp_path_factory)
    files = sorted(p for p in (out / "parts").rglob("*") if p.is_file())
    chosen = data.draw(st.sampled_from(files))
    content = bytearray(chosen.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    chosen.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    if attempt(lambda: _run(lens, scenes, out) or True, lens):
        assert _tables(out) == _tables(finished)


def test_changed_settings_are_refused_with_both_values(lens, scenes, finished, tmp_path_factory):
    out = _copy(finished, tmp_path_factory)
    with pytest.raises(SettingsChanged, match=r"settings\.probe\.draws: 3 .* 4 "):
        _run(lens, scenes, out, draws=4)
    assert _tables(out) == _tables(finished)


def _run(lens, scenes, out: Path, *, draws: int = 3) -> None:
    stream(
        lens,
        [Probe()],
        scenes,
        out,
        settings={"picture": PictureSettings(), "probe": ProbeSettings(draws=draws)},
        batching=Batching(pictures=2),
        progress=False,
    )


def _copy(finished: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.getbasetemp() / "copy-of-run"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(finished, out)
    return out


def _tables(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "tables").iterdir()}
