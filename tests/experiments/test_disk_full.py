"""A full disk stops the run with advice and loses nothing; the run continues once there is room."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lens_multimodal.experiments.stream import DiskFull
from lens_multimodal.experiments.stream.merge import merge
from lens_multimodal.experiments.stream.parts import read_parts
from lens_multimodal.runs.disk_full import disk_full
from tests.experiments.stream_world import make_scenes, run_probe
from tests.experiments.test_stream import bytes_of

NAMES = ["probe.pictures", "probe.neurons"]


def test_a_full_disk_while_merging_says_how_to_continue(tmp_path: Path) -> None:
    scenes = make_scenes(tmp_path / "pictures", 4)
    out = tmp_path / "out"
    run_probe(tmp_path / "pictures", out, count=4)
    before = bytes_of(out)
    full = out / "tables" / ".probe.neurons.parquet.partial"
    full.symlink_to("/dev/full")
    order = [image_id for part in read_parts(out) for image_id in part.done]
    with pytest.raises(DiskFull, match=r"\b4 pictures"):
        merge(out, NAMES, order)
    assert bytes_of(out) == before, "the old tables were damaged"
    run_probe(tmp_path / "pictures", out, count=4)
    assert bytes_of(out) == before
    assert len(order) == len(scenes)


def test_other_disk_errors_are_unchanged(tmp_path: Path) -> None:
    error = PermissionError(13, "not yours")
    assert disk_full(error, tmp_path, safe=3) is error


SCRIPT = """
mount -t tmpfs -o size=24k tmpfs "$1/out" || exit 77
PYTHON="$2"
"$PYTHON" -m tests.experiments.stream_world "$1/pictures" "$1/out/run" 0 2> "$1/said"
echo $? > "$1/code"
cp -r "$1/out/run" "$1/saved"
"""


@pytest.mark.newest
@pytest.mark.slow
def test_a_disk_that_fills_up_during_a_run_loses_nothing(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare to mount a small disk")
    make_scenes(tmp_path / "pictures", 14)
    run_probe(tmp_path / "pictures", tmp_path / "whole")
    (tmp_path / "out").mkdir()
    command = ["unshare", "-Urm", "sh", "-c", SCRIPT, "sh", str(tmp_path), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not (tmp_path / "code").exists():
        pytest.skip(f"this machine does not allow mounting a small disk: {done.stderr}")
    said = (tmp_path / "said").read_text()
    assert (tmp_path / "code").read_text().strip() == "1", said[-2000:]
    assert "DiskFull: [Errno 28] no space left on the disk of" in said, said[-2000:]
    saved = tmp_path / "saved"
    safe = sum(len(part.done) for part in read_parts(saved))
    assert 0 < safe < 14
    assert f"{safe} pictures are safe" in said
    run_probe(tmp_path / "pictures", saved)
    assert bytes_of(saved) == bytes_of(tmp_path / "whole")
