"""How much of the noun the encoder's patches carry, compared with an untrained encoder."""

from pathlib import Path
from typing import Any

import torch
from timm.models.beit import Beit

from lens_multimodal import VisionLens, tiny
from recipes.tiny.probe import KINDS, probe, read_labelled
from recipes.tiny.projection import read_nouns
from recipes.tiny.settings import Settings
from recipes.tiny.vision import source_side


def probes(settings: Settings, work: Path, lens: VisionLens) -> dict[str, Any]:
    """Linear-probe accuracy on new scenes of known, held-out and unseen-style drawings; chance is 1 / nouns."""
    nouns = read_nouns(work)
    side = source_side(settings)
    data = {
        kind: read_labelled(work / "pictures", split=split, vocabulary=nouns, side=side)
        for kind, split in KINDS.items()
    }
    torch.manual_seed(settings.seed + 99)
    untrained = Beit(**tiny.read_vision_config(work / "packed")["beit"]).eval()
    measured = {
        who: probe(
            beit,
            data,
            classes=len(nouns),
            image_size=settings.vision.image_size,
            patch_size=settings.vision.patch_size,
            scenes=settings.evaluate.probe_scenes,
            seed=settings.seed,
        )
        for who, beit in (("trained", lens.vision.module), ("random weights", untrained))
    }
    return {**measured, "chance": 1 / len(nouns), "scenes": settings.evaluate.probe_scenes}
