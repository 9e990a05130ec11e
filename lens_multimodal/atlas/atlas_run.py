"""Build an atlas: quantiles from a sample, one pass over all pictures, tables; continued after any interruption."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lens_multimodal import transformer
from lens_multimodal.arguments.boundary import ArgumentValueError, public
from lens_multimodal.arguments.units import read_layers
from lens_multimodal.atlas.atlas_reading import TABLES, Atlas
from lens_multimodal.atlas.atlas_settings import SAVE_EVERY, AtlasSettings
from lens_multimodal.atlas.atlas_tables import write_tables
from lens_multimodal.atlas.chunk_pass import Run, category_parts
from lens_multimodal.atlas.found_neurons import NEURON, FoundNeurons, mean_ablations, measure_ablations
from lens_multimodal.atlas.layer_tally import BatchFacts, LayerTally, moments, thresholds_of
from lens_multimodal.atlas.state import State, merged, read_thresholds, remove_states, save_moments, save_thresholds
from lens_multimodal.data import Scene
from lens_multimodal.prompt.captioning_model import CaptioningModel
from lens_multimodal.runs.claim import claim_over
from lens_multimodal.runs.picture_order import in_order
from lens_multimodal.runs.processes import Processes
from lens_multimodal.runs.provenance import plain

FORMAT = 1
CALIBRATION_BYTES = 2**32
"""Activations held at once while the quantiles are taken; fewer bytes mean more passes over the sample."""


@public
def build_atlas(
    lens: CaptioningModel,
    scenes: Sequence[Scene],
    out: str | Path,
    settings: AtlasSettings | None = None,
    *,
    found: str | Path | None = None,
    save_every: float | int = SAVE_EVERY,
    progress: bool = True,
) -> Atlas:
    """What every neuron of some layers responds to over a data set; started again, it continues where it stopped.

    One pass, after a first look at a sample. Nothing grows with the data set but 16 bytes for each neuron and chunk.
    Under `accelerate launch` or `torchrun` the chunks are shared; one process and several give equal tables.

    Args:
        scenes: pictures with objects (`data.scenes_in`). Without objects the atlas has no concepts.
        out: a folder for this atlas alone.
        settings: which layers, and how they are measured; None for the defaults.
        found: a folder of `reproduce` with the same lens, whose `discovery` rows say for which nouns a neuron was
            found, and how much it contributed to them.
        save_every: seconds between saves of all counts.

    Raises:
        ValueError: no scene, pictures with the same id, layers that do not exist, nothing readable, `found` in another
            lens, a model whose image positions show no place in the picture.
        FileNotFoundError: a folder `found` without rows of `discovery`.
        SettingsChanged: `out` holds an atlas made in another way.
    """
    if not len(scenes) or len({scene.id for scene in scenes}) < len(scenes):
        raise ArgumentValueError(f"expected pictures, each with its own id, got {len(scenes)}", "scenes")
    home = Path(out)
    settings = settings or AtlasSettings()
    layers = read_layers(lens.model, settings.layers)
    categories = sorted({category for scene in scenes for category in scene.categories})
    order = in_order(scenes, settings.seed)
    run = Run(lens=lens, order=order, categories=categories, settings=settings, layers=layers)
    run.check_places()
    neurons = None if found is None else FoundNeurons.read(Path(found), lens)
    processes = Processes.of_environment()
    if processes.is_first:
        manifest = {
            "format": FORMAT,
            "kind": "atlas",
            "settings": plain({**asdict(settings), "layers": layers}),
            "categories": categories,
            "found_sha256": neurons and neurons.digest,
        }
        claim_over(home, lens, scenes, manifest)
        if not (home / TABLES).is_dir() and read_thresholds(home) is None:
            save_thresholds(home, calibrated(run, progress=progress))
    processes.wait()
    if not (home / TABLES).is_dir():
        _tally(run, home, processes, save_every=save_every, progress=progress)
        table = None
        if neurons is not None:
            nouns = neurons.to_ablate(run)
            measure_ablations(neurons, run, nouns, home, processes, progress=progress)
            processes.wait()
            table = neurons.by_neuron().merge(mean_ablations(home, len(nouns)), on=NEURON, how="left")
        processes.wait()
        if processes.is_first:
            write_tables(run, home, merged(home, run), found=table)
            remove_states(home)
    processes.wait()
    return Atlas(home)


@torch.no_grad()
def calibrated(run: Run, *, progress: bool, budget_bytes: int = CALIBRATION_BYTES) -> dict[int, Tensor]:
    """The quantiles of every neuron over the image patches of the first pictures, `[level, neuron]` by layer."""
    places = range(min(len(run.order), run.settings.n_calibration))
    dtype = next(run.lens.model.parameters()).dtype
    n_values = sum(len(run.patches_of(run.order[place])) for place in places) * run.lens.shape.d_mlp
    at_once = max(1, budget_bytes // (n_values * dtype.itemsize))
    result: dict[int, Tensor] = {}
    layers = run.layers
    groups = [layers[i : i + at_once] for i in range(0, len(layers), at_once)]
    for group in tqdm(groups, desc="quantiles", unit="group of layers", disable=not progress, delay=2.0):
        kept: dict[int, list[Tensor]] = {layer: [] for layer in group}

        def keep(layer: int, activation: Tensor, facts: BatchFacts, kept: dict[int, list[Tensor]] = kept) -> None:
            kept[layer].append(activation[facts.is_patch].to(dtype))

        for pairs in run.batches(places, with_objects=False):
            readable = [pair for pair in pairs if pair.picture.pixels is not None]
            if readable:
                run.forward(readable, group, keep)
        for layer in group:
            if not kept[layer]:
                raise ValueError(f"none of the first {len(places)} pictures can be read")
            values = torch.cat(kept.pop(layer))
            columns = values.split(1024, dim=1)
            result[layer] = torch.cat([thresholds_of(own, run.settings.levels) for own in columns], dim=1).cpu()
    return result


def _tally(run: Run, home: Path, processes: Processes, *, save_every: float | int, progress: bool) -> None:
    """Count the chunks of this process that no saved state holds."""
    size = run.settings.pictures_per_chunk
    done = {chunk for state in State.all_in(home) for chunk in state.chunks}
    own = processes.share(-(-len(run.order) // size))
    missing = [chunk for chunk in own if chunk not in done]
    counter = Counter(run, home, State.of_rank(home, processes.rank) or State.empty(run))
    saved = time.monotonic()
    n_pictures = sum(len(_places(run, chunk)) for chunk in missing)
    with processes.bar(total=n_pictures, progress=progress) as bar:
        for chunk in missing:
            counter.count(chunk, bar)
            if chunk == missing[-1] or time.monotonic() - saved >= save_every:
                counter.state.save(home, processes.rank)
                saved = time.monotonic()


def _places(run: Run, chunk: int) -> range:
    size = run.settings.pictures_per_chunk
    return range(chunk * size, min((chunk + 1) * size, len(run.order)))


@dataclass(eq=False)
class Counter:
    """Adds chunk after chunk to a state."""

    run: Run
    home: Path
    state: State

    def __post_init__(self) -> None:
        found = read_thresholds(self.home)
        assert found is not None
        device = {layer: transformer.w_out(self.run.lens.model, layer).device for layer in found}
        self.thresholds = {layer: own.to(device[layer]) for layer, own in found.items()}
        for layer, tally in self.state.layers.items():
            on_device = {name: tensor.to(device[layer]) for name, tensor in tally.tensors().items()}
            self.state.layers[layer] = LayerTally(**on_device)

    def count(self, chunk: int, bar: tqdm) -> None:
        sums: dict[int, Tensor] = {}
        on = self.run.settings.on

        def seen(layer: int, activation: Tensor, facts: BatchFacts) -> None:
            self.state.layers[layer].add(activation, facts, self.thresholds[layer], on)
            sums[layer] = sums.get(layer, 0) + moments(activation, facts.is_patch)

        for pairs in self.run.batches(_places(self.run, chunk)):
            readable = [pair for pair in pairs if pair.picture.pixels is not None]
            if readable:
                self.run.forward(readable, self.run.layers, seen)
            self.state.add_pictures(pairs, *category_parts(self.run, readable))
            bar.update(len(pairs))
        broken = [layer for layer, own in sums.items() if not bool(own.isfinite().all())]
        if broken:
            raise FloatingPointError(f"activations of layers {broken} are infinite or NaN in chunk {chunk} of pictures")
        save_moments(self.home, chunk, {layer: own.cpu() for layer, own in sums.items()})
        self.state.chunks.append(chunk)
