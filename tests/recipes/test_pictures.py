"""The stage `pictures` on small packages made here: rendering, labels, splits, resuming."""

import csv
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from recipes.tiny.pictures import run
from recipes.tiny.pictures.cutout import cutout, square
from recipes.tiny.pictures.drawing import Drawing, Unusable
from recipes.tiny.pictures.duplicates import fingerprints, groups
from recipes.tiny.pictures.labels import read_labels
from recipes.tiny.pictures.models import view
from recipes.tiny.pictures.review import read_review
from recipes.tiny.pictures.sources import drawings, views_of, words
from recipes.tiny.pictures.splits import Entry, assign
from recipes.tiny.settings import Settings, toy

NOUNS = ("dog", "cat", "table", "car")
STYLES = ("noto", "twemoji", "emojione", "fxemoji", "openmoji", "flat-color-icons")
CUBE = """mtllib cube.mtl
usemtl red
v 0 0 0
v 2 0 0
v 2 1 0
v 0 1 0
v 0 0 1
v 2 0 1
v 2 1 1
v 0 1 1
f 1 2 3 4
f 5 6 7 8
f 1 2 6 5
f 4 3 7 8
f 1 4 8 5
f 2 3 7 6
"""


def icon_body(seed: int) -> str:
    """A drawing of its own: a few coloured triangles."""
    chance = np.random.default_rng(seed)
    shapes = []
    for _ in range(5):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in chance.uniform(0, 32, (3, 2)))
        shapes.append(f'<path fill="#{chance.integers(0x222222, 0xEEEEEE):06x}" d="M {points} Z"/>')
    return "".join(shapes)


def write_icons(downloads: Path, style: str, icons: dict[str, str]) -> None:
    folder = downloads / f"iconify-json-{style}"
    folder.mkdir(parents=True)
    table = {"width": 32, "height": 32, "icons": {name: {"body": body} for name, body in icons.items()}}
    (folder / "icons.json").write_text(json.dumps(table))


