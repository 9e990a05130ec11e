"""One table in four forms, read back."""

import io
import json
import os
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from lens_multimodal.cli.picture_sources import find_pictures
from lens_multimodal.views.terminal import Format, write


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
    assert page.count("data:image/jpeg;base64,") == 1, "a picture that is gone has no thumbnail"


def test_table_folds_and_hides_nothing(table, capsys):
    write(table, title="t", out=None, form=Format.table)
    out = capsys.readouterr().out
    assert "weight processing none" in out
    assert "0.1235" in out
    assert "…" not in out


def test_a_long_table_on_the_screen_is_cut_down_to_its_largest_rows(capsys, tmp_path):
    long = pd.DataFrame({"cell": [f"cell{i}" for i in range(500)], "value": range(500)})
    write(long, title="t", out=None, form=None, largest="value")
    out = capsys.readouterr().out
    assert out.startswith("t; 20 of 500 rows, largest value first (all with --out or --format)")
    assert re.findall(r"cell\d+", out) == [f"cell{499 - i}" for i in range(20)]
    write(long, title="t", out=tmp_path / "t.txt", form=None, largest="value")
    assert len(re.findall(r"cell\d+", (tmp_path / "t.txt").read_text())) == 500
    write(long, title="t", out=None, form=Format.json, largest="value")
    assert len(json.loads(capsys.readouterr().out)) == 500
    write(long.head(20), title="t", out=None, form=None, largest="value")
    assert " of " not in capsys.readouterr().out


def test_ids_of_spelt_tokens_are_for_programs(capsys):
    found = pd.DataFrame({"tokens": [[" dog"]], "token_ids": [[4242]]})
    write(found, title="t", out=None, form=Format.table)
    assert "4242" not in capsys.readouterr().out
    write(found, title="t", out=None, form=Format.json)
    assert json.loads(capsys.readouterr().out)[0]["token_ids"] == [4242]
    write(found[["token_ids"]], title="t", out=None, form=Format.table)
    assert "4242" in capsys.readouterr().out


@pytest.mark.parametrize("form", Format)
def test_names_that_are_no_utf8(form, capsysbinary, tmp_path, pictures):
    """Bytes are escaped in every form, and the picture of such a name still has its thumbnail."""
    odd = tmp_path / os.fsdecode(b"caf\xe9 \x1b[31m.jpg")
    odd.write_bytes(pictures[0].read_bytes())
    table = pd.DataFrame({"picture": pd.Series([odd, tmp_path / "é.jpg"], dtype=object), "caption": ["a dog", "ß"]})
    write(table, title=f"in {odd}", out=None, form=form)
    written = capsysbinary.readouterr().out
    if form is Format.parquet:
        names = list(pd.read_parquet(io.BytesIO(written))["picture"])
    elif form is Format.json:
        names = [row["picture"] for row in json.loads(written)]
    else:
        assert "ß" in written.decode()
        names = re.findall(rf"{tmp_path}/(?:caf|é)[^<│\n]*g", written.decode())[-2:]
    escape = "\\x1b" if form is Format.table else "\x1b"
    assert names == [f"{tmp_path}/caf\\xe9 {escape}[31m.jpg", f"{tmp_path}/é.jpg"]
    if form is Format.table:
        assert b"\x1b[31m" not in written
    if form is Format.html:
        assert written.count(b"data:image/jpeg;base64,") == 1


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
