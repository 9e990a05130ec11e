"""Write activations of a whole data set: shards appear whole or not at all, and are the same after any interruption.

A shard holds the rows of a fixed run of pictures, taken in fixed batches. So its bytes depend neither on the number of
processes nor on interruptions, and what is missing is seen from the files alone.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from lens_multimodal.arguments.boundary import ArgumentValueError, public
from lens_multimodal.data import Scene
from lens_multimodal.files import write_atomically
from lens_multimodal.prompt.captioning_model import CaptioningModel
from lens_multimodal.runs.background_threads import Background, ahead
from lens_multimodal.runs.claim import claim_over
from lens_multimodal.runs.disk_full import disk_full
from lens_multimodal.runs.opened_pictures import OpenedPicture, open_picture
from lens_multimodal.runs.processes import Processes
from lens_multimodal.runs.provenance import plain
from lens_multimodal.store.chosen_rows import BatchOfRows, rows_of
from lens_multimodal.store.reading import SHARDS, Activations, shard_file
from lens_multimodal.store.store_settings import StoreSettings, check_categories

FORMAT = 1


@public
def write_activations(
    lens: CaptioningModel,
    scenes: Sequence[Scene],
    out: str | Path,
    settings: StoreSettings,
    *,
    progress: bool = True,
) -> Activations:
    """Store activations at chosen positions of every picture; started again, it continues where it stopped.

    Under `accelerate launch` or `torchrun` every process writes a share of the shards; `out` must then be a folder
    that all of them can reach.

    Args:
        scenes: pictures of a data set (`read_coco`, `data.pictures_as_scenes`).
        out: a folder of its own.

    Raises:
        ValueError: no scene, unknown hook points or categories, pictures with the same id.
        SettingsChanged: `out` holds activations made in another way; the differences are listed.
        FloatingPointError: activations that `dtype` cannot hold.
        DiskFull: nothing more can be written; what was written is safe.
    Cost: one forward pass for each batch, no logits of image positions. The start hashes all weights.
    """
    home = Path(out)
    names = check(scenes, settings)
    processes = Processes.of_environment()
    # Unknown hook points are refused before anything is written.
    rows_of(lens, [_blank(lens, scenes[0], settings)], settings, names)
    if processes.is_first:
        described = plain(settings.described(lens))
        own = {"format": FORMAT, "kind": "activations", "settings": described, "categories": names}
        claim_over(home, lens, scenes, own)
    processes.wait()
    write_shards(lens, scenes, home, settings, names, processes=processes, progress=progress)
    processes.wait()
    return Activations(home)


def check(scenes: Sequence[Scene], settings: StoreSettings) -> list[str]:
    """The categories of the data set, in alphabetical order.

    Raises: ArgumentValueError for no scene, two pictures with the same id, or categories that none shows.
    """
    if not len(scenes):
        raise ArgumentValueError("the data set has no picture", "scenes")
    if len({scene.id for scene in scenes}) < len(scenes):
        raise ArgumentValueError("several pictures have the same id", "scenes")
    names = sorted({category for scene in scenes for category in scene.categories}) if settings.with_objects else []
    if settings.with_objects and not names:
        raise ArgumentValueError('no picture has annotated objects, which positions="objects" needs', "positions")
    check_categories(settings.categories, names)
    return names


def write_shards(
    lens: CaptioningModel,
    scenes: Sequence[Scene],
    home: Path,
    settings: StoreSettings,
    categories: Sequence[str],
    *,
    processes: Processes,
    progress: bool,
) -> None:
    """The shards of this process that do not exist yet; pictures are opened ahead, files written in the background."""
    size = settings.pictures_per_shard
    own = processes.share(-(-len(scenes) // size))
    missing = [number for number in own if not shard_file(home, number).is_file()]
    (home / SHARDS).mkdir(parents=True, exist_ok=True)
    wanted = [scene for number in missing for scene in scenes[number * size : (number + 1) * size]]
    opened = ahead(
        lambda scene: open_picture(scene, lens.images, with_objects=settings.with_objects),
        wanted,
        waiting=2 * settings.batch_size,
    )
    with processes.bar(total=len(wanted), progress=progress) as bar, Background() as background:
        for number in missing:
            shard = _Shard(home, number)
            left = len(scenes[number * size : (number + 1) * size])
            while left:
                batch = [next(opened) for _ in range(min(settings.batch_size, left))]
                left -= len(batch)
                readable = [picture for picture in batch if picture.pixels is not None]
                rows = rows_of(lens, readable, settings, categories) if readable else None
                background.run(shard.add, batch, rows, _event())
                bar.update(len(batch))
            background.run(shard.write)


class _Shard:
    """The rows of one file; lives in the background thread."""

    def __init__(self, home: Path, number: int) -> None:
        self.home, self.number = home, number
        self.pieces: dict[str, list[Tensor]] = {}
        self.pictures: list[tuple[int, int]] = []
        self.failed: list[dict[str, Any]] = []

    def add(self, batch: Sequence[OpenedPicture], rows: BatchOfRows | None, event: torch.cuda.Event | None) -> None:
        self.failed += [
            {"image_id": picture.scene.id, "file": picture.scene.path.name, "error": picture.error}
            for picture in batch
            if picture.pixels is None
        ]
        if rows is None:
            return
        readable = [picture for picture in batch if picture.pixels is not None]
        self.pictures += [(p.scene.id, n) for p, n in zip(readable, rows.per_picture, strict=True)]
        for name, tensor in rows.columns.tensors().items():
            self.pieces.setdefault(f"row.{name}", []).append(tensor)
        for name, tensor in rows.activations.items():
            self.pieces.setdefault(name, []).append(_to_cpu(tensor, event))
            if not bool(rows.finite[name]):
                raise FloatingPointError(
                    f"activations of {name} are infinite or NaN as {tensor.dtype} in the pictures from "
                    f"{readable[0].scene.path.name} on: store a wider dtype"
                )

    def write(self) -> None:
        tensors = {}
        for name in list(self.pieces):
            tensors[name] = torch.cat(self.pieces.pop(name))
        # One entry, since safetensors does not keep the order of several.
        about = {"shard": json.dumps({"pictures": self.pictures, "failed": self.failed}, ensure_ascii=False)}
        path = shard_file(self.home, self.number)
        try:
            with write_atomically(path, durable=True) as partial:
                save_file(tensors, partial, metadata=about)
        except OSError as error:
            done = sum(1 for _ in path.parent.glob("[0-9]*.safetensors"))
            raise disk_full(error, self.home, safe=done * len(self.pictures)) from error


def _event() -> torch.cuda.Event | None:
    """Marks on the GPU that everything handed over has been computed."""
    if not torch.cuda.is_available():
        return None
    event = torch.cuda.Event()
    event.record()
    return event


def _to_cpu(tensor: Tensor, event: torch.cuda.Event | None) -> Tensor:
    """A copy on the CPU that does not hold up the GPU's next forward pass."""
    if event is None or not tensor.is_cuda:
        return tensor.cpu()
    stream = _copies(tensor.device)
    with torch.cuda.stream(stream):
        stream.wait_event(event)
        tensor.record_stream(stream)
        return tensor.cpu()


_STREAMS: dict[torch.device, torch.cuda.Stream] = {}


def _copies(device: torch.device) -> torch.cuda.Stream:
    if device not in _STREAMS:
        _STREAMS[device] = torch.cuda.Stream(device)
    return _STREAMS[device]


def _blank(lens: CaptioningModel, scene: Scene, settings: StoreSettings) -> OpenedPicture:
    """A picture of the size of the first one. Raises: ArgumentValueError where objects are wanted and have no place."""
    n_positions = lens.images.n_positions(scene.width, scene.height)
    if settings.with_objects and not lens.images.layout(scene.width, scene.height, n_positions=n_positions).is_placed:
        raise ArgumentValueError(
            f'the image positions of {lens.images.name} show no place in the picture, which positions="objects" needs',
            "positions",
        )
    picture = Image.new("RGB", (scene.width, scene.height))
    everywhere = {name: torch.ones(n_positions) for name in scene.categories}
    return OpenedPicture(scene=scene, picture=picture, pixels=lens.images.preprocessed(picture), covered=everywhere)
