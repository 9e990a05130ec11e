"""The command itself on the embedded trio's shape, and what it writes."""

import json
from collections.abc import Callable

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks import timing
from benchmarks.__main__ import main
from benchmarks.figure import OURS, Aim, Figure, compare
from benchmarks.figures import FIGURES, start_up, stream
from benchmarks.figures.precision import agreement
from benchmarks.report import as_figure, as_json, as_table
from benchmarks.timing import interleaved
from benchmarks.workbench import Workbench

CEILINGS = {"matmul FLOP/s": 1e11, "copy bytes/s": 1e10}


class Operations(TorchDispatchMode):
    """Counts as `FlopCounterMode` does, which cannot follow gradients with respect to leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=found)
        return found


def counted(run: Callable[[], object], _device: str) -> float:
    """In place of the clock, which depends on what else runs: a second is an operation of a matrix product."""
    with Operations() as done:
        run()
    return max(1.0, done.total)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_one_command(tmp_path, capsys, monkeypatch):
    names = [name for name in FIGURES if name not in ("growth", "decoding")]
    short = {OURS: "import lens_multimodal", "no import": "pass"}  # each contender's own code runs in the next test
    monkeypatch.setattr(start_up, "CONTENDERS", short)
    monkeypatch.setitem(interleaved.__kwdefaults__, "warm_up", 0)
    for module in (timing, stream):
        monkeypatch.setattr(module, "timed", counted)
    chosen = [part for name in names for part in ("--only", name)]
    main(["--shape", "tiny", "--rounds", "1", "--pictures", "32", "--out", str(tmp_path), *chosen])
    shown = capsys.readouterr().out
    [path] = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    assert {"date", "device", "versions", "busy", "shape", "dtype", "command"} <= set(result["meta"])
    assert result["ceilings"]["matmul FLOP/s"] == 1
    figures = {figure["name"]: figure for figure in result["figures"]}
    for name in ("attaching", "caption", "attribution, 1 target", "attribution, 32 targets", "discovery",
                 "ablation curve", "activation patching", "stream", "precision", "start-up"):  # fmt: skip
        assert name in figures
        assert name in shown
    for figure in result["figures"]:
        assert all(difference <= 1e-2 for difference in figure["differences"].values()), figure["name"]
        if "over_floor" in figure:
            assert figure["over_floor"] > 1 - 1e-9, f"{figure['name']} needs less than its floor"
    alone = {name for name, figure in figures.items() if len(figure["timings"]) == 1}
    assert not alone, "figures without a rival"
    rivals = set(figures["attribution, 1 target"]["timings"])
    assert {OURS, "transformers + PyTorch hooks", "TransformerLens hooks", "loop over layers"} <= rivals
    assert figures["precision"]["more"]["bfloat16"]["Spearman"] > 0.9
    assert figures["stream"]["more"]["soft prompts held at the end"] <= 64
    assert (path.with_suffix(".html")).read_text().count("milliseconds") >= 5
    assert "aim:" in path.with_suffix(".txt").read_text()


@pytest.mark.parametrize("contender", start_up.CONTENDERS)
def test_every_contender_of_the_start_up_runs(contender):
    exec(start_up.CONTENDERS[contender], {})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_figure_that_fails_does_not_take_the_others_with_it(tmp_path, capfd, monkeypatch):
    def fails(_bench):
        raise MemoryError("not on this machine")

    monkeypatch.setitem(FIGURES, "attaching", fails)
    chosen = ["--only", "attaching", "--only", "image_prompt"]
    with pytest.raises(SystemExit, match="attaching"):
        main(["--shape", "tiny", "--rounds", "1", "--out", str(tmp_path), *chosen])
    assert "MemoryError: not on this machine" in capfd.readouterr().err
    [path] = tmp_path.glob("*.json")
    assert [figure["name"] for figure in json.loads(path.read_text())["figures"]] == [
        "image prompt, 1 picture",
        "image prompt, 8 pictures",
    ]


def test_rounds_are_interleaved_and_warmed_up():
    order = []
    runs = {name: (lambda name=name: order.append(name)) for name in "ab"}
    found = interleaved(runs, rounds=3, device="cpu", warm_up=2)
    assert order == ["a", "b"] * 5
    assert found["a"].rounds == 3
    assert found["a"].lowest <= found["a"].median <= found["a"].highest


def test_a_rival_with_another_result_is_not_timed():
    bench = Workbench(shape="tiny", device="cpu", dtype=torch.float32, rounds=1, n_stream=8, ceilings=CEILINGS)
    runs = {OURS: lambda: 1.0, "wrong": lambda: 2.0}
    with pytest.raises(AssertionError, match=r"\bwrong\b.* 1\.0\b"):
        compare(bench, runs, same=lambda a, b: abs(a - b))

    def fails():
        raise RuntimeError("not on this machine")

    timings, _, absent = compare(bench, {OURS: lambda: 1.0, "absent": fails}, same=lambda a, b: abs(a - b))
    assert list(timings) == [OURS]
    assert absent == {"absent": "RuntimeError: not on this machine"}


def test_what_is_not_reached_is_printed():
    bars = interleaved({OURS: lambda: sum(range(2000)), "rival": lambda: sum(range(9000))}, rounds=2, device="cpu")
    aims = (Aim(text="time over it", value=2.0, limit=1.15), Aim(text="gain", value=12, limit=10, at_most=False))
    more = {"seconds per picture": 0.23660762349999942, "in use": [(8, 1.25), (16, 1.5)], "bf16": {"overlap": 0.99}}
    figure = Figure(name="sums", work="adds numbers", timings=bars, aims=aims, more=more)
    meta = {"device": "here", "shape": "tiny", "dtype": "float32", "date": "2026-01-01"}
    result = as_json([figure], meta=meta, ceilings=CEILINGS)
    table = as_table(result)
    assert "aim: time over it <= 1.15: 2.0 (NOT reached)" in table
    assert "aim: gain >= 10: 12 (reached)" in table
    assert "seconds per picture: 0.2366\n" in table
    assert "in use: (8, 1.25), (16, 1.5)\n" in table
    assert table.endswith("bf16: overlap 0.99")
    drawn = as_figure(result)
    assert list(drawn.data[0].x) == [bars[name].median * 1e3 for name in ("rival", OURS)]


def test_a_rival_that_is_absent_sets_no_aim():
    figure = Figure(name="sums", work="adds", timings=interleaved({OURS: lambda: None}, rounds=1, device="cpu"))
    assert figure.aims_beside("rival", "time over it", 1.15) == ()
    [aim] = figure.aims_beside(OURS, "time over it", 1.15)
    assert aim.value == 1
    assert aim.reached


def test_agreement_of_rankings():
    exact = torch.arange(200.0)
    assert agreement(exact, exact * 3 + 1).top_overlap == 1
    assert agreement(exact, exact * 3 + 1).spearman == pytest.approx(1)
    assert agreement(exact, -exact).top_overlap == 0
    assert agreement(exact, -exact).spearman == pytest.approx(-1)
