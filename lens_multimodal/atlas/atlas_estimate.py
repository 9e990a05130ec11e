"""How large an atlas will be and how long it will take, measured on a few pictures."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm.auto import tqdm

from lens_multimodal.arguments.boundary import public
from lens_multimodal.arguments.units import read_layers
from lens_multimodal.atlas.atlas_reading import TABLES
from lens_multimodal.atlas.atlas_run import CALIBRATION_BYTES, Counter, calibrated
from lens_multimodal.atlas.atlas_settings import SAVE_EVERY, AtlasSettings
from lens_multimodal.atlas.atlas_tables import write_tables
from lens_multimodal.atlas.chunk_pass import Run
from lens_multimodal.atlas.found_neurons import FoundNeurons
from lens_multimodal.atlas.state import STATES, State, merged, save_thresholds
from lens_multimodal.data import Scene
from lens_multimodal.prompt.captioning_model import CaptioningModel
from lens_multimodal.runs.picture_order import in_order
from lens_multimodal.runs.plan import Estimate, disk_of


@public
def estimate_atlas(
    lens: CaptioningModel,
    scenes: Sequence[Scene],
    settings: AtlasSettings | None = None,
    *,
    found: str | Path | None = None,
    n_pictures: int | None = None,
    n_batches: int = 3,
    out: str | Path | None = None,
) -> Estimate:
    """Size and time of `build_atlas` with the same arguments, without its site.

    The pass is measured on a few batches after one to warm up, the quantiles on one batch, the ablations on one
    noun, the tables on one layer.

    Args:
        n_pictures: for a data set of this many pictures like `scenes`, with the same categories; None for `scenes`
            themselves.
        n_batches: number of batches measured.
        out: the folder that will be written, whose disk is checked for space.

    Returns: `bytes` is the most that is on the disk at once, with one process.
    Raises: as `build_atlas`.
    """
    settings = settings or AtlasSettings()
    layers = read_layers(lens.model, settings.layers)
    total = len(scenes) if n_pictures is None else n_pictures
    order = in_order(scenes, settings.seed)[: n_batches * settings.batch_size]
    categories = sorted({category for scene in scenes for category in scene.categories})
    measured = replace(
        settings, n_calibration=min(settings.batch_size, settings.n_calibration), pictures_per_chunk=len(order)
    )
    run = Run(lens=lens, order=order, categories=categories, settings=measured, layers=layers)
    run.check_places()
    warm = replace(run, order=order[: settings.batch_size])
    place, free = disk_of(out)
    with TemporaryDirectory(dir=place, prefix=".estimate-") as folder, tqdm(disable=True) as bar:
        home = Path(folder)
        calibrated(warm, progress=False)
        started = time.perf_counter()
        save_thresholds(home, calibrated(warm, progress=False))
        calibration = (time.perf_counter() - started) / len(warm.order)
        Counter(warm, home, State.empty(warm)).count(0, bar)
        counter = Counter(run, home, State.empty(run))
        started = time.perf_counter()
        counter.count(0, bar)
        counting = (time.perf_counter() - started) / len(order)
        counter.state.save(home, 0)
        states = sum(file.stat().st_size for file in (home / STATES).iterdir())
        one = replace(run, layers=layers[:1])
        started = time.perf_counter()
        write_tables(one, home, merged(home, one), found=None)
        tables = time.perf_counter() - started
        of_tables = sum(file.stat().st_size for file in (home / TABLES).iterdir())
    ablations = 0.0 if found is None else _ablation_seconds(FoundNeurons.read(Path(found), lens), run, scenes)
    n_layers, sample = len(layers), min(total, settings.n_calibration)
    n_patches = sample * int(counter.state.n_patches) / max(1, int(counter.state.n_pictures.sum()))
    values = n_patches * lens.shape.d_mlp * next(lens.model.parameters()).dtype.itemsize
    passes = -(-n_layers // max(1, int(CALIBRATION_BYTES // values)))
    chunks = -(-total // settings.pictures_per_chunk)
    # A new save is written before the previous one is removed.
    saves = 2 if counting * total > SAVE_EVERY else 1
    moments = 16 * n_layers * lens.shape.d_mlp * chunks
    return Estimate(
        pictures=total,
        measured=len(order),
        bytes=saves * states + moments + of_tables * n_layers,
        seconds=counting * total + calibration * sample * passes + tables * n_layers + ablations,
        free_bytes=free,
    )


def _ablation_seconds(found: FoundNeurons, run: Run, scenes: Sequence[Scene]) -> float:
    """Seconds for all ablations of found neurons, measured on the first noun that has the most neurons."""
    whole = replace(run, order=in_order(scenes, run.settings.seed))
    nouns = found.to_ablate(whole)
    if not nouns:
        return 0.0
    largest = max(nouns, key=lambda noun: len(noun.neurons))
    started = time.perf_counter()
    found.ablate(whole, largest)
    return (time.perf_counter() - started) / len(largest.neurons) * sum(len(noun.neurons) for noun in nouns)
