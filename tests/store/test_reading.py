"""Reading a store: every way gives the rows of the files."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from lens_multimodal.store import Activations
from tests.experiments.stream_world import make_scenes
from tests.lenses import random_lens
from tests.store.store_world import AT, store_of


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Activations:
    home = tmp_path_factory.mktemp("store")
    return store_of(random_lens(home), make_scenes(home / "pictures", 11), home / "out")


@pytest.fixture(scope="module")
def whole(store) -> torch.Tensor:
    """All rows of the first hook point, read by safetensors itself."""
    return torch.cat([load_file(path)[AT[0]] for path in sorted((store.folder / "shards").iterdir())])


def test_any_rows_in_any_order(store, whole):
    rows = np.random.default_rng(0).integers(0, len(store), 50)
    assert torch.equal(store.take(rows, AT[0]), whole[torch.from_numpy(rows)])
    assert store.take([], AT[0]).shape == (0, *whole.shape[1:])
    with pytest.raises(TypeError, match="bool"):
        store.take(np.ones(len(store), dtype=bool), AT[0])
    for wrong in ([-1], [len(store)]):
        with pytest.raises(ValueError, match=str(len(store) - 1)):
            store.take(wrong, AT[0])


def test_rows_of_a_picture_and_of_a_patch(store, whole):
    for number, image_id in enumerate(store.pictures):
        assert torch.equal(store.of_picture(image_id, AT[0]), whole[9 * number : 9 * number + 9])
    assert torch.equal(store.of_patch(2, 1, AT[0]), whole[7::9])
    with pytest.raises(ValueError, match="12345"):
        store.of_picture(12345, AT[0])
    with pytest.raises(ValueError, match=r"\(3, 0\)"):
        store.of_patch(3, 0, AT[0])


def test_the_hook_point_must_be_one_of_the_store(store):
    with pytest.raises(TypeError, match="resid_post"):
        store.take([0])
    with pytest.raises(ValueError, match="hook_embed"):
        store.take([0], "hook_embed")


def test_every_epoch_holds_every_row_once_in_another_order(store, whole):
    batches = list(store.batches(11, AT[0], seed=3, epochs=2))
    assert {len(batch) for batch in batches} == {11}
    assert len(batches) == 2 * len(store) // 11
    drawn = torch.cat(batches)
    first, second = drawn[: len(store)], drawn[len(store) : 2 * len(store)]
    assert torch.equal(first.sort(dim=0).values, whole.sort(dim=0).values)
    assert not torch.equal(first[: len(second)], second)
    again = torch.cat(list(store.batches(11, AT[0], seed=3, epochs=2)))
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn, torch.cat(list(store.batches(11, AT[0], seed=4, epochs=2))))


def test_batches_of_some_rows_only(store, whole):
    chosen = store.rows.query("patch_row == 1").index
    drawn = torch.cat(list(store.batches(3, AT[0], rows=chosen, epochs=1)))
    assert torch.equal(drawn.sort(dim=0).values, whole[chosen].sort(dim=0).values)
    for wrong in (0, len(chosen) + 1):
        with pytest.raises(ValueError, match="batch_size"):
            store.batches(wrong, AT[0], rows=chosen)


def test_without_epochs_batches_never_end(store):
    endless = store.batches(len(store), AT[0])
    assert len([next(endless) for _ in range(5)]) == 5


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_reads_every_row_once(store, whole, workers):
    loader = DataLoader(store.dataset(AT[0]), batch_size=7, shuffle=True, num_workers=workers)
    read = torch.cat(list(loader))
    assert torch.equal(read.sort(dim=0).values, whole.sort(dim=0).values)
    assert torch.equal(store.dataset(AT[0])[5], whole[5])


def test_a_pickled_store_reads_the_same(store, whole):
    store.take([0], AT[0])
    copy = pickle.loads(pickle.dumps(store))
    assert torch.equal(copy.take([4, 2], AT[0]), whole[[4, 2]])


def test_many_shards_do_not_stay_open(store, whole, monkeypatch):
    from lens_multimodal.store import reading

    monkeypatch.setattr(reading, "OPEN_AT_ONCE", 2)
    fresh = Activations(store.folder)
    assert torch.equal(fresh.take(range(len(store)), AT[0]), whole)
    assert len(fresh._open) == 2


def test_folders_that_are_no_store(tmp_path):
    with pytest.raises(FileNotFoundError, match="manifest"):
        Activations(tmp_path)
    (tmp_path / "manifest.json").write_text('{"kind": "other"}')
    with pytest.raises(ValueError, match="other"):
        Activations(tmp_path)


def test_a_damaged_shard_is_named(store, tmp_path):
    import shutil

    copied = Path(shutil.copytree(store.folder, tmp_path / "copy"))
    (copied / "shards" / "000002.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="000002"):
        Activations(copied)
