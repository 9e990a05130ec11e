"""Exit codes, one-line errors, help."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lens_multimodal.cli import main
from lens_multimodal.cli.app import COMMANDS, one_line

NAMES = [command.__name__ for command in COMMANDS]


@pytest.fixture
def one_error(run):
    """The message of a command that must fail, in the way a user sees it."""

    def failing(*arguments: object) -> str:
        ended = run(*arguments)
        assert (ended.code, ended.out) == (1, "")
        assert re.fullmatch(r"error: [^\n]+\n", ended.err), ended.err
        assert "bug" not in ended.err
        return ended.err

    return failing


def test_the_commands():
    expected = "caption neurons decode ablate patch train activations atlas reproduce report explore info"
    assert expected.split() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_help_has_examples(run, name):
    ended = run(name, "--help")
    assert ended.code == 0
    assert f"lens-multimodal {name}" in ended.out
    assert "Example" in ended.out


def test_version_and_general_help(run):
    from lens_multimodal import __version__

    assert run("--version") == (0, f"lens_multimodal {__version__}\n", "")
    ended = run("--help")
    assert ended.code == 0
    assert all(name in ended.out for name in NAMES)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["caption", "x.png", "--nonsense"],
        ["neurons", "x.png"],
        ["caption", "x.png", "--max-new-tokens", "0"],
        ["caption", "x.png", "--format", "xlsx"],
        ["caption", "x.png", "--dtype", "int8"],
        ["decode", "3.1", "--picture", "x.png"],
        ["ablate", "x.png", "-w", "dog", "--top", "3", "--neurons", "3.1"],
        ["patch", "x.png", "-w", "dog"],
        ["neurons", "x.png", "-w", "dog", "--score", "gradients"],
        ["neurons", "x.png", "-w", "dog", "--reduce", "median"],
        ["neurons", "x.png", "-w", "dog", "--positions", "first"],
        ["explore", "--port", "70000"],
        ["reproduce", "--limit", "0"],
    ],
)
def test_wrong_usage_ends_with_2(run, arguments):
    ended = run(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "Usage" in ended.err


@pytest.fixture
def listens_to_interrupts():
    """Shells start background jobs with the signal ignored; a terminal's commands have Python's own handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listens_to_interrupts")
def test_interrupted(run, monkeypatch, pictures):
    monkeypatch.setattr("lens_multimodal.cli.options.LensOptions.open", lambda *_: signal.raise_signal(signal.SIGINT))
    ended = run("caption", pictures[0])
    assert (ended.code, ended.out) == (130, "")
    assert "interrupted" in ended.err


