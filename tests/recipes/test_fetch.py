"""The stage `fetch` on archives made here; no registry is asked."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from recipes.tiny import fetch
from recipes.tiny.fetch import LOCK, WrongChecksum, read_lock, run
from recipes.tiny.settings import toy


def tar(files: dict[str, str], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def deb(files: dict[str, str]) -> bytes:
    """A Debian package: an `ar` archive; the first member has an odd length on purpose."""
    out = b"!<arch>\n"
    for name, body in (("debian-binary", b"2.0\n\n"), ("data.tar.xz", tar(files, "w:xz"))):
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(body):<10}`\n".encode() + body + b"\n" * (len(body) % 2)
    return out


def wheel(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder of archives, one for each registry, and a lock that names them."""
    archives = {
        "scope-icons-1.0.0.tgz": (
            "@scope/icons",
            "npm",
            tar({"package/icons.json": "{}", "package/LICENSE": "kind"}),
        ),
        "words_1%3a2_all.deb": (
            "words",
            "debian",
            deb({"./usr/share/doc/words/copyright": "free", "./usr/w": "a b"}),
        ),
        "thing-1-py3.whl": (
            "thing",
            "pypi",
            wheel({"thing/data.txt": "x", "package.json": '{"license": "MIT"}'}),
        ),
    }
    folder = tmp_path / "shelf"
    folder.mkdir()
    lock = ""
    for file, (name, registry, body) in archives.items():
        (folder / file).write_bytes(body)
        lock += (
            f'[[package]]\nname = "{name}"\nversion = "1"\nregistry = "{registry}"\nfile = "{file}"\n'
            f'sha256 = "{hashlib.sha256(body).hexdigest()}"\nlicence = "MIT"\nauthor = "A"\nuse = "pictures"\n'
        )
    (folder / "lock.toml").write_text(lock)
    return folder


@pytest.fixture(autouse=True)
def no_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "CLIENTS", {registry: ["no-such-client"] for registry in fetch.CLIENTS})


def test_every_kind_of_archive_is_unpacked_and_its_licence_collected(shelf: Path, tmp_path: Path) -> None:
    report = run(toy(), tmp_path, lock=shelf / "lock.toml", archives=shelf)
    downloads = tmp_path / "downloads"
    assert (downloads / "scope-icons" / "icons.json").read_text() == "{}"
    assert (downloads / "words" / "usr" / "w").read_text() == "a b"
    assert (downloads / "thing" / "thing" / "data.txt").read_text() == "x"
    licences = {entry["name"]: entry for entry in json.loads((tmp_path / "fetch" / "licences.json").read_text())}
    assert licences["@scope/icons"]["terms"] == "kind"
    assert licences["words"]["terms"] == "free"
    assert json.loads(licences["thing"]["terms"]) == {"license": "MIT"}
    assert set(report["packages"]) == {"@scope/icons", "words", "thing"}


def test_a_wrong_checksum_is_refused_naming_both(shelf: Path, tmp_path: Path) -> None:
    path = shelf / "words_1%3a2_all.deb"
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes() + b"!")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(WrongChecksum, match=f"(?s){found}.*{expected}"):
        run(toy(), tmp_path, lock=shelf / "lock.toml", archives=shelf)
    assert not (tmp_path / "downloads" / "words").exists()
    assert not (tmp_path / "downloads" / "archives" / path.name).exists()


def test_a_damaged_earlier_download_is_fetched_again(shelf: Path, tmp_path: Path) -> None:
    half = tmp_path / "downloads" / "archives" / "words_1%3a2_all.deb"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"!<arch>\nhalf")
    run(toy(), tmp_path, lock=shelf / "lock.toml", archives=shelf)
    assert (tmp_path / "downloads" / "words" / "usr" / "w").exists()


def test_a_changed_version_replaces_the_folder(shelf: Path, tmp_path: Path) -> None:
    run(toy(), tmp_path, lock=shelf / "lock.toml", archives=shelf)
    shutil.rmtree(tmp_path / "fetch")
    new = tar({"package/icons.json": "[]"})
    old = hashlib.sha256((shelf / "scope-icons-1.0.0.tgz").read_bytes()).hexdigest()
    (shelf / "scope-icons-1.0.0.tgz").write_bytes(new)
    lock = (shelf / "lock.toml").read_text().replace(old, hashlib.sha256(new).hexdigest())
    (shelf / "lock.toml").write_text(lock)
    run(toy(), tmp_path, lock=shelf / "lock.toml", archives=shelf)
    folder = tmp_path / "downloads" / "scope-icons"
    assert (folder / "icons.json").read_text() == "[]"
    assert not (folder / "LICENSE").exists()


def test_killed_in_the_middle_it_resumes(shelf: Path, tmp_path: Path) -> None:
    """Killed while unpacking the second package: the first is kept, the half folder has no name of its own."""
    program = (
        "import sys, time; from pathlib import Path\n"
        "from recipes.tiny import fetch\n"
        "from recipes.tiny.settings import toy\n"
        "original = fetch._debian_data\n"
        "fetch._debian_data = lambda archive: time.sleep(3600)\n"
        "shelf, work = map(Path, sys.argv[1:])\n"
        "fetch.run(toy(), work, lock=shelf / 'lock.toml', archives=shelf)\n"
    )
    running = subprocess.Popen([sys.executable, "-c", program, str(shelf), str(tmp_path)], stderr=subprocess.DEVNULL)
    downloads = tmp_path / "downloads"
    while not (downloads / ".words.partial").exists() and running.poll() is None:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    first = (downloads / "scope-icons" / "icons.json").stat().st_mtime_ns
    assert not (downloads / "words").exists()
    assert not (tmp_path / "fetch" / "done.json").exists()
    run(toy(), tmp_path, lock=shelf / "lock.toml", archives=shelf)
    assert (downloads / "words" / "usr" / "w").exists()
    assert not (downloads / ".words.partial").exists()
    assert (downloads / "scope-icons" / "icons.json").stat().st_mtime_ns == first


def test_a_missing_client_says_what_to_do(shelf: Path, tmp_path: Path) -> None:
    (shelf / "words_1%3a2_all.deb").unlink()
    with pytest.raises(RuntimeError, match=r"no-such-client.*words_1%3a2_all\.deb"):
        run(toy(), tmp_path, lock=shelf / "lock.toml", archives=shelf)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('registry = "npm"', 'registry = "shop"', "shop"),
        ('author = "A"\n', "", "author"),
        ("[[package]]", "[[parcel]]", "package"),
    ],
)
def test_a_faulty_lock_is_refused(shelf: Path, old: str, new: str, message: str) -> None:
    lock = shelf / "lock.toml"
    lock.write_text(lock.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_lock(lock)


def test_the_real_lock_is_complete() -> None:
    packages = read_lock(LOCK)
    assert len({p.name for p in packages}) == len(packages)
    assert all(len(p.sha256) == 64 and p.licence and p.author for p in packages)
    assert {p.use for p in packages} == {"text", "pictures", "names", "training only"}
