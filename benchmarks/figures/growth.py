"""How the cost of attribution grows with layers, width, image positions, targets and batch.

One size is varied at a time. On doubly logarithmic axes the slope of time must not exceed that of the counted
operations: a hidden quadratic, or a forward pass per layer or target, would show as a steeper line.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from benchmarks.figure import OURS, Aim, Figure
from benchmarks.floor import attribution
from benchmarks.timing import interleaved
from benchmarks.workbench import Workbench, small_lens
from lens_multimodal import VisionLens
from lens_multimodal.analysis import top_neurons, top_neurons_by_row

BASE = {"n_layers": 4, "d_model": 256, "grid": 12, "targets": 1, "batch": 1}
SIZES: dict[str, Sequence[int]] = {
    "n_layers": (2, 4, 8, 16),
    "d_model": (128, 256, 512, 1024),
    "grid": (6, 9, 12, 18),
    "targets": (1, 4, 8, 16),
    "batch": (1, 2, 4, 8),
}
SLACK = 0.25
WIDER_ON_A_GPU = 4


def measure(bench: Workbench) -> list[Figure]:
    """Variations of the shape `small`, so only in a run of that shape; a GPU gets larger ones, whatever its shape."""
    if bench.shape != "small" and not bench.on_gpu:
        return []
    return [_grow(bench, axis, sizes) for axis, sizes in SIZES.items()]


def _grow(bench: Workbench, axis: str, sizes: Sequence[int]) -> Figure:
    runs: dict[str, Callable[[], object]] = {}
    counted = []
    wider = WIDER_ON_A_GPU if bench.on_gpu else 1
    base = {**BASE, "d_model": wider * BASE["d_model"]}
    sizes = [wider * size for size in sizes] if axis == "d_model" else sizes
    for size in sizes:
        setting = {**base, axis: size}
        n_targets, batch = setting.pop("targets"), setting.pop("batch")
        lens = small_lens(device=bench.device, dtype=bench.dtype, d_vocab=6000, **setting)
        run, pos = _attribution(bench, lens, n_targets, batch)
        runs[str(size)] = run
        counted.append(attribution(lens.shape, pos, batch=batch, targets=n_targets).flops)
    timings = interleaved(runs, rounds=bench.rounds, device=bench.device)
    scale = [pos * pos if axis == "grid" else pos for pos in sizes]
    time = [timings[str(size)].median for size in sizes]
    slope, expected = (_exponent(scale, values) for values in (time, counted))
    largest = str(sizes[-1])
    return Figure(
        name=f"growth over {'image positions' if axis == 'grid' else axis}",
        work="attribution on GPT-J's layout, " + ", ".join(f"{k}={v}" for k, v in base.items() if k != axis),
        timings={OURS: timings[largest], **{f"{axis}={n}": t for n, t in timings.items()}},
        aims=(Aim(text="exponent of time beyond that of counted operations", value=round(slope - expected, 3),
                  limit=SLACK),),
        more={
            "size": scale,
            "seconds": time,
            "operations": counted,
            "exponent of time": round(slope, 3),
            "exponent of counted operations": round(expected, 3),
        },
    )  # fmt: skip


def _attribution(bench: Workbench, lens: VisionLens, n_targets: int, batch: int) -> tuple[Callable[[], object], int]:
    prompt = lens.prompt([bench.picture(i) for i in range(batch)])
    ids = [(3 + 7 * i) % lens.shape.d_vocab for i in range(max(n_targets, batch))]
    where = prompt.image_pos[0]

    # The prompt is kept in a variable: its image tokens are valid only while it exists.
    def one(prompt: object = prompt) -> object:
        if batch > 1:
            return top_neurons_by_row(lens.model, prompt.tokens, ids, where)  # type: ignore[attr-defined]
        return top_neurons(lens.model, prompt.tokens, ids[:n_targets], where)  # type: ignore[attr-defined]

    return partial(one), prompt.tokens.shape[1]


def _exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(values), deg=1)[0])
