"""The counts of a process on disk while an atlas is being built, and their merging."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lens_multimodal.atlas.chunk_pass import Pair, Run
from lens_multimodal.atlas.found_neurons import ABLATIONS
from lens_multimodal.atlas.layer_tally import LayerTally
from lens_multimodal.files import write_atomically

STATES, MOMENTS, THRESHOLDS = "states", "moments", "thresholds.safetensors"


@dataclass(kw_only=True, eq=False)
class State:
    """What one process has counted."""

    layers: dict[int, LayerTally]
    parts: Int[Tensor, "half category"]
    """Parts of patches that belong to each category."""
    pictures: Int[Tensor, "half category"]
    """Pictures with a patch at least half covered by a category."""
    n_pictures: Int[Tensor, " half"]
    n_patches: Int[Tensor, ""]
    chunks: list[int] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def empty(cls, run: Run) -> "State":
        c = len(run.categories)
        s = run.settings
        tallies = {
            layer: LayerTally.empty(
                n_neurons=run.lens.shape.d_mlp,
                n_categories=c,
                n_levels=len(s.levels),
                n_top=s.n_top,
                device=torch.device("cpu"),
            )
            for layer in run.layers
        }
        return cls(
            layers=tallies,
            parts=torch.zeros(2, c, dtype=torch.int64),
            pictures=torch.zeros(2, c, dtype=torch.int64),
            n_pictures=torch.zeros(2, dtype=torch.int64),
            n_patches=torch.tensor(0),
        )

    @classmethod
    def of_rank(cls, home: Path, rank: int) -> "State | None":
        path = home / STATES / f"r{rank}.safetensors"
        return _read(path) if path.is_file() else None

    @classmethod
    def all_in(cls, home: Path) -> "list[State]":
        return [_read(path) for path in sorted((home / STATES).glob("r*.safetensors"))]

    def add_pictures(self, pairs: Sequence[Pair], parts: Tensor, pictures: Tensor) -> None:
        """Count a batch's pictures and categories."""
        self.parts += parts
        self.pictures += pictures
        for pair in pairs:
            if pair.picture.pixels is None:
                scene = pair.picture.scene
                self.failed.append({"image_id": scene.id, "file": scene.path.name, "error": pair.picture.error})
            else:
                self.n_pictures[pair.place % 2] += 1
                self.n_patches += len(pair.patches)

    def save(self, home: Path, rank: int) -> None:
        tensors = {f"{n}.{name}": t.cpu() for n, own in self.layers.items() for name, t in own.tensors().items()}
        tensors |= {"parts": self.parts, "pictures": self.pictures}
        tensors |= {"n_pictures": self.n_pictures, "n_patches": self.n_patches}
        about = {"state": json.dumps({"chunks": self.chunks, "failed": self.failed, "layers": list(self.layers)})}
        with write_atomically(home / STATES / f"r{rank}.safetensors", durable=True) as partial:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata=about)


def merged(home: Path, run: Run) -> State:
    """The counts of all processes, with failures in the order of the pictures."""
    total = State.empty(run)
    for state in State.all_in(home):
        for layer, tally in total.layers.items():
            tally.merge(state.layers[layer])
        total.parts += state.parts
        total.pictures += state.pictures
        total.n_pictures += state.n_pictures
        total.n_patches += state.n_patches
        total.chunks += state.chunks
        total.failed += state.failed
    total.chunks.sort()
    total.failed.sort(key=lambda failure: failure["image_id"])
    return total


def save_moments(home: Path, chunk: int, sums: dict[int, Tensor]) -> None:
    with write_atomically(home / MOMENTS / f"{chunk:06d}.safetensors", durable=True) as partial:
        save_file({str(layer): own for layer, own in sums.items()}, partial)


def all_moments(home: Path, layer: int) -> Tensor:
    """Sums of activations and of squares of a layer, `[2, neuron]`, added in the order of the chunks."""
    total: Any = 0
    for path in sorted((home / MOMENTS).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            if str(layer) in file.keys():  # noqa: SIM118
                total = total + file.get_tensor(str(layer))
    return total


def save_thresholds(home: Path, thresholds: dict[int, Tensor]) -> None:
    with write_atomically(home / THRESHOLDS, durable=True) as partial:
        save_file({str(layer): own.contiguous() for layer, own in thresholds.items()}, partial)


def read_thresholds(home: Path) -> dict[int, Tensor] | None:
    """The quantiles `[level, neuron]` by layer; None before they were taken."""
    path = home / THRESHOLDS
    return {int(layer): own for layer, own in sorted(load_file(path).items())} if path.is_file() else None


def remove_states(home: Path) -> None:
    """Remove what only an unfinished atlas needs."""
    for name in (STATES, MOMENTS, ABLATIONS):
        shutil.rmtree(home / name, ignore_errors=True)


def _read(path: Path) -> State:
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["state"])
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    layers = {
        layer: LayerTally(
            **{name.removeprefix(f"{layer}."): t for name, t in tensors.items() if name.startswith(f"{layer}.")}
        )
        for layer in about["layers"]
    }
    return State(
        layers=layers,
        parts=tensors["parts"],
        pictures=tensors["pictures"],
        n_pictures=tensors["n_pictures"],
        n_patches=tensors["n_patches"],
        chunks=about["chunks"],
        failed=about["failed"],
    )
