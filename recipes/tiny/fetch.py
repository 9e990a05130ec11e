"""The stage `fetch`: exactly these packages, from their registries, checked, unpacked, with their licences.

Each package is downloaded by its registry's own client (npm, pip, apt-get), so mirrors and proxies set up for these
work here too. Nothing is used before its checksum matches, and a folder appears only when it is whole: after a kill,
run the stage again.
"""

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import tomllib
from tqdm import tqdm

from lens_multimodal.files import digest_of_file, write_atomically
from recipes.tiny.settings import Settings
from recipes.tiny.stage import run_once, write_json

LOCK = Path(__file__).with_name("packages.toml")
CLIENTS = {
    "npm": ["npm", "pack", "--silent", "{name}@{version}"],
    "pypi": ["pip", "download", "--quiet", "--no-deps", "{name}=={version}"],
    "debian": ["apt-get", "download", "{name}={version}"],
}


class WrongChecksum(RuntimeError):
    """A file is not the one in the lock."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """One entry of `packages.toml`."""

    name: str
    version: str
    registry: str
    file: str
    """Name of the archive as the client writes it."""
    sha256: str
    licence: str
    author: str
    use: str

    @property
    def folder(self) -> str:
        """Folder under `downloads`: `@scope/name` becomes `scope-name`."""
        return self.name.lstrip("@").replace("/", "-")


def run(settings: Settings, work: Path, *, lock: Path = LOCK, archives: Path | None = None) -> dict:  # noqa: ARG001
    """Fetch, check and unpack every package of `lock` under `work/downloads/<package>`.

    Args: archives: a folder of already downloaded archives, tried before the registry.
    Returns: packages and bytes. Also writes `work/fetch/licences.json`: who made what, under which terms.
    Raises: WrongChecksum naming both sums; RuntimeError if a client is missing or fails.
    """
    packages = read_lock(lock)
    digest = digest_of_file(lock)
    return run_once(work / "fetch", {"lock": digest}, lambda: _fetch(packages, work, archives))


def read_lock(path: Path) -> list[Package]:
    """Packages of a lock file. Raises: ValueError for an unknown registry or missing fields."""
    try:
        packages = [Package(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["package"]]
    except (KeyError, TypeError) as wrong:
        fields = ", ".join(Package.__dataclass_fields__)
        raise ValueError(f"{path}: every [[package]] needs exactly {fields}; got a problem with {wrong}.") from wrong
    for package in packages:
        if package.registry not in CLIENTS:
            raise ValueError(f"{path}: {package.name} names registry {package.registry!r}; known: {sorted(CLIENTS)}.")
    return packages


def _fetch(packages: list[Package], work: Path, archives: Path | None) -> dict:
    downloads = work / "downloads"
    licences, size = [], 0
    with tqdm(packages, desc="fetch", unit="package") as bar:
        for package in bar:
            bar.set_postfix_str(package.name)
            archive = _archive(package, downloads / "archives", archives)
            size += archive.stat().st_size
            folder = _unpacked(package, archive, downloads)
            licences.append(
                {
                    field: getattr(package, field)
                    for field in ("name", "version", "registry", "licence", "author", "use")
                }
                | {"terms": _terms(folder)}
            )
    write_json(work / "fetch" / "licences.json", licences)
    return {"packages": {p.name: p.version for p in packages}, "megabytes": round(size / 1e6, 1)}


def _archive(package: Package, folder: Path, given: Path | None) -> Path:
    """The checked archive: from an earlier run, the given folder, or the registry."""
    target = folder / package.file
    if target.exists():
        if digest_of_file(target) == package.sha256:
            return target
        target.unlink()  # a half-written or outdated file
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as temporary:
        arrived = Path(temporary) / package.file
        if given is not None and (given / package.file).exists():
            shutil.copyfile(given / package.file, arrived)
        else:
            _download(package, Path(temporary))
        if not arrived.exists():
            files = sorted(p.name for p in Path(temporary).iterdir())
            raise RuntimeError(
                f"{package.name} {package.version} should arrive as {package.file}; the "
                f"{package.registry} client wrote {files}. Correct `file` in the lock."
            )
        found = digest_of_file(arrived)
        if found != package.sha256:
            raise WrongChecksum(
                f"{package.file} has sha256 {found}, the lock says {package.sha256}. It was not used. If the registry "
                f"really changed {package.name} {package.version}, look at the new file before changing the lock."
            )
        os.replace(arrived, target)
    return target


def _download(package: Package, folder: Path) -> None:
    command = [part.format(name=package.name, version=package.version) for part in CLIENTS[package.registry]]
    if shutil.which(command[0]) is None:
        raise RuntimeError(
            f"{package.name} comes from {package.registry}, and its client {command[0]!r} is not installed. Install "
            f"it, or put {package.file} into a folder and pass it as `archives`."
        )
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        hint = " A stale index is the usual reason: run `apt-get update` once." if package.registry == "debian" else ""
        raise RuntimeError(f"`{' '.join(command)}` failed with {done.returncode}: {done.stderr.strip()[-800:]}{hint}")


def _unpacked(package: Package, archive: Path, downloads: Path) -> Path:
    folder = downloads / package.folder
    marker = folder / ".sha256"
    if marker.exists() and marker.read_text() == package.sha256:
        return folder
    with write_atomically(folder) as partial:
        partial.mkdir()
        if archive.suffix == ".deb":
            _untar(_debian_data(archive), partial, strip=False)
        elif archive.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive) as file:
                file.extractall(partial)
        else:
            _untar(archive.read_bytes(), partial, strip=True)
        (partial / ".sha256").write_text(package.sha256)
    return folder


def _untar(raw: bytes, folder: Path, *, strip: bool) -> None:
    """Unpack a tar archive; `strip` leaves out its first folder, which npm archives put around everything."""
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        for member in tar:
            if strip:
                member.name = member.name.partition("/")[2]
            if member.name and not (member.issym() or member.islnk()):
                tar.extract(member, folder, filter="data")


def _debian_data(archive: Path) -> bytes:
    """The data part of a .deb, which is an `ar` archive: a 60-byte header before each file, padded to even length."""
    raw = archive.read_bytes()
    if not raw.startswith(b"!<arch>\n"):
        raise RuntimeError(f"{archive} is not a Debian package: it begins with {raw[:8]!r}.")
    at = 8
    while at < len(raw):
        name, size = raw[at : at + 16].decode().strip().rstrip("/"), int(raw[at + 48 : at + 58])
        body = raw[at + 60 : at + 60 + size]
        if name.startswith("data.tar"):
            if name.endswith(".zst"):
                import zstandard

                return zstandard.ZstdDecompressor().stream_reader(body).read()
            return body
        at += 60 + size + size % 2
    raise RuntimeError(f"{archive} holds no data.tar.")


def _terms(folder: Path) -> str:
    """The package's own statement of its licence: the text of its licence file, or the entry of its description."""
    texts = [p for p in sorted(folder.iterdir()) if p.is_file() and p.name.upper().startswith(("LICEN", "COPYING"))]
    texts += sorted(folder.glob("usr/share/doc/*/copyright"))
    if texts:
        return "\n\n".join(p.read_text(encoding="utf-8", errors="replace").strip() for p in texts)
    for name in ("info.json", "package.json"):
        path = folder / name
        if path.exists():
            told = json.loads(path.read_text(encoding="utf-8"))
            return json.dumps({k: told[k] for k in ("license", "author") if k in told}, ensure_ascii=False)
    return ""
