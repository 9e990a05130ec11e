"""One table in four forms, read back."""

import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from lens_multimodal.cli.output import Format, write
from lens_multimodal.cli.pictures import find_pictures


@pytest.fixture
def table(pictures) -> pd.DataFrame:
    rows = pd.DataFrame(
        {
            "picture": [str(pictures[0]), "gone.png"],
            "tokens": [(" dog", "\n"), ["<b>", "é"]],
            "value": [0.123456789, float("nan")],
            "count": [1, 20000],
        }
    )
    rows.attrs["weight_processing"] = "none"
    return rows


def test_json(table, capsys):
    write(table, title="t", out=None, form=Format.json)
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["value"] == pytest.approx(0.123456789, rel=1e-12)
    assert rows[0]["tokens"] == [" dog", "\n"]
    assert rows[1] == {"picture": "gone.png", "tokens": ["<b>", "é"], "value": None, "count": 20000}


def test_parquet_to_a_pipe_and_to_a_file(table, capsysbinary, tmp_path):
    write(table, title="t", out=None, form=Format.parquet)
    piped = tmp_path / "piped.parquet"
    piped.write_bytes(capsysbinary.readouterr().out)
    write(table, title="t", out=tmp_path / "new" / "file.parquet", form=None)
    for path in (piped, tmp_path / "new" / "file.parquet"):
        back = pd.read_parquet(path)
        assert list(back.columns) == list(table.columns)
        assert [list(tokens) for tokens in back["tokens"]] == [[" dog", "\n"], ["<b>", "é"]]
        assert back["value"].iloc[0] == table["value"].iloc[0]
        assert back.attrs == {"weight_processing": "none"}


def test_html_stands_alone_and_escapes(table, tmp_path):
    write(table, title="a <script>", out=tmp_path / "t.html", form=None)
    page = (tmp_path / "t.html").read_text()
    assert "<script>" not in page
    assert "&lt;b&gt; é" in page
    assert not re.search(r"(src|href)=\"(?!data:|\")", page), "everything is inside the page"
    rows = _Cells()
    rows.feed(page)
    assert rows.count == 2 * 4
    assert page.count("data:image/png;base64,") == 1, "a picture that is gone has no thumbnail"


def test_table_folds_and_hides_nothing(table, capsys):
    write(table, title="t", out=None, form=Format.table)
    out = capsys.readouterr().out
    assert "weight processing none" in out
    assert "0.1235" in out
    assert "…" not in out


def test_pictures_come_once_in_order(tmp_path):
    for name in ("b.png", "a.JPG", "deep/c.webp", "readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    odd = tmp_path / "[odd].png"
    odd.write_bytes(b"x")
    found = find_pictures([str(odd), str(tmp_path), str(tmp_path / "b.png"), str(tmp_path / "**/*.webp")])
    assert [path.name for path in found] == ["[odd].png", "a.JPG", "b.png", "c.webp"]


class _Cells(HTMLParser):
    count = 0

    def handle_starttag(self, tag, _attrs):
        self.count += tag == "td"
