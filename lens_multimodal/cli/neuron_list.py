"""Neurons on the command line: `3.120`, or a table from an earlier command."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import pandas as pd


NeuronsFrom = Annotated[
    Path | None, typer.Option(help="A .parquet, .json or .csv table with columns layer and neuron.")
]


def given_neurons(listed: Sequence[str] | None, table: Path | None) -> "pd.DataFrame | list[tuple[int, int]] | None":
    """The neurons of a table or of the command line; None without either. Raises: as the two readers."""
    if table:
        return read_neurons(table)
    return parse_neurons(listed) if listed else None


def parse_neurons(given: Sequence[str]) -> list[tuple[int, int]]:
    """Neurons written as `layer.neuron`; an argument may hold several, separated by commas.

    Raises: ValueError for anything else.
    """
    parts = [part.strip() for item in given for part in item.split(",") if part.strip()]
    wrong = [part for part in parts if not re.fullmatch(r"[0-9]{1,6}\.[0-9]{1,9}", part)]
    if wrong or not parts:
        raise ValueError(
            f"expected neurons as layer.neuron, such as 3.120, got {', '.join(map(repr, wrong[:5])) or 'none'}"
        )
    return [(int(layer), int(neuron)) for layer, neuron in (part.split(".") for part in parts)]


def read_neurons(path: Path) -> "pd.DataFrame":
    """The columns `layer` and `neuron` of a .parquet, .json or .csv table, each neuron once, in the table's order.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown ending, a damaged file, or no such columns of integers.
    """
    import pandas as pd

    readers = {".parquet": pd.read_parquet, ".json": pd.read_json, ".csv": pd.read_csv}
    if not path.is_file():
        raise FileNotFoundError(f"no table of neurons at {str(path)!r}")
    if path.suffix.lower() not in readers:
        raise ValueError(f"expected a table of neurons in {', '.join(readers)}, got {path.name!r}")
    try:
        table = readers[path.suffix.lower()](path)
    except Exception as error:  # each reader fails in its own way on a damaged file
        message = " ".join(str(error).split())[:200]
        raise ValueError(f"{str(path)!r} is damaged or not a {path.suffix} table ({message})") from error
    if not {"layer", "neuron"} <= set(table.columns):
        raise ValueError(
            f"{str(path)!r} needs the columns layer and neuron, has {', '.join(map(str, table.columns)) or 'none'}"
        )
    chosen = table[["layer", "neuron"]].drop_duplicates()
    if not len(chosen) or not all(pd.api.types.is_integer_dtype(dtype) for dtype in chosen.dtypes):
        raise ValueError(f"{str(path)!r}: expected integers under layer and neuron in at least one row")
    return chosen
