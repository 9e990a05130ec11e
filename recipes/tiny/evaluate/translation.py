"""Where and how the language model turns image prompts into words: the paper's claims on the tiny trio."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from torch import Generator, Tensor
from tqdm.auto import tqdm

from lens_multimodal import ImagePrompt, VisionLens
from lens_multimodal.analysis import (
    effects_of,
    intersection_over_union,
    neuron_activations,
    receptive_field,
    top_neurons,
)
from lens_multimodal.analysis.decoding import decode_neurons, logit_lens
from lens_multimodal.hooks import ablate
from lens_multimodal.hooks.random_neurons import random_neurons_like
from recipes.tiny.evaluate.captions import nearest_to_noun
from recipes.tiny.sample_scene import Scene

COUNTS = (20, 100, 300)
"""How many of the top neurons are ablated."""
DECODED = 20
"""How many of the top neurons are decoded."""
FIELDS = 5
"""How many of the top neurons have their receptive field compared with the object."""
WHERE = {"image": "at the image's positions", "last": "at the last position"}


def right_singles(lens: VisionLens, scenes: Sequence[Scene]) -> list[tuple[Scene, ImagePrompt]]:
    """Single-object scenes whose caption names the noun, with the prompt up to the position that predicts it."""
    found = []
    for scene in scenes:
        if len(scene.nouns) == 1:
            try:
                found.append((scene, lens.prompt_before(scene.picture, f" {scene.nouns[0]}")))
            except ValueError:
                continue
    return found


def translation_by_scene(lens: VisionLens, scenes: Sequence[Scene], *, seed: int = 0) -> pd.DataFrame:
    """What is measured on each correctly captioned single-object scene, one row per scene.

    Shares and probabilities lie in [0, 1]. `random` is about as many random neurons of the same layers. Columns:
    `left without WHO N`, the share of the noun's probability left after ablating N neurons at the image positions;
    `top five in layer K`; `noun written WHERE, WHO`, whether one of 20 neurons has it among its ten tokens;
    `overlap, WHO`, intersection over union of a neuron's receptive field and the object, mean over five neurons;
    `nearest`, the share of covered patches whose nearest token embedding is the noun; `depth K`, the share at which the
    logit lens ranks it first after K blocks. Scenes whose object covers no patch by half lack the last two.
    """
    generator = Generator().manual_seed(seed)
    rows = []
    for scene, prompt in tqdm(right_singles(lens, scenes), desc="translation"):
        token = lens.text.token_id(f" {scene.nouns[0]}")
        positions = prompt.image_pos[0]
        ranked = top_neurons(lens.model, prompt.tokens, token, positions, top_k=max(COUNTS))
        last = torch.tensor([prompt.tokens.shape[1] - 1])
        spoken = top_neurons(lens.model, prompt.tokens, token, last, top_k=DECODED)
        layers = ranked["layer"][:5].tolist()
        rows.append(
            {
                **_ablated(lens, prompt, token, ranked, generator),
                **{f"top five in layer {k}": layers.count(k) / len(layers) for k in range(lens.shape.n_layers)},
                **_written(lens, token, ranked.head(DECODED), "image", generator),
                **_written(lens, token, spoken, "last", generator),
                **_overlap(lens, scene, prompt, ranked.head(FIELDS), generator),
                **_covered(lens, scene, prompt, token),
            }
        )
    return pd.DataFrame(rows)


def translation(lens: VisionLens, scenes: Sequence[Scene], *, seed: int = 0) -> dict[str, Any]:
    """The means of `translation_by_scene`, grouped for the model card."""
    found = translation_by_scene(lens, scenes, seed=seed)
    if found.empty:
        return {"scenes": 0}
    means = found.mean().to_dict()
    return {
        "scenes": len(found),
        "probability left after ablation": _under(means, "left without "),
        "layers of the top five neurons": _under(means, "top five in layer "),
        "noun among ten tokens of a top-20 neuron": _under(means, "noun written "),
        "overlap of receptive field and object": _under(means, "overlap, "),
        "covered patches that read as the noun, by depth": list(_under(means, "depth ").values()),
    }


def _ablated(
    lens: VisionLens, prompt: ImagePrompt, token: int, ranked: pd.DataFrame, generator: Generator
) -> dict[str, float]:
    compared = {
        f"left without {who} {n}": neurons
        for n in COUNTS
        for found in [ranked.head(n)]
        for who, neurons in (("top", found), ("random", random_neurons_like(lens.model, found, generator)))
    }
    hooks = [ablate(lens.model, neurons, positions=prompt.image_pos[0]) for neurons in compared.values()]
    effects = effects_of(lens.model, prompt.tokens, hooks, token)
    return {name: 1 + float(effect.relative_probability_change) for name, effect in zip(compared, effects, strict=True)}


def _written(lens: VisionLens, token: int, top: pd.DataFrame, where: str, generator: Generator) -> dict[str, float]:
    found = {}
    for who, neurons in (("top", top), ("random", random_neurons_like(lens.model, top, generator))):
        table = decode_neurons(lens.model, neurons)
        says = [token in ids for ids in table["token_ids"]]
        found[f"noun written {WHERE[where]}, {who}"] = float(any(says))
        readable = [s and i for s, i in zip(says, table["interpretable"], strict=True)]
        found[f"noun written {WHERE[where]}, {who} interpretable"] = float(any(readable))
    return found


def _overlap(
    lens: VisionLens, scene: Scene, prompt: ImagePrompt, top: pd.DataFrame, generator: Generator
) -> dict[str, float]:
    geometry, mask = lens.vision.geometry(*scene.picture.size), torch.from_numpy(scene.masks[0])
    found = {}
    for who, neurons in (("top", top), ("random", random_neurons_like(lens.model, top, generator))):
        activations = neuron_activations(lens.model, prompt.tokens, neurons, prompt.image_pos[0])[0]
        fields = [receptive_field(values.reshape(prompt.grid), geometry) for values in activations]
        overlaps = [intersection_over_union(field.mask, mask) for field in fields]
        found[f"overlap, {who}"] = sum(overlaps) / len(overlaps)
    return found


def _covered(lens: VisionLens, scene: Scene, prompt: ImagePrompt, token: int) -> dict[str, float]:
    covered = scene.covered(lens.vision.grid_h, lens.vision.grid_w).flatten()
    if not covered.any():
        return {}
    positions: Int[Tensor, " pos"] = prompt.image_pos[0][covered]
    view = logit_lens(lens.model, prompt.tokens, token, positions)
    depths = (view.rank[0] < 1).float().mean(dim=1).tolist()
    nearest = nearest_to_noun(lens, scene)[:, 0].float().mean()
    return {"nearest": float(nearest), **{f"depth {k}": share for k, share in enumerate(depths)}}


def _under(means: dict[str, float], prefix: str) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in means.items() if name.startswith(prefix)}
