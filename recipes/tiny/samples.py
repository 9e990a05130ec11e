"""Stage `samples`: the scenes that ship, in COCO format, half of known and half of held-out drawings.

In addition to COCO's own keys, every annotation has `drawing` (what was drawn, and by whom) and `without`, the path in
the folder of the same scene composed without that object.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor
from tqdm.auto import tqdm

from lens_multimodal.prompt.image_prompt import PROMPT
from recipes.tiny.probe import Labelled
from recipes.tiny.projection import read_nouns, visible_nouns
from recipes.tiny.sample_scene import Scene
from recipes.tiny.scenes import SLOTS, choose, compose, compose_with_removals, continuation, load
from recipes.tiny.scenes.compose import Scenes
from recipes.tiny.settings import Settings
from recipes.tiny.stage import run_once, write_json
from recipes.tiny.text.knowledge import Noun
from recipes.tiny.text.knowledge import load as load_nouns

HALVES = {"known": ("train",), "held_out": ("held_out_drawing", "held_out_style")}
SUPERCATEGORIES = {
    "animal": {"animal", "bird", "insect", "mammal", "fish", "reptile"},
    "food": {"food", "fruit", "vegetable", "drink", "dessert", "dish"},
    "vehicle": {"vehicle"},
    "plant": {"plant", "flower", "tree", "living thing"},
    "person": {"person", "part of the body", "organ"},
    "clothing": {"piece of clothing", "piece of jewellery", "hat"},
    "furniture": {"piece of furniture", "part of a house", "container"},
    "tool": {"tool", "device", "machine", "weapon", "musical instrument"},
    "nature": {"heavenly body", "landform", "thing in the sky"},
}
"""Groups of nouns by their kinds in the knowledge table, as COCO has twelve; all others are things."""
CAPTIONS = 5
"""Reference captions of each scene, as COCO has; the first names the largest object first, the others any."""
JPEG_QUALITY = 92
WITHOUT = "without"
"""Folder of the scenes that lack one object, and the key of their paths; a file is named after its annotation."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One labelled, permissive cut-out of `pictures.csv`."""

    concept: str
    sha256: str
    source: str
    style: str
    licence: str
    split: str


def run(settings: Settings, work: Path) -> dict[str, Any]:
    """Compose, write `images/`, `without/`, `instances.json` and `captions.json` under `work/samples`."""
    fixed = {**settings.of("scenes"), "removals": True}
    return run_once(work / "samples", fixed, lambda: _make(settings, work))


def supercategories() -> dict[str, str]:
    """The group of every noun of the knowledge table."""
    return {
        noun.name: next((g for g, of in SUPERCATEGORIES.items() if _kinds(noun) & of), "thing") for noun in load_nouns()
    }


def _kinds(noun: Noun) -> set[str]:
    return {*noun.kinds, *(kind.split()[-1] for kind in noun.kinds)}


def _make(settings: Settings, work: Path) -> dict[str, Any]:
    nouns = read_nouns(work)
    drawings = read_drawings(work / "pictures" / "pictures.csv", nouns)
    folder = work / "samples"
    for name in ("images", WITHOUT):
        (folder / name).mkdir(parents=True, exist_ok=True)
    images: list[dict] = []
    annotations: list[dict] = []
    captions: list[dict] = []
    for half, splits in HALVES.items():
        own = settings.scenes
        total = own.known if half == "known" else own.held_out
        counts = torch.tensor([1] * own.singles_each + [2 + i % 2 for i in range(total - own.singles_each)])
        data = labelled(work, drawings, splits, nouns, side=settings.pictures.size)
        generator = Generator().manual_seed(settings.seed + (7 if half == "known" else 8))
        scenes = seen_scenes(data, counts, nouns, size=own.size, generator=generator, composed=compose_with_removals)
        named = visible_nouns(scenes, data, nouns)
        for row in tqdm(range(total), desc=f"scenes of {half} drawings"):
            image_id = len(images) + 1
            name = f"{half}_{row:04d}.jpg"
            _save(scenes.image[row], folder / "images" / name)
            images.append({"id": image_id, "file_name": name, "width": own.size, "height": own.size, "drawings": half})
            annotations += _annotations(scenes, row, image_id, len(annotations), drawings, nouns, folder)
            seen, centres = named[row]
            for variant in range(CAPTIONS):
                random = Random(f"{half}:{row}:{variant}")
                order = random.sample(range(len(seen)), len(seen)) if variant else range(len(seen))
                text = PROMPT + continuation([seen[i] for i in order], [centres[i] for i in order], random=random)
                captions.append({"id": len(captions) + 1, "image_id": image_id, "caption": text})
    info = {"description": "Scenes composed from drawings; see DATA_LICENSES.", "version": "1"}
    groups = supercategories()
    categories = [{"id": i + 1, "name": noun, "supercategory": groups[noun]} for i, noun in enumerate(nouns)]
    write_json(
        folder / "instances.json",
        {"info": info, "images": images, "annotations": annotations, "categories": categories},
    )
    write_json(folder / "captions.json", {"info": info, "images": images, "annotations": captions})
    return {
        "scenes": {half: sum(i["drawings"] == half for i in images) for half in HALVES},
        "objects": len(annotations),
        "nouns shown": len({a["category_id"] for a in annotations}),
        "bytes": sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()),
    }


