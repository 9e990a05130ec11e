"""Files on disk: whole or absent, identified by a digest, and continued only under the settings they were made with."""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

_BLOCK = 1 << 22


class SettingsChanged(ValueError):
    """Results on disk were made under different settings from those given now."""


@contextmanager
def write_atomically(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A hidden path next to `path` to write to; it becomes `path` when the block ends, and is removed after an error.

    A reader sees the old file or the new one, never part of one. A killed process leaves only the hidden path, which
    the next write replaces. The block may write a file or make a folder; a folder replaces an older folder.

    Args: durable: wait until the content is on the disk, so that it also survives a power failure.
    """
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    if partial.is_dir():
        shutil.rmtree(partial)
    try:
        yield partial
        if durable:
            for file in [*partial.rglob("*")] if partial.is_dir() else [partial]:
                _sync(file)
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(partial, path)
    except BaseException:
        _remove(partial)
        raise
    if durable and os.name != "nt":  # Windows cannot open a folder for this
        _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically; it is on the disk when this returns."""
    with write_atomically(path, durable=True) as partial:
        partial.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises: ValueError for a damaged file.
    """
    try:
        return json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is damaged or not JSON: {error}") from error


def outside(names: Iterable[str]) -> list[str]:
    """The relative paths that lead out of their folder."""
    return [name for name in names if PurePath(name).is_absolute() or ".." in PurePath(name).parts]


def as_text(name: str) -> str:
    """Text that any encoding of Unicode can hold: bytes of a file name that are not UTF-8 are written as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def check_folder_name(folder: Path) -> Path:
    """The folder, after a check that safetensors and Parquet can write into it: they need a name in UTF-8.

    Raises: ValueError for any other name.
    """
    if as_text(str(folder)) != str(folder):
        raise ValueError(
            f"the name of the folder {as_text(str(folder))} is not UTF-8, and safetensors and Parquet cannot write to "
            f"such a path: choose another folder"
        )
    return folder


def digest_of_file(path: Path) -> str:
    """SHA-256 of the content, read block by block."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def digest_of_tensors(tensors: Mapping[str, Any]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a state dict; entries that are not tensors are ignored.

    Cost: every byte passes through the CPU, one tensor at a time, at about a second per gigabyte.
    """
    import torch  # only here: the command line's help and its first checks must not wait for it

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def check_same_settings(
    before: Mapping[str, Any], now: Mapping[str, Any], *, where: Path, remedy: str, may_differ: Collection[str] = ()
) -> None:
    """Refuse to continue what was made under other settings.

    Args:
        where: the file or folder to continue, named in the error.
        remedy: what the user can do, as a sentence without a full stop.
        may_differ: top-level entries that are not compared.

    Raises: SettingsChanged, with every difference.
    """
    old, new = _flat(before), _flat(now)
    names = [name for name in dict.fromkeys([*old, *new]) if name.split(".")[0] not in may_differ]
    pairs = [(name, old.get(name, "absent"), new.get(name, "absent")) for name in names]
    changed = [f"  {name}: {a!r} there, {b!r} now" for name, a, b in pairs if a != b]
    if changed:
        raise SettingsChanged("\n".join([f"{where} was made under other settings:", *changed, remedy]))


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{name}.{key}" if name else key).items()}
    return {name: value}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(file_or_folder: Path) -> None:
    descriptor = os.open(file_or_folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
