"""Captions as two CUDA graphs: the pass over the prompt, and one step of cached decoding, replayed for every new token.

    python -m benchmarks.captured_captions                                     # GPT-J-6B in bf16 on a GPU
    python -m benchmarks.captured_captions --device cpu --shape tiny           # the same without graphs

The key-value cache has a fixed size and the next token goes from step to step on the device, so a caption waits for the
device once, at its end. The token that ends a caption does not shorten the work.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import StaticCache

from benchmarks.captured import (
    CAPTURED,
    OURS,
    WARM_UP,
    CapturedAttribution,
    Run,
    as_cuda_graph,
    as_it_is,
    parser,
    workbench,
)
from benchmarks.figures.stream import DISTINCT
from benchmarks.peak_memory import in_use
from benchmarks.timing import interleaved, timed
from benchmarks.workbench import Workbench
from lens_multimodal import VisionLens, transformer
from lens_multimodal.prompt import generation
from lens_multimodal.transformer.which_model import which_model

NEW = 20
PLAIN = "transformers generate"


class CapturedCaptions:
    """Greedy tokens after prompts of one shape, for decoders in which every position attends to all earlier ones.

    Args:
        like: a batch of embedded prompts of that shape.
        new: how many tokens each row gets.
        capture: `as_cuda_graph` or `as_it_is`.
    Raises: RuntimeError for a model that does not run on bare modules.
    """

    @torch.no_grad()
    def __init__(
        self, lens: VisionLens, like: Float[Tensor, "batch pos d_model"], *, new: int, capture: Callable[[Run], Run]
    ) -> None:
        with lens.running_on("bare"):
            self._model: Any = which_model(lens.model).original_model
        batch, n_pos, _ = like.shape
        self._embedded, self._new = like.detach().clone(), new
        n_cached = n_pos + max(new, WARM_UP + 1)
        self._at = torch.arange(n_cached, device=like.device)
        self._cache = StaticCache(config=self._model.config, max_cache_len=n_cached)
        self._next = torch.zeros(batch, 1, dtype=torch.long, device=like.device)
        self._position = torch.zeros(1, 1, dtype=torch.long, device=like.device)
        self._read_prompt()  # allocates the cache
        self._prompt_run = capture(self._read_prompt)
        self._step_run = capture(self._step)

    @torch.no_grad()
    def __call__(self, embedded: Float[Tensor, "batch pos d_model"]) -> Int[Tensor, "batch new"]:
        """The most likely token after each prompt, and so on."""
        self._embedded.copy_(embedded)
        written = [self._prompt_run().clone()]
        while len(written) < self._new:
            written.append(self._step_run().clone())
        return torch.cat(written, dim=1).cpu()

    def _read_prompt(self) -> Int[Tensor, "batch 1"]:
        n_pos = self._embedded.shape[1]
        for layer in self._cache.layers:
            layer.cumulative_length.zero_()
        self._position.fill_(n_pos)
        return self._run({"inputs_embeds": self._embedded}, self._at[None, :n_pos])

    def _step(self) -> Int[Tensor, "batch 1"]:
        found = self._run({"input_ids": self._next}, self._position)
        self._position.add_(1)
        return found

    def _run(self, given: dict[str, Tensor], positions: Int[Tensor, "1 pos"]) -> Int[Tensor, "batch 1"]:
        later = self._at > positions[0, :, None]
        mask = torch.zeros(later.shape, dtype=self._embedded.dtype, device=later.device)
        mask = mask.masked_fill(later, torch.finfo(mask.dtype).min).expand(len(self._next), 1, -1, -1)
        output = self._model(
            **given,
            attention_mask=mask,
            position_ids=positions.expand(len(self._next), -1),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._next.copy_(output.logits[:, -1:].argmax(dim=-1))
        return self._next


def main(arguments: list[str] | None = None) -> None:
    options = parser("benchmarks.captured_captions", __doc__)
    options.add_argument("--pictures", type=int, default=1000, help="length of the stream")
    given = options.parse_args(arguments)
    bench = workbench(given)
    for batch in given.batch or (1, 32):
        _compare(bench, batch)
    _stream(bench, n_pictures=given.pictures)


@torch.no_grad()
def _compare(bench: Workbench, batch: int) -> None:
    lens, prompt = bench.lens, bench.prompts(batch)
    embedded, n_pos = bench.embedded(prompt), prompt.tokens.shape[1]
    captured = CapturedCaptions(lens, embedded, new=NEW, capture=as_cuda_graph if bench.on_gpu else as_it_is)

    def plain() -> list[list[int]]:
        ids: Any = bench.plain.generate(
            inputs_embeds=embedded,
            attention_mask=torch.ones_like(prompt.tokens),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return ids.tolist()  # type: ignore[no-any-return]

    contenders: dict[str, Callable[[], list[list[int]]]] = {
        OURS: lambda: generation.generate(lens.model, prompt, max_new_tokens=NEW, stop_ids=[]),
        CAPTURED: lambda: captured(embedded).tolist(),
        PLAIN: plain,
    }
    found = {name: run() for name, run in contenders.items()}
    timings = interleaved(contenders, rounds=bench.rounds, device=bench.device)
    print(f"caption of {NEW} tokens, batch of {batch}, {n_pos} positions")
    for name, timing in timings.items():
        same = sum(ids == other for ids, other in zip(found[name], found[PLAIN], strict=True))
        print(
            f"  {name:30} {timing.median * 1e3:8.2f} ms, {timing.median / timings[PLAIN].median:.2f} of {PLAIN}, "
            f"{same} of {batch} captions the same"
        )


@torch.no_grad()
def _stream(bench: Workbench, *, n_pictures: int, batch: int = 8) -> None:
    """Pictures a second through encoder, prompt and attribution, and how much memory grows over the second half.

    As `figures.stream`, whose own rate is without graphs.
    """
    lens, prompt = bench.lens, bench.prompts(batch)
    pictures = [bench.picture(i) for i in range(DISTINCT)]
    positions, targets = prompt.image_pos[0], torch.tensor(bench.targets(batch), device=transformer.device(lens.model))
    capture = as_cuda_graph if bench.on_gpu else as_it_is
    captured = CapturedAttribution(lens, bench.embedded(prompt), positions, capture=capture)
    used: list[int] = []

    def run() -> None:
        for start in range(0, n_pictures, batch):
            given = lens.prompt([pictures[(start + i) % DISTINCT] for i in range(batch)])
            captured(bench.embedded(given), targets)
            lens.forget(given)
            used.append(in_use(bench.device))

    seconds = timed(run, bench.device)
    grown = (used[-1] - used[len(used) // 2]) / 2**20
    print(f"stream of {n_pictures} pictures: {n_pictures / seconds:.1f} a second, memory grows by {grown:.1f} MB")


if __name__ == "__main__":
    main()
