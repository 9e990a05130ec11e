"""One table, four ways out: for the eye, for programs, for data frames, for a browser."""

import base64
import io
import json
import sys
from enum import Enum
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

THUMBNAIL = 96
"""Longest side of a picture in an HTML table, in pixels."""


ON_SCREEN = 20
"""Rows of a long table that are shown where somebody reads them."""


class Format(str, Enum):
    """What a table is written as."""

    table = "table"
    json = "json"
    parquet = "parquet"
    html = "html"


Out = Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file instead of the screen.")]
AsFormat = Annotated[
    Format | None,
    typer.Option("--format", "-f", help="Without it: by the ending of --out, else a table."),
]


def write(
    table: "pd.DataFrame", *, title: str, out: Path | None, form: Format | None, largest: str | None = None
) -> None:
    """Write a table to a file or to stdout.

    Args: largest: a long table on the screen is cut down to the rows that are largest in this column.
    Raises: ValueError for Parquet onto a terminal, or an ending of `out` that names no format.
    """
    form = form or _by_ending(out)
    made_with = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in table.attrs.items())
    title = f"{title} ({made_with})" if made_with else title
    if out is None and form is Format.table and largest is not None and len(table) > ON_SCREEN:
        title += f"; {ON_SCREEN} of {len(table):,} rows, largest {largest} first (all with --out or --format)"
        table = table.nlargest(ON_SCREEN, largest)
    content = _RENDERERS[form](table, title)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(content)
        typer.echo(f"wrote {len(table):,} rows to {out}", err=True)
        return
    if form is Format.parquet and sys.stdout.isatty():
        raise ValueError("Parquet is not for reading on a terminal: give a file with --out, or pipe it on")
    typer.echo(content, nl=False)


def _by_ending(out: Path | None) -> Format:
    if out is None or out.suffix in (".txt", ""):
        return Format.table
    try:
        return Format(out.suffix.lower().removeprefix("."))
    except ValueError:
        raise ValueError(
            f"{out.name!r} does not say which format it has: end it in .json, .parquet, .html or .txt, or name one "
            f"with --format"
        ) from None


def _as_table(table: "pd.DataFrame", title: str) -> bytes:
    from rich.console import Console
    from rich.table import Table

    shown = Table(header_style="bold")
    table = _for_reading(table)
    for name in table.columns:
        shown.add_column(str(name), overflow="fold", justify="right" if table[name].dtype.kind in "if" else "left")
    for row in table.itertuples(index=False):
        shown.add_row(*(_readable(value) for value in row))
    on_screen = sys.stdout.isatty()
    buffer = io.StringIO()
    console = Console(
        file=buffer, width=None if on_screen else 160, force_terminal=on_screen, markup=False, highlight=False
    )
    console.print(title, style="bold", soft_wrap=True)
    console.print(shown)
    return buffer.getvalue().encode()


def _as_json(table: "pd.DataFrame", _title: str) -> bytes:
    rows = json.loads(table.to_json(orient="records", double_precision=15))
    return (json.dumps(rows, indent=1, ensure_ascii=False) + "\n").encode()


def _as_parquet(table: "pd.DataFrame", _title: str) -> bytes:
    buffer = io.BytesIO()
    try:
        table.to_parquet(buffer, index=False, engine="pyarrow")
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow: pip install pyarrow, or choose --format json") from error
    return buffer.getvalue()


def _as_html(table: "pd.DataFrame", title: str) -> bytes:
    table = _for_reading(table)
    heads = "".join(f"<th>{escape(str(name))}</th>" for name in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_cell(name, value)}</td>" for name, value in row.items()) + "</tr>"
        for row in table.to_dict("records")
    )
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>"
        f"</head><body><h1>{escape(title)}</h1><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        f"</body></html>\n"
    ).encode()


def _for_reading(table: "pd.DataFrame") -> "pd.DataFrame":
    """Without the ids of tokens that are spelt out beside them."""
    return table.drop(columns="token_ids") if {"tokens", "token_ids"} <= set(table.columns) else table


def _cell(name: Any, value: Any) -> str:
    text = escape(_readable(value))
    return f'<img alt="" src="{_thumbnail(Path(value))}"><br>{text}' if name == "picture" else text


def _thumbnail(path: Path) -> str:
    from lens_multimodal.image.pictures import as_picture

    try:
        picture = as_picture(path)
    except (ValueError, FileNotFoundError):
        return ""
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _readable(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(_readable(item).strip() or repr(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_RENDERERS = {Format.table: _as_table, Format.json: _as_json, Format.parquet: _as_parquet, Format.html: _as_html}

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { margin: 2rem; } h1 { font-size: 1.2rem; }
table { border-collapse: collapse; } th, td { padding: .3rem .7rem; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid; } td { border-bottom: 1px solid #8884; font-variant-numeric: tabular-nums; }
"""
