"""What an attached lens costs: a forward pass over words with and without its two hooks."""

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.figure import OURS, Figure, compare, relative
from benchmarks.floor import forward
from benchmarks.workbench import Workbench
from lens_multimodal import transformer

POS = 200


def measure(bench: Workbench) -> list[Figure]:
    shape = bench.lens.shape
    words = torch.arange(min(POS, shape.n_ctx), device=bench.device)[None] % shape.d_vocab
    embedding = transformer.embedding_module(bench.lens.model)

    @torch.no_grad()
    def attached() -> Tensor:
        return transformer.logits_of(bench.lens.model, words)

    @torch.no_grad()
    def bare() -> Tensor:
        pre, post = embedding._forward_pre_hooks.copy(), embedding._forward_hooks.copy()
        embedding._forward_pre_hooks.clear()
        embedding._forward_hooks.clear()
        try:
            return transformer.logits_of(bench.lens.model, words)
        finally:
            embedding._forward_pre_hooks.update(pre)
            embedding._forward_hooks.update(post)

    @torch.no_grad()
    def plain() -> Tensor:
        return bench.plain(words, use_cache=False).logits

    name = "TransformerLens without a lens"
    contenders = {OURS: attached, name: bare, "transformers": plain}
    timings, differences, absent = compare(bench, contenders, same=relative)
    figure = Figure(
        name="attaching",
        work=f"one forward pass over {words.shape[1]} words",
        timings=timings,
        floor=forward(shape, words.shape[1], read=words.shape[1], width=bench.dtype.itemsize),
        differences=differences,
        absent=absent,
    )
    return [replace(figure, aims=figure.aims_beside(name, "time over the same model without a lens", 1.02))]
