"""One table from all parts, in the order of the pictures; its bytes do not depend on how the run was divided."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lens_multimodal.experiments.stream.frames import EMPTY, PICTURE, joined, unified
from lens_multimodal.experiments.stream.parts import Part, read_parts
from lens_multimodal.files import write_atomically, write_text
from lens_multimodal.runs.disk_full import disk_full

ROWS_PER_GROUP = 65_536


def merge(out: Path, names: Sequence[str], image_ids: Sequence[int]) -> None:
    """Write `tables/<experiment>.<table>.parquet` and `errors.jsonl` from the parts, in constant memory.

    Args:
        names: the tables, as `experiment.table`.
        image_ids: the pictures of the run in their order, those of all parts among them.

    Raises: DiskFull.
    """
    parts = read_parts(out)
    try:
        for name in names:
            _merge_table(out / "tables" / f"{name}.parquet", name, parts, image_ids)
        lines = [json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures(parts, image_ids)]
        write_text(out / "errors.jsonl", "".join(lines))
    except OSError as error:
        raise disk_full(error, out, safe=sum(len(part.done) for part in parts)) from error


def failures(parts: Sequence[Part], image_ids: Sequence[int]) -> list[dict[str, object]]:
    """The latest failure of each picture that still has no rows, in picture order."""
    done = {image_id for part in parts for image_id in part.done}
    latest = {failure["image_id"]: failure for part in parts for failure in part.failed}
    return [latest[i] for i in image_ids if i in latest and i not in done]


def _merge_table(path: Path, name: str, parts: Sequence[Part], image_ids: Sequence[int]) -> None:
    part_of = {image_id: part for part in parts for image_id in part.done}
    wanted = [image_id for image_id in image_ids if image_id in part_of]
    schema = unified([part.schema(name) for part in parts] or [EMPTY])
    with (
        write_atomically(path, durable=True) as partial,
        partial.open("wb") as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for group in _in_groups(_by_picture(name, part_of, wanted), schema):
            writer.write_table(group, row_group_size=ROWS_PER_GROUP)


def _by_picture(name: str, part_of: Mapping[int, Part], image_ids: Sequence[int]) -> Iterator[pa.Table]:
    folders = {part.folder: part for part in part_of.values()}

    @lru_cache(maxsize=8)
    def rows_of(folder: Path) -> tuple[pa.Table, dict[int, tuple[int, int]]]:
        table = folders[folder].table(name)
        return table, _runs(table)

    for image_id in image_ids:
        table, runs = rows_of(part_of[image_id].folder)
        start, length = runs.get(image_id, (0, 0))
        yield table.slice(start, length)


def _runs(table: pa.Table) -> dict[int, tuple[int, int]]:
    """Start and number of each picture's rows, which are contiguous."""
    ids = table[PICTURE].to_numpy(zero_copy_only=False)
    if not len(ids):
        return {}
    starts = np.concatenate([[0], np.flatnonzero(ids[1:] != ids[:-1]) + 1, [len(ids)]])
    return {int(ids[a]): (int(a), int(b - a)) for a, b in pairwise(starts)}


def _in_groups(pieces: Iterator[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Blocks of exactly `ROWS_PER_GROUP` rows, and one block of what remains."""
    waiting: list[pa.Table] = []
    held = 0
    for piece in pieces:
        waiting.append(piece)
        held += len(piece)
        while held >= ROWS_PER_GROUP:
            block = joined(waiting, schema=schema)
            yield block.slice(0, ROWS_PER_GROUP).combine_chunks()
            waiting = [block.slice(ROWS_PER_GROUP)]
            held -= ROWS_PER_GROUP
    if held:
        yield joined(waiting, schema=schema)
