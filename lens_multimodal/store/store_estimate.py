"""How large a store will be and how long it will take, measured on a few pictures."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from lens_multimodal.arguments.boundary import ArgumentValueError, public
from lens_multimodal.data import Scene
from lens_multimodal.prompt.captioning_model import CaptioningModel
from lens_multimodal.runs.plan import Estimate, disk_of
from lens_multimodal.runs.processes import Processes
from lens_multimodal.store.reading import SHARDS
from lens_multimodal.store.store_settings import StoreSettings
from lens_multimodal.store.writing import check, write_shards


@public
def estimate_activations(
    lens: CaptioningModel,
    scenes: Sequence[Scene],
    settings: StoreSettings,
    *,
    n_pictures: int | None = None,
    n_batches: int = 3,
    out: str | Path | None = None,
) -> Estimate:
    """Size and time of `write_activations`: a few batches are written to a temporary folder.

    Args:
        n_pictures: for a data set of this many pictures like `scenes`; None for `scenes` themselves.
        n_batches: number of batches measured, after one to warm up.
        out: the folder that will be written, whose disk is measured for speed and free space.

    Raises: as `write_activations`.
    """
    if n_batches < 1:
        raise ArgumentValueError(f"expected at least 1, got {n_batches}", "n_batches")
    names = check(scenes, settings)
    total = len(scenes) if n_pictures is None else n_pictures
    count = min(len(scenes), n_batches * settings.batch_size)
    sample = [scenes[i * len(scenes) // count] for i in range(count)]
    place, free = disk_of(out)
    one_shard = replace(settings, pictures_per_shard=count)
    alone = Processes()
    with TemporaryDirectory(dir=place, prefix=".estimate-") as folder:
        home = Path(folder)
        write_shards(
            lens, sample[: settings.batch_size], home / "warm", one_shard, names, processes=alone, progress=False
        )
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
