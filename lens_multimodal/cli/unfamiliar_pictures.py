"""Warnings of pictures that are unlike everything the tiny trio was trained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from lens_multimodal.lens import VisionLens


def warn_of_unfamiliar(lens: "VisionLens", paths: Sequence[Path]) -> None:
    """Print a warning for each such picture; none for a lens with another encoder."""
    from lens_multimodal.image.pictures import picture_batches
    from lens_multimodal.tiny.familiarity import BATCH, FALSE_ALARMS, familiarity_of

    known = familiarity_of(lens.images)
    if known is None:
        return
    batches = picture_batches(paths, batch_size=BATCH, progress=False)
    flags = [flag for pictures in batches for flag in known.unfamiliar(pictures).tolist()]
    for path, flag in zip(paths, flags, strict=True):
        if flag:
            typer.echo(
                f"warning: {path} is unlike the drawings that the tiny trio was trained on, so its caption and neurons "
                f"mean little (measured by the encoder's features; {FALSE_ALARMS:.0%} of the trio's own scenes are "
                f"flagged by mistake)",
                err=True,
            )