def write_furniture(downloads: Path, tables: int) -> None:
    folder = downloads / "sweethome3d-furniture"
    folder.mkdir()
    properties = "".join(
        f"name#{n}=Round table\nicon#{n}=/m/{n}.png\nmodel#{n}=/m/{n}/cube.obj\n" for n in range(1, tables + 1)
    )
    with zipfile.ZipFile(folder / "Shop.sh3f", "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", properties)
        for n in range(1, tables + 1):
            picture = Image.new("RGBA", (40, 40))
            pen = ImageDraw.Draw(picture)
            corners = [tuple(point) for point in np.random.default_rng(n).integers(0, 40, (6, 2))]
            pen.polygon(corners, fill=(200, 30 * n, 40, 255))
            pen.ellipse((5, 5, 15 + n, 15 + n), fill=(20, 90, 200, 255))
            archive.writestr(f"m/{n}.png", png(picture))
            archive.writestr(f"m/{n}/cube.obj", CUBE.replace("v 2", f"v {1 + n}"))
            archive.writestr(f"m/{n}/cube.mtl", "newmtl red\nKd 0.9 0.1 0.1\n")


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Fetched packages in miniature: three nouns in six hands, an unlabelled icon each, tables with 3-D models."""
    for s, style in enumerate(STYLES):
        icons = {noun: icon_body(10 * s + n) for n, noun in enumerate(("dog", "cat", "car"))}
        icons |= {f"thing-{s}": icon_body(1000 + s), "dog-light-skin-tone": icon_body(1), "flag-for-peru": icon_body(2)}
        write_icons(tmp_path / "downloads", style, icons)
    write_furniture(tmp_path / "downloads", tables=4)
    (tmp_path / "concepts.csv").write_text("concept\n" + "\n".join(NOUNS) + "\n")
    return tmp_path


def make(work: Path, **changes: object) -> tuple[dict, list[dict[str, str]], np.ndarray]:
    settings = replace(toy(), pictures=replace(toy().pictures, views_per_model=3, **changes))  # type: ignore[arg-type]
    report = run(settings, work, concepts=work / "concepts.csv", review=work / "review.csv")
    with open(work / "pictures" / "pictures.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return report, rows, np.load(work / "pictures" / "pixels.npy", mmap_mode="r")


def test_table_pixels_and_vocabulary_agree(work: Path) -> None:
    report, rows, pixels = make(work)
    assert pixels.shape == (len(rows), 64, 64, 4)
    assert pixels.dtype == np.uint8
    assert [int(row["id"]) for row in rows] == list(range(len(rows)))
    for row, picture in zip(rows, pixels, strict=True):
        assert hashlib.sha256(np.ascontiguousarray(picture).tobytes()).hexdigest() == row["sha256"]
    assert json.loads((work / "pictures" / "vocabulary.json").read_text()) == sorted(NOUNS)
    assert report["pictures"] == len(rows)
    assert {row["concept"] for row in rows} == {*NOUNS, ""}
    names = {row["name"] for row in rows}
    assert "dog-light-skin-tone" not in names
    assert "flag-for-peru" not in names
    assert {row["permissive"] for row in rows if row["style"] == "openmoji"} == {"0"}


def test_held_out_pictures_are_absent_from_training(work: Path) -> None:
    _, rows, _ = make(work)
    train = {row["sha256"] for row in rows if row["split"] == "train"}
    held_out = {row["sha256"] for row in rows if row["split"] != "train"}
    assert train
    assert held_out
    assert not train & held_out
    assert {row["split"] for row in rows if row["style"] == "fxemoji"} == {"held_out_style"}
    assert {row["style"] for row in rows if row["split"] == "held_out_style"} == {"fxemoji"}
    for noun in NOUNS:
        assert any(row["split"] == "held_out_drawing" for row in rows if row["concept"] == noun)
        assert any(row["split"] == "train" for row in rows if row["concept"] == noun)


def test_views_of_a_model_stay_in_one_split(work: Path) -> None:
    _, rows, _ = make(work)
    of_model: dict[str, set[str]] = {}
    for row in rows:
        if row["model"]:
            of_model.setdefault(row["model"], set()).add(row["split"])
    assert len(of_model) == 4
    assert all(len(splits) == 1 for splits in of_model.values())
    assert sum(row["style"] == "sh3f-view" for row in rows) >= 8
    assert {row["concept"] for row in rows if row["style"] == "sh3f-view"} == {"table"}


def test_review_changes_labels_but_no_split(work: Path) -> None:
    _, before, _ = make(work)
    chosen = next(row for row in before if row["concept"] == "dog" and row["split"] == "train")
    (work / "review.csv").write_text(
        f"source,name,concept,reason\n{chosen['source']},{chosen['name']},cat,it is a cat\n", encoding="utf-8"
    )
    for path in ("done.json", "settings.json"):
        (work / "pictures" / path).unlink()
    _, after, _ = make(work)
    key = lambda row: (row["source"], row["name"])  # noqa: E731
    assert {key(row): row["split"] for row in before} == {key(row): row["split"] for row in after}
    changed = [key(a) for b, a in zip(before, after, strict=True) if a["concept"] != b["concept"]]
    assert changed == [key(chosen)]


def test_splits_are_stable() -> None:
    """Hashes decide: order does not matter, more drawings change next to nothing, another seed changes it."""
    entries = [
        Entry(group=f"{noun} {n}", style="noto", noun=noun, permissive=True) for noun in NOUNS for n in range(20)
    ]
    more = [*entries, *(Entry(group=f"new {n}", style="twemoji", noun="dog", permissive=True) for n in range(2))]
    first = assign(entries, held_out_style="fxemoji", share=0.2, at_least=2, seed=0)
    again = assign(list(reversed(entries)), held_out_style="fxemoji", share=0.2, at_least=2, seed=0)
    assert first == list(reversed(again))
    later = assign(more, held_out_style="fxemoji", share=0.2, at_least=2, seed=0)
    assert sum(a != b for a, b in zip(first, later, strict=False)) <= 1
    assert first != assign(entries, held_out_style="fxemoji", share=0.2, at_least=2, seed=1)
    assert [first[20 * n : 20 * n + 20].count("held_out_drawing") for n in range(4)] == [4, 4, 4, 4]


def test_groups_touching_the_held_out_style_are_held_out() -> None:
    entries = [Entry(group=g, style=s, noun="dog", permissive=True) for g, s in (("a", "fxemoji"), ("a", "noto"))]
    entries += [Entry(group=str(n), style="noto", noun="dog", permissive=True) for n in range(8)]
    splits = assign(entries, held_out_style="fxemoji", share=0.2, at_least=2, seed=0)
    assert splits[:2] == ["held_out_style", "held_out_drawing"]


def test_only_shippable_drawings_are_chosen() -> None:
    entries = [Entry(group=str(n), style="noto", noun="dog", permissive=n < 3) for n in range(10)]
    splits = assign(entries, held_out_style="fxemoji", share=0.2, at_least=2, seed=0)
    assert splits.count("held_out_drawing") == 2
    assert "held_out_drawing" not in splits[3:]


def icon(seed: int, style: str = "noto", size: int = 64) -> np.ndarray:
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{icon_body(seed)}</svg>'
    return cutout(drawing(svg, style), size)


def drawing(content: str, style: str = "noto", label: str = "", kind: str = "svg") -> Drawing:
    return Drawing(
        source="test",
        style=style,
        name="x",
        label=label,
        licence="MIT",
        permissive=True,
        kind=kind,
        content=content,  # type: ignore[arg-type]
    )


def test_near_duplicates_are_joined_and_others_are_not() -> None:
    one, other = icon(1), icon(2)
    lighter = one.copy()
    lighter[..., :3] = 128 + one[..., :3] // 2
    lighter[one[..., 3] == 0] = 0
    stack = np.stack([one, other, one[:, ::-1], lighter, icon(3), icon(4)])
    outline, shading = fingerprints(stack)
    hands, families = ["a"] * len(stack), [""] * len(stack)
    assert groups(outline, shading, hands=hands, families=families) == [0, 1, 0, 0, 4, 5]
    assert groups(outline, shading, hands=hands, families=["", "f", "", "", "f", ""]) == [0, 1, 0, 0, 1, 5]


def test_the_threshold_is_lower_within_one_hand() -> None:
    outline = np.array([[1, 0, 0, 0], [0.978, np.sqrt(1 - 0.978**2), 0, 0]], np.float32).repeat(64, 1) / 8
    shading = np.concatenate([outline, np.zeros((2, 1), np.float32)], 1)
    assert groups(outline, shading, hands=["a", "a"], families=["", ""]) == [0, 0]
    assert groups(outline, shading, hands=["a", "b"], families=["", ""]) == [0, 1]


def test_cutout_is_tight_centred_and_keeps_its_aspect() -> None:
    picture = Image.new("RGBA", (100, 60))
    ImageDraw.Draw(picture).ellipse((40, 20, 79, 39), fill=(200, 40, 40, 255))
    ImageDraw.Draw(picture).ellipse((50, 25, 69, 34), fill=(20, 40, 240, 255))
    out = square(picture, 64)
    seen = out[..., 3] > 16
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    assert columns[0] == 0
    assert columns[-1] == 63
    assert len(rows) == 32
    assert rows[0] == 16
    assert (out[~seen & (out[..., 3] == 0)] == 0).all()


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (Image.new("RGBA", (50, 50), (200, 10, 10, 255)), "opaque tile"),
        (Image.new("RGBA", (50, 50)), "nearly empty"),
        (Image.new("RGBA", (90, 10), (200, 10, 10, 255)), "sliver"),
    ],
)
def test_what_is_not_an_object_is_refused(picture: Image.Image, reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        square(picture, 64)


def test_white_paper_becomes_transparent_but_white_inside_stays(tmp_path: Path) -> None:
    picture = Image.new("RGB", (60, 60), "white")
    ImageDraw.Draw(picture).ellipse((5, 5, 54, 54), fill=(200, 30, 30))
    ImageDraw.Draw(picture).ellipse((25, 25, 34, 34), fill="white")
    picture.save(tmp_path / "a.png")
    out = cutout(drawing(str(tmp_path / "a.png"), kind="on_white"), 64)
    assert out[0, 0, 3] == 0
    assert out[32, 32].tolist() == [255, 255, 255, 255]


def test_unreadable_and_huge_rasters_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(Unusable, match="unreadable"):
        cutout(drawing(str(tmp_path / "a.png"), kind="raster"), 64)
    Image.new("1", (9000, 9000)).save(tmp_path / "b.png")
    with pytest.raises(Unusable, match="too large"):
        cutout(drawing(str(tmp_path / "b.png"), kind="raster"), 64)


def test_a_model_is_seen_with_its_colour_and_proportions(work: Path) -> None:
    shop = work / "downloads" / "sweethome3d-furniture" / "Shop.sh3f"
    front = np.asarray(view(f"{shop}::m/1/cube.obj", side=0.0, size=64))
    side = np.asarray(view(f"{shop}::m/1/cube.obj", side=90.0, size=64))
    wide = [_aspect(picture[..., 3] > 0) for picture in (front, side)]
    up = np.cos(np.radians(18)), np.sin(np.radians(18))
    assert wide[0] == pytest.approx(2 / (up[0] + up[1]), rel=0.05)
    assert wide[1] == pytest.approx(1 / (up[0] + 2 * up[1]), rel=0.05)
    colour = front[front[..., 3] > 0][:, :3].mean(0)
    assert colour[0] > 4 * colour[1]
    icons = drawings(work / "downloads")["sweethome3d-furniture"]
    assert [d.side for d in views_of(icons[0], views=4)] == [45.0, 135.0, 225.0, 315.0]


def _aspect(seen: np.ndarray) -> float:
    return float(np.ptp(np.flatnonzero(seen.any(0))) / np.ptp(np.flatnonzero(seen.any(1))))


@pytest.mark.parametrize(
    ("style", "label", "noun"),
    [
        ("noto", "dog face", "dog"),
        ("noto", "guide dog", "dog"),
        ("noto", "hot dog", "hotdog"),
        ("noto", "computer mouse", ""),
        ("fxemoji", "dogside", "dog"),
        ("openclipart", "simple old dog by someone", "dog"),
        ("openclipart", "baseball bat ganson", ""),
        ("openclipart", "someone with a dog", ""),
        ("sh3f", "round table", "table"),
        ("sh3f", "rocking horse", ""),
        ("sh3f-view", "round table", "table"),
    ],
)
def test_nouns_by_name(style: str, label: str, noun: str) -> None:
    labels = read_labels(Path("recipes/tiny/concepts.csv"))
    assert labels.noun(drawing("", style, label)) == noun
    assert words("Dog_face-2.b") == "dog face b"


def test_review_errors_say_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "review.csv"
    assert read_review(path, NOUNS) == {}
    path.write_text("source,name\na,b\n")
    with pytest.raises(ValueError, match="columns"):
        read_review(path, NOUNS)
    path.write_text("source,name,concept,reason\na,b,unicorn,x\n")
    with pytest.raises(ValueError, match="unicorn"):
        read_review(path, NOUNS)
    path.write_text("source,name,concept,reason\na,b,dog,x\na,b,cat,x\n")
    with pytest.raises(ValueError, match="twice"):
        read_review(path, NOUNS)


def test_nothing_fetched_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "concepts.csv").write_text("concept\ndog\n")
    with pytest.raises(FileNotFoundError, match="fetch"):
        make(tmp_path)


def test_a_killed_run_resumes_to_the_same_result(work: Path) -> None:
    """Kill a run between two packages: the next keeps the finished parts and ends like an uninterrupted run."""
    program = (
        "import sys, time; from pathlib import Path\n"
        "import recipes.tiny.pictures.render as render\n"
        "import recipes.tiny.pictures.stage as stage\n"
        "from recipes.tiny.settings import toy\n"
        "slow = render.cutout\n"
        "render.cutout = lambda d, s: (time.sleep(0.2), slow(d, s))[1]\n"
        "stage.cores = lambda: 1\n"
        "work = Path(sys.argv[1])\n"
        "stage.run(toy(), work, concepts=work / 'concepts.csv', review=work / 'review.csv')\n"
    )
    running = subprocess.Popen([sys.executable, "-c", program, str(work)], stderr=subprocess.DEVNULL)
    while len(list((work / "cutouts").glob("*.json"))) < 2 and running.poll() is None:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not (work / "pictures" / "done.json").exists()
    parts = {p: p.stat().st_mtime_ns for p in (work / "cutouts").glob("*.npy") if p.with_suffix(".json").exists()}
    assert parts
    settings: Settings = toy()
    run(settings, work, concepts=work / "concepts.csv", review=work / "review.csv")
    assert all(p.stat().st_mtime_ns == written for p, written in parts.items())
    resumed = (work / "pictures" / "pictures.csv").read_text()
    for folder in ("cutouts", "pictures"):
        shutil.rmtree(work / folder)
    run(settings, work, concepts=work / "concepts.csv", review=work / "review.csv")
    assert (work / "pictures" / "pictures.csv").read_text() == resumed
