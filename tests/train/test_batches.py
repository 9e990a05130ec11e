"""Which pictures a batch holds does not depend on when, where and by how many processes it is made."""

import json
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image

from lens_multimodal import Preprocessing
from lens_multimodal.data import CaptionedPicture, Damage, Shards, read_coco, read_folder, read_shards
from lens_multimodal.train import BatchesFrom, CaptionBatch, batches_of, batches_of_stream

SIDE = Preprocessing(height=4, width=6, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
N = 11


def preprocessed(picture: Image.Image) -> torch.Tensor:
    return SIDE([picture])[0]


def grey(number: int) -> Image.Image:
    return Image.new("RGB", (6, 4), (number, number, number))


@pytest.fixture
def pictures(tmp_path: Path) -> list[CaptionedPicture]:
    """Picture i is a uniform grey, i / 255; its captions are `i a`, `i b` and `i c`."""
    rows = []
    for number in range(N):
        grey(number).save(tmp_path / f"{number:02d}.png")
        rows.append({"file_name": f"{number:02d}.png", "captions": [f"{number} {letter}" for letter in "abc"]})
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return read_folder(tmp_path)


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    """Six shards with 2, 3, ... 7 pictures."""
    number = 0
    for index in range(6):
        with tarfile.open(tmp_path / f"{index}.tar", "w") as tar:
            for _ in range(index + 2):
                out = BytesIO()
                grey(number).save(out, "PNG")
                for ending, content in (("png", out.getvalue()), ("txt", f"{number} a".encode())):
                    info = tarfile.TarInfo(f"{number:03d}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, BytesIO(content))
                number += 1
    return read_shards(tmp_path)


def numbers(batch: CaptionBatch) -> list[int]:
    """Which pictures a batch holds, checked against its captions."""
    shown = (torch.stack(list(batch.pixels)).mean(dim=(1, 2, 3)) * 255).round().int().tolist()
    assert shown == [int(caption.split()[0]) for caption in batch.captions]
    return shown


def take(batches: Iterator[CaptionBatch], n: int) -> list[CaptionBatch]:
    return list(islice(batches, n))


def same(one: list[CaptionBatch], other: list[CaptionBatch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(torch.stack(list(a.pixels)), torch.stack(list(b.pixels)))
        assert list(a.captions) == list(b.captions)


def flat(batches: list[CaptionBatch]) -> list[int]:
    return [number for batch in batches for number in numbers(batch)]


def test_every_epoch_shows_every_picture_once(pictures: list[CaptionedPicture]) -> None:
    found = flat(take(batches_of(pictures, preprocessed=preprocessed, batch_size=3)(0), 11))
    epochs = [found[i * N : (i + 1) * N] for i in range(3)]
    assert all(sorted(epoch) == list(range(N)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != list(range(N))


def test_pixels_are_the_preprocessed_pictures(pictures: list[CaptionedPicture]) -> None:
    (batch,) = take(batches_of(pictures, preprocessed=preprocessed, batch_size=N, shuffle=False)(0), 1)
    assert torch.equal(torch.stack(list(batch.pixels)), SIDE([grey(i) for i in range(N)]))
    assert batch.sizes == [(6, 4)] * N


def test_batch_n_is_the_same_whenever_it_is_made(pictures: list[CaptionedPicture]) -> None:
    batches_from = batches_of(pictures, preprocessed=preprocessed, batch_size=4, workers=3)
    whole = take(batches_from(0), 12)
    for first in (1, 5, 11):
        same(take(batches_from(first), 12 - first), whole[first:])
    same(take(batches_of(pictures, preprocessed=preprocessed, batch_size=4, workers=1)(0), 12), whole)


def test_seeds(pictures: list[CaptionedPicture]) -> None:
    one, two = (batches_of(pictures, preprocessed=preprocessed, batch_size=N, seed=seed)(0) for seed in (0, 1))
    assert flat(take(one, 2)) != flat(take(two, 2))


def test_a_caption_at_random(pictures: list[CaptionedPicture]) -> None:
    batches_from = batches_of(pictures, preprocessed=preprocessed, batch_size=N, edit_caption=str.upper)
    batches = take(batches_from(0), 30)
    letters = Counter(caption.split()[1] for batch in batches for caption in batch.captions)
    assert set(letters) == set("ABC")
    assert min(letters.values()) > 70
    of_first = [c for batch in batches for c in batch.captions if c.startswith("0 ")]
    assert len(set(of_first)) == 3


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_each_global_batch(world_size: int, pictures: list[CaptionedPicture]) -> None:
    """Their batches in rank order are the batches that one process makes of the whole, captions included."""
    whole = take(batches_of(pictures, preprocessed=preprocessed, batch_size=2 * world_size)(3), 6)
    parts = [
        take(batches_of(pictures, preprocessed=preprocessed, batch_size=2, rank=rank, world_size=world_size)(3), 6)
        for rank in range(world_size)
    ]
    for batch, shares in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(torch.stack(list(batch.pixels)), torch.stack([own for s in shares for own in s.pixels]))
        assert list(batch.captions) == [caption for share in shares for caption in share.captions]


def test_unreadable_pictures_are_left_out_and_counted(pictures: list[CaptionedPicture]) -> None:
    assert isinstance(pictures[3].picture, Path)
    assert isinstance(pictures[5].picture, Path)
    pictures[3].picture.write_bytes(b"no picture")
    pictures[5].picture.unlink()
    damage = Damage()
    batches = batches_of(pictures, preprocessed=preprocessed, batch_size=N, damage=damage)(0)
    with pytest.warns(UserWarning, match=r"\b1 unreadable pictures.* 0[35]\.png"):
        found = flat(take(batches, 1))
    batches.close()  # type: ignore[attr-defined]
    assert sorted(found) == [0, 1, 2, 4, 6, 7, 8, 9, 10]
    assert damage.by_reason["unreadable pictures"] >= 2


@pytest.mark.filterwarnings("ignore:.*left out so far")
def test_a_batch_without_a_readable_picture(pictures: list[CaptionedPicture]) -> None:
    for picture in pictures:
        assert isinstance(picture.picture, Path)
        picture.picture.unlink()
    with pytest.raises(ValueError, match=r"\b4 pictures .*\b\d\d\.png"):
        next(batches_of(pictures, preprocessed=preprocessed, batch_size=4)(0))


def test_threads_end_with_the_batches(pictures: list[CaptionedPicture]) -> None:
    others = set(threading.enumerate())
    batches = batches_of(pictures, preprocessed=preprocessed, batch_size=2)(0)
    next(batches)
    own = [thread for thread in threading.enumerate() if thread not in others]
    assert any(thread.name.startswith("pictures") for thread in own)
    batches.close()  # type: ignore[attr-defined]
    for thread in own:
        thread.join(timeout=600)
        assert not thread.is_alive()


def stream(shards: Shards, **options: int) -> BatchesFrom:
    return batches_of_stream(shards, preprocessed=preprocessed, batch_size=3, **options)


@pytest.mark.parametrize("buffer", [1, 4, 100])
def test_streamed_epochs_are_whole(buffer: int, shards: Shards) -> None:
    """27 pictures are nine batches of three; the order changes with the epoch unless nothing is shuffled."""
    batches = stream(shards, buffer=buffer)(0)
    first, second = flat(take(batches, 9)), flat(take(batches, 9))
    assert sorted(first) == sorted(second) == list(range(27))
    assert (first == second == list(range(27))) == (buffer == 1)


@pytest.mark.parametrize("first", [1, 8, 9, 20])
def test_streamed_batch_n_is_the_same_whenever_it_is_made(first: int, shards: Shards) -> None:
    whole = take(stream(shards, buffer=5)(0), 24)
    same(take(stream(shards, buffer=5)(first), 24 - first), whole[first:])
    assert flat(take(stream(shards, buffer=5, seed=1)(0), 24)) != flat(whole)


def test_streaming_processes_have_their_own_shards(shards: Shards) -> None:
    """Shards 0, 2, 4 hold 12 pictures and 1, 3, 5 hold 15: after an epoch of each, all were seen, none twice."""
    parts = [flat(take(stream(shards, buffer=4, rank=r, world_size=2)(0), n)) for r, n in ((0, 4), (1, 5))]
    assert sorted(parts[0] + parts[1]) == list(range(27))


def test_listed_shards_are_an_indexable_source(shards: Shards) -> None:
    listed = list(shards)
    one = take(batches_of(listed, preprocessed=preprocessed, batch_size=4)(2), 3)
    halves = [batches_of(listed, preprocessed=preprocessed, batch_size=2, rank=r, world_size=2)(2) for r in range(2)]
    assert flat(one) == [n for pair in zip(*(take(h, 3) for h in halves), strict=True) for n in flat(list(pair))]


@pytest.mark.filterwarnings("ignore:.*left out so far")
def test_streams_without_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"x" * 1024)
    with pytest.raises(ValueError, match=r"\b1 shards hold .*\b1 shards cut off"):
        next(stream(read_shards(tmp_path / "a.tar"))(0))


def test_scenes_in_coco_format(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    grey(7).save(tmp_path / "images" / "a.png")
    images = [{"id": 1, "file_name": "a.png", "height": 4, "width": 6}]
    captions = [{"id": 1, "image_id": 1, "caption": "7 of it"}]
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    scenes = read_coco(tmp_path, with_objects=False)
    assert flat(take(batches_of(scenes.captioned(), preprocessed=preprocessed, batch_size=2)(0), 1)) == [7, 7]


def test_shards_are_not_accepted_as_a_list(shards: Shards) -> None:
    with pytest.raises(TypeError, match=r"list\(shards\).*batches_of_stream"):
        batches_of(shards, preprocessed=preprocessed, batch_size=2)


def test_refused_numbers(pictures: list[CaptionedPicture]) -> None:
    with pytest.raises(ValueError, match="captioned"):
        batches_of([], preprocessed=preprocessed, batch_size=2)
    with pytest.raises(ValueError, match=r"batch_size .* 1, got 0"):
        batches_of(pictures, preprocessed=preprocessed, batch_size=0)
    with pytest.raises(ValueError, match=r"rank=1 .*world_size=None"):
        batches_of(pictures, preprocessed=preprocessed, batch_size=2, rank=1)(0)
    with pytest.raises(ValueError, match=r"rank .*0\.\.1, got 2"):
        batches_of(pictures, preprocessed=preprocessed, batch_size=2, rank=2, world_size=2)(0)
