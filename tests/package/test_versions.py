"""The bounds of pyproject.toml are the releases that the suite runs on, lowest and newest."""

from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from lens_multimodal.transformer import accepted_models

tomllib = pytest.importorskip("tomllib", reason="part of Python from 3.11 on")

ROOT = Path(__file__).parents[2]

BOUNDED_ABOVE = {"transformer-lens", "plotly"}
"""Where a next major release is known to break what is used here."""


def test_lower_bounds_are_the_lowest_tested_releases():
    lowest, bounds = pinned("lowest"), lower_bounds("dependencies")
    assert {name: lowest.get(name) for name in bounds if name != "torch"} == {
        name: bound for name, bound in bounds.items() if name != "torch"
    }


def test_newest_releases_are_allowed():
    newest = pinned("newest")
    for requirement in requirements("dependencies"):
        assert newest[requirement.name] in requirement.specifier, requirement


def test_upper_bounds_where_a_break_is_known():
    for requirement in requirements("dependencies"):
        bounded = any(specifier.operator == "<" for specifier in requirement.specifier)
        assert bounded == (requirement.name in BOUNDED_ABOVE), requirement


def test_the_check_of_a_running_program_says_the_same():
    (requirement,) = (r for r in requirements("dependencies") if r.name == "transformer-lens")
    oldest, too_new = (".".join(map(str, pair)) for pair in (accepted_models.OLDEST, accepted_models.TOO_NEW))
    assert Version(oldest) == lower_bounds("dependencies")["transformer-lens"]
    assert Version(too_new) == next(Version(s.version) for s in requirement.specifier if s.operator == "<")


def test_the_overlay_of_the_second_pass_changes_what_it_names():
    """In the pass on the lowest releases, these are what is imported; in the first pass, the newest."""
    lowest, newest = pinned("lowest"), pinned("newest")
    pass_of = lowest if Version(version("transformer-lens")) == lowest["transformer-lens"] else newest
    if Version(version("transformer-lens")) != pass_of["transformer-lens"]:
        pytest.skip("an environment that was not made by `make`")
    for name in ("transformers", "timm", "plotly", "pandas", "jaxtyping"):
        assert Version(version(name)) == pass_of[name], name


def requirements(group: str) -> list[Requirement]:
    """Of the project itself or of one extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in project.get(group) or project["optional-dependencies"][group]]


def lower_bounds(group: str) -> dict[str, Version]:
    return {
        requirement.name: Version(specifier.version)
        for requirement in requirements(group)
        for specifier in requirement.specifier
        if specifier.operator == ">="
    }


def pinned(file: str) -> dict[str, Version]:
    """What a lock fixes, on any platform."""
    lines = (ROOT / "constraints" / f"{file}.txt").read_text().splitlines()
    pairs = (line.split(";")[0].split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.strip(): Version(number.strip()) for name, number in pairs}
