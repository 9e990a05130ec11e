"""WebDataset tar shards such as CC3M's: a picture and its caption under one key, read one after another."""

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path, PurePosixPath
from re import findall, fullmatch, split

from lens_multimodal.data.captioned import CaptionedPicture, Damage, StoredPicture

PICTURES = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Tar files of captioned pictures; iterating goes through them once, in order, in flat memory.

    Members of one key follow each other: `.jpg`, `.jpeg`, `.png` or `.webp`, and a caption from `.txt` (the whole
    text) or from the key `caption` of `.json`. Only headers and captions are read here; each picture's bytes are
    read when it is opened. `list(shards)` makes an indexable source of them.
    """

    paths: tuple[Path, ...]
    damage: Damage = field(default_factory=Damage)
    """Counts what had to be left out; the first cases also warn."""

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError("no shard was given")

    def __iter__(self) -> Iterator[CaptionedPicture]:
        for path in self.paths:
            yield from read_shard(path, damage=self.damage)

    def of_rank(self, rank: int, world_size: int) -> "Shards":
        """Every `world_size`-th shard from `rank` on.

        Raises: ValueError for fewer shards than processes.
        """
        if len(self.paths) < world_size:
            raise ValueError(
                f"{len(self.paths)} shards cannot be shared among {world_size} processes; use list(shards) as an "
                f"indexable source, or split the data into more shards"
            )
        return Shards(paths=self.paths[rank::world_size], damage=self.damage)


def read_shards(*patterns: str | Path) -> Shards:
    """Tar shards by path, brace range (`cc3m/{00000..00331}.tar`) or folder (all its `.tar` files).

    Raises:
        FileNotFoundError: shards that do not exist; all are listed.
        ValueError: a malformed range, a folder without shards, or a compressed file.
    """
    paths: list[Path] = []
    for pattern in patterns:
        if Path(pattern).is_dir():
            found = sorted(Path(pattern).glob("*.tar"))
            if not found:
                raise ValueError(f"no .tar file in {str(pattern)!r}")
            paths += found
        else:
            paths += [Path(name) for name in expand_braces(str(pattern))]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{len(missing):,} of {len(paths):,} shards are missing: " + ", ".join(missing))
    packed = [path.name for path in paths if path.suffix != ".tar"]
    if packed:
        raise ValueError(
            f"expected plain .tar files, got {', '.join(packed[:5])}: pictures do not shrink by compressing them "
            f"again; unpack with gunzip or zstd -d"
        )
    return Shards(paths=tuple(paths))


def expand_braces(pattern: str) -> list[str]:
    """`a{08..10}.tar` to `a08.tar`, `a09.tar`, `a10.tar`; `{a,b}` to either; several braces multiply.

    Raises: ValueError for braces that hold neither a range nor a list.
    """
    parts = split(r"\{[^{}]*\}", pattern)
    if any("{" in part or "}" in part for part in parts):
        raise ValueError(f"braces in {pattern!r} are nested or not closed")
    choices = [_choices(inner, pattern) for inner in findall(r"\{([^{}]*)\}", pattern)]
    return [
        "".join(part + chosen for part, chosen in zip(parts, (*combination, ""), strict=True))
        for combination in product(*choices)
    ]


def read_shard(path: Path, *, damage: Damage) -> Iterator[CaptionedPicture]:
    """The captioned pictures of one tar file, in order; what cannot be used is counted in `damage`."""
    found: dict[str, StoredPicture | str] = {}
    current, n_bytes = "", path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]
                if member.isdir():
                    continue
                key, ending = _key(member.name)
                if not member.isreg() or not ending:
                    damage.add(f"{path.name}/{member.name}", "not a regular file with an ending")
                    continue
                if member.offset_data + member.size > n_bytes:
                    raise tarfile.ReadError(f"{member.name} goes beyond the end of the file")
                if key != current:
                    yield from _sample(path, current, found, damage)
                    current, found = key, {}
                if ending in PICTURES:
                    found["picture"] = StoredPicture(path=path, offset=member.offset_data, size=member.size)
                elif ending in ("txt", "json"):
                    file = tar.extractfile(member)
                    assert file is not None
                    found[ending] = file.read().decode("utf-8", errors="replace")
            _check_end(path, tar.offset)
    except (tarfile.TarError, EOFError, OSError) as error:
        damage.add(f"{path.name} ({error})", "shards cut off or damaged in the middle, with all that follows there")
    yield from _sample(path, current, found, damage)


def _sample(path: Path, key: str, found: dict[str, StoredPicture | str], damage: Damage) -> Iterator[CaptionedPicture]:
    if not found:
        return
    where = f"{path.name}/{key}"
    picture, caption = found.get("picture"), _caption(found)
    if not isinstance(picture, StoredPicture):
        damage.add(where, "without a picture")
    elif not caption:
        damage.add(where, "without a caption")
    else:
        yield CaptionedPicture(key=where, picture=picture, captions=(caption,))


def _caption(found: dict[str, StoredPicture | str]) -> str:
    text = found.get("txt")
    if isinstance(text, str) and text.strip():
        return text.strip()
    try:
        value = json.loads(str(found["json"]))["caption"]
    except (KeyError, TypeError, json.JSONDecodeError):
        return ""
    return value.strip() if isinstance(value, str) else ""


def _key(name: str) -> tuple[str, str]:
    """Folder and name up to the first dot, and everything after that dot in lower case, as WebDataset splits."""
    path = PurePosixPath(name)
    stem, _, ending = path.name.partition(".")
    return str(path.with_name(stem)) if stem else name, ending.lower()


def _check_end(path: Path, offset: int) -> None:
    """A tar file ends in blocks of zeros; `tarfile` stops silently at anything else."""
    with path.open("rb") as file:
        file.seek(offset)
        if file.read(512) != bytes(512):
            raise tarfile.ReadError(f"neither a member nor the end at byte {offset:,}")


def _choices(inner: str, pattern: str) -> Sequence[str]:
    if match := fullmatch(r"(\d+)\.\.(\d+)", inner):
        first, last = match.groups()
        if int(last) < int(first):
            raise ValueError(f"the range {{{inner}}} in {pattern!r} runs backwards")
        return [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    if "," in inner:
        return inner.split(",")
    raise ValueError(f"{{{inner}}} in {pattern!r} is neither a range like {{00000..00331}} nor a list like {{a,b}}")
