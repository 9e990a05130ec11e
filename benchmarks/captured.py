"""Attribution as one CUDA graph: forward and backward pass of a fixed shape, replayed for every picture and target.

    python -m benchmarks.captured                                     # GPT-J-6B in bf16 on a GPU
    python -m benchmarks.captured --device cpu --shape tiny           # the same without a graph

A tensor of zeros, a leaf for autograd, is added to each layer's neuron activations, and its gradient is that of the
activations. The whole computation therefore has fixed inputs and outputs, and a graph can capture it.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks import machine, rivals
from benchmarks.floor import attribution
from benchmarks.timing import interleaved
from benchmarks.workbench import SHAPES, Workbench
from lens_multimodal import VisionLens, transformer
from lens_multimodal.analysis import top_neurons_by_row
from lens_multimodal.precision import wide
from lens_multimodal.transformer.checked_hooks import fired_hooks
from lens_multimodal.transformer.which_model import which_model

TOP = 100
WARM_UP = 3
"""Runs before a graph is captured, which allocate what the libraries below need."""
OURS, CAPTURED, PLAIN = "lens_multimodal", "captured", "transformers + PyTorch hooks"

Run = Callable[[], Tensor]


def as_cuda_graph(run: Run) -> Run:
    """A function that replays what `run` launches; its output is the same tensor each time."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


def as_it_is(run: Run) -> Run:
    """A plain call in place of a graph, for a CPU."""
    return run


class CapturedAttribution:
    """The neurons with the largest activation times gradient, for prompts of one shape.

    Args:
        like: a batch of embedded prompts of that shape.
        positions: where neurons are scored; the largest score counts.
        capture: `as_cuda_graph` or `as_it_is`.
    Raises: RuntimeError for a model that does not run on bare modules.
    """

    def __init__(
        self,
        lens: VisionLens,
        like: Float[Tensor, "batch pos d_model"],
        positions: Int[Tensor, " n"],
        *,
        capture: Callable[[Run], Run],
        top: int = TOP,
    ) -> None:
        sizes = lens.shape
        self._names = [transformer.mlp_post(layer) for layer in range(sizes.n_layers)]
        with lens.running_on("bare"):
            self._model: Any = which_model(lens.model, self._names)
        self._embedded = like.detach().clone()
        self._targets = torch.zeros(len(like), dtype=torch.long, device=like.device)
        self._positions, self._top = positions.to(like.device), top
        shape = (*like.shape[:2], sizes.d_mlp)
        self._zeros = [
            torch.zeros(shape, dtype=like.dtype, device=like.device, requires_grad=True) for _ in self._names
        ]
        with torch.enable_grad():
            self._run = capture(self._forward_and_backward)

    def __call__(
        self, embedded: Float[Tensor, "batch pos d_model"], targets: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch top"], Int[Tensor, "batch top"]]:
        """The largest scores of each row, and which neurons have them: `layer * d_mlp + neuron`.

        Raises: FloatingPointError if a score is infinite or not a number.
        """
        self._embedded.copy_(embedded)
        self._targets.copy_(targets)
        with torch.enable_grad():
            values, neurons, finite = self._run().cpu().unbind()  # the only synchronisation with the device
        if not bool(finite.all()):
            raise FloatingPointError("a score is infinite or not a number; run the model in bfloat16 or float32")
        return values.float(), neurons.long()

    def _forward_and_backward(self) -> Float[Tensor, "3 batch top"]:
        """Scores, neurons and whether all scores of a row are finite, in one tensor, so that one copy fetches them."""
        kept: list[Tensor] = []

        def add(zeros: Tensor) -> transformer.HookFunction:
            def hook(activation: Tensor, hook: Any) -> Tensor:
                kept.append(activation.detach())
                return activation + zeros

            return hook

        with fired_hooks(self._model, [*zip(self._names, map(add, self._zeros), strict=True)]):
            output = self._model.original_model(inputs_embeds=self._embedded, use_cache=False, logits_to_keep=1)
        value = wide(output.logits[:, -1]).gather(1, self._targets[:, None]).sum()
        gradients = torch.autograd.grad(value, self._zeros)
        pairs = zip(kept, gradients, strict=True)
        scores = torch.stack([(wide(a) * wide(g))[:, self._positions].amax(dim=1) for a, g in pairs], dim=1)
        values, neurons = scores.flatten(1).topk(self._top)
        finite = scores.isfinite().flatten(1).all(dim=1)[:, None].expand_as(values)
        return torch.stack([values.double(), neurons.double(), finite.double()])


def main(arguments: list[str] | None = None) -> None:
    options = parser("benchmarks.captured", __doc__).parse_args(arguments)
    bench = workbench(options)
    for batch in options.batch or (1, 8):
        _compare(bench, batch)


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """The options of a script that captures graphs."""
    made = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--device", default="cuda")
    made.add_argument("--shape", choices=list(SHAPES), default="gpt-j")
    made.add_argument("--batch", type=int, action="append", help="pictures at once; may be given several times")
    made.add_argument("--rounds", type=int, default=9)
    return made


def workbench(options: argparse.Namespace) -> Workbench:
    """Models and inputs for these options."""
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    ceilings = machine.ceilings(options.device, dtype)
    return Workbench(
        shape=options.shape, device=options.device, dtype=dtype, rounds=options.rounds, n_stream=0, ceilings=ceilings
    )


def _compare(bench: Workbench, batch: int) -> None:
    prompt = bench.prompts(batch)
    targets, embedded, positions = bench.targets(batch), bench.embedded(prompt), prompt.image_pos[0]
    capture = as_cuda_graph if bench.on_gpu else as_it_is
    captured = CapturedAttribution(bench.lens, embedded, positions, capture=capture)
    own = torch.tensor(targets, device=embedded.device)

    def ours() -> Tensor:
        table = top_neurons_by_row(bench.lens.model, prompt.tokens, targets, positions, top_k=TOP)
        return torch.tensor(table["attribution"].to_numpy()).view(batch, TOP)

    def plain() -> Tensor:
        return rivals.by_hand_in_batch(bench.plain, embedded, targets, positions, top=TOP).cpu()

    contenders = {OURS: ours, CAPTURED: lambda: captured(embedded, own)[0], PLAIN: plain}
    found = {name: run() for name, run in contenders.items()}
    size = found[PLAIN].abs().max()
    timings = interleaved(contenders, rounds=bench.rounds, device=bench.device)
    floor = attribution(bench.lens.shape, prompt.tokens.shape[1], batch=batch, width=bench.dtype.itemsize)
    print(f"attribution, batch of {batch}, {prompt.tokens.shape[1]} positions")
    for name, timing in timings.items():
        share = floor.flops / timing.median / bench.ceilings["matmul FLOP/s"]
        off = float((found[name] - found[PLAIN]).abs().max() / size)
        print(
            f"  {name:30} {timing.median * 1e3:8.2f} ms, {timing.median / timings[PLAIN].median:.2f} of {PLAIN}, "
            f"{share:.0%} of the measured matrix product ceiling, off by {off:.1e}"
        )


if __name__ == "__main__":
    main()
