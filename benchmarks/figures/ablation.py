"""The paper's ablation curve: the best N neurons set to zero at the image positions, for N on a logarithmic grid.

Ours runs the points as rows of one forward pass, with a row without ablation; the rival runs them one by one.
"""

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.figure import OURS, Figure, compare, relative
from benchmarks.floor import Floor, forward
from benchmarks.workbench import Workbench
from lens_multimodal.analysis import Case, effects_against_random, top_neurons

BARE = "transformers + PyTorch hooks"
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def measure(bench: Workbench) -> list[Figure]:
    lens = bench.lens
    prompt = bench.prompts()
    [token] = bench.targets(1)
    image_pos = prompt.image_pos[0]
    found = top_neurons(lens.model, prompt.tokens, token, image_pos, top_k=max(COUNTS))
    embedded = bench.embedded(prompt)

    case = Case(tokens=prompt.tokens, target=token, neurons=found, positions=image_pos)

    def ours() -> Tensor:
        return torch.tensor(effects_against_random(lens.model, [case], counts=COUNTS, n_random=0)["logit_after"])

    @torch.no_grad()
    def by_hand() -> Tensor:
        return torch.stack([_without(bench, embedded, image_pos, found.head(n), token) for n in COUNTS])

    timings, differences, absent = compare(bench, {OURS: ours, BARE: by_hand}, same=relative)
    one = forward(lens.shape, prompt.tokens.shape[1], width=bench.dtype.itemsize)
    figure = Figure(
        name="ablation curve",
        work=f"{len(COUNTS)} ablations of 1 to {max(COUNTS)} neurons at {len(image_pos)} image positions",
        timings=timings,
        floor=Floor(flops=len(COUNTS) * one.flops, bytes=len(COUNTS) * one.bytes),
        differences=differences,
        absent=absent,
    )
    return [replace(figure, aims=figure.aims_beside(BARE, "time over bare transformers, point by point", 0.6))]


def _without(bench: Workbench, embedded: Tensor, image_pos: Tensor, neurons: object, token: int) -> Tensor:
    handles = []
    for layer, rows in neurons.groupby("layer"):  # type: ignore[attr-defined]
        units = torch.tensor(rows["neuron"].to_numpy()).to(embedded.device)

        def zero(_: object, args: tuple[Tensor], units: Tensor = units) -> tuple[Tensor]:
            edited = args[0].clone()
            edited[:, image_pos.to(edited.device)[:, None], units] = 0
            return (edited,)

        handles.append(bench.plain.transformer.h[layer].mlp.fc_out.register_forward_pre_hook(zero))
    try:
        return bench.plain(inputs_embeds=embedded, use_cache=False).logits[0, -1, token]
    finally:
        for handle in handles:
            handle.remove()
