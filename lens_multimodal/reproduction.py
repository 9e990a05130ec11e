"""The paper's experiments over a data set, in one call.

results = reproduce(out="out/reproduction", limit=20)        # the tiny trio on its own scenes
results.tables["causal.ablations"]; results.summaries["causal"]["probability"].frame; results.html
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from lens_multimodal.attach import attach_vision
from lens_multimodal.closest_names import closest
from lens_multimodal.data import Scene
from lens_multimodal.experiments.coco_scenes import scenes_of
from lens_multimodal.experiments.experiment import Experiment
from lens_multimodal.experiments.registry import EXPERIMENTS
from lens_multimodal.experiments.run_results import Results
from lens_multimodal.experiments.shared.picture_state import PictureSettings
from lens_multimodal.experiments.stream.streaming import Batching, stream
from lens_multimodal.lens import VisionLens
from lens_multimodal.runs.processes import Processes
from lens_multimodal.tiny import scenes_folder
from lens_multimodal.views.report import write_report


def reproduce(
    lens: VisionLens | None = None,
    *,
    data: str | Path | Sequence[Scene] | None = None,
    only: str | Collection[str] | None = None,
    limit: int | None = None,
    out: str | Path,
    seed: int = 0,
    progress: bool = True,
    settings: Mapping[str, Any] | None = None,
    batching: Batching | None = None,
) -> Results:
    """Run experiments over pictures and write tables and the report; a second call continues where the first stopped.

    Under `accelerate launch` or `torchrun`, every process takes a share of the pictures; `out` must then be a folder
    that all of them can reach.

    Args:
        lens: None for the embedded tiny trio.
        data: a folder in COCO's format (see `experiments.coco_scenes`), or scenes, which are used as they are; None for
            the scenes inside the package.
        only: names of `EXPERIMENTS`; None for all.
        limit: use this many pictures, drawn at random; a larger limit includes the pictures of a smaller one.
        out: a folder for rows, tables and report.
        seed: decides everything random.
        progress: show a bar with the rate and the time left.
        settings: for "picture" (shared by all experiments) and for experiments by name, an instance of their settings
            or a mapping of the fields that differ from the paper's choices.
        batching: how often rows are written and how large batches are.

    Raises:
        FileNotFoundError: the data lack files; they are listed.
        ValueError: an unknown experiment or setting, or no scene.
        SettingsChanged: `out` holds rows made with other settings; the differences are listed.
        DiskFull, MemoryError: see `experiments.stream`.
    """
    experiments = chosen(only)
    wanted = all_settings(experiments, settings or {})
    scenes = data if isinstance(data, Sequence) and not isinstance(data, str) else scenes_of(data or scenes_folder())
    processes = Processes.of_environment()
    lens = lens or attach_vision(device=processes.device)
    home = Path(out)
    stream(
        lens,
        experiments,
        scenes,
        home,
        settings=wanted,
        seed=seed,
        limit=limit,
        batching=batching,
        progress=progress,
        processes=processes,
    )
    if processes.is_first:
        write_report(home)
    processes.wait()
    return Results(home)


def chosen(only: str | Collection[str] | None) -> list[Experiment]:
    """Experiments by name, in the order of the report.

    Raises: ValueError for a name that is not among `EXPERIMENTS`, or for none at all.
    """
    names = list(EXPERIMENTS) if only is None else [only] if isinstance(only, str) else list(only)
    for name in names:
        if name not in EXPERIMENTS:
            raise ValueError(f"no experiment {name!r} among {', '.join(EXPERIMENTS)}{closest(name, EXPERIMENTS)}")
    if not names:
        raise ValueError(f"got no experiment; choose at least one of {', '.join(EXPERIMENTS)}")
    return [experiment for name, experiment in EXPERIMENTS.items() if name in names]


def all_settings(experiments: Sequence[Experiment[Any]], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the picture and of each experiment: the paper's, with the given changes.

    Raises:
        ValueError: settings for an experiment that does not run, or for an unknown field.
        TypeError: neither a mapping nor an instance of the settings' class.
    """
    classes: dict[str, type] = {"picture": PictureSettings, **{e.name: e.settings for e in experiments}}
    for name in given:
        if name not in classes:
            runs = ", ".join(classes)
            raise ValueError(f"got settings for {name!r}; this run has only {runs}{closest(name, classes)}")
    return {name: _settings(name, kind, given.get(name, {})) for name, kind in classes.items()}


def _settings(name: str, kind: type, given: Any) -> Any:
    if isinstance(given, kind):
        return given
    if not isinstance(given, Mapping):
        raise TypeError(f"settings of {name!r} must be {kind.__name__} or a mapping of its fields, got {given!r}")
    known = [field.name for field in fields(kind)]
    for key in given:
        if key not in known:
            raise ValueError(f"{name!r} has no setting {key!r}; it has {', '.join(known)}{closest(key, known)}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})
