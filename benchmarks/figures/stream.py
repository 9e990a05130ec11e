"""A stream of pictures through prompt and attribution: pictures per second, and memory that must not grow."""

import gc

import torch

from benchmarks.figure import OURS, Aim, Figure
from benchmarks.floor import Floor, attribution, encoder
from benchmarks.memory import in_use
from benchmarks.timing import Timing, timed
from benchmarks.workbench import Workbench
from lens_multimodal.analysis import top_neurons_by_row

BATCH, DISTINCT, LOOKS = 8, 64, 20


def measure(bench: Workbench) -> list[Figure]:
    """Everything is done anew for each picture; only the files' pixels repeat after `DISTINCT` pictures."""
    lens = bench.lens
    pictures = [bench.picture(i) for i in range(DISTINCT)]
    targets = bench.targets(BATCH)
    pos = 0

    def one_batch(number: int) -> None:
        nonlocal pos
        batch = [pictures[(number * BATCH + i) % DISTINCT] for i in range(BATCH)]
        prompt = lens.prompt(batch)
        pos = prompt.tokens.shape[1]
        top_neurons_by_row(lens.model, prompt.tokens, targets, prompt.image_pos[0])
        lens.forget(prompt)

    n_batches = max(2, bench.n_stream // BATCH)
    warm = max(1, n_batches // 10)
    seconds, used = [], []
    for number in range(n_batches):
        seconds.append(timed(lambda number=number: one_batch(number), bench.device))
        if number >= warm and (number - warm) % max(1, (n_batches - warm) // LOOKS) == 0:
            gc.collect()
            used.append((number * BATCH, in_use(bench.device) / 2**20))
    rest = torch.tensor(seconds[warm:])
    growth = used[-1][1] - used[0][1]
    half = used[len(used) // 2][1]
    shape, width = lens.shape, bench.dtype.itemsize
    floor = attribution(shape, pos, batch=BATCH, width=width) + encoder(
        lens.vision.module, lens.vision.n_patches + 1, batch=BATCH, width=width
    )
    n_pictures = n_batches * BATCH
    return [
        Figure(
            name="stream",
            work=f"{n_pictures:,} pictures in batches of {BATCH}: prompt, top 100 neurons of one target each",
            timings={
                OURS: Timing(
                    median=float(rest.median()) * n_batches,
                    lowest=float(rest.min()) * n_batches,
                    highest=float(rest.max()) * n_batches,
                    rounds=len(rest),
                )
            },
            floor=Floor(flops=floor.flops * n_batches, bytes=floor.bytes * n_batches),
            aims=(
                Aim(text="memory gained in the second half of the stream, MB", value=round(used[-1][1] - half, 2),
                    limit=2.0),
            ),
            more={
                "pictures per second": BATCH / float(rest.median()),
                "memory in use by picture, MB": [(n, round(mb, 2)) for n, mb in used],
                "memory gained after warm-up, MB": round(growth, 2),
                "soft prompts held at the end": len(lens.virtual_tokens),
            },
        )
    ]  # fmt: skip
