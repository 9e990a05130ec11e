"""Linear probes: how much of the noun a frozen encoder's patches carry."""

import csv
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.models.beit import Beit
from torch import Generator, Tensor

from recipes.tiny.objectives import patch_shares
from recipes.tiny.scenes.compose import SLOTS, choose, compose
from recipes.tiny.scenes.cutouts import CutOuts, load
from recipes.tiny.vision import encode

KINDS = {"known": "train", "held_out_drawing": "held_out_drawing", "held_out_style": "held_out_style"}


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Cut-outs of one split that have a noun."""

    cutouts: CutOuts
    nouns: Tensor
    """Class of each picture of `cutouts.ids`."""


def read_labelled(pictures: Path, *, split: str, vocabulary: list[str], side: int) -> Labelled:
    number = {noun: index for index, noun in enumerate(vocabulary)}
    with (pictures / "pictures.csv").open(newline="", encoding="utf-8") as file:
        rows = [(int(r["id"]), r["concept"]) for r in csv.DictReader(file) if r["split"] == split]
    noun = {id_: number[concept] for id_, concept in rows if concept in number}
    cutouts = load(pictures, splits=[split], side=side, ids=list(noun))
    return Labelled(cutouts=cutouts, nouns=torch.tensor([noun[i] for i in cutouts.ids.tolist()]))


def probe(
    beit: Beit, data: dict[str, Labelled], *, classes: int, image_size: int, patch_size: int, scenes: int, seed: int = 0
) -> dict[str, float]:
    """Accuracy of a multinomial regression from covered patches to nouns, for each kind of picture.

    It is fitted on scenes of one to three known drawings and tested on new single-object scenes. `<kind>`
    takes the mean logit over the object's covered patches, `<kind>_patch` each patch alone. Encoder and cut-outs
    are on one device.
    """
    generator = torch.Generator(data["known"].cutouts.ids.device).manual_seed(seed)
    fit = _features(beit, data["known"], scenes, 0, image_size, patch_size, generator)
    classify = _regress(fit[0], fit[1], classes, generator)
    figures = {}
    for kind, labelled in data.items():
        features, nouns, objects = _features(beit, labelled, scenes // 4, 1, image_size, patch_size, generator)
        logits = classify(features)
        pooled = logits.new_zeros(int(objects.max()) + 1, classes).index_add_(0, objects, logits.log_softmax(-1))
        truth = nouns.new_zeros(len(pooled)).index_copy_(0, objects, nouns)
        there = torch.bincount(objects, minlength=len(pooled)) > 0
        figures[kind] = (pooled.argmax(-1) == truth)[there].float().mean().item()
        figures[f"{kind}_patch"] = (logits.argmax(-1) == nouns).float().mean().item()
    return figures


@torch.no_grad()
def _features(
    beit: Beit, labelled: Labelled, scenes: int, objects: int, image_size: int, patch_size: int, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Features of patches covered at least half, their nouns, and the number of the object they show."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, scenes, 256):
        count = min(256, scenes - start)
        counts = torch.arange(count, device=generator.device) % SLOTS + 1
        counts = torch.full_like(counts, objects) if objects else counts
        view = compose(
            labelled.cutouts,
            choose(labelled.cutouts.ids, counts, generator=generator),
            size=image_size,
            generator=generator,
        )
        with torch.autocast(generator.device.type, torch.bfloat16):
            features = encode(beit, view.image).float()
        shares = patch_shares(view.label, slots=SLOTS, patch_size=patch_size)
        scene, slot, patch = (shares >= 0.5).nonzero(as_tuple=True)
        nouns = labelled.nouns.to(scene.device)[labelled.cutouts.rows(view.pictures[scene, slot])]
        found.append((features[scene, patch], nouns, (start + scene) * SLOTS + slot))
    features, nouns, numbers = (torch.cat(part) for part in zip(*found, strict=True))
    return features, nouns, numbers


def _regress(features: Tensor, nouns: Tensor, classes: int, generator: Generator, epochs: int = 12):
    """Multinomial regression on standardised features, by minibatch Adam with a decaying rate."""
    mean, std = features.mean(0), features.std(0).clamp(min=1e-4)
    linear = torch.nn.Linear(features.shape[1], classes, device=features.device)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=5e-3, weight_decay=1e-2, fused=True)
    total = epochs * (len(features) // 1024 + 1)
    done = 0
    for _ in range(epochs):
        for rows in torch.randperm(len(features), generator=generator, device=features.device).split(1024):
            optimizer.param_groups[0]["lr"] = 5e-3 * (1 - done / total)
            F.cross_entropy(linear((features[rows] - mean) / std), nouns[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
            done += 1
    return lambda x: linear((x - mean) / std).detach()
