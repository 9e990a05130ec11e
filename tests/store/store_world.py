"""Random pictures, a random lens and a store of them."""

import os
from pathlib import Path

from lens_multimodal import VisionLens
from lens_multimodal.data import Scene
from lens_multimodal.store import Activations, StoreSettings, write_activations
from tests.experiments.stream_world import make_scenes
from tests.lenses import random_lens

AT = ("blocks.1.mlp.hook_post", "blocks.2.hook_resid_post")


def run_store(home: Path, out: Path, *, count: int = 23) -> Activations:
    lens = random_lens(home / f"tokenizer.{os.getpid()}")
    return store_of(lens, make_scenes(home, count, write=False), out)


def store_of(lens: VisionLens, scenes: list[Scene], out: Path, **options: object) -> Activations:
    settings = StoreSettings(**{"at": AT, "batch_size": 2, "pictures_per_shard": 3, **options})
    return write_activations(lens, scenes, out, settings, progress=False)


def bytes_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "shards").iterdir()) if path.name[0] != "."}
