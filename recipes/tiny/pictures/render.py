"""All drawings of a package to cut-outs, in parts, so that a killed run loses at most one part."""

import hashlib
import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lens_multimodal.files import write_atomically
from recipes.tiny.pictures.cutout import cutout
from recipes.tiny.pictures.drawing import Drawing, Unusable
from recipes.tiny.stage import write_json

PART = 128
"""Drawings of one part file."""


def render(drawings: list[Drawing], folder: Path, *, size: int, workers: int, title: str) -> list[Path]:
    """Render drawings into part files under `folder`; parts that exist are kept.

    A part is `<digest>.npy` (uint8 `[n, size, size, 4]`) beside `<digest>.json`, which says which drawings it holds and
    why the others were dropped. The digest covers the drawings and the size, so a changed package makes new parts.

    Returns: the json files of all parts, in the order of the drawings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [drawings[start : start + PART] for start in range(0, len(drawings), PART)]
    paths = [folder / f"{_digest(part, size)}.json" for part in parts]
    missing = [(part, path) for part, path in zip(parts, paths, strict=True) if not path.exists()]
    task = partial(_render_part, size=size)
    if missing:
        with tqdm(total=len(missing) * PART, desc=title, unit="pictures") as bar:
            if workers <= 1 or len(missing) == 1:
                for job in missing:
                    task(job)
                    bar.update(PART)
            else:
                spawn = multiprocessing.get_context("spawn")
                with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
                    for _ in pool.map(task, missing):
                        bar.update(PART)
    return paths


def forget_others(folder: Path, paths: list[Path]) -> None:
    """Delete part files that no longer belong to any drawing."""
    wanted = {p.stem for p in paths}
    for path in folder.iterdir():
        if path.name.split(".")[0] not in wanted:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _render_part(job: tuple[list[Drawing], Path], *, size: int) -> None:
    part, path = job
    pictures: list[np.ndarray] = []
    kept: list[int] = []
    dropped: dict[str, str] = {}
    for index, drawing in enumerate(part):
        try:
            pictures.append(cutout(drawing, size))
            kept.append(index)
        except Unusable as reason:
            dropped[drawing.key] = str(reason)
    pixels = np.stack(pictures) if pictures else np.zeros((0, size, size, 4), np.uint8)
    with write_atomically(path.with_suffix(".npy")) as partial_file, open(partial_file, "wb") as file:
        np.save(file, pixels)
    hashes = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pixels]
    write_json(path, {"keys": [part[i].key for i in kept], "sha256": hashes, "dropped": dropped})


def _digest(part: list[Drawing], size: int) -> str:
    known = json.dumps(
        [
            [d.key, d.kind, d.side, hashlib.sha256(d.content.encode()).hexdigest() if d.kind == "svg" else ""]
            for d in part
        ]
    )
    return hashlib.sha256(f"{size} {known}".encode()).hexdigest()[:24]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
