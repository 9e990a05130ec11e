"""Two processes give the tables of one, even if all are killed and another number of processes continues.

The command that the documentation gives, `accelerate launch -m lens_multimodal reproduce`, runs the experiments.
Without a GPU, accelerate starts several processes only with `--multi_gpu`.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lens_multimodal.cli import main
from lens_multimodal.experiments.stream.parts import read_parts
from tests.experiments.stream_world import make_scenes, run_probe
from tests.experiments.test_stream import bytes_of

COUNT = 14
SECONDS = 0.5


def launch(home: Path, out: Path, *, processes: int = 2) -> subprocess.Popen[bytes]:
    """As `torchrun` and `accelerate launch` do."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *launcher, "-m", "tests.experiments.stream_world", str(home), str(out), str(SECONDS)]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def kill_all(launcher: subprocess.Popen[bytes]) -> None:
    """Kill the launcher and its workers, which have sessions of their own and would continue without it."""
    workers = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    assert len(workers) == 2
    for pid in (launcher.pid, *map(int, workers)):
        os.kill(pid, signal.SIGKILL)
    launcher.communicate()


def free_port() -> int:
    """Newer releases of accelerate find a port themselves when given 0; older ones wait there forever."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


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
    started = launch(home, tmp_path / "out")
    _, said = started.communicate()
    assert started.returncode == 0, said.decode()[-3000:]
    assert bytes_of(tmp_path / "out") == bytes_of(alone)
    writers = {part.folder.name.split(".r")[1] for part in read_parts(tmp_path / "out")}
    assert writers == {"0", "1"}


@pytest.mark.slow
def test_two_killed_processes_are_continued_by_one(home: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    started = launch(home, out)
    while len(read_parts(out)) < 2:
        assert started.poll() is None, started.communicate()[1].decode()[-3000:]
        time.sleep(0.01)
    kill_all(started)
    done = sum(len(part.done) for part in read_parts(out))
    assert 0 < done < COUNT
    assert not (out / "tables" / "probe.pictures.parquet").exists()
    run_probe(home, out, seconds=SECONDS, count=COUNT)
    assert bytes_of(out) == bytes_of(alone)
    made = [image_id for part in read_parts(out) for image_id in part.done]
    assert len(made) == len(set(made)) == COUNT


@pytest.mark.slow
def test_the_command_under_accelerate_launch_equals_itself_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reproduce", "--only", "projection", "--only", "follow_ups", "--limit", "2", "--out"]
    port = ["--main_process_port", str(free_port())]
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", *port]
    call = [sys.executable, *launcher, "-m", "lens_multimodal", *command, str(tmp_path / "two")]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report: ") == 1, "every process said it"
    with pytest.raises(SystemExit) as ended:
        main([*command, str(tmp_path / "one")])
    assert not ended.value.code
    assert capsys.readouterr().out.count("report: ") == 1
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / out / "tables").iterdir()} for out in ("one", "two")
    )
    assert len(one) == 5
    assert one == two
    assert {part.folder.name.split(".r")[1] for part in read_parts(tmp_path / "two")} == {"0", "1"}
