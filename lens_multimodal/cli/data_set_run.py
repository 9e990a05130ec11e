"""What the commands that run once over a data set share: options, pictures, and warnings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lens_multimodal.cli import several_processes

if TYPE_CHECKING:
    from lens_multimodal.data import Scene

Data = Annotated[Path, typer.Option(help="A folder in COCO's format, or a folder of pictures.")]


@dataclass(frozen=True, kw_only=True)
class DataSetRun:
    """How a command runs over a data set."""

    batch_size: Annotated[int, typer.Option(min=1, help="Pictures in one forward pass.")] = 32
    limit: Annotated[int | None, typer.Option(min=1, help="Use only this many pictures, drawn at random.")] = None
    estimate: Annotated[bool, typer.Option("--estimate", help="Print size and time, and write nothing.")] = False
    for_pictures: Annotated[
        int | None, typer.Option(min=1, help="With --estimate: plan for a data set of this many pictures like these.")
    ] = None
    processes: several_processes.Processes = 1

    def scenes(self, folder: Path) -> "Sequence[Scene]":
        """The scenes of a folder in COCO's format, or the pictures of any other folder.

        Raises: as `data.scenes_in`.
        """
        from lens_multimodal.data import scenes_in
        from lens_multimodal.runs.picture_order import in_order

        scenes = scenes_in(folder)
        return scenes if self.limit is None else in_order(scenes, 0)[: self.limit]


WHOLE = DataSetRun()
"""What a command uses without options."""


def warn_of_failures(failed: Sequence[dict[str, str]]) -> None:
    """Name each picture that could not be read, with the error."""
    for failure in failed:
        typer.echo(f"warning: {failure['file']}: {failure['error']}", err=True)
