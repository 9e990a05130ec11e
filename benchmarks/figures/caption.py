"""Twenty greedy tokens after one picture, and after each of 32 pictures: the encoder, the prompt, the tokens."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks import rivals
from benchmarks.figure import OURS, Figure, compare
from benchmarks.floor import caption, encoder
from benchmarks.workbench import Workbench
from lens_multimodal.prompt.image_prompt import PROMPT

NEW, BATCH = 20, 32
BARE = "transformers generate"


def measure(bench: Workbench) -> list[Figure]:
    return [_captions(bench, 1), _captions(bench, BATCH)]


def _captions(bench: Workbench, batch: int) -> Figure:
    lens, pictures = bench.lens, [bench.picture(seed) for seed in range(batch)]
    pos = lens.prompt(pictures[0]).tokens.shape[1]

    def ours() -> list[str]:
        return lens.caption(pictures, max_new_tokens=NEW)

    @torch.no_grad()
    def embedded() -> Tensor:
        words = bench.plain.transformer.wte(torch.tensor(lens.text.encode(PROMPT), device=bench.device))
        return torch.cat([rivals.soft_prompts(lens, pictures), words.expand(batch, -1, -1)], dim=1)

    @torch.no_grad()
    def transformers_generate() -> list[str]:
        vectors = embedded()
        ids: Any = bench.plain.generate(
            inputs_embeds=vectors,
            attention_mask=torch.ones(vectors.shape[:2], dtype=torch.long, device=bench.device),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=lens.text.stop_ids,
            pad_token_id=0,
        )
        return _texts(bench, ids)

    @torch.no_grad()
    def transformer_lens_generate() -> list[str]:
        ids: Any = lens.model.generate(  # type: ignore[operator]
            embedded(),
            max_new_tokens=NEW,
            do_sample=False,
            stop_at_eos=True,
            eos_token_id=lens.text.stop_ids,
            return_type="tokens",
            verbose=False,
        )
        return _texts(bench, ids)

    contenders = {
        OURS: ours,
        BARE: transformers_generate,
        "TransformerLens generate": transformer_lens_generate,
    }
    timings, differences, absent = compare(
        bench,
        contenders,
        same=lambda a, b: sum(x != y for x, y in zip(a, b, strict=True)) / batch,
        tolerance=None if bench.dtype == torch.float32 else 1.0,
    )
    width = bench.dtype.itemsize
    floor = caption(lens.shape, pos, NEW, batch=batch, width=width)
    figure = Figure(
        name="caption" if batch == 1 else f"caption, {batch} pictures",
        work=f"{batch} picture{'s' * (batch > 1)} to {NEW} greedy tokens, {pos} positions before them",
        timings=timings,
        floor=floor + encoder(lens.vision.module, lens.vision.n_patches + 1, batch=batch, width=width),
        differences=differences,
        absent=absent,
        more={"difference": "share of pictures whose text differs"},
    )
    return replace(figure, aims=figure.aims_beside(BARE, "time over transformers generate", 1.05))


def _texts(bench: Workbench, ids: Tensor) -> list[str]:
    return [bench.lens.text.caption(bench.lens.text.first_line(row)) for row in ids.tolist()]
