"""From a picture to token ids: preprocessing, encoder, projection."""

import torch
from torch import Tensor

from benchmarks import rivals
from benchmarks.figure import OURS, Figure, compare, relative
from benchmarks.floor import encoder
from benchmarks.workbench import Workbench


def measure(bench: Workbench) -> list[Figure]:
    return [_batch(bench, size) for size in (1, 8)]


def _batch(bench: Workbench, size: int) -> Figure:
    lens = bench.lens
    pictures = [bench.picture(i) for i in range(size)]

    def ours() -> Tensor:
        prompt = lens.prompt(pictures)
        return torch.stack([prompt.spans[row][0].image.soft_prompt.vectors for row in range(size)])

    contenders = {OURS: ours, "timm by hand": lambda: rivals.soft_prompts(lens, pictures)}
    timings, differences, absent = compare(bench, contenders, same=relative)
    return Figure(
        name=f"image prompt, {size} picture{'s' * (size > 1)}",
        work=f"{size} picture(s) of 480 x 640 to {lens.vision.n_patches} image positions each",
        timings=timings,
        floor=encoder(lens.vision.module, lens.vision.n_patches + 1, batch=size, width=bench.dtype.itemsize),
        differences=differences,
        absent=absent,
    )
