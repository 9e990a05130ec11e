"""A full disk: what was written is safe, and the run can go on."""

import errno
from pathlib import Path


class DiskFull(OSError):
    """The disk of the output folder is full; everything written before is safe."""


def disk_full(error: OSError, out: Path, *, safe: int) -> OSError:
    """For a full disk, an error that says what is safe and how to continue; any other error unchanged.

    Args: safe: pictures whose results have been written.
    """
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    return DiskFull(
        errno.ENOSPC,
        f"no space left on the disk of {out}. The results of {safe} pictures are safe; free some space and run the "
        f"same command again: it continues after them and gives the same files",
    )
