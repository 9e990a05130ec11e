"""Does the caption name what is in the picture? With controls that locate where accuracy is lost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from PIL import Image
from timm.models.beit import Beit
from torch import Tensor, nn

from lens_multimodal import VisionEncoder, VisionLens
from lens_multimodal.analysis.decoding import nearest_embeddings
from recipes.tiny.sample_scene import Scene
from recipes.tiny.scenes import words_of


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """A scene and its caption."""

    scene: Scene
    caption: str


Vectors = Callable[[Sequence[Image.Image]], Tensor]
"""Soft prompts of pictures, `[batch, pos, d_model]`."""


def caption_all(lens: VisionLens, scenes: Sequence[Scene], vectors: Vectors, batch: int = 64) -> list[Captioned]:
    """Greedy captions of soft prompts, however these are made."""
    found = []
    for start in range(0, len(scenes), batch):
        chunk = scenes[start : start + batch]
        prompt = lens.prompt_from_vectors(vectors([scene.picture for scene in chunk]))
        ids = lens.generate_ids(prompt, max_new_tokens=16)
        found += [Captioned(scene=s, caption=lens.text.caption(i)) for s, i in zip(chunk, ids, strict=True)]
        lens.forget(prompt)
    return found


def seen(lens: VisionLens) -> Vectors:
    """The trio's own soft prompts, without a control."""
    return torch.no_grad()(lambda pictures: lens.projection(lens.vision.features(pictures)))


def blank(lens: VisionLens) -> Vectors:
    """Control: a grey picture instead of every picture."""
    return lambda pictures: seen(lens)([Image.new("RGB", p.size, (128, 128, 128)) for p in pictures])


def shuffled(lens: VisionLens) -> Vectors:
    """Control: the soft prompt of another picture of the same batch."""
    return lambda pictures: seen(lens)(pictures).roll(1, dims=0)


def random_encoder(projection: nn.Module, encoder: VisionEncoder) -> Vectors:
    """Control: an untrained BEiT, with a projection trained for it."""
    return torch.no_grad()(lambda pictures: projection(encoder.features(pictures)))


def untrained_beit(like: VisionEncoder, config: dict[str, Any], *, seed: int) -> VisionEncoder:
    """An encoder of the same layout with the random weights it would start training from."""
    torch.manual_seed(seed)
    return VisionEncoder(Beit(**config), preprocessing=like.preprocessing, name="untrained BEiT")


def nouns_in(caption: str, vocabulary: Sequence[str]) -> set[str]:
    """The nouns of the vocabulary that a caption names."""
    return set(words_of(caption)) & set(vocabulary)


def naming(captioned: Sequence[Captioned], vocabulary: Sequence[str]) -> dict[str, float]:
    """Share of single-object scenes whose caption names the noun, with its standard error."""
    singles = [c for c in captioned if len(c.scene.nouns) == 1]
    right = [c.scene.nouns[0] in nouns_in(c.caption, vocabulary) for c in singles]
    share = sum(right) / len(right)
    return {"share": share, "standard error": (share * (1 - share) / len(right)) ** 0.5, "scenes": len(right)}


def precision_recall(captioned: Sequence[Captioned], vocabulary: Sequence[str]) -> dict[str, float]:
    """For scenes with several objects: the share of named nouns that are shown, and of shown nouns that are named."""
    several = [c for c in captioned if len(c.scene.nouns) > 1]
    said = [nouns_in(c.caption, vocabulary) for c in several]
    there = [set(c.scene.nouns) for c in several]
    hits = sum(len(s & t) for s, t in zip(said, there, strict=True))
    return {
        "precision": hits / max(1, sum(map(len, said))),
        "recall": hits / max(1, sum(map(len, there))),
        "scenes": len(several),
    }


def cider(captioned: Sequence[Captioned]) -> float:
    """CIDEr against the scenes' reference captions, tokenised by words (the PTB tokenizer needs Java)."""
    from pycocoevalcap.cider.cider import Cider

    references = {i: [" ".join(words_of(r)) for r in c.scene.captions] for i, c in enumerate(captioned)}
    candidates = {i: [" ".join(words_of(f"a picture of {c.caption}"))] for i, c in enumerate(captioned)}
    return float(Cider().compute_score(references, candidates)[0])


def nearest_to_noun(lens: VisionLens, scene: Scene) -> Bool[Tensor, "patch 10"]:
    """Whether each of the ten nearest token embeddings (by cosine) is the noun.

    Measured at the patches at least half covered by the object of a single-object scene; there may be none.
    """
    covered = scene.covered(lens.vision.grid_h, lens.vision.grid_w).flatten()
    vectors = seen(lens)([scene.picture])[0][covered]
    if not len(vectors):
        return torch.zeros(0, 10, dtype=torch.bool)
    return nearest_embeddings(lens.model, vectors, top_k=10).tokens == lens.text.token_id(f" {scene.nouns[0]}")


def direct_decoding(lens: VisionLens, scenes: Sequence[Scene]) -> dict[str, float]:
    """The paper's opening question: do projected patches already read as the noun?

    Share of covered patches whose nearest token is the noun, and share of scenes with at least one such patch, among
    the 1 and 10 nearest.
    """
    found = [nearest_to_noun(lens, scene) for scene in scenes if len(scene.nouns) == 1]
    found = [right for right in found if len(right)]
    shares = {
        "patches, nearest": [float(right[:, 0].float().mean()) for right in found],
        "scenes, any patch nearest": [float(right[:, 0].any()) for right in found],
        "scenes, any of 10": [float(right.any()) for right in found],
    }
    return {name: sum(values) / max(1, len(values)) for name, values in shares.items()}
