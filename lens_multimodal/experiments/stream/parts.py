"""Finished pictures on disk: a part is a folder that appears whole or not at all.

parts/00000-00031.r0/                first and last picture (their places in the run) and the process that wrote it
    pictures.json                    {"done": [image ids], "failed": [{image_id, file, error}]}
    causal.ablations.parquet ...     rows of these pictures, in this order
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lens_multimodal.experiments.stream.frames import joined
from lens_multimodal.files import write_atomically
from lens_multimodal.runs.disk_full import disk_full

_REMEDY = "delete this folder; its pictures are then computed again"

NAME = re.compile(r"(\d+)-(\d+)\.r(\d+)(?:\.\d+)?")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One folder of finished pictures."""

    folder: Path
    done: tuple[int, ...]
    failed: tuple[dict[str, Any], ...]
    batch_size: int
    """Rows per forward pass when the part was finished; smaller than requested if memory ran out."""

    def table(self, name: str) -> pa.Table:
        """Rows of one table (`experiment.table`), picture after picture in the order of `done`."""
        return read_parquet(pq.read_table, self.folder / f"{name}.parquet", remedy=_REMEDY)

    def schema(self, name: str) -> pa.Schema:
        return read_parquet(pq.read_schema, self.folder / f"{name}.parquet", remedy=_REMEDY)


def write_part(
    out: Path,
    tables: Mapping[str, Sequence[pa.Table]],
    *,
    done: Sequence[int],
    failed: Sequence[dict[str, Any]],
    first: int,
    last: int,
    rank: int,
    batch_size: int,
) -> Path:
    """Write a part as a folder that appears whole or not at all.

    Args:
        tables: rows by `experiment.table`, one Arrow table for each picture.
        first, last: places of the part's pictures in the run, for the name.

    Raises: DiskFull.
    """
    place = _free(out / "parts", f"{first:06d}-{last:06d}.r{rank}")
    pictures = {"done": list(done), "failed": list(failed), "batch_size": batch_size}
    try:
        with write_atomically(place, durable=True) as folder:
            folder.mkdir()
            for name, pieces in tables.items():
                # Equal rows give equal bytes.
                pq.write_table(joined(pieces), folder / f"{name}.parquet", compression="zstd")
            (folder / "pictures.json").write_text(json.dumps(pictures, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise disk_full(error, out, safe=sum(len(part.done) for part in read_parts(out))) from error
    return place


def read_parts(out: Path) -> list[Part]:
    """All finished parts, in the order of their names."""
    home = out / "parts"
    found = sorted(f for f in home.iterdir() if NAME.fullmatch(f.name)) if home.is_dir() else []
    parts = []
    for folder in found:
        try:
            said = json.loads((folder / "pictures.json").read_text(encoding="utf-8"))
            done, failed, batch_size = tuple(said["done"]), tuple(said["failed"]), int(said["batch_size"])
            if not all(isinstance(image_id, int) for image_id in done) or not all(isinstance(f, dict) for f in failed):
                raise ValueError("not a list of pictures")
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{folder} is damaged ({error}): {_REMEDY}") from error
        parts.append(Part(folder=folder, done=done, failed=failed, batch_size=batch_size))
    return parts


def read_parquet(read: Callable[[Path], Any], path: Path, *, remedy: str) -> Any:
    """The result of `read` on a Parquet file.

    Raises: ValueError for a damaged or missing file, with the remedy.
    """
    try:
        return read(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} is damaged ({' '.join(str(error).split())[:200]}): {remedy}") from error


def remove_unfinished(out: Path, *, rank: int) -> None:
    """Remove what this process had not finished writing when it was killed."""
    for left in (out / "parts").glob(f".*.r{rank}.*partial"):
        shutil.rmtree(left, ignore_errors=True)


def _free(home: Path, name: str) -> Path:
    """A free name for the part; a number follows it if the part repeats failed pictures."""
    place, number = home / name, 1
    while place.exists():
        place, number = home / f"{name}.{number}", number + 1
    return place
