"""A stream of pictures through prompt and attribution: pictures per second, and memory that must not grow."""

import gc
from statistics import median

import torch
from PIL import Image
from torch import Tensor

from benchmarks import rivals
from benchmarks.figure import OURS, Aim, Figure, compare, relative
from benchmarks.floor import Floor, attribution, encoder
from benchmarks.peak_memory import in_use
from benchmarks.timing import Timing, timed
from benchmarks.workbench import Workbench
from lens_multimodal.analysis import top_neurons_by_row
from lens_multimodal.prompt.image_prompt import PROMPT

BATCH, DISTINCT, LOOKS, TOP = 8, 64, 20, 100


def measure(bench: Workbench) -> list[Figure]:
    """Nothing is cached between pictures; only the files' pixels repeat after `DISTINCT` pictures."""
    lens = bench.lens
    pictures = [bench.picture(i) for i in range(DISTINCT)]
    targets = bench.targets(BATCH)
    pos = 0

    def of_batch(number: int) -> list[Image.Image]:
        return [pictures[(number * BATCH + i) % DISTINCT] for i in range(BATCH)]

    def one_batch(number: int) -> Tensor:
        nonlocal pos
        prompt = lens.prompt(of_batch(number))
        pos = prompt.tokens.shape[1]
        found = top_neurons_by_row(lens.model, prompt.tokens, targets, prompt.image_pos[0], top_k=TOP)
        lens.forget(prompt)
        return torch.tensor(found["attribution"].to_numpy()).reshape(BATCH, TOP)

    def by_hand(number: int) -> Tensor:
        vectors = rivals.soft_prompts(lens, of_batch(number))
        words = bench.plain.transformer.wte(torch.tensor(lens.text.encode(PROMPT), device=bench.device))
        embedded = torch.cat([vectors, words.detach().expand(BATCH, -1, -1)], dim=1)
        return rivals.by_hand_in_batch(bench.plain, embedded, targets, torch.arange(vectors.shape[1]), top=TOP)

    contenders = {OURS: lambda: one_batch(0), "transformers + PyTorch hooks": lambda: by_hand(0)}
    beside, differences, absent = compare(bench, contenders, same=relative)

    n_batches = max(3, bench.n_stream // BATCH)
    warm = max(1, n_batches // 10)
    seconds, used = [], []
    for number in range(n_batches):
        seconds.append(timed(lambda number=number: one_batch(number), bench.device))
        if number >= warm and (number - warm) % max(1, (n_batches - warm) // LOOKS) == 0:
            gc.collect()
            used.append((number * BATCH, in_use(bench.device) / 2**20))
    steady = torch.tensor(seconds[warm:])
    # Single measurements of a process differ by tens of MB, depending on what the allocator keeps.
    in_mb = [mb for _, mb in used]
    half = len(in_mb) // 2
    gained = median(in_mb[half:]) - median(in_mb[:half])
    shape, width = lens.shape, bench.dtype.itemsize
    floor = attribution(shape, pos, batch=BATCH, width=width) + encoder(
        lens.vision.module, lens.vision.n_patches + 1, batch=BATCH, width=width
    )
    n_pictures = n_batches * BATCH
    return [
        Figure(
            name="stream",
            work=f"{n_pictures:,} pictures in batches of {BATCH}: prompt, top {TOP} neurons of one target each",
            timings={
                OURS: Timing(
                    median=float(steady.median()) * n_batches,
                    lowest=float(steady.min()) * n_batches,
                    highest=float(steady.max()) * n_batches,
                    rounds=len(steady),
                ),
                **{name: _times(timing, n_batches) for name, timing in beside.items() if name != OURS},
            },
            differences=differences,
            absent=absent,
            floor=Floor(flops=floor.flops * n_batches, bytes=floor.bytes * n_batches),
            aims=(
                Aim(text="memory in the second half of the stream above the first half's, medians, MB",
                    value=round(gained, 2), limit=2.0),
            ),
            more={
                "pictures per second": BATCH / float(steady.median()),
                "memory in use by picture, MB": [(n, round(mb, 2)) for n, mb in used],
                "memory in use, lowest and highest, MB": (round(min(in_mb), 2), round(max(in_mb), 2)),
                "soft prompts held at the end": len(lens.virtual_tokens),
            },
        )
    ]  # fmt: skip


def _times(one: Timing, n: int) -> Timing:
    """The time for `n` such batches: before the stream begins, ours and a rival take turns on a few of them."""
    return Timing(median=n * one.median, lowest=n * one.lowest, highest=n * one.highest, rounds=one.rounds)
