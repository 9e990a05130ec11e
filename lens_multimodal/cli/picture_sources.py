"""Pictures on the command line: files, folders, patterns."""

from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Annotated

import typer

Pictures = Annotated[
    list[str],
    typer.Argument(metavar="PICTURES...", help="Pictures, folders of pictures, or patterns such as 'photos/*.jpg'."),
]


def find_pictures(given: Sequence[str]) -> list[Path]:
    """The picture files behind paths, folders (with their subfolders) and patterns, each once, in the order given.

    Raises:
        FileNotFoundError: a path or pattern that matches nothing.
        ValueError: a folder without pictures.
    """
    found = [path for name in given for path in _expand(name)]
    return list(dict.fromkeys(found))


def check_files(*paths: Path | None) -> None:
    """Before a model is loaded. Raises: FileNotFoundError for a file that does not exist, ValueError for a folder."""
    for path in paths:
        if path is not None and path.is_dir():
            raise ValueError(f"{str(path)!r} is a folder; give one picture")
        if path is not None and not path.exists():
            raise FileNotFoundError(f"no picture at {str(path)!r}")


def _expand(name: str) -> list[Path]:
    path = Path(name)
    if path.is_file():
        return [path]
    if path.is_dir():
        from lens_multimodal.data.folders import ENDINGS, pictures_in

        inside = pictures_in(path)
        if not inside:
            raise ValueError(f"no picture in the folder {name!r}: looked for {', '.join(sorted(ENDINGS))}")
        return inside
    if has_magic(name):
        matches = [Path(match) for match in sorted(glob(name, recursive=True)) if Path(match).is_file()]
        if not matches:
            raise FileNotFoundError(f"no picture matches {name!r}")
        return matches
    raise FileNotFoundError(f"no picture or folder at {name!r}")