def test_pictures_that_are_not_there(one_error, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "'nowhere.png'" in one_error("caption", "nowhere.png")
    assert repr(str(tmp_path / "*.png")) in one_error("caption", tmp_path / "*.png")
    assert repr(str(tmp_path / "empty")) in one_error("caption", tmp_path / "empty")


CHEAP_MISTAKES = [
    (["caption", "nowhere.png"], "nowhere.png"),
    (["neurons", "nowhere.png", "-w", "dog"], "nowhere.png"),
    (["ablate", "nowhere.png", "-w", "dog"], "nowhere.png"),
    (["patch", "HERE", "nowhere.png", "-w", "dog"], "nowhere.png"),
    (["patch", "HERE", "HERE", "-w", "dog", "--layers", "5-2"], "5-2"),
    (["decode", "--picture", "nowhere.png"], "nowhere.png"),
    (["decode", "3.1", "--projection", "nowhere.ckpt"], "nowhere.ckpt"),
    (["caption", "HERE", "--out", "captions.xyz"], "captions.xyz"),
    (["caption", "HERE", "--out", "."], "folder"),
    (["neurons", "HERE", "-w", "dog", "--score", "gradients"], "gradients"),
]


def test_cheap_mistakes_are_told_before_anything_heavy_is_imported(pictures):
    code = f"""
import sys
from lens_multimodal.cli import main
for arguments, named in {CHEAP_MISTAKES!r}:
    try:
        main([{str(pictures[0])!r} if a == "HERE" else a for a in arguments])
    except SystemExit as ended:
        assert ended.code in (1, 2), arguments
    heavy = [name for name in ("torch", "pandas", "transformers", "transformer_lens", "plotly") if name in sys.modules]
    assert not heavy, (arguments, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=_ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert [named for _, named in CHEAP_MISTAKES if named not in done.stderr] == []


def test_a_file_that_is_no_picture(one_error, run, pictures, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    assert "broken.png" in one_error("caption", broken)
    ended = run("caption", broken, pictures[0], "--keep-going", "-f", "json")
    assert ended.code == 1
    assert [row["picture"] for row in json.loads(ended.out)] == [str(pictures[0])]
    assert "skipped" in ended.err
    assert "broken.png" in ended.err


def test_words(one_error, pictures):
    assert "' zebra'" in one_error("neurons", pictures[0], "-w", "zebra")
    assert "7 tokens" in one_error("neurons", pictures[0], "-w", "unquestionably not a word", "--text", "A")


def test_neurons(one_error, pictures, tmp_path):
    assert "'three'" in one_error("decode", "three")
    assert "layer 99 " in one_error("decode", "99.1")
    assert "--top 99999: " in one_error("ablate", pictures[0], "-w", "dog", "--text", "A picture of a", "--top", 99999)
    assert "3.120" in one_error("ablate", pictures[0], "-w", "dog", "--text", "A", "-n", ",")
    for name, content, words in (
        ("a.csv", "layer,unit\n1,2\n", "layer, unit"),
        ("a.csv", "layer,neuron\n1,x\n", "a.csv': expected integers"),
        ("a.csv", "layer,neuron\n", "a.csv': expected integers"),
        ("a.json", "{", "damaged"),
        ("a.parquet", "PAR1", "damaged"),
        ("a.txt", "3.120", ".parquet, .json, .csv, got 'a.txt'"),
    ):
        (tmp_path / name).write_text(content)
        assert words in one_error("decode", "--neurons-from", tmp_path / name)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1]", "settings.json' holds a list,"),
        ("{", "not JSON"),
        ('{"step": 3}', " step; known are steps, batch_size"),
        ('{"steps": "many"}', "steps is 'many', "),
        ('{"steps": true}', "steps is True, "),
        ('{"steps": 0}', "steps must be at least 1, got 0"),
        ('{"learning_rate": NaN}', "learning_rate"),
        ('{"precision": "fp8"}', "'fp8'"),
    ],
)
def test_settings_of_training(one_error, tmp_path, content, words):
    (tmp_path / "settings.json").write_text(content)
    message = one_error("train", tmp_path, "-o", tmp_path / "run", "--settings", tmp_path / "settings.json")
    assert words in message
    assert not (tmp_path / "run").exists()


def test_parts_that_are_not_there(one_error, pictures):
    assert "language model 'no-such-model'" in one_error(
        "caption", pictures[0], "--model", "no-such-model", "--vision", "tiny"
    )
    assert "projection at 'x.ckpt'" in one_error("caption", pictures[0], "--projection", "x.ckpt")
    assert "'abacus'" in one_error("caption", pictures[0], "--device", "abacus")


def test_a_format_that_the_file_name_does_not_say(one_error, tmp_path):
    told = one_error("info", "--no-hooks", "-o", tmp_path / "table.docx")
    assert "'table.docx'" in told
    assert "--format" in told


def test_debug_shows_where_it_happened(capsys):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        main(["caption", "nowhere.png", "--debug"])
    assert capsys.readouterr().err == ""


def test_what_no_user_can_cause_is_called_a_bug():
    assert one_line(ValueError("two\nlines")) == "two lines"
    for error in (KeyError("x"), ValueError()):
        assert one_line(error).startswith(f"{type(error).__name__} {error}".rstrip())
        assert "bug of lens_multimodal" in one_line(error)


def test_as_a_module_with_a_traceback_only_on_demand():
    plain = _run("caption", "nowhere.png")
    assert plain.returncode == 1
    assert re.fullmatch(r"error: .*'nowhere\.png'\n", plain.stderr)
    debug = _run("caption", "nowhere.png", "--debug")
    assert debug.returncode == 1
    assert "Traceback" in debug.stderr


def test_help_names_every_score():
    from lens_multimodal.analysis import SCORES

    done = _run("neurons", "--help")
    assert not [name for name in SCORES if name not in done.stdout]


def test_help_waits_for_nothing_heavy():
    code = """
import sys
from lens_multimodal.cli import main
for arguments in (["--help"], ["caption", "--help"], ["neurons", "--help"], ["train", "--help"], ["--version"]):
    try:
        main(arguments)
    except SystemExit:
        pass
heavy = {"torch", "numpy", "pandas", "plotly", "transformers", "transformer_lens", "timm"} & set(sys.modules)
sys.exit(" ".join(sorted(heavy)) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=_ROOT, check=False)
    assert done.returncode == 0, f"imported for the help alone: {done.stderr}"


_ROOT = Path(__file__).parents[2]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lens_multimodal", *arguments],
        capture_output=True, text=True, cwd=_ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip


def test_a_terminal_that_lacks_a_character_shows_its_escape(monkeypatch):
    """An error or a result is printed in full; the streams are as before afterwards."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding="latin-1", errors="strict"))
    with pytest.raises(SystemExit):
        main(["caption", "犬.png"])
    sys.stderr.flush()
    assert rb"\u72ac.png" in sys.stderr.buffer.getvalue()
    assert (sys.stdout.errors, sys.stderr.errors) == ("strict", "strict")
