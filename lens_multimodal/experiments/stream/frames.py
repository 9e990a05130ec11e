"""Data frames as Arrow tables whose types do not depend on which pictures came together in one file."""

from collections.abc import Sequence

import pandas as pd
import pyarrow as pa

PICTURE = "image_id"

EMPTY = pa.schema([(PICTURE, pa.null())])
"""Of a table without any picture."""


def as_arrow(frame: pd.DataFrame, *, image_id: int, where: str) -> pa.Table:
    """One picture's rows as Arrow; types are found from this picture alone and widened later by `joined`.

    Raises: ValueError where the first column is not `image_id`, or not this picture's.
    """
    if not len(frame.columns):
        frame = pd.DataFrame({PICTURE: pd.Series([], dtype="int64")})
    if frame.columns[0] != PICTURE:
        raise ValueError(f"{where}: the first column must be {PICTURE!r}, got {list(frame.columns)}")
    strangers = set(frame[PICTURE]) - {image_id}
    if strangers:
        raise ValueError(f"{where}: rows of pictures {sorted(strangers)[:5]} came for picture {image_id}")
    if not len(frame):
        # Without values pandas cannot know the types; null widens to whatever other pictures have.
        return pa.table({name: pa.array([], type=pa.null()) for name in frame.columns})
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{where}: a column holds things of different kinds: {error}") from error
    return table.replace_schema_metadata(None)


def joined(tables: Sequence[pa.Table], *, schema: pa.Schema | None = None) -> pa.Table:
    """Tables below each other in one block of memory, so that equal rows give equal bytes on disk.

    Args: schema: what to widen all to; None finds it from the tables.
    Raises: ValueError for columns whose types have nothing in common.
    """
    wide = schema or unified([table.schema for table in tables] or [EMPTY])
    return pa.concat_tables([wide.empty_table(), *(_widened(table, wide) for table in tables)]).combine_chunks()


def unified(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The narrowest schema that holds all: null widens to anything, integers to floats; columns in first-seen order.

    Raises: ValueError for columns whose types have nothing in common.
    """
    try:
        return pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"rows of different pictures do not fit together: {error}") from error


def _widened(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        if field.name in table.column_names:
            columns.append(table[field.name].cast(field.type))
        else:
            columns.append(pa.nulls(len(table), field.type))
    return pa.table(columns, schema=schema)
