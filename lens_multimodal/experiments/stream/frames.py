"""Data frames as Arrow tables whose types do not depend on which pictures share a file."""

from collections.abc import Sequence

import pandas as pd
import pyarrow as pa

PICTURE = "image_id"

EMPTY = pa.schema([(PICTURE, pa.null())])
"""The schema of a table without pictures."""


def as_arrow(frame: pd.DataFrame, *, image_id: int, where: str) -> pa.Table:
    """One picture's rows as Arrow; types come from this picture alone and are widened later by `joined`.

    Raises: ValueError if the first column is not `image_id`, or holds other pictures.
    """
    if not len(frame.columns):
        frame = pd.DataFrame({PICTURE: pd.Series([], dtype="int64")})
    if frame.columns[0] != PICTURE:
        raise ValueError(f"{where}: the first column must be {PICTURE!r}, got {list(frame.columns)}")
    strangers = set(frame[PICTURE]) - {image_id}
    if strangers:
        raise ValueError(f"{where}: got rows of pictures {sorted(strangers)[:5]}, expected only picture {image_id}")
    if not len(frame):
        # Without values pandas cannot know the types; null widens to whatever other pictures have.
        return pa.table({name: pa.array([], type=pa.null()) for name in frame.columns})
    try:
        # `Table.from_pandas` also writes pandas' description of the frame, which takes longer than the columns.
        return pa.table({name: pa.array(frame[name], from_pandas=True) for name in frame.columns})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{where}: a column mixes types: {error}") from error


def joined(tables: Sequence[pa.Table], *, schema: pa.Schema | None = None) -> pa.Table:
    """The concatenated tables in one block of memory, so that equal rows give equal bytes on disk.

    Args: schema: to widen all tables to; None unifies their own.
    Raises: ValueError for columns of incompatible types.
    """
    wide = schema or unified([table.schema for table in tables] or [EMPTY])
    return pa.concat_tables([wide.empty_table(), *(_widened(table, wide) for table in tables)]).combine_chunks()


def unified(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The narrowest schema that holds all: null widens to anything, integers to floats; columns in first-seen order.

    Raises: ValueError for columns of incompatible types.
    """
    try:
        return pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"the columns of different pictures have incompatible types: {error}") from error


def _widened(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        if field.name in table.column_names:
            columns.append(table[field.name].cast(field.type))
        else:
            columns.append(pa.nulls(len(table), field.type))
    return pa.table(columns, schema=schema)
