"""The sample scenes as evaluation uses them: picture, nouns, captions, label map."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """One composed scene with its objects."""

    picture: Image.Image
    nouns: tuple[str, ...]
    masks: tuple[np.ndarray, ...]
    """One boolean mask per noun, at the picture's size."""
    splits: tuple[str, ...]
    """Where each drawing comes from: train, held_out_drawing or held_out_style."""
    captions: tuple[str, ...]

    def covered(self, grid_h: int, grid_w: int, *, share: float = 0.5) -> Bool[Tensor, "grid_h grid_w"]:
        """Image patches that the first object covers at least by `share`."""
        mask = torch.from_numpy(self.masks[0]).float()[None, None]
        return torch.nn.functional.adaptive_avg_pool2d(mask, (grid_h, grid_w))[0, 0] >= share


def read_scenes(folder: Path) -> list[Scene]:
    """All scenes of a COCO-format folder made by the `samples` stage."""
    from pycocotools import mask as coco_mask

    instances = json.loads((folder / "instances.json").read_text())
    captions = json.loads((folder / "captions.json").read_text())["annotations"]
    names = {category["id"]: category["name"] for category in instances["categories"]}
    scenes = []
    for image in instances["images"]:
        own = [a for a in instances["annotations"] if a["image_id"] == image["id"]]
        scenes.append(
            Scene(
                picture=Image.open(folder / "images" / image["file_name"]).convert("RGB"),
                nouns=tuple(names[a["category_id"]] for a in own),
                masks=tuple(coco_mask.decode(a["segmentation"]).astype(bool) for a in own),
                splits=tuple(a["drawing"]["split"] for a in own),
                captions=tuple(c["caption"] for c in captions if c["image_id"] == image["id"]),
            )
        )
    return scenes


def of_split(scenes: list[Scene], *splits: str) -> list[Scene]:
    """Scenes all of whose drawings come from these splits."""
    return [scene for scene in scenes if set(scene.splits) <= set(splits)]
