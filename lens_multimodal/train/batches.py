"""Caption batches for `fit_projection`: shuffled by seed, preprocessed in threads, divided among processes.

There are two sources. A list of captioned pictures (`read_coco(...).captioned()`, `read_folder`,
`list(read_shards(...))`) can be indexed: batch n holds the same pictures whenever and wherever it is made, however many
processes share it. Shards too numerous to list are streamed through a shuffle buffer: with the same shards, settings
and number of processes, batch n of a process is always the same. Another number of processes draws another sample.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import count, islice
from random import Random

import numpy as np
import torch
from PIL import Image

from lens_multimodal.data.captioned import CaptionedPicture, Damage
from lens_multimodal.data.webdataset import Shards
from lens_multimodal.prompt.image_embedder import EncoderInput
from lens_multimodal.train.fit import BatchesFrom
from lens_multimodal.train.loss import CaptionBatch

Preprocess = Callable[[Image.Image], EncoderInput]
Opened = tuple[EncoderInput, tuple[int, int]]
"""The encoder's input, and the picture's width and height."""

EditCaption = Callable[[str], str]
"""Turns a stored caption into the text to learn, for example by removing the words of the prompt."""


def batches_of(
    pictures: Sequence[CaptionedPicture] | Shards,
    *,
    preprocessed: Preprocess,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    edit_caption: EditCaption | None = None,
    workers: int = 4,
    rank: int | None = None,
    world_size: int | None = None,
    damage: Damage | None = None,
) -> BatchesFrom:
    """Endless batches from a list of pictures: a new order in every epoch, one random caption of each picture.

    Args:
        pictures: the data.
        preprocessed: makes the encoder's input of a picture: `lens.images.preprocessed`.
        batch_size: pictures in one batch of one process: with `FitSettings`, `batch_size / gradient_accumulation /
            number of processes`.
        seed: of the order and of the choice of captions.
        shuffle: False keeps the order of the list.
        edit_caption: applied to each caption.
        workers: threads that open and preprocess pictures.
        rank: the number of this process; None asks torch.distributed when the batches are made.
        world_size: how many processes share each global batch.
        damage: counts pictures that cannot be read, which are left out of their batch.

    Raises:
        TypeError: shards, which cannot be indexed.
        ValueError: no picture, or numbers outside their range; later, a batch without any readable picture.
    """
    if isinstance(pictures, Shards):
        raise TypeError("shards cannot be indexed: pass list(shards) here, or stream them with batches_of_stream")
    if not len(pictures):
        raise ValueError("got no captioned pictures; check the folder and the filter that was applied")
    _check(batch_size=batch_size, workers=workers)
    found = Damage() if damage is None else damage

    @lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(len(pictures))

    def picture(number: int) -> CaptionedPicture:
        epoch, place = divmod(number, len(pictures))
        return pictures[int(order(epoch)[place]) if shuffle else place]

    def batches_from(first: int) -> Iterator[CaptionBatch]:
        own, shared = _place(rank, world_size)

        def numbered() -> Iterator[list[tuple[str, CaptionedPicture]]]:
            for batch in count(first):
                start = (batch * shared + own) * batch_size
                yield [(f"{seed}:{n}", picture(n)) for n in range(start, start + batch_size)]

        return _prepared(numbered(), preprocessed, edit_caption or str, workers, found)

    return batches_from


def batches_of_stream(
    shards: Shards,
    *,
    preprocessed: Preprocess,
    batch_size: int,
    seed: int = 0,
    buffer: int = 10_000,
    edit_caption: EditCaption | None = None,
    workers: int = 4,
    rank: int | None = None,
    world_size: int | None = None,
) -> BatchesFrom:
    """Endless batches from tar shards, which are never listed as a whole.

    Each process has its own shards, in a new order every epoch, and draws from a buffer of `buffer` pictures
    (their places in the files, not their pixels). To resume at batch n, the headers before it are read again; no
    picture is opened.

    Args:
        shards: the data; `shards.damage` counts what is left out.
        buffer: number of pictures to draw from; 1 keeps the order of the files.

    The other arguments are those of `batches_of`.

    Raises:
        ValueError: fewer shards than processes, or numbers outside their range; later, an epoch without any usable
            picture, or a batch without any readable picture.
    """
    _check(batch_size=batch_size, workers=workers, buffer=buffer)

    def batches_from(first: int) -> Iterator[CaptionBatch]:
        own, shared = _place(rank, world_size)
        drawn = _drawn(shards.of_rank(own, shared), Random(f"{seed}:{own}"), buffer)
        numbered = ((f"{seed}:{own}:{n}", picture) for n, picture in enumerate(drawn))
        rest = islice(numbered, first * batch_size, None)
        grouped = iter(lambda: list(islice(rest, batch_size)), [])
        return _prepared(grouped, preprocessed, edit_caption or str, workers, shards.damage)

    return batches_from


def _drawn(shards: Shards, random: Random, buffer: int) -> Iterator[CaptionedPicture]:
    """Pictures epoch by epoch, each drawn at random from the buffer; epochs do not mix."""
    while True:
        paths = list(shards.paths)
        if buffer > 1:
            random.shuffle(paths)
        waiting: list[CaptionedPicture] = []
        empty = True
        for picture in Shards(paths=tuple(paths), damage=shards.damage):
            empty = False
            waiting.append(picture)
            if len(waiting) >= buffer:
                yield _pop(waiting, random)
        if empty:
            raise ValueError(f"the {len(paths)} shards hold no usable picture ({shards.damage})")
        while waiting:
            yield _pop(waiting, random)


def _pop(waiting: list[CaptionedPicture], random: Random) -> CaptionedPicture:
    chosen = random.randrange(len(waiting))
    waiting[chosen], waiting[-1] = waiting[-1], waiting[chosen]
    return waiting.pop()


def _prepared(
    groups: Iterator[list[tuple[str, CaptionedPicture]]],
    preprocessed: Preprocess,
    edit_caption: EditCaption,
    workers: int,
    damage: Damage,
) -> Iterator[CaptionBatch]:
    """Batches in order; pictures are opened and preprocessed in threads, two batches ahead."""

    def opened(picture: CaptionedPicture) -> Opened | None:
        try:
            shown = picture.open()
            return preprocessed(shown), shown.size
        except (ValueError, FileNotFoundError):
            damage.add(picture.key, "unreadable pictures")
            return None

    waiting: deque[list[tuple[str, CaptionedPicture, Future[Opened | None]]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="pictures")
    try:
        for group in groups:
            waiting.append([(draw, picture, pool.submit(opened, picture)) for draw, picture in group])
            if len(waiting) > 2:
                yield _collected(waiting.popleft(), edit_caption)
        while waiting:
            yield _collected(waiting.popleft(), edit_caption)
    finally:
        for started in waiting:
            for _, _, future in started:
                future.cancel()
        pool.shutdown(wait=False)


def _collected(
    group: list[tuple[str, CaptionedPicture, "Future[Opened | None]"]], edit_caption: EditCaption
) -> CaptionBatch:
    ready = [(draw, picture, found) for draw, picture, future in group if (found := future.result()) is not None]
    if not ready:
        raise ValueError(
            f"none of the {len(group)} pictures of a batch can be read ({', '.join(p.key for _, p, _ in group[:5])})"
        )
    captions = [edit_caption(Random(draw).choice(picture.captions)) for draw, picture, _ in ready]
    inputs, sizes = [found[0] for _, _, found in ready], [found[1] for _, _, found in ready]
    return CaptionBatch(pixels=inputs, captions=captions, sizes=sizes)


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise ValueError(f"give rank and world_size together, got rank={rank} and world_size={world_size}")
    if rank is None or world_size is None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if distributed else (0, 1)
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must lie in 0..{world_size - 1}, got {rank}")
    return rank, world_size


def _check(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
