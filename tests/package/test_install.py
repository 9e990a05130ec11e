"""The locks hold what pyproject.toml requires, and `constraints/install.py` installs a lock with uv or with pip."""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib.metadata import distributions, requires
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.package.test_versions import ROOT, pinned, requirements, tomllib

spec = spec_from_file_location("lens_multimodal_install", ROOT / "constraints" / "install.py")
assert spec is not None
assert spec.loader is not None
installer = module_from_spec(spec)
spec.loader.exec_module(installer)


@pytest.fixture
def newest() -> dict[str, Version]:
    """The lock of this environment."""
    locked = pinned("newest")
    installed = {canonicalize_name(d.metadata["Name"]): Version(d.version) for d in reversed(list(distributions()))}
    differing = [name for name in of_this_platform("newest") if installed.get(name) != locked[name]]
    if differing:
        pytest.skip(f"not the environment of newest.txt: {sorted(differing)[:5]}")
    return locked


@pytest.fixture
def wheels(tmp_path) -> Path:
    """A folder with the wheel of one package, `colour-of-the-sky` 1.5, which no index has."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "colour_of_the_sky-1.5.dist-info"
    with zipfile.ZipFile(folder / "colour_of_the_sky-1.5-py3-none-any.whl", "w") as wheel:
        wheel.writestr("colour_of_the_sky.py", "NAME = 'blue'\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: colour-of-the-sky\nVersion: 1.5\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(
            f"{info}/RECORD", f"colour_of_the_sky.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    return folder


def test_the_lock_holds_all_that_the_project_and_its_extras_need(newest):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    for requirement in needed([*project["dependencies"], *extras]):
        assert newest[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_the_demo_has_what_it_needs_and_nothing_else(newest):
    of_the_demo = pinned("demo")
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    required = needed([*map(str, requirements("dependencies")), *groups["build"]])
    names = {canonicalize_name(requirement.name) for requirement in required}
    assert names <= set(of_the_demo)
    elsewhere = set(of_the_demo) - names
    assert not elsewhere & set(of_this_platform("demo")), "packages that nothing requires"
    assert of_the_demo == {name: newest[name] for name in of_the_demo}


def test_the_lock_builds_with_what_the_project_builds_with():
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(whole["build-system"]["requires"]) <= set(whole["dependency-groups"]["build"])


def test_what_pip_is_configured_for_reaches_uv():
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PIP_")},
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "https://index.example/simple",
        "PIP_EXTRA_INDEX_URL": "https://one.example/simple\nhttps://two.example/simple",
        "PIP_FIND_LINKS": "/some/wheels",
        "PIP_DEFAULT_TIMEOUT": "60",
    }
    command = [sys.executable, "-m", "pip", "config", "list"]
    listing = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    found = installer.uv_settings(listing)
    assert found["UV_DEFAULT_INDEX"] == "https://index.example/simple"
    assert found["UV_INDEX"] == "https://one.example/simple https://two.example/simple"
    assert found["UV_FIND_LINKS"] == "/some/wheels"
    assert "SSL_CERT_FILE" not in found


def test_pips_environment_counts_more_than_its_files():
    listing = ":env:.index-url='https://mine.example'\nglobal.index-url='https://ours.example'\n"
    assert installer.uv_settings(listing)["UV_DEFAULT_INDEX"] == "https://mine.example"


@pytest.mark.parametrize("tool", ["uv", "pip"])
def test_a_lock_is_installed_by_uv_and_without_it_by_pip(tool, wheels, tmp_path, monkeypatch, capsys):
    if tool == "uv" and find_spec("uv") is None:
        pytest.skip("uv is not installed")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    if tool == "pip":
        monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path))
    lock = tmp_path / "lock.txt"
    lock.write_text("# a lock\ncolour-of-the-sky==1.5\n")
    installer.install(Path(sys.executable), lock, over=tmp_path / "over")
    assert (tmp_path / "over" / "colour_of_the_sky.py").read_text() == "NAME = 'blue'\n"
    said = capsys.readouterr().out
    assert ("with pip" in said) == (tool == "pip")
    assert "1 packages" in said


def test_a_lock_that_cannot_be_installed_says_why(wheels, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    lock = tmp_path / "lock.txt"
    lock.write_text("colour-of-the-sky==2.0\n")
    with pytest.raises(installer.Failed, match=r"colour-of-the-sky==2\.0"):
        installer.install(Path(sys.executable), lock, over=tmp_path / "over")


def needed(lines: Iterable[str]) -> list[Requirement]:
    """Everything that these requirements need on this platform, directly or indirectly, as installed here."""
    found: list[Requirement] = []
    waiting, seen = list(map(Requirement, lines)), set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name != "lens-multimodal":
            found.append(requirement)
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen and name != "lens-multimodal":
                seen.add((name, extra))
                asked = [Requirement(line) for line in requires(name) or ()]
                waiting += [r for r in asked if r.marker is None or r.marker.evaluate({"extra": extra})]
    return found


def of_this_platform(file: str) -> set[str]:
    """The packages of a lock that are installed here."""
    lines = (ROOT / "constraints" / f"{file}.txt").read_text().splitlines()
    parsed = [Requirement(line) for line in lines if re.match(r"\w", line)]
    return {canonicalize_name(r.name) for r in parsed if r.marker is None or r.marker.evaluate()}
