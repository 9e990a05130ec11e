"""Attribution of every MLP neuron at every position, for 1, 8 and 32 targets, and for a batch with one target each."""

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks import rivals
from benchmarks.figure import OURS, Aim, Figure, compare, relative
from benchmarks.floor import attribution
from benchmarks.peak_memory import tensor_peak
from benchmarks.workbench import Workbench
from lens_multimodal.analysis import (
    ActivationXGradient,
    estimate_attribution,
    neuron_attribution,
    top_neurons,
    top_neurons_by_row,
)

TARGETS = (1, 8, 32)
BATCH, TOP = 8, 100
BESIDE = "time over bare transformers with PyTorch hooks"


def measure(bench: Workbench) -> list[Figure]:
    """One target only where a CPU would need hours for more: at GPT-J's true width."""
    if not bench.on_gpu and bench.shape in ("slice", "gpt-j"):
        return [_targets(bench, 1)]
    return [*(_targets(bench, n) for n in TARGETS), _batch(bench)]


def _targets(bench: Workbench, n: int) -> Figure:
    model = bench.lens.model
    prompt = bench.prompts()
    tokens, pos = prompt.tokens, prompt.tokens.shape[1]
    targets, embedded = bench.targets(n), bench.embedded(prompt)

    if n == 1:
        [token] = targets
        contenders = {
            OURS: lambda: neuron_attribution(model, tokens, token)[0],
            "transformers + PyTorch hooks": lambda: rivals.by_hand(bench.plain, embedded, [token])[0],
            "TransformerLens hooks": lambda: rivals.transformer_lens_hooks(model, embedded, token),
            "captum, list of layers": lambda: rivals.captum_layers(bench.plain, embedded, token, one_by_one=False),
            "captum, layer by layer": lambda: rivals.captum_layers(bench.plain, embedded, token, one_by_one=True),
            "nnsight": lambda: rivals.nnsight_trace(bench.plain, embedded, token),
            "loop over layers": lambda: rivals.layer_loop(bench.plain, embedded, token),
        }
    else:

        def ours(rows: int = 1) -> Tensor:
            score = ActivationXGradient(rows=rows)
            return _best(top_neurons(model, tokens, targets, top_k=TOP, score=score), n)

        def together() -> Tensor:
            return rivals.by_hand(bench.plain, embedded, targets, keep=_maximum)

        def again() -> Tensor:
            return torch.cat([rivals.by_hand(bench.plain, embedded, [token], keep=_maximum) for token in targets])

        # All positions of n targets would take n times gigabytes: for each target only every neuron's maximum is kept.
        contenders = {
            OURS: ours,
            "transformers + PyTorch hooks": lambda: _top(together()),
        }
        if n < max(TARGETS):
            contenders["transformers, a forward pass per target"] = lambda: _top(again())
        if bench.on_gpu:
            contenders[f"{OURS}, {BATCH} targets side by side"] = lambda: ours(rows=BATCH)
    timings, differences, absent = compare(bench, contenders, same=relative)
    figure = Figure(
        name=f"attribution, {n} target{'s' * (n > 1)}",
        work=f"{bench.lens.shape.n_neurons:,} neurons x {pos} positions x {n} target(s)",
        timings=timings,
        floor=attribution(bench.lens.shape, pos, targets=n, width=bench.dtype.itemsize),
        differences=differences,
        absent=absent,
        more=_memory(bench, tokens, embedded, targets) if n == 1 else {},
    )
    return replace(figure, aims=figure.aims_beside("transformers + PyTorch hooks", BESIDE, 1.05))


def _batch(bench: Workbench) -> Figure:
    """One target for each of several pictures: one forward, one backward."""
    model, prompt, targets = bench.lens.model, bench.prompts(BATCH), bench.targets(BATCH)
    embedded, image_pos, pos = bench.embedded(prompt), prompt.image_pos[0], prompt.tokens.shape[1]

    def one_by_one() -> Tensor:
        rows = zip(embedded, targets, strict=True)
        return torch.cat([rivals.by_hand_in_batch(bench.plain, e[None], [t], image_pos, top=TOP) for e, t in rows])

    contenders = {
        OURS: lambda: _best(top_neurons_by_row(model, prompt.tokens, targets, image_pos, top_k=TOP), BATCH),
        "transformers + PyTorch hooks": lambda: rivals.by_hand_in_batch(
            bench.plain, embedded, targets, image_pos, top=TOP
        ),
        "transformers, picture by picture": one_by_one,
    }
    timings, differences, absent = compare(bench, contenders, same=relative)
    floor = attribution(bench.lens.shape, pos, batch=BATCH, width=bench.dtype.itemsize)
    figure = Figure(
        name=f"attribution, batch of {BATCH}",
        work=f"{BATCH} pictures of {pos} positions with one target each, top {TOP} neurons",
        timings=timings,
        floor=floor,
        differences=differences,
        absent=absent,
    )
    share = floor.flops / timings[OURS].median / bench.ceilings["matmul FLOP/s"]
    of_ceiling = Aim(text="share of the measured matrix product ceiling", value=round(share, 3), limit=0.45,
                     at_most=False)  # fmt: skip
    beside = figure.aims_beside("transformers + PyTorch hooks", BESIDE, 1.05)
    return replace(figure, aims=(*beside, of_ceiling) if bench.on_gpu else beside)


def _memory(bench: Workbench, tokens: Tensor, embedded: Tensor, targets: list[int]) -> dict[str, float]:
    runs = {
        OURS: lambda: neuron_attribution(bench.lens.model, tokens, targets[0]),
        "transformers + PyTorch hooks": lambda: rivals.by_hand(bench.plain, embedded, targets),
    }
    found = {"estimated before the run, MB": estimate_attribution(bench.lens.model, tokens.shape[1]).peak / 2**20}
    for name, run in runs.items():
        found[f"peak memory of new tensors, MB: {name}"] = tensor_peak(run, bench.device) / 2**20
    return {name: round(value, 1) for name, value in found.items()}


def _maximum(scores: Tensor) -> Tensor:
    return scores.amax(dim=1)


def _top(maxima: Tensor) -> Tensor:
    return maxima.flatten(1).topk(TOP).values


def _best(table: object, n: int) -> Tensor:
    return torch.tensor(table["attribution"].to_numpy()).reshape(n, TOP)  # type: ignore[index]
