"""Write a table to the screen, as JSON, as Parquet, or as a page."""

import io
import json
import sys
import unicodedata
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_multimodal.files import as_text

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

THUMBNAIL = 96
"""Longest side of a picture in an HTML table, in pixels."""

ON_SCREEN = 20
"""Rows shown of a longer table."""


class Format(str, Enum):
    """The form in which a table is written."""

    table = "table"
    json = "json"
    parquet = "parquet"
    html = "html"


Out = Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file instead of the screen.")]
AsFormat = Annotated[
    Format | None,
    typer.Option("--format", "-f", help="Output format; by default the ending of --out decides, or a table."),
]


def write(
    table: "pd.DataFrame",
    *,
    title: str,
    out: Path | None,
    form: Format | None,
    largest: str | None = None,
    page: Callable[[str], str] | None = None,
) -> None:
    """Write a table to a file or to stdout.

    A column `picture` holds paths, not strings: pandas has no strings for names that are not UTF-8.

    Args:
        largest: on the screen, a long table shows only the rows largest in this column.
        page: makes the HTML page from its title; None for a page that holds the table.
    Raises: ValueError for an ending of `out` that names no format.
    """
    form = form or format_by_ending(out)
    made_with = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in table.attrs.items())
    title = as_text(f"{title} ({made_with})" if made_with else title)
    if out is None and form is Format.table and largest is not None and len(table) > ON_SCREEN:
        title += f"; {ON_SCREEN} of {len(table):,} rows, largest {largest} first (all with --out or --format)"
        table = table.nlargest(ON_SCREEN, largest)
    custom = page if form is Format.html else None
    content = _RENDERERS[form](table, title) if custom is None else as_text(custom(title)).encode()
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(content)
        typer.echo(f"wrote {len(table):,} rows to {out}", err=True)
        return
    typer.echo(content, nl=False)


def check(out: Path | None, form: Format | None) -> None:
    """What can be known about an output before anything is computed.

    Raises: ValueError for Parquet written to a terminal, an ending of `out` that names no format, or a folder.
    """
    form = form or format_by_ending(out)
    if out is not None and out.is_dir():
        raise ValueError(f"{str(out)!r} is a folder; give --out a file, such as {str(out / 'table.json')!r}")
    if out is None and form is Format.parquet and sys.stdout.isatty():
        raise ValueError("Parquet cannot be read on a terminal: give a file with --out, or pipe it to a program")


def format_by_ending(out: Path | None) -> Format:
    """The format that a file's name says. Raises: ValueError for an ending that names none."""
    if out is None or out.suffix in (".txt", ""):
        return Format.table
    try:
        return Format(out.suffix.lower().removeprefix("."))
    except ValueError:
        raise ValueError(
            f"the ending of {out.name!r} names no format; expected .json, .parquet, .html or .txt, or choose one with "
            f"--format"
        ) from None


def _as_table(table: "pd.DataFrame", title: str) -> bytes:
    from rich.console import Console
    from rich.table import Table

    shown = Table(header_style="bold")
    table = _for_reading(table)
    for name in table.columns:
        shown.add_column(str(name), overflow="fold", justify="right" if table[name].dtype.kind in "if" else "left")
    for row in table.itertuples(index=False):
        shown.add_row(*(_visible(_readable(value)) for value in row))
    on_screen = sys.stdout.isatty()
    buffer = io.StringIO()
    console = Console(
        file=buffer, width=None if on_screen else 160, force_terminal=on_screen, markup=False, highlight=False
    )
    console.print(_visible(title), style="bold", soft_wrap=True)
    console.print(shown)
    return buffer.getvalue().encode()


def _as_json(table: "pd.DataFrame", _title: str) -> bytes:
    rows = json.loads(_with_text(table).to_json(orient="records", double_precision=15))
    return (json.dumps(rows, indent=1, ensure_ascii=False) + "\n").encode()


def _as_parquet(table: "pd.DataFrame", _title: str) -> bytes:
    buffer = io.BytesIO()
    try:
        _with_text(table).to_parquet(buffer, index=False, engine="pyarrow")
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow: pip install pyarrow, or choose --format json") from error
    return buffer.getvalue()


def _as_html(table: "pd.DataFrame", title: str) -> bytes:
    # Imported here, because only a page needs plotly and the pictures.
    from lens_multimodal.views.html import render

    table = _for_reading(table)
    rows = [
        [(_readable(value), _picture_at(name, value)) for name, value in row.items()]
        for row in table.to_dict("records")
    ]
    return render("table.html", title=title, columns=list(table.columns), rows=rows, side=THUMBNAIL).encode()


def _for_reading(table: "pd.DataFrame") -> "pd.DataFrame":
    """The table without token ids whose tokens are in a column of their own."""
    return table.drop(columns="token_ids") if {"tokens", "token_ids"} <= set(table.columns) else table


def _picture_at(column: Any, value: Any) -> "Image.Image | None":
    """The picture that a cell names, if it can be read."""
    from lens_multimodal.image.pictures import as_picture

    if column != "picture":
        return None
    try:
        return as_picture(Path(value))
    except (ValueError, FileNotFoundError):
        return None


def _readable(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(_readable(item).strip() or repr(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else as_text(str(value))


def _visible(text: str) -> str:
    """The text with escapes for characters that move the cursor of a terminal or colour it."""
    return "".join(c if unicodedata.category(c) != "Cc" else repr(c)[1:-1] for c in text)


def _with_text(table: "pd.DataFrame") -> "pd.DataFrame":
    """The table with the paths of pictures as text; no other column can hold bytes that are not UTF-8."""
    if "picture" not in table.columns:
        return table
    return table.assign(picture=[as_text(str(path)) for path in table["picture"]])


_RENDERERS = {Format.table: _as_table, Format.json: _as_json, Format.parquet: _as_parquet, Format.html: _as_html}
