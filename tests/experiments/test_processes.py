"""Two processes give the tables of one, even if all are killed and another number of processes continues.

The command that the documentation gives, `accelerate launch -m lens_multimodal reproduce`, runs the experiments; it
starts processes as `torchrun` does.
Without a GPU, accelerate starts several processes only with `--multi_gpu`.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from lens_multimodal.cli import main
from lens_multimodal.cli.several_processes import free_port
from lens_multimodal.experiments.stream.parts import read_parts
from tests.experiments.stream_world import make_scenes, run_probe
from tests.experiments.test_stream import bytes_of
from tests.forked import assert_finished, kill, two_forked

COUNT = 14
SECONDS = 0.2


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("pictures")
    make_scenes(home, COUNT)
    return home


@pytest.fixture(scope="module")
def alone(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "out"
    run_probe(home, out, seconds=SECONDS, count=COUNT)
    return out


@pytest.mark.slow
def test_two_processes_equal_one_and_both_wrote(home: Path, alone: Path, tmp_path: Path) -> None:
    assert_finished(two_forked(lambda: run_probe(home, tmp_path / "out", seconds=SECONDS, count=COUNT)))
    assert bytes_of(tmp_path / "out") == bytes_of(alone)
    writers = {part.folder.name.split(".r")[1] for part in read_parts(tmp_path / "out")}
    assert writers == {"0", "1"}


@pytest.mark.slow
def test_two_killed_processes_are_continued_by_one(home: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    started = two_forked(lambda: run_probe(home, out, seconds=SECONDS, count=COUNT))
    while len(read_parts(out)) < 2:
        assert all(child.is_alive() for child in started)
        time.sleep(0.01)
    kill(*started)
    done = sum(len(part.done) for part in read_parts(out))
    assert 0 < done < COUNT
    assert not (out / "tables" / "probe.pictures.parquet").exists()
    run_probe(home, out, seconds=SECONDS, count=COUNT)
    assert bytes_of(out) == bytes_of(alone)
    made = [image_id for part in read_parts(out) for image_id in part.done]
    assert len(made) == len(set(made)) == COUNT


COMMAND = ["reproduce", "--only", "projection", "--limit", "2"]


def reproduced(out: Path, *more: str) -> dict[str, bytes]:
    with pytest.raises(SystemExit) as ended:
        main([*COMMAND, *more, "--out", str(out)])
    assert not ended.value.code
    return bytes_of(out)


def assert_written_by_two(out: Path, reproduced_alone: dict[str, bytes]) -> None:
    assert bytes_of(out) == reproduced_alone
    assert {part.folder.name.split(".r")[1] for part in read_parts(out)} == {"0", "1"}


@pytest.fixture(scope="module")
def reproduced_alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return reproduced(tmp_path_factory.mktemp("reproduced") / "alone")


@pytest.mark.slow
def test_accelerate_launch_equals_the_command_alone(
    tmp_path: Path, reproduced_alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    port = ["--main_process_port", str(free_port())]  # given 0, older releases of accelerate wait forever
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", *port]
    call = [sys.executable, *launcher, "-m", "lens_multimodal", *COMMAND, "--out", str(tmp_path)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report: ") == 1, "every process said it"
    assert_written_by_two(tmp_path, reproduced_alone)


@pytest.mark.newest
@pytest.mark.slow
def test_the_option_processes_equals_the_command_alone(
    tmp_path: Path, reproduced_alone: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    reproduced(tmp_path, "--processes", "2")
    assert capfd.readouterr().out.count("report: ") == 1
    assert_written_by_two(tmp_path, reproduced_alone)


@pytest.mark.newest
@pytest.mark.slow
def test_a_process_that_fails_ends_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "--limit", "2", "--processes", "2", "--model", "no-such-model", "--out", str(tmp_path)])
    assert ended.value.code == 1
    assert "error: " in capfd.readouterr().err