def read_drawings(table: Path, nouns: list[str]) -> dict[int, Drawing]:
    """Every labelled cut-out whose licence allows showing it, by its row."""
    known = set(nouns)
    with table.open(newline="", encoding="utf-8") as file:
        return {
            int(row["id"]): Drawing(**{name: row[name] for name in Drawing.__dataclass_fields__})
            for row in csv.DictReader(file)
            if row["permissive"] == "1" and row["concept"] in known
        }


def labelled(
    work: Path, drawings: dict[int, Drawing], splits: tuple[str, ...], nouns: list[str], *, side: int
) -> Labelled:
    """Permissive cut-outs of these splits with the class of each."""
    number = {noun: index for index, noun in enumerate(nouns)}
    ids = [i for i, drawing in drawings.items() if drawing.split in splits]
    cutouts = load(work / "pictures", splits=splits, side=side, ids=ids)
    return Labelled(cutouts=cutouts, nouns=torch.tensor([number[drawings[i].concept] for i in cutouts.ids.tolist()]))


def balanced(data: Labelled, counts: Tensor, *, generator: Generator) -> Tensor:
    """Pictures for scenes of `counts` objects: every noun is equally frequent, however many drawings it has."""
    classes = data.nouns.unique()
    order = torch.cat([torch.randperm(len(classes), generator=generator) for _ in range(SLOTS * len(counts))])
    chosen = choose(data.cutouts.ids, counts, generator=generator)
    for place, (row, slot) in enumerate((chosen >= 0).nonzero().tolist()):
        own = data.cutouts.ids[data.nouns == classes[order[place]]]
        chosen[row, slot] = own[torch.randint(len(own), (1,), generator=generator)]
    return chosen


def seen_scenes(
    data: Labelled,
    counts: Tensor,
    nouns: list[str],
    *,
    size: int,
    generator: Generator,
    composed: Callable[..., Scenes] = compose,
) -> Scenes:
    """Scenes in which enough of every object is visible to name it; crowded ones are composed again."""
    pictures = balanced(data, counts, generator=generator)
    scenes = composed(data.cutouts, pictures, size=size, generator=generator)
    for _ in range(50):
        seen = visible_nouns(scenes, data, nouns)
        hidden = [row for row, (named, _) in enumerate(seen) if len(named) < counts[row]]
        if not hidden:
            return scenes
        again = composed(data.cutouts, pictures[hidden], size=size, generator=generator)
        for field in fields(Scenes):
            own = getattr(scenes, field.name)
            if own is not None:
                own[hidden] = getattr(again, field.name)
    raise RuntimeError(f"{len(hidden)} scenes are still crowded after 50 attempts")


def as_scene(scenes: Scenes, row: int, drawings: dict[int, Drawing]) -> Scene:
    """One composed scene in the form that evaluation uses, without captions."""
    slots = [k for k in range(SLOTS) if scenes.pictures[row, k] >= 0]
    shown = [drawings[int(scenes.pictures[row, k])] for k in slots]
    return Scene(
        picture=_as_picture(scenes.image[row]),
        nouns=tuple(drawing.concept for drawing in shown),
        masks=tuple((scenes.label[row] == k + 1).numpy() for k in slots),
        splits=tuple(drawing.split for drawing in shown),
        captions=(),
    )


def _as_picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray((pixels.permute(1, 2, 0) * 255).round().byte().numpy())


def _save(pixels: Tensor, path: Path) -> None:
    """All pictures are saved with the same quality, so that equal 8 x 8 blocks of pixels stay equal."""
    _as_picture(pixels).save(path, quality=JPEG_QUALITY)


def _annotations(
    scenes: Scenes,
    row: int,
    image_id: int,
    before: int,
    drawings: dict[int, Drawing],
    nouns: list[str],
    folder: Path,
) -> list[dict[str, Any]]:
    """The objects of a scene; the scene without each of them is saved under the folder."""
    import numpy as np
    from pycocotools import mask as coco_mask

    assert scenes.without is not None
    found: list[dict[str, Any]] = []
    for slot in range(SLOTS):
        picture = int(scenes.pictures[row, slot])
        if picture < 0:
            continue
        drawing = drawings[picture]
        binary = (scenes.label[row] == slot + 1).numpy().astype(np.uint8)
        rle = coco_mask.encode(np.asfortranarray(binary))
        number = before + len(found) + 1
        without = f"{WITHOUT}/{number}.jpg"
        _save(scenes.without[row, slot], folder / without)
        found.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": nouns.index(drawing.concept) + 1,
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                "area": int(binary.sum()),
                "bbox": [float(v) for v in coco_mask.toBbox(rle)],
                "iscrowd": 0,
                "drawing": {"sha256": drawing.sha256, "style": drawing.style, "source": drawing.source,
                            "licence": drawing.licence, "split": drawing.split},
                WITHOUT: without,
            }
        )  # fmt: skip
    return found
