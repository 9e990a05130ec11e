"""How large and how long a run over a data set will be, from a measured sample."""

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A plan for a run over a data set, from a measured sample of it."""

    pictures: int
    """Number of pictures to plan for."""
    measured: int
    """Number of pictures measured."""
    bytes: int
    seconds: float
    """Time with one process."""
    free_bytes: int | None = None
    """Space left on the disk of the output folder; None if no folder was named."""

    def __str__(self) -> str:
        lines = [
            f"{self.pictures:,} pictures, measured on {self.measured}: {_bytes(self.bytes)}, "
            f"{_duration(self.seconds)} with one process ({self.pictures / self.seconds:,.1f} pictures a second)"
        ]
        if self.free_bytes is not None and self.free_bytes < self.bytes:
            lines.append(f"the disk has only {_bytes(self.free_bytes)} left")
        return "; ".join(lines)


def disk_of(out: str | Path | None) -> tuple[Path | None, int | None]:
    """The folder, or the nearest existing one above it, and the bytes left on its disk; None without a folder."""
    if out is None:
        return None, None
    folder = Path(out).absolute()
    place = next(place for place in (folder, *folder.parents) if place.is_dir())
    return place, shutil.disk_usage(place).free


def _bytes(number: float | int) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
