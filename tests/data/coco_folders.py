"""A small data set in COCO's format, in both layouts, to be read or corrupted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle

HEIGHT, WIDTH = 30, 40
TRIANGLE = [5.0, 5.0, 25.0, 5.0, 15.0, 20.0]


def blob(seed: int) -> np.ndarray:
    return np.asfortranarray(np.random.default_rng(seed).random((HEIGHT, WIDTH)) > 0.6)


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed counts: alternating zeros and ones down the columns."""
    flat = mask.flatten(order="F").astype(int)
    counts, current, run = [], 0, 0
    for value in flat:
        if value != current:
            counts.append(run)
            current, run = value, 0
        run += 1
    return [*counts, run]


def annotations() -> tuple[dict[str, Any], dict[str, Any]]:
    compressed = rle.encode(blob(1).astype(np.uint8))
    images = [
        {"id": 7, "file_name": "a.png", "height": HEIGHT, "width": WIDTH, "license": 1, "drawings": "known"},
        {"id": 3, "file_name": "b.png", "height": HEIGHT, "width": WIDTH, "drawings": "held_out"},
        {"id": 9, "file_name": "c.png", "height": HEIGHT, "width": WIDTH},
    ]
    parts: list[dict[str, Any]] = [
        {"image_id": 7, "category_id": 18, "segmentation": [TRIANGLE], "area": 150.0, "drawing": {"style": "noto"}},
        {
            "image_id": 7, "category_id": 1, "area": 480,
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": compressed["counts"].decode()},
        },
        {
            "image_id": 3, "category_id": 18, "area": 470, "iscrowd": 1,
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": run_lengths(blob(2))},
        },
        {"image_id": 3, "category_id": 18, "segmentation": [TRIANGLE, [30, 20, 38, 20, 38, 28]], "area": 180},
    ]  # fmt: skip
    for number, part in enumerate(parts):
        part |= {"id": number, "bbox": [5, 5, 20, 15]}
        part.setdefault("iscrowd", 0)
    instances = {
        "images": images,
        "annotations": parts,
        "categories": [
            {"id": 18, "name": "dog", "supercategory": "animal"},
            {"id": 1, "name": "person", "supercategory": "person"},
            {"id": 44, "name": "bottle", "supercategory": "kitchen"},
        ],
    }
    texts = [(7, " A dog sits.\n"), (3, "A herd."), (7, "Somebody and a dog.")]
    captions = {
        "images": images,
        "annotations": [{"id": n, "image_id": i, "caption": text} for n, (i, text) in enumerate(texts)],
    }
    return instances, captions


def write(folder: Path, *, split: str | None = None) -> Path:
    instances, captions = annotations()
    pictures = folder / (split or "images")
    pictures.mkdir(parents=True)
    home = folder / "annotations" if split else folder
    home.mkdir(exist_ok=True)
    ending = f"_{split}" if split else ""
    (home / f"instances{ending}.json").write_text(json.dumps(instances))
    (home / f"captions{ending}.json").write_text(json.dumps(captions))
    for entry in instances["images"]:
        Image.new("RGB", (WIDTH, HEIGHT), "red").save(pictures / entry["file_name"])
    return folder


def edit(path: Path, change: Any) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
