"""A picture with its captions, wherever the two are stored, and an account of what could not be read."""

import io
import threading
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from PIL import Image

from lens_multimodal.image.pictures import as_picture, read_picture


@dataclass(frozen=True, kw_only=True)
class StoredPicture:
    """A picture file as a run of bytes inside an uncompressed tar file."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, kw_only=True)
class CaptionedPicture:
    """One picture and at least one caption; the pixels are read when they are asked for.

    Raises: ValueError without a caption.
    """

    key: str
    """Names the picture in messages: its path, or its key in a tar file."""
    picture: Path | StoredPicture
    captions: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.captions:
            raise ValueError(f"{self.key} has no caption")

    def open(self) -> Image.Image:
        """The picture in RGB.

        Raises:
            FileNotFoundError: the file is gone.
            ValueError: it is damaged, or not a picture.
        """
        if isinstance(self.picture, Path):
            return as_picture(self.picture)
        return read_picture(io.BytesIO(self.picture.read()), name=self.key)


@dataclass(kw_only=True)
class LeftOut:
    """What was left out of a data set, by reason."""

    _said: ClassVar[str] = "left out"

    count: int = 0
    by_reason: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    """The first twenty, each with its reason."""

    def add(self, key: str, reason: str) -> None:
        """Count one case; `reason` is a short fixed phrase, `key` says where."""
        self.count += 1
        self.by_reason[reason] += 1
        if len(self.examples) < 20:
            self.examples.append(f"{key}: {reason}")

    def __str__(self) -> str:
        if not self.count:
            return "nothing was left out"
        return f"{self.count:,} {self._said}: " + ", ".join(f"{n:,} {why}" for why, n in self.by_reason.most_common())


@dataclass(kw_only=True)
class Damage(LeftOut):
    """What has been left out of a stream so far; warns at the first case and whenever the count has grown tenfold."""

    _said: ClassVar[str] = "left out so far"

    _warn_at: int = field(default=1, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, key: str, reason: str) -> None:
        """Count one case, from any thread, as `LeftOut.add`."""
        with self._lock:
            super().add(key, reason)
            due = self.count >= self._warn_at
            if due:
                self._warn_at *= 10
        if due:
            warnings.warn(f"{self}; the latest is {key}", stacklevel=3)
