"""An activation-patching sweep: one picture's residual stream into another's, layer by position."""

from typing import Any

import pandas as pd
import torch
from torch import Tensor

from benchmarks.figure import OURS, Figure, compare, relative
from benchmarks.floor import Floor, forward
from benchmarks.workbench import Workbench
from lens_multimodal import transformer
from lens_multimodal.analysis import act_patch_resid_pre


def measure(bench: Workbench) -> list[Figure]:
    lens, shape = bench.lens, bench.lens.shape
    clean, corrupted = (lens.prompt(bench.picture(seed)) for seed in (0, 1))
    [token] = bench.targets(1)
    every = max(1, lens.vision.n_patches // 4)
    positions = corrupted.image_pos[0].tolist()[::every]

    def ours() -> Tensor:
        return act_patch_resid_pre(
            lens.model, clean.tokens, corrupted.tokens, token, positions=positions, batch_size=8
        ).patched

    @torch.no_grad()
    def transformer_lens_patching() -> Tensor:
        from transformer_lens import patching

        cells = pd.DataFrame([(la, p) for la in range(shape.n_layers) for p in positions], columns=["layer", "pos"])
        kept = [transformer.resid_pre(layer) for layer in range(shape.n_layers)]
        model: Any = lens.model
        _, cache = model.run_with_cache(clean.tokens, names_filter=lambda name: name in kept)
        found = patching.generic_activation_patch(
            model,
            corrupted.tokens,
            cache,
            lambda logits: logits[0, -1, token],
            patching.layer_pos_patch_setter,
            "resid_pre",
            index_df=cells,
        )
        return found.reshape(shape.n_layers, len(positions))

    @torch.no_grad()
    def by_hand() -> Tensor:
        blocks = bench.plain.transformer.h
        kept: list[Tensor] = []
        handles = [b.register_forward_pre_hook(lambda _, args: kept.append(args[0])) for b in blocks]
        bench.plain(inputs_embeds=bench.embedded(clean), use_cache=False)
        for handle in handles:
            handle.remove()
        vectors = bench.embedded(corrupted)
        values = []
        for layer, block in enumerate(blocks):
            for pos in positions:

                def paste(_: object, args: tuple[Tensor, ...], pos: int = pos, layer: int = layer) -> tuple[Any, ...]:
                    edited = args[0].clone()
                    edited[:, pos] = kept[layer][:, pos]
                    return (edited, *args[1:])

                handle = block.register_forward_pre_hook(paste)
                values.append(bench.plain(inputs_embeds=vectors, use_cache=False).logits[0, -1, token])
                handle.remove()
        return torch.stack(values).reshape(shape.n_layers, len(positions))

    contenders = {
        OURS: ours,
        "transformer_lens.patching": transformer_lens_patching,
        "transformers + PyTorch hooks": by_hand,
    }
    timings, differences, absent = compare(bench, contenders, same=relative)
    n = shape.n_layers * len(positions)
    one = forward(shape, corrupted.tokens.shape[1], width=bench.dtype.itemsize)
    return [
        Figure(
            name="activation patching",
            work=f"residual stream of {shape.n_layers} layers x {len(positions)} positions, one cell at a time",
            timings=timings,
            floor=Floor(flops=n * one.flops, bytes=n / 8 * one.bytes),
            differences=differences,
            absent=absent,
            more={"ours also computes": "the first-order estimate of every cell"},
        )
    ]
