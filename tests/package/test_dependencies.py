"""Every package that the library imports is declared in pyproject.toml, and every declared one is imported."""

import ast
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

tomllib = pytest.importorskip("tomllib", reason="part of Python from 3.11 on")

ROOT = Path(__file__).parents[2]

OF_AN_EXTRA = {"explore": "explorer", "metrics": "analysis/effects/similarity.py"}
"""Extras that the library itself imports, and the only place that may import them."""


def test_every_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    always = names(project["dependencies"])
    for path in sorted((ROOT / "lens_multimodal").rglob("*.py")):
        place = path.relative_to(ROOT / "lens_multimodal").as_posix()
        extras = [extra for extra, home in OF_AN_EXTRA.items() if place.startswith(home)]
        declared = always.union(*(names(project["optional-dependencies"][extra]) for extra in extras))
        assert distributions_of(path) <= declared, place


def test_every_declared_package_is_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = names(project["dependencies"]).union(*(names(project["optional-dependencies"][e]) for e in OF_AN_EXTRA))
    imported = set().union(*(distributions_of(path) for path in (ROOT / "lens_multimodal").rglob("*.py")))
    assert declared <= imported


def test_the_reader_sees_imports_inside_functions(tmp_path):
    (tmp_path / "module.py").write_text(
        "import os, json\ndef f():\n    from PIL import Image\n    import yaml.loader\n"
    )
    assert distributions_of(tmp_path / "module.py") == {"pillow", "pyyaml"}


def distributions_of(path: Path) -> set[str]:
    """The distributions that a file imports from, at the top or inside functions; the standard library left out."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            modules.add(node.module.split(".")[0])
    known = distributions_by_module()
    return {
        known.get(name, [name])[0].lower().replace("_", "-")
        for name in modules - set(sys.stdlib_module_names) - {"lens_multimodal"}
    }


@lru_cache
def distributions_by_module() -> Mapping[str, list[str]]:
    return packages_distributions()


def names(requirements: list[str]) -> set[str]:
    return {Requirement(line).name.lower().replace("_", "-") for line in requirements}
