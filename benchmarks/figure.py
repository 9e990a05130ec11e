"""One figure of the benchmark: contenders, their floor, and the aims."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.floor import Floor
from benchmarks.timing import Timing, interleaved
from benchmarks.workbench import Workbench

OURS = "lens_multimodal"


@dataclass(frozen=True, kw_only=True)
class Aim:
    """A target and what was measured."""

    text: str
    """The target in words."""
    value: float
    """What was measured."""
    limit: float
    at_most: bool = True
    """Whether `limit` is an upper bound; otherwise it is a lower one."""

    @property
    def reached(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit


@dataclass(frozen=True, kw_only=True)
class Figure:
    """The result of one figure."""

    name: str
    work: str
    """What one run does, with sizes."""
    timings: dict[str, Timing] = field(default_factory=dict)
    floor: Floor | None = None
    aims: tuple[Aim, ...] = ()
    differences: dict[str, float] = field(default_factory=dict)
    """Largest difference of each rival's result from ours, as a share of the largest value."""
    more: dict[str, Any] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    """Rivals that could not be run, and why."""

    def over(self, rival: str) -> float:
        """Our median time over a rival's."""
        return self.timings[OURS].median / self.timings[rival].median

    def aims_beside(self, rival: str, text: str, limit: float) -> tuple[Aim, ...]:
        """The ratio of our time to a rival's, as an aim; nothing if the rival could not be run."""
        return (Aim(text=text, value=round(self.over(rival), 3), limit=limit),) if rival in self.timings else ()

    def to_json(self) -> dict[str, Any]:
        described = asdict(self)
        for shown, aim in zip(described["aims"], self.aims, strict=True):
            shown["reached"] = aim.reached
        return described


def compare(
    bench: Workbench,
    contenders: Mapping[str, Callable[[], Any]],
    *,
    same: Callable[[Any, Any], float],
    absent: Mapping[str, str] | None = None,
    tolerance: float | None = None,
) -> tuple[dict[str, Timing], dict[str, float], dict[str, str]]:
    """Time contenders whose results agree; `OURS` must be among them.

    Returns: timings, each rival's difference from ours, and why rivals are missing.
    Raises: AssertionError for a rival with another result: its time would mean nothing.
    """
    limit = tolerance if tolerance is not None else (1e-3 if bench.dtype == torch.float32 else 0.2)
    missing = dict(absent or {})
    ours = contenders[OURS]()
    running, differences = {OURS: contenders[OURS]}, {}
    for name, run in contenders.items():
        if name == OURS:
            continue
        try:
            found = run()
        except Exception as error:  # a rival that fails is reported and must not end the run
            missing[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            continue
        differences[name] = same(ours, found)
        assert differences[name] <= limit, f"{name} gives a different result: {differences[name]} of the largest value"
        running[name] = run
    del ours
    # The comparison has warmed up every contender.
    return interleaved(running, rounds=bench.rounds, device=bench.device, warm_up=0), differences, missing


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference as a share of the largest value."""
    ours, theirs = ours.float(), theirs.float().to(ours.device)
    return float((ours - theirs).abs().max() / ours.abs().max().clamp_min(1e-30))
