"""Run experiments over pictures in any number of processes; each writes its own parts."""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from lens_multimodal.data import Scene
from lens_multimodal.experiments.experiment import Experiment
from lens_multimodal.experiments.shared.context import Context, UnreadablePicture
from lens_multimodal.experiments.shared.nouns import noun_finder
from lens_multimodal.experiments.shared.once import Once
from lens_multimodal.experiments.shared.picture_state import PictureState
from lens_multimodal.experiments.stream import manifest as manifests
from lens_multimodal.experiments.stream.frames import as_arrow
from lens_multimodal.experiments.stream.merge import merge
from lens_multimodal.experiments.stream.parts import write_part
from lens_multimodal.experiments.stream.resume import claim, unfinished
from lens_multimodal.lens import VisionLens
from lens_multimodal.runs.picture_order import in_order
from lens_multimodal.runs.processes import Processes


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How often rows are written, and how many rows one forward pass takes.

    Attributes:
        pictures, seconds: a part is written after this many pictures or this much time, whichever comes first; a killed
            run loses no more than that.
        batch_size: rows in one forward pass; halved when memory runs out.
    """

    pictures: int = 64
    seconds: float = 30.0
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name in ("pictures", "seconds", "batch_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


def stream(
    lens: VisionLens,
    experiments: Sequence[Experiment[Any]],
    scenes: Sequence[Scene],
    out: Path,
    *,
    settings: Mapping[str, Any],
    seed: int = 0,
    limit: int | None = None,
    batching: Batching | None = None,
    progress: bool = True,
    processes: Processes | None = None,
) -> None:
    """Write the rows of all experiments for all pictures to `out/tables`; continue where an earlier run stopped.

    Args:
        scenes: the whole data set.
        settings: for "picture" and for each experiment, by name.
        seed: determines the order of the pictures and every random choice.
        limit: use only this many pictures, the first in that order; a run can be extended later.
        processes: how the work is divided; None reads the launcher's environment.

    Raises:
        SettingsChanged: `out` holds rows made under other settings.
        DiskFull: nothing more can be written; what was written is safe.
        MemoryError: not even a single row at a time fits.
        ValueError: no scene, a limit below one, or rows that break the contract of `Experiment`.
    Cost: the start hashes all weights, see `manifest.describe`.
    """
    if not len(scenes):
        raise ValueError("the data set has no scene")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    processes = processes or Processes.of_environment()
    order = in_order(scenes, seed)[:limit]
    if processes.is_first:
        manifest = manifests.describe(lens, experiments, scenes, settings=settings, seed=seed, limit=limit)
        claim(out, manifest)
    processes.wait()
    own = unfinished(out, order, processes)
    work = _Work(
        lens=lens, experiments=experiments, scenes=scenes, settings=settings, seed=seed, batching=batching or Batching()
    )
    writer = _Writer(out=out, names=table_names(experiments), rank=processes.rank, batching=work.batching)
    mine = len(processes.share(len(order)))
    with processes.bar(total=mine, done=mine - len(own), progress=progress) as bar:
        try:
            for number, scene in own:
                rows, failure = work.rows_of(scene)
                writer.add(number, scene.id, rows, failure, batch_size=work.batch_size)
                bar.update()
        except (KeyboardInterrupt, MemoryError):
            writer.flush()
            raise
        writer.flush()
    processes.wait()
    if processes.is_first:
        merge(out, table_names(experiments), [scene.id for scene in order])
    processes.wait()


def table_names(experiments: Sequence[Experiment[Any]]) -> list[str]:
    """Every row table as `experiment.table`."""
    return [f"{experiment.name}.{table}" for experiment in experiments for table in experiment.tables]


@dataclass(kw_only=True)
class _Work:
    """What a process makes once and uses for every picture."""

    lens: VisionLens
    experiments: Sequence[Experiment[Any]]
    scenes: Sequence[Scene]
    settings: Mapping[str, Any]
    seed: int
    batching: Batching
    batch_size: int = 0
    once: Once = field(default_factory=Once)

    def __post_init__(self) -> None:
        self.batch_size = self.batching.batch_size
        self.nouns = noun_finder(self.lens, self.scenes)

    def rows_of(self, scene: Scene) -> tuple[dict[str, pa.Table], dict[str, Any] | None]:
        """The rows of one picture, or why there are none."""
        try:
            image = scene.open()
        except (ValueError, OSError) as error:
            return {}, {"image_id": scene.id, "file": scene.path.name, "error": str(error)}
        while True:
            try:
                return self._run(scene, image), None
            except UnreadablePicture as error:
                return {}, {"image_id": scene.id, "file": scene.path.name, "error": str(error)}
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(scene, error)

    def _run(self, scene: Scene, image: Any) -> dict[str, pa.Table]:
        picture = PictureState(
            lens=self.lens,
            scene=scene,
            image=image,
            settings=self.settings["picture"],
            seed=self.seed,
            noun_finder=self.nouns,
            batch_size=self.batch_size,
        )
        found: dict[str, pa.Table] = {}
        for experiment in self.experiments:
            context = Context(
                picture=picture, settings=self.settings[experiment.name], scenes=self.scenes, once=self.once
            )
            rows = experiment.rows(context)
            if set(rows) != set(experiment.tables):
                raise ValueError(
                    f"experiment {experiment.name!r} declares the tables {sorted(experiment.tables)}, but returned "
                    f"{sorted(rows)}"
                )
            for table in experiment.tables:
                name = f"{experiment.name}.{table}"
                found[name] = as_arrow(rows[table], image_id=scene.id, where=name)
        return found

    def _halve(self, scene: Scene, error: Exception) -> None:
        if self.batch_size == 1:
            raise MemoryError(
                f"{scene.path.name} does not fit into memory with one row per forward pass "
                f"({str(error).splitlines()[0]}): use a smaller dtype, a larger device, or fewer "
                f"neurons in the settings"
            ) from error
        self.batch_size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warnings.warn(
            f"out of memory at {scene.path.name}: continuing with {self.batch_size} rows per forward pass", stacklevel=4
        )


@dataclass(kw_only=True)
class _Writer:
    """Collects finished pictures and writes a part when there are enough of them or enough time has passed."""

    out: Path
    names: Sequence[str]
    rank: int
    batching: Batching

    def __post_init__(self) -> None:
        self._start()

    def add(
        self,
        number: int,
        image_id: int,
        rows: Mapping[str, pa.Table],
        failure: dict[str, Any] | None,
        *,
        batch_size: int,
    ) -> None:
        self.numbers.append(number)
        self.batch_size = batch_size
        if failure is None:
            self.done.append(image_id)
            for name in self.names:
                self.pieces[name].append(rows[name])
        else:
            self.failed.append(failure)
        if len(self.numbers) >= self.batching.pictures or time.monotonic() - self.since > self.batching.seconds:
            self.flush()

    def flush(self) -> None:
        if self.numbers:
            write_part(
                self.out,
                self.pieces,
                done=self.done,
                failed=self.failed,
                first=self.numbers[0],
                last=self.numbers[-1],
                rank=self.rank,
                batch_size=self.batch_size,
            )
        self._start()

    def _start(self) -> None:
        self.numbers: list[int] = []
        self.done: list[int] = []
        self.failed: list[dict[str, Any]] = []
        self.pieces: dict[str, list[pa.Table]] = {name: [] for name in self.names}
        self.since = time.monotonic()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    said = str(error)
    return "out of memory" in said or "can't allocate memory" in said or "not enough memory" in said
