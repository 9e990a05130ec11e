"""The structure: a room imports only lower rooms, no circle, no two files of one name, no overlong file."""

import ast
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "lens_multimodal"
NAME = PACKAGE.name

ORDER = (
    ("closest_names", "files", "latest", "notebook", "precision", "seeds"),
    ("transformer",),
    ("arguments", "image"),
    ("prompt",),
    ("hooks",),
    ("analysis",),
    ("tiny",),
    ("presets", "saved_lens", "pixel_values_gpt_j"),
    ("data",),
    ("runs",),
    ("store", "atlas"),
    ("neuron_card",),
    ("lens",),
    ("vision_language",),
    ("attach", "train", "experiments"),
    ("views",),
    ("reproduction",),
    ("short_report",),
    ("demo", "explorer"),
    ("cli",),
    ("__main__",),
)
"""Rooms, lowest first: each imports only from rows above its own. The package's `__init__` names the public API and is
imported by none of them."""

LONGEST = 300


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name below the package; the package itself is left out."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


def imports(package: Path) -> dict[str, set[str]]:
    """What each module imports of the same package, inside functions and for type checkers too."""
    known = modules(package)
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        wanted = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    wanted.add(full if full.removeprefix(f"{package.name}.") in known else node.module)
        below = {w.removeprefix(f"{package.name}.") for w in wanted if w.startswith(f"{package.name}.")}
        graph[name] = (below & known.keys()) - {name}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of modules, or nothing."""
    done: set[str] = set()

    def search(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return []
        for below in sorted(graph.get(module, ())):
            if found := search(below, [*way, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := search(module, []))), [])


def upwards(graph: dict[str, set[str]]) -> list[str]:
    """Imports from a room of the same row or above."""
    row = {room: index for index, rooms in enumerate(ORDER) for room in rooms}
    return [
        f"{module} -> {below}"
        for module, wanted in graph.items()
        for below in sorted(wanted)
        if (here := module.split(".")[0]) != (there := below.split(".")[0]) and row[there] >= row[here]
    ]


def test_no_circle():
    assert circle(imports(PACKAGE)) == []


def test_every_room_has_its_place_and_imports_downwards():
    assert {name.split(".")[0] for name in modules(PACKAGE)} == {room for rooms in ORDER for room in rooms}
    assert upwards(imports(PACKAGE)) == []


def test_no_two_files_share_a_name():
    names = Counter(path.name for path in PACKAGE.rglob("*.py") if not path.name.startswith("__"))
    assert [name for name, times in names.items() if times > 1] == []


def test_no_file_is_long():
    assert {
        str(path.relative_to(PACKAGE)): n
        for path in PACKAGE.rglob("*.py")
        if (n := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST
    } == {}


@pytest.mark.parametrize(
    "line",
    [
        "from house import lens",
        "from house.lens import attach",
        "import house.lens",
        "def f():\n    from house import lens",
    ],
)
def test_the_guard_can_fail(tmp_path, line):
    house = tmp_path / "house"
    house.mkdir()
    (house / "__init__.py").write_text("")
    (house / "lens.py").write_text("from house.transformer import shape\n")
    (house / "transformer.py").write_text(line + "\n")
    graph = imports(house)
    assert circle(graph) == ["lens", "transformer", "lens"]
    assert upwards(graph) == ["transformer -> lens"]
