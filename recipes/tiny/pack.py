"""Stage `pack`: the files that ship, rounded to fp16, put together in one folder."""

import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lens_multimodal.files import digest_of_file
from lens_multimodal.image.preprocessing import Preprocessing
from lens_multimodal.tiny import load_vision, read_vision_config
from lens_multimodal.tiny.familiarity import UNFAMILIAR_BEYOND, measured_limit
from recipes.tiny.projection import load_language_model
from recipes.tiny.samples import WITHOUT
from recipes.tiny.settings import Settings
from recipes.tiny.stage import run_once, write_json

FILES = ("vision.json", "vision.safetensors", "projection.safetensors", "DATA_LICENSES", "training_pictures.txt")
FOLDERS = ("language", "scenes")

LIMIT = 40 * 2**20
"""The shipped folder stays below this many bytes."""


def run(settings: Settings, work: Path) -> dict[str, Any]:
    """Write `work/packed`: language/, vision.*, projection.safetensors, scenes/, DATA_LICENSES."""
    parts = {
        "language": work / "language" / "model" / "model.safetensors",
        "vision": work / "vision" / "encoder.safetensors",
        "projection": work / "projection" / "projection.safetensors",
        "scenes": work / "samples" / "instances.json",
    }
    fixed = {"seed": settings.seed, **{name: digest_of_file(path) for name, path in parts.items()}}
    return run_once(work / "packed" / "made", fixed, lambda: _pack(settings, work))


def ship(work: Path, package: Path) -> None:
    """Replace the trio inside the package by the packed one; the loader stays."""
    for name in FOLDERS:
        shutil.rmtree(package / name, ignore_errors=True)
        shutil.copytree(work / "packed" / name, package / name)
    for name in FILES:
        shutil.copyfile(work / "packed" / name, package / name)


def packed_digest(work: Path) -> str:
    """One hash over the weights that ship."""
    names = ("language/model.safetensors", "vision.safetensors", "projection.safetensors")
    return hashlib.sha256("".join(digest_of_file(work / "packed" / name) for name in names).encode()).hexdigest()


def _pack(settings: Settings, work: Path) -> dict[str, Any]:
    packed = work / "packed"
    model, tokenizer = load_language_model(work)
    shutil.rmtree(packed / "language", ignore_errors=True)
    model.half().save_pretrained(packed / "language")
    tokenizer.save_pretrained(packed / "language")
    beit = json.loads((work / "vision" / "encoder.json").read_text())["config"]
    side = settings.vision.image_size
    write_json(
        packed / "vision.json",
        {"beit": beit, "preprocessing": Preprocessing(height=side, width=side).to_json()},
    )
    for source, target in (("vision/encoder", "vision"), ("projection/projection", "projection")):
        state = load_file(work / f"{source}.safetensors")
        save_file({k: v.to(torch.float16).contiguous() for k, v in state.items()}, packed / f"{target}.safetensors")
    shutil.rmtree(packed / "scenes", ignore_errors=True)
    (packed / "scenes").mkdir()
    for name in ("images", WITHOUT):
        shutil.copytree(work / "samples" / name, packed / "scenes" / name)
    for name in ("instances.json", "captions.json"):
        _compact(work / "samples" / name, packed / "scenes" / name)
    config = read_vision_config(packed)
    config[UNFAMILIAR_BEYOND] = measured_limit(load_vision(packed), packed / "scenes")
    write_json(packed / "vision.json", config)
    (packed / "DATA_LICENSES").write_text(data_licences(work))
    (packed / "training_pictures.txt").write_text("\n".join(training_pictures(work)) + "\n")
    size = sum(f.stat().st_size for f in packed.rglob("*") if f.is_file())
    if size > LIMIT:
        raise RuntimeError(f"the packed trio has {size / 2**20:.1f} MiB, more than {LIMIT / 2**20:.0f}")
    return {"bytes": size}


def training_pictures(work: Path) -> list[str]:
    """The first 16 hex digits of the hash of every picture that training saw."""
    with (work / "pictures" / "pictures.csv").open(newline="", encoding="utf-8") as file:
        return sorted({row["sha256"][:16] for row in csv.DictReader(file) if row["split"] == "train"})


def data_licences(work: Path) -> str:
    """Who drew and wrote what the trio was made of, and under which licence."""
    licences: list[dict[str, Any]] = json.loads((work / "fetch" / "licences.json").read_text())
    lines = [
        "The tiny trio was trained on, and its sample scenes are composed of, the works named here.",
        "The sample scenes show drawings of the sets marked 'shown' only; the others were used for training alone.",
        "Drawings were cut out, scaled, turned, recoloured and laid over one another and over made-up backgrounds.",
        "",
    ]
    shown = {
        a["drawing"]["source"] for a in json.loads((work / "samples" / "instances.json").read_text())["annotations"]
    }
    for entry in licences:
        used = "shown" if entry["name"] in shown else "training only"
        lines.append(f"- {entry['name']} {entry['version']}: {entry['licence']}, by {entry['author']} ({used})")
    return "\n".join(lines) + "\n"


def _compact(source: Path, target: Path) -> None:
    target.write_text(json.dumps(json.loads(source.read_text()), separators=(",", ":")) + "\n")
