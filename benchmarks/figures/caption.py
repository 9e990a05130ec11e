"""Twenty greedy tokens after one picture, with a key-value cache."""

from typing import Any

import torch

from benchmarks.figure import OURS, Figure, compare
from benchmarks.floor import caption, encoder
from benchmarks.workbench import Workbench

NEW = 20


def measure(bench: Workbench) -> list[Figure]:
    lens, picture = bench.lens, bench.picture()
    pos = lens.prompt(picture).tokens.shape[1]

    def ours() -> str:
        return lens.caption(picture, max_new_tokens=NEW)

    @torch.no_grad()
    def transformers_generate() -> str:
        embedded = bench.embedded(lens.prompt(picture))
        ids: Any = bench.plain.generate(
            inputs_embeds=embedded,
            attention_mask=torch.ones(embedded.shape[:2], dtype=torch.long, device=bench.device),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=lens.text.stop_ids,
            pad_token_id=0,
        )
        return _text(bench, ids[0].tolist())

    @torch.no_grad()
    def transformer_lens_generate() -> str:
        embedded = bench.embedded(lens.prompt(picture))
        ids: Any = lens.model.generate(  # type: ignore[operator]
            embedded,
            max_new_tokens=NEW,
            do_sample=False,
            stop_at_eos=True,
            eos_token_id=lens.text.stop_ids,
            return_type="tokens",
            verbose=False,
        )
        return _text(bench, ids[0].tolist())

    contenders = {
        OURS: ours,
        "transformers generate": transformers_generate,
        "TransformerLens generate": transformer_lens_generate,
    }
    timings, differences, absent = compare(
        bench, contenders, same=lambda a, b: float(a != b), tolerance=None if bench.dtype == torch.float32 else 1.0
    )
    width = bench.dtype.itemsize
    floor = caption(lens.shape, pos, NEW, width=width)
    return [
        Figure(
            name="caption",
            work=f"one picture to {NEW} greedy tokens, {pos} positions before them",
            timings=timings,
            floor=floor + encoder(lens.vision.module, lens.vision.n_patches + 1, width=width),
            differences=differences,
            absent=absent,
            more={"difference": "0 where the text is the same, 1 where it is not"},
        )
    ]


def _text(bench: Workbench, ids: list[int]) -> str:
    return bench.lens.text.caption(bench.lens.text.first_line(ids))
