"""Two processes, as torchrun and `accelerate launch` start them, equal one process with the same global batch."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lens_multimodal import VisionLens
from lens_multimodal.data import CaptionedPicture
from lens_multimodal.train import FitSettings, batches_of, fit_projection
from tests.forked import assert_finished, two_forked
from tests.lenses import SQUARE, linear, picture, random_lens

CAPTIONS = [" dog", " big cat", " red boat sea", " sun", " key hat", " oak tree", " fish", " big red cup", "", " sea"]


def settings(accumulation: int) -> FitSettings:
    return FitSettings(
        steps=4, batch_size=8, gradient_accumulation=accumulation, learning_rate=0.05, checkpoint_every=2, warmup=1
    )


def pictures(folder: Path) -> list[CaptionedPicture]:
    return [
        CaptionedPicture(key=str(i), picture=folder / f"{i}.png", captions=(caption, caption + " sun"))
        for i, caption in enumerate(CAPTIONS)
    ]


def fit(home: Path, folder: Path, *, batch_size: int, accumulation: int) -> VisionLens:
    lens = random_lens(folder)
    data = batches_of(pictures(home), preprocessed=lens.images.preprocessed, batch_size=batch_size)
    fit_projection(lens, data, settings=settings(accumulation), folder=folder / "fit", progress=False)
    return lens


def fit_beside_another(home: Path, accumulation: int) -> None:
    """One of the two processes; the other starts from another random map, which must not matter."""
    from accelerate import PartialState

    rank = PartialState(cpu=True).process_index
    own = home / f"words_{rank}"
    lens = random_lens(own)
    lens.projection.linear.load_state_dict(linear(SQUARE.d_vision, seed=1 + rank).state_dict())
    data = batches_of(pictures(home), preprocessed=lens.images.preprocessed, batch_size=4 // accumulation)
    fit_projection(lens, data, settings=settings(accumulation), folder=home / "two", progress=False)
    torch.save(lens.projection.linear.state_dict(), home / f"rank_{rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [2])
def test_two_processes_equal_one(accumulation: int, tmp_path: Path) -> None:
    for number in range(len(CAPTIONS)):
        picture(number).save(tmp_path / f"{number}.png")
    assert_finished(two_forked(lambda: fit_beside_another(tmp_path, accumulation)))
    one = fit(tmp_path, tmp_path / "one", batch_size=8, accumulation=1).projection.linear
    ranks = [torch.load(tmp_path / f"rank_{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(ranks[0]["weight"], ranks[1]["weight"])
    assert torch.equal(ranks[0]["bias"], ranks[1]["bias"])
    assert torch.equal(load_file(tmp_path / "two" / "projection.safetensors")["weight"], ranks[0]["weight"])
    torch.testing.assert_close(ranks[0]["weight"], one.weight.detach(), rtol=1e-4, atol=1e-5)
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("two", "one/fit")
    ]
    assert [r["step"] for r in logs[0]] == [1, 2, 3, 4]
    assert [r["loss"] for r in logs[0]] == pytest.approx([r["loss"] for r in logs[1]], rel=1e-5)
