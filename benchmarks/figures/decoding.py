"""The ten top tokens of every neuron: in chunks against the whole product at once."""

import torch
from torch import Tensor

from benchmarks.figure import OURS, Figure, compare
from benchmarks.floor import decoding
from benchmarks.peak_memory import tensor_peak
from benchmarks.workbench import Workbench
from lens_multimodal import transformer
from lens_multimodal.analysis import decode_layers
from lens_multimodal.analysis.decoding.vocabulary_search import DEFAULT_BUDGET, chunk_sizes, search_vocabulary

ON_A_CPU = 2e11
"""Operations that are run on a CPU; the time of the others is extrapolated. Memory is measured over two chunks of
neurons, the most that are in memory at once."""

TOP = 10


def measure(bench: Workbench) -> list[Figure]:
    shape, model = bench.lens.shape, bench.lens.model
    cost = 2.0 * shape.d_model * shape.d_vocab
    per_layer = shape.d_mlp if bench.on_gpu else min(shape.d_mlp, max(1, int(ON_A_CPU / shape.n_layers / cost)))
    w_u = transformer.w_u(model).detach()

    def in_chunks(layer: int, n: int) -> Tensor:
        rows = transformer.w_out(model, layer)[:n].detach()
        return search_vocabulary(rows, lambda a, b: w_u[:, a:b].float(), shape.d_vocab, top_k=TOP).tokens

    def ours() -> Tensor:
        if per_layer == shape.d_mlp:
            return torch.cat([found.tokens for _, found in decode_layers(model, top_k=TOP)])
        return torch.cat([in_chunks(layer, per_layer) for layer in range(shape.n_layers)])

    @torch.no_grad()
    def at_once(layer: int, n: int) -> Tensor:
        head = bench.plain.lm_head.weight.float().T
        return (bench.plain.transformer.h[layer].mlp.fc_out.weight.T[:n].float() @ head).topk(TOP).indices

    def whole_layers() -> Tensor:
        return torch.cat([at_once(layer, per_layer) for layer in range(shape.n_layers)])

    timings, differences, absent = compare(
        bench, {OURS: ours, "whole product of a layer": whole_layers}, same=_other_tokens, tolerance=1e-3
    )
    chunk, _ = chunk_sizes(shape.d_model, shape.d_vocab, top_k=TOP, budget_bytes=DEFAULT_BUDGET)
    some = shape.d_mlp if bench.on_gpu else min(shape.d_mlp, 2 * chunk + 1)
    peaks = {
        name: round(tensor_peak(lambda run=run: run(0, some), bench.device) / 2**20, 1)
        for name, run in ((OURS, in_chunks), ("whole product of a layer", at_once))
    }
    n = shape.n_layers * per_layer
    return [
        Figure(
            name="decoding",
            work=f"{n:,} of {shape.n_neurons:,} neurons against {shape.d_vocab:,} tokens, in float32",
            timings=timings,
            floor=decoding(shape, n),
            differences=differences,
            absent=absent,
            more={
                f"peak memory of new tensors, for {some:,} neurons of a layer, MB": peaks,
                "seconds for all neurons": timings[OURS].median / n * shape.n_neurons,
                "difference": "share of tokens that differ (ties within rounding)",
            },
        )
    ]


def _other_tokens(ours: Tensor, theirs: Tensor) -> float:
    return float((ours != theirs).float().mean())
