"""Pictures with dogs and cats, a random lens and an atlas of them."""

import os
from dataclasses import replace
from pathlib import Path

from lens_multimodal import VisionLens
from lens_multimodal.atlas import Atlas, AtlasSettings, build_atlas
from lens_multimodal.atlas.atlas_settings import SAVE_EVERY
from lens_multimodal.data import Scene, SceneObject
from tests.experiments.stream_world import make_scenes
from tests.lenses import random_lens

OPTIONS = {"batch_size": 2, "pictures_per_chunk": 3, "quantile": 0.8, "n_calibration": 6, "n_top": 4}


def world_scenes(home: Path, count: int = 23, *, write: bool = True) -> list[Scene]:
    """Every picture has a dog in the upper left corner, two of three a cat that partly covers patches."""
    scenes = make_scenes(home, count, write=write)
    return [scene if n % 3 == 0 else _with_cat(scene, n) for n, scene in enumerate(scenes)]


def _with_cat(scene: Scene, number: int) -> Scene:
    h, w = scene.height, scene.width
    x, y = 3.0 + number % 11, 2.0 + number % 7
    corners = [x, y, x + 14, y, x + 14, y + 9, x, y + 9]
    cat = SceneObject(
        id=100 + number, category="cat", supercategory="animal", area=126.0, box=(x, y, 14.0, 9.0), is_crowd=False,
        height=h, width=w, segmentation=[corners], extra={},
    )  # fmt: skip
    return replace(scene, objects=(*scene.objects, cat))


def atlas_of(
    lens: VisionLens,
    scenes: list[Scene],
    out: Path,
    *,
    found: Path | None = None,
    save_every: float = SAVE_EVERY,
    **options: object,
) -> Atlas:
    settings = AtlasSettings(**{**OPTIONS, **options})
    return build_atlas(lens, scenes, out, settings, found=found, save_every=save_every, progress=False)


def run_atlas(home: Path, out: Path) -> Atlas:
    lens = random_lens(home / f"tokenizer.{os.getpid()}")
    return atlas_of(lens, world_scenes(home, write=False), out, save_every=0)


def bytes_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "tables").iterdir())}
