"""Tar shards: what is read, and that nothing is left out without being counted."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lens_multimodal.data import CaptionedPicture, Damage, Shards, read_shards
from lens_multimodal.data.webdataset import expand_braces
from lens_multimodal.image.pictures import NotAPicture

CUT_OFF = "shards cut off or damaged in the middle, with all that follows there"


def picture_bytes(seed: int, ending: str = "png") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, {"jpg": "JPEG", "png": "PNG"}[ending])
    return out.getvalue()


def shard(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(first: int, n: int) -> list[tuple[str, bytes]]:
    return [
        member
        for i in range(first, first + n)
        for member in ((f"{i:06d}.png", picture_bytes(i)), (f"{i:06d}.txt", f"picture {i}".encode()))
    ]


def read(path: Path, reasons: dict[str, int] | None = None) -> list[CaptionedPicture]:
    shards = read_shards(path)
    if reasons is None:
        found = list(shards)
    else:
        with pytest.warns(UserWarning, match=r"^\d+ left out"):
            found = list(shards)
    assert shards.damage.by_reason == Counter(reasons or {})
    return found


def test_pictures_and_captions(tmp_path: Path) -> None:
    path = shard(
        tmp_path / "a.tar",
        [
            ("000.jpg", picture_bytes(0, "jpg")), ("000.json", b'{"caption": "in json"}'), ("000.txt", b" in text\n"),
            ("001.JSON", b'{"caption": "only json", "width": 7}'), ("001.PNG", picture_bytes(1)),
            ("sub/002.v1.seg.png", b"not a picture"),
            ("sub/002.png", picture_bytes(2)), ("sub/002.txt", b"in a folder"),
        ],
    )  # fmt: skip
    found = read(path)
    assert [p.captions for p in found] == [("in text",), ("only json",), ("in a folder",)]
    assert [p.key for p in found] == ["a.tar/000", "a.tar/001", "a.tar/sub/002"]
    expected = np.asarray(Image.open(io.BytesIO(picture_bytes(1))))
    np.testing.assert_array_equal(np.asarray(found[1].open()), expected)


def test_unusable_members_are_counted(tmp_path: Path) -> None:
    path = shard(
        tmp_path / "a.tar",
        [
            ("0.png", picture_bytes(0)), ("1.txt", b"no picture"), ("2.png", picture_bytes(2)), ("2.json", b"{broken"),
            ("3.png", picture_bytes(3)), ("3.json", b'{"caption": null}'), ("3.txt", b"  "),
            ("notes", b"?"), ("4.png", picture_bytes(4)), ("4.txt", b"good"),
        ],
    )  # fmt: skip
    found = read(path, {"without a caption": 3, "without a picture": 1, "not a regular file with an ending": 1})
    assert [p.captions for p in found] == [("good",)]


def test_damaged_picture_is_an_error_when_opened(tmp_path: Path) -> None:
    whole = picture_bytes(0)
    path = shard(tmp_path / "a.tar", [("0.png", whole[: len(whole) // 2]), ("0.txt", b"x")])
    with pytest.raises(NotAPicture, match=r"a\.tar/0'"):
        read(path)[0].open()


@pytest.mark.parametrize("cut", ["in a picture", "in a caption", "in a header", "before a header"])
def test_cut_off_shards(cut: str, tmp_path: Path) -> None:
    """Whole samples before the cut are kept; the cut is counted, also where tarfile itself ends silently."""
    path = shard(tmp_path / "a.tar", samples(0, 3))
    with tarfile.open(path) as tar:
        third_picture, third_text = tar.getmembers()[4:]
    end = {
        "in a picture": third_picture.offset_data + 10,
        "in a caption": third_text.offset_data + 3,
        "in a header": third_picture.offset + 100,
        "before a header": third_picture.offset,
    }[cut]
    path.write_bytes(path.read_bytes()[:end])
    reasons = {CUT_OFF: 1} | ({"without a caption": 1} if cut == "in a caption" else {})
    assert [p.captions for p in read(path, reasons)] == [("picture 0",), ("picture 1",)]


def test_damaged_header_in_the_middle(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", samples(0, 3))
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[2].offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 512] = b"x" * 512
    path.write_bytes(bytes(content))
    assert [p.captions for p in read(path, {CUT_OFF: 1})] == [("picture 0",)]


def test_no_tar_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"hello" * 300)
    assert read(tmp_path / "a.tar", {CUT_OFF: 1}) == []


def test_shards_by_range_folder_and_path(tmp_path: Path) -> None:
    for number in range(3):
        shard(tmp_path / f"{number:05d}.tar", samples(10 * number, 2))
    by_range = read_shards(str(tmp_path / "{00000..00002}.tar"))
    captions = [p.captions[0] for p in by_range]
    assert captions == [f"picture {n}" for n in (0, 1, 10, 11, 20, 21)]
    assert [p.captions[0] for p in read_shards(tmp_path)] == captions
    assert by_range.paths == read_shards(*sorted(tmp_path.iterdir())).paths
    with pytest.raises(FileNotFoundError, match=r"\b2 of 5\b.*00003\.tar, .*00004\.tar$"):
        read_shards(str(tmp_path / "{00000..00004}.tar"))


def test_shards_of_each_process(tmp_path: Path) -> None:
    for number in range(5):
        shard(tmp_path / f"{number}.tar", samples(10 * number, 1))
    shards = read_shards(tmp_path)
    parts = [shards.of_rank(rank, 2) for rank in range(2)]
    assert sorted(p for part in parts for p in part.paths) == sorted(shards.paths)
    assert not set(parts[0].paths) & set(parts[1].paths)
    with pytest.raises(ValueError, match=r"\b5 shards.* 6 processes\b"):
        shards.of_rank(0, 6)


def test_refused_sources(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"\.tar .*{tmp_path.name}"):
        read_shards(tmp_path)
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\.tar\b.* a\.tar\.gz\b"):
        read_shards(tmp_path / "a.tar.gz")
    with pytest.raises(ValueError, match="shard"):
        Shards(paths=())


def test_braces() -> None:
    assert expand_braces("a{08..10}.tar") == ["a08.tar", "a09.tar", "a10.tar"]
    assert expand_braces("{a,b}{0..1}") == ["a0", "a1", "b0", "b1"]
    assert expand_braces("plain.tar") == ["plain.tar"]
    for pattern, message in (("{3..1}", r"\{3\.\.1\}"), ("{x}", r"\{x\}.*\{a,b\}"), ("{1..2", r"'\{1\.\.2'")):
        with pytest.raises(ValueError, match=message):
            expand_braces(pattern)


def test_damage_warns_at_tenfold_counts() -> None:
    damage = Damage()

    def add_all() -> None:
        for number in range(100):
            damage.add(f"p{number}", "unreadable pictures" if number % 2 else "without a caption")

    with pytest.warns(UserWarning, match=r"^\d+ left out") as warned:
        add_all()
    assert [str(w.message).split(" left")[0] for w in warned] == ["1", "10", "100"]
    assert str(damage) == "100 left out so far: 50 without a caption, 50 unreadable pictures"
    assert len(damage.examples) == 20
    assert damage.examples[1] == "p1: unreadable pictures"


def test_json_lists_of_other_things_are_no_caption(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", [("0.png", picture_bytes(0)), ("0.json", json.dumps(["caption"]).encode())])
    assert read(path, {"without a caption": 1}) == []
