"""The packages' pictures, listed: one reader for each way of packing pictures."""

import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from recipes.tiny.pictures.drawing import Drawing

ICON_SETS = {
    # package: (style, licence, may composed pictures be shipped?)
    "@iconify-json/noto": ("noto", "Apache-2.0", True),
    "@iconify-json/noto-v1": ("noto-v1", "Apache-2.0", True),
    "@iconify-json/twemoji": ("twemoji", "CC-BY-4.0", True),
    "@iconify-json/fluent-emoji": ("fluent", "MIT", True),
    "@iconify-json/fluent-emoji-flat": ("fluent-flat", "MIT", True),
    "@iconify-json/emojione": ("emojione", "CC-BY-4.0", True),
    "@iconify-json/fxemoji": ("fxemoji", "Apache-2.0", True),
    "@iconify-json/streamline-emojis": ("streamline", "CC-BY-4.0", True),
    "@iconify-json/streamline-ultimate-color": ("streamline-ultimate", "CC-BY-4.0", True),
    "@iconify-json/flat-color-icons": ("flat-color", "MIT", True),
    "@iconify-json/openmoji": ("openmoji", "CC-BY-SA-4.0", False),
    "@iconify-json/emojione-v1": ("emojione-v1", "CC-BY-SA-4.0", False),
}
CLIPART_SKIPPED = {
    "flags",
    "special",
    "roadsigns",
    "stickmen",
    "shapes",
    "logos",
    "buttons",
    "aiga-symbols",
    "pantyhose",
}
CLIPART_ONLY = {
    "computer": {"hardware"},
    "signs_and_symbols": {"weather", "clocks", "money", "awards"},
}
"""Folders where only some subfolders hold objects."""
ART4APPS_FOLDERS_SKIPPED = {"actions", "body", "jobs", "sport"}
CATALOGUES = {"BlendSwap-CC-0": "CC0-1.0", "KatorLegaz": "CC-BY-3.0-US", "Reallusion": "CC-BY-3.0-US"}
"""Furniture catalogues that are not CC-BY-3.0."""

SKIN_TONE = re.compile(r"-(light|medium-light|medium|medium-dark|dark)(-skin-tone)?(-|$)")
NOT_AN_OBJECT = re.compile(
    r"^(flag-for-|flag-|keycap|regional-?indicator|input-|squared)|-flag$|-button$|-(oclock|o-clock|thirty)$"
)
"""Country flags, keycaps and buttons are tiles; of the 24 clock faces one is kept."""
KEPT = {
    "three-oclock",
    "three-o-clock",
    "triangular-flag",
    "black-flag",
    "white-flag",
    "chequered-flag",
    "pirate-flag",
    "rainbow-flag",
}


def drawings(downloads: Path) -> dict[str, list[Drawing]]:
    """Every picture of the fetched packages, by package; packages that were not fetched are left out."""
    listed = {package: list(_icons(package, downloads)) for package in ICON_SETS}
    listed["@lobehub/fluent-emoji-3d"] = list(_fluent_3d(downloads))
    listed["openclipart-png"] = list(_clipart(downloads))
    listed["sweethome3d-furniture"] = list(_furniture(downloads))
    listed["pysiogame"] = list(_art4apps(downloads))
    return {package: found for package, found in listed.items() if found}


def folder_name(package: str) -> str:
    """Folder of a package under `downloads`: `@scope/name` becomes `scope-name`."""
    return package.lstrip("@").replace("/", "-")


def words(name: str) -> str:
    """`Dog_face-2` becomes `dog face`."""
    plain = name.lower().replace("\u2019", "").replace("'", "")
    return " ".join(word for word in re.split(r"[^a-z]+", plain) if word)


def _icons(package: str, downloads: Path) -> Iterator[Drawing]:
    path = downloads / folder_name(package) / "icons.json"
    if not path.exists():
        return
    style, licence, permissive = ICON_SETS[package]
    table = json.loads(path.read_text())
    for name, icon in sorted(table["icons"].items()):
        if icon.get("hidden") or SKIN_TONE.search(name) or (NOT_AN_OBJECT.search(name) and name not in KEPT):
            continue
        size = {k: icon.get(k, table.get(k, default)) for k, default in _ICONIFY_DEFAULTS.items()}
        box = f"{size['left']} {size['top']} {size['width']} {size['height']}"
        svg = f'<svg {_NAMESPACES} viewBox="{box}">{icon["body"]}</svg>'
        family = f"fluent/{name}" if style.startswith("fluent") else ""
        yield Drawing(
            source=package,
            style=style,
            name=name,
            label=words(name),
            licence=licence,
            permissive=permissive,
            kind="svg",
            content=svg,
            family=family,
        )


_NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
_ICONIFY_DEFAULTS = {"left": 0, "top": 0, "width": 16, "height": 16}


def _fluent_3d(downloads: Path) -> Iterator[Drawing]:
    package = "@lobehub/fluent-emoji-3d"
    folder, names = (
        downloads / folder_name(package) / "assets",
        downloads / "emojibase-data" / "en" / "data.json",
    )
    if not folder.exists():
        return
    labels = {_code(e["hexcode"]): e["label"] for e in json.loads(names.read_text())}
    for path in sorted(folder.glob("*.webp")):
        label = labels.get(_code(path.stem))
        if label is None:  # skin tones and parts of flags
            continue
        slug = "-".join(re.split(r"[^a-z0-9]+", label.lower().replace("\u2019", ""))).strip("-")
        if NOT_AN_OBJECT.search(slug) and slug not in KEPT:
            continue
        yield Drawing(
            source=package,
            style="fluent-3d",
            name=path.stem,
            label=words(label),
            licence="MIT",
            permissive=True,
            kind="raster",
            content=str(path),
            family=f"fluent/{slug}",
        )


def _code(hexcode: str) -> str:
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def _clipart(downloads: Path) -> Iterator[Drawing]:
    root = downloads / "openclipart-png"
    base = root / "usr/share/openclipart/png"
    for path in sorted(base.rglob("*.png")):
        name = path.relative_to(base)
        top, below = name.parts[0], set(name.parts[1:-1])
        if set(name.parts) & CLIPART_SKIPPED or (top in CLIPART_ONLY and not below & CLIPART_ONLY[top]):
            continue
        yield Drawing(
            source="openclipart-png",
            style="openclipart",
            name=name.with_suffix("").as_posix(),
            label=words(path.stem),
            licence="CC-PDDC",
            permissive=True,
            kind="raster",
            content=str(path),
        )


def _furniture(downloads: Path) -> Iterator[Drawing]:
    for path in sorted((downloads / "sweethome3d-furniture").rglob("*.sh3f")):
        licence = CATALOGUES.get(path.stem, "CC-BY-3.0")
        for number, entry in sorted(catalogue(path).items()):
            model = f"{path.stem}#{number}"
            yield Drawing(
                source="sweethome3d-furniture",
                style="sh3f",
                name=f"{model} {entry['name']}",
                label=words(entry["name"]),
                licence=licence,
                permissive=True,
                kind="raster",
                content=f"{path}::{entry['icon'].lstrip('/')}",
                family=f"sh3f/{model}",
                model=model,
            )


@lru_cache
def catalogue(path: Path) -> dict[int, dict[str, str]]:
    """Entries of a furniture catalogue that have a name, an icon and a 3-D model, by number."""
    with zipfile.ZipFile(path) as archive:
        text = archive.read("PluginFurnitureCatalog.properties").decode("latin-1")
    entries: dict[int, dict[str, str]] = {}
    for field, number, value in re.findall(r"^(name|icon|model|modelRotation)#(\d+)=(.*)$", text, re.M):
        entries.setdefault(int(number), {})[field] = value.strip()
    return {n: e for n, e in entries.items() if {"name", "icon", "model"} <= e.keys()}


def _art4apps(downloads: Path) -> Iterator[Drawing]:
    base = downloads / "pysiogame/usr/share/games/pysiogame/res/images/art4apps"
    for path in sorted(base.rglob("*.jpg")):
        if path.parent.name in ART4APPS_FOLDERS_SKIPPED:
            continue
        yield Drawing(
            source="pysiogame",
            style="art4apps",
            name=path.relative_to(base).with_suffix("").as_posix(),
            label=words(path.stem),
            licence="CC-BY-SA-3.0",
            permissive=False,
            kind="on_white",
            content=str(path),
        )


def views_of(icon: Drawing, *, views: int) -> list[Drawing]:
    """The 3-D model behind a catalogue's icon, seen from `views` sides; all one family with the icon."""
    path = icon.content.partition("::")[0]
    member = catalogue(Path(path))[int(icon.model.rpartition("#")[2])]["model"].lstrip("/")
    sides = [360.0 * (number + 0.5) / views for number in range(views)]
    return [
        replace(
            icon,
            name=f"{icon.name} from {side:g} degrees",
            style="sh3f-view",
            kind="model",
            content=f"{path}::{member}",
            side=side,
        )
        for side in sides
    ]
