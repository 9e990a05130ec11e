"""Where and how the language model turns image prompts into words: the paper's claims on the tiny trio."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from lens_multimodal import ImagePrompt, VisionLens
from lens_multimodal.analysis import effects_of, top_neurons
from lens_multimodal.analysis.decoding import decode_neurons, logit_lens
from lens_multimodal.hooks import ablate
from lens_multimodal.hooks.random_neurons import random_neurons_like
from recipes.tiny.sample_scene import Scene

COUNTS = (20, 100, 300)
"""How many of the top neurons are ablated."""
DECODED = 20
"""How many of the top neurons are decoded."""


def right_singles(lens: VisionLens, scenes: Sequence[Scene]) -> list[tuple[Scene, ImagePrompt]]:
    """Single-object scenes whose caption says the noun, with the prompt that ends where it is predicted."""
    found = []
    for scene in scenes:
        if len(scene.nouns) == 1:
            try:
                found.append((scene, lens.prompt_before(scene.picture, f" {scene.nouns[0]}")))
            except ValueError:
                continue
    return found


def translation(lens: VisionLens, scenes: Sequence[Scene], *, seed: int = 0) -> dict[str, Any]:
    """All figures on where and how the noun arises, over correctly captioned single-object scenes (if any)."""
    generator = torch.Generator().manual_seed(seed)
    pairs = right_singles(lens, scenes)
    kept: dict[str, list[float]] = {f"{who} {n}": [] for n in COUNTS for who in ("top", "random")}
    layers: Counter[int] = Counter()
    decodes: dict[str, list[bool]] = {k: [] for k in ("top", "top interpretable", "random", "random interpretable")}
    depths: list[torch.Tensor] = []
    for scene, prompt in tqdm(pairs, desc="translation"):
        token = lens.text.token_id(f" {scene.nouns[0]}")
        positions = prompt.image_pos[0]
        ranked = top_neurons(lens.model, prompt.tokens, token, positions, top_k=max(COUNTS))
        layers.update(ranked["layer"][:5].tolist())
        compared = {
            f"{who} {n}": neurons
            for n in COUNTS
            for found in [ranked.head(n)]
            for who, neurons in (("top", found), ("random", random_neurons_like(lens.model, found, generator)))
        }
        hooks = [ablate(lens.model, neurons, positions=positions) for neurons in compared.values()]
        for name, effect in zip(compared, effects_of(lens.model, prompt.tokens, hooks, token), strict=True):
            kept[name].append(1 + float(effect.relative_probability_change))
        best = ranked.head(DECODED)
        for who, neurons in (("top", best), ("random", random_neurons_like(lens.model, best, generator))):
            table = decode_neurons(lens.model, neurons)
            says = [token in ids for ids in table["token_ids"]]
            decodes[who].append(any(says))
            decodes[f"{who} interpretable"].append(
                any(s and i for s, i in zip(says, table["interpretable"], strict=True))
            )
        covered = scene.covered(lens.vision.grid_h, lens.vision.grid_w).flatten()
        if covered.any():
            view = logit_lens(lens.model, prompt.tokens, token, positions[covered])
            depths.append((view.rank[0] < 1).float().mean(dim=1))
    if not pairs:
        return {"scenes": 0}
    total = sum(layers.values())
    return {
        "scenes": len(pairs),
        "probability left after ablation": {name: _mean(values) for name, values in kept.items()},
        "layers of the top five neurons": {str(k): layers[k] / total for k in range(lens.shape.n_layers)},
        "noun among ten tokens of a top-20 neuron": {name: _mean(values) for name, values in decodes.items()},
        "covered patches that read as the noun, by depth": torch.stack(depths).mean(0).tolist() if depths else [],
    }


def _mean(values: Sequence[float | bool]) -> float:
    return sum(map(float, values)) / len(values)
