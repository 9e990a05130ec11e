"""How large a store will be and how long it will take, measured on a few pictures."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from lens_multimodal.arguments.boundary import ArgumentValueError, public
from lens_multimodal.data import Scene
from lens_multimodal.prompt.captioning_model import CaptioningModel
from lens_multimodal.prompt.image_prompt import PROMPT
from lens_multimodal.runs.plan import Estimate, disk_of
from lens_multimodal.runs.processes import Processes
from lens_multimodal.store.reading import SHARDS
from lens_multimodal.store.what_to_store import StoredPositions, what_to_store
from lens_multimodal.store.writing import check, write_shards


@public
def estimate(
    lens: CaptioningModel,
    scenes: Sequence[Scene],
    *,
    at: Sequence[str] | str,
    positions: StoredPositions = "image",
    categories: Sequence[str] | None = None,
    covered: float = 0.5,
    text: str = PROMPT,
    dtype: str | torch.dtype | None = None,
    batch_size: int = 32,
    max_new_tokens: int = 20,
    n_pictures: int | None = None,
    n_batches: int = 3,
    out: str | Path | None = None,
) -> Estimate:
    """Size and time of `write_activations` with the same arguments: a few batches are written to a temporary folder.

    Args:
        n_pictures: for a data set of this many pictures like `scenes`; None for `scenes` themselves.
        n_batches: number of batches measured, after one to warm up.
        out: the folder that will be written, whose disk is measured for speed and free space.

    Raises: as `write_activations`.
    """
    what = what_to_store(
        lens,
        at=at,
        categories=categories,
        dtype=dtype,
        positions=positions,
        covered=covered,
        text=text,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )
    if n_batches < 1:
        raise ArgumentValueError(f"expected at least 1, got {n_batches}", "n_batches")
    names = check(scenes, what)
    total = len(scenes) if n_pictures is None else n_pictures
    count = min(len(scenes), n_batches * batch_size)
    sample = [scenes[i * len(scenes) // count] for i in range(count)]
    place, free = disk_of(out)
    one_shard = replace(what, pictures_per_shard=count)
    alone = Processes()
    with TemporaryDirectory(dir=place, prefix=".estimate-") as folder:
        home = Path(folder)
        write_shards(lens, sample[:batch_size], home / "warm", one_shard, names, processes=alone, progress=False)
        started = time.perf_counter()
        write_shards(lens, sample, home / "measured", one_shard, names, processes=alone, progress=False)
        seconds = time.perf_counter() - started
        size = sum(file.stat().st_size for file in (home / "measured" / SHARDS).iterdir())
    return Estimate(
        pictures=total,
        measured=count,
        bytes=round(size * total / count),
        seconds=seconds * total / count,
        free_bytes=free,
    )
