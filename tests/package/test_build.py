"""The wheel and the source distribution as users get them."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytest.importorskip("build", reason="building needs `build`")
pytest.importorskip("hatchling", reason="building needs `hatchling`")

pytestmark = pytest.mark.slow

FROM_THE_SOURCE_DISTRIBUTION = (
    "tests/package/test_dependencies.py",
    "tests/package/test_versions.py",
    "tests/benchmarks/test_peak_memory.py",
    "tests/data/test_folders.py",
    "tests/recipes/test_text.py",
    "tests/tiny/test_shipped_files.py",
)
"""Quick tests that read what lies beside the package: constraints, benchmarks, recipes, shipped files."""


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """Both files; the wheel is made from the unpacked source distribution, so that one is complete too."""
    folder = tmp_path_factory.mktemp("dist")
    _run("-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT), cwd=folder)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    _run(
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
        str(built["wheel"]),
        cwd=target,
    )
    return target


def test_the_wheel_holds_the_package_and_nothing_else(built):
    names = zipfile.ZipFile(built["wheel"]).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lens_multimodal"}
    tracked = {p.relative_to(ROOT).as_posix() for p in (ROOT / "lens_multimodal").rglob("*") if _shipped(p, ROOT)}
    assert tracked <= set(names)
    assert "lens_multimodal/py.typed" in names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    assert built["wheel"].stat().st_size < 40 * 2**20


def test_the_source_distribution_holds_no_leftovers(built):
    with tarfile.open(built["sdist"]) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "LICENSE", "tests/conftest.py", "recipes/tiny/README.md"} <= names
    assert not [name for name in names if name.startswith(("out/", ".venv", "recipes/tiny/work"))]


def test_the_tests_pass_from_the_unpacked_source_distribution(built, tmp_path):
    """All of them are there, to the byte; those that read other files of the repository are run."""
    with tarfile.open(built["sdist"]) as sdist:
        sdist.extractall(tmp_path, filter="data")
    (home,) = tmp_path.iterdir()
    assert _tests_of(home) == _tests_of(ROOT)
    quick = ["--assert=plain", "-o", "addopts=--strict-markers"]  # neither asserts nor functions are rewritten
    _run("-m", "pytest", "-q", "-p", "no:cacheprovider", *quick, *FROM_THE_SOURCE_DISTRIBUTION, cwd=home, path=home)


def _tests_of(home: Path) -> dict[str, bytes]:
    files = (path for path in (home / "tests").rglob("*") if _shipped(path, home))
    return {path.relative_to(home).as_posix(): path.read_bytes() for path in files}


def test_the_metadata_of_the_wheel(built):
    from lens_multimodal import __version__

    with zipfile.ZipFile(built["wheel"]) as wheel:
        inside = {Path(name).name: name for name in wheel.namelist() if ".dist-info/" in name}
        metadata = HeaderParser().parsestr(wheel.read(inside["METADATA"]).decode())
        entry_points = wheel.read(inside["entry_points.txt"]).decode()
    assert metadata["Version"] == __version__
    assert {"explore", "metrics", "docs", "dev"} <= set(metadata.get_all("Provides-Extra"))
    assert "lens-multimodal = lens_multimodal.cli:main" in entry_points
    needed = {line.split(";")[0].strip() for line in metadata.get_all("Requires-Dist") if "extra ==" not in line}
    bounded = {name: [line for line in needed if line.startswith(name)] for name in ("transformer-lens", "plotly")}
    assert all(lines and "<" in lines[0] for lines in bounded.values()), bounded


def test_the_installed_package_captions_a_picture(installed, tmp_path):
    code = """
import json
import lens_multimodal
from lens_multimodal.tiny import scenes_folder
lens = lens_multimodal.attach_vision()
picture = sorted((scenes_folder() / "images").iterdir())[0]
print(json.dumps([lens_multimodal.__file__, lens.caption(picture)]))
"""
    done = _run("-c", code, cwd=tmp_path, path=installed)
    file, caption = json.loads(done.stdout.splitlines()[-1])
    assert Path(file).is_relative_to(installed)
    assert caption
    version = _run("-m", "lens_multimodal", "--version", cwd=tmp_path, path=installed).stdout
    assert version.startswith("lens_multimodal ")


def _shipped(path: Path, home: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(home).parts)
    return path.is_file() and path.suffix != ".pyc" and not hidden


def _run(*arguments: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done
