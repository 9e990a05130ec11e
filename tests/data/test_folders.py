"""Folders of captioned pictures."""

import json
from pathlib import Path

import pytest
from PIL import Image

from lens_multimodal.data import read_folder


def pictures(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 5), "red").save(folder / name)
    return folder


def read(folder: Path) -> dict[str, tuple[str, ...]]:
    return {p.key: p.captions for p in read_folder(folder)}


def test_json_lines(tmp_path: Path) -> None:
    pictures(tmp_path, "b.png", "sub/a.jpg", "unlisted.png")
    rows = [
        {"file_name": "b.png", "caption": " a boat "},
        {"file_name": "sub/a.jpg", "captions": ["a cat", "an animal"]},
        {"file_name": "b.png", "text": "the sea", "extra": 1},
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert read(tmp_path) == {"b.png": ("a boat", "the sea"), "sub/a.jpg": ("a cat", "an animal")}
    assert read_folder(tmp_path)[1].open().size == (4, 5)


def test_csv_with_byte_order_mark_and_quotes(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    (tmp_path / "captions.csv").write_text(
        '\ufefffile_name,caption\na.png,"a dog, and\na ""cat"""\na.png,größer\n', encoding="utf-8"
    )
    assert read(tmp_path) == {"a.png": ('a dog, and\na "cat"', "größer")}


def test_text_beside_each_picture(tmp_path: Path) -> None:
    pictures(tmp_path, "b.PNG", "sub/a.jpg")
    (tmp_path / "b.txt").write_text("a boat\n\n the sea \n")
    (tmp_path / "sub" / "a.txt").write_text("a cat")
    (tmp_path / "readme.txt").write_text("not a caption")
    assert read(tmp_path) == {"b.PNG": ("a boat", "the sea"), "sub/a.jpg": ("a cat",)}


def test_missing_pictures_are_all_listed(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    rows = [{"file_name": f"{name}.png", "caption": "x"} for name in "abc"]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(FileNotFoundError, match=r"\b2 of 3\b.*captions\.jsonl.*: b\.png, c\.png$"):
        read_folder(tmp_path)


def test_missing_captions_are_all_listed(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png", "c.png")
    with pytest.raises(FileNotFoundError, match=r"\b3 pictures.*captions\.jsonl.*captions\.csv"):
        read_folder(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"\b2 of 3\b.*\.txt.*: b\.png, c\.png$"):
        read_folder(tmp_path)
    (tmp_path / "b.txt").write_text("\n")
    (tmp_path / "c.txt").write_text("x")
    with pytest.raises(ValueError, match=r"\b1 pictures.*: b\.png$"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 .*JSON"),
        ("[1]", "line 1: .* list$"),
        ('{"file_name": "a.png"}', r"line 1: .*file_name.*caption.* \['file_name'\]$"),
        ('{"file_name": "a.png", "caption": "  "}', r"line 1: .*caption.* \['caption', 'file_name'\]$"),
        ('{"file_name": "a.png", "captions": ["x", 3]}', r"line 1: .*caption.* \['captions', 'file_name'\]$"),
        ('{"caption": "x"}', r"line 1: .*file_name.* \['caption'\]$"),
    ],
)
def test_malformed_lists(line: str, message: str, tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    (tmp_path / "captions.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path)


def test_wrong_column_in_csv_names_its_line(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    (tmp_path / "captions.csv").write_text("file,caption\na.png,x\n")
    with pytest.raises(ValueError, match=r"captions\.csv, line 2: .*file_name.* \['caption', 'file'\]$"):
        read_folder(tmp_path)


def test_two_lists_and_nothing_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"captions\.jsonl or captions\.csv"):
        read_folder(tmp_path)
    for name in ("captions.jsonl", "metadata.csv"):
        (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=r"\(captions\.jsonl, metadata\.csv\)"):
        read_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent"):
        read_folder(tmp_path / "absent")
