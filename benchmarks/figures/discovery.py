"""The paper's discovery per picture: caption it, explain three of the caption's tokens, decode their neurons.

The library captions the pictures as one batch and uses one forward pass for all targets of a picture. Published code
handles one picture at a time, with a separate forward and backward pass for every layer and target.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks import rivals
from benchmarks.figure import OURS, Aim, Figure, compare
from benchmarks.floor import Floor, attribution, caption, decoding
from benchmarks.workbench import Workbench
from lens_multimodal.analysis import decode_neurons, top_neurons
from lens_multimodal.prompt import generation
from lens_multimodal.prompt.image_prompt import ImagePrompt

NEW, WORDS, TOP = 10, 3, 100

Found = list[set[tuple[int, int]]]


def measure(bench: Workbench) -> list[Figure]:
    lens, model = bench.lens, bench.lens.model
    pictures = [bench.picture(i) for i in range(2)]
    n_patches = lens.vision.n_patches

    def captions(prompt: ImagePrompt) -> list[list[int]]:
        return generation.generate(model, prompt, max_new_tokens=NEW, stop_ids=[])

    def ours() -> Found:
        prompt = lens.prompt(pictures)
        found: Found = []
        for row, ids in enumerate(captions(prompt)):
            alone = prompt.row(row)
            tokens = torch.cat([alone.tokens, torch.tensor([ids[: WORDS - 1]], device=bench.device)], dim=1)
            first = alone.tokens.shape[1] - 1
            targets = [(first + i, ids[i]) for i in range(WORDS)]
            table = top_neurons(model, tokens, targets, alone.image_pos[0], top_k=TOP)
            for _, rows in table.groupby("target", sort=False):
                decode_neurons(model, rows)
                found.append(set(zip(rows["layer"], rows["neuron"], strict=True)))
        return found

    def layer_by_layer() -> Found:
        found: Found = []
        for picture in pictures:
            prompt = lens.prompt(picture)
            [ids] = captions(prompt)
            for i in range(WORDS):
                tokens = prompt.followed_by(ids[:i]).tokens
                vectors = _embedded(bench, tokens)
                scores = rivals.layer_loop(bench.plain, vectors, ids[i])[:, :n_patches].amax(dim=1)
                best = scores.flatten().topk(TOP).indices.tolist()
                pairs = [divmod(index, lens.shape.d_mlp) for index in best]
                _decode_by_hand(bench, pairs)
                found.append(set(pairs))
        return found

    rival = "a forward pass per layer, target and picture"
    timings, differences, absent = compare(
        bench, {OURS: ours, rival: layer_by_layer}, same=_missed, tolerance=0.02 if bench.dtype == torch.float32 else 1
    )
    figure = Figure(
        name="discovery",
        work=f"{len(pictures)} pictures: {NEW} tokens of caption, top {TOP} neurons of {WORDS} of them, decoded",
        timings=timings,
        floor=_floor(bench, len(pictures)),
        differences=differences,
        absent=absent,
        more={
            "seconds per picture": timings[OURS].median / len(pictures),
            "difference": "share of neurons in one ranking only",
            "layers": lens.shape.n_layers,
        },
    )
    if rival not in timings:
        return [figure]
    gain = round(1 / figure.over(rival), 2)
    return [replace(figure, aims=(Aim(text="speed-up over a loop over layers", value=gain, limit=10, at_most=False),))]


def _embedded(bench: Workbench, tokens: Tensor) -> Tensor:
    from lens_multimodal import transformer

    with torch.no_grad():
        return transformer.embedding_module(bench.lens.model)(tokens).detach()


@torch.no_grad()
def _decode_by_hand(bench: Workbench, pairs: list[tuple[int, int]]) -> list[Any]:
    head = bench.plain.lm_head.weight.float()
    blocks = bench.plain.transformer.h
    return [(head @ blocks[layer].mlp.fc_out.weight[:, unit].float()).topk(10).indices for layer, unit in pairs]


def _missed(ours: Found, theirs: Found) -> float:
    return sum(len(a - b) for a, b in zip(ours, theirs, strict=True)) / sum(len(a) for a in ours)


def _floor(bench: Workbench, n: int) -> Floor:
    shape, width = bench.lens.shape, bench.dtype.itemsize
    pos = bench.lens.vision.n_patches + 4
    one = attribution(shape, pos, targets=WORDS, width=width)
    words = decoding(shape, WORDS * TOP, width=width)
    others = Floor(flops=n * (one.flops + words.flops), bytes=n * (one.bytes + words.bytes))
    return others + caption(shape, pos, NEW, batch=n, width=width)
