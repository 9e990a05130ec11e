"""The encoder's training: its two losses, what it may see, and resuming after an interruption."""

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recipes.tiny import vision
from recipes.tiny.objectives import (
    block_mask,
    covered_patches,
    learn_codebook,
    patch_contrast,
    patch_shares,
    visual_tokens,
)
from recipes.tiny.probe import probe, read_labelled
from recipes.tiny.scenes import of_pixels
from recipes.tiny.settings import Settings, toy
from tests.recipes.test_scenes import random_pictures, seeded, write_pictures

SPLITS = ["train", "train", "held_out_drawing", "train", "train", "held_out_style"] * 4


def tiny(steps: int = 6) -> Settings:
    settings = toy()
    shape = {"image_size": 32, "d_vision": 24, "d_head": 40, "n_heads": 2}
    course = {"batch": 8, "steps": steps, "warmup": 2, "decay_share": 0.1}
    return replace(
        settings,
        pictures=replace(settings.pictures, size=32),
        vision=replace(settings.vision, **shape, **course),
    )


@pytest.fixture
def work(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "pictures", random_pictures(len(SPLITS)), SPLITS)
    return tmp_path


def test_patch_contrast_against_a_loop() -> None:
    first, second = (torch.nn.functional.normalize(torch.randn(4, 3, 5, generator=seeded(s)), dim=-1) for s in (0, 1))
    terms = []
    for anchors, others in ((first, second), (second, first)):
        for t in range(4):
            for p in range(3):
                positive = (anchors[t, p] @ others[t, p] / 0.2).exp()
                negatives = sum(
                    (anchors[t, p] @ others[u, q] / 0.2).exp() for u in range(4) if u != t for q in range(3)
                )
                terms.append(-(positive / (positive + negatives)).log())
    torch.testing.assert_close(patch_contrast(first, second, temperature=0.2), torch.stack(terms).mean())


def test_covered_patches_are_covered_at_least_half_and_drawn_by_cover() -> None:
    label = torch.zeros(2, 16, 16, dtype=torch.int64)
    label[0, :8, :8] = 1
    label[0, :8, 8:11] = 1
    label[0, 9:15, 9:15] = 2
    label[1, :3, :3] = 1
    present = torch.tensor([[True, True, False], [True, True, False]])
    patches, seen = covered_patches(label, present, patch_size=8, count=200, generator=seeded())
    assert set(patches[0].tolist()) == {0}
    assert set(patches[1].tolist()) == {3}
    assert set(patches[2].tolist()) == {0}
    assert seen.tolist() == [True, True, True, False]
    shares = patch_shares(label, slots=3, patch_size=8)
    for patch in range(4):
        rows, columns = divmod(patch, 2)
        part = label[0, 8 * rows : 8 * rows + 8, 8 * columns : 8 * columns + 8]
        for slot in range(3):
            assert shares[0, slot, patch] == (part == slot + 1).float().mean()


def test_block_masks_hide_the_same_share_in_blocks() -> None:
    hidden = block_mask(20_000, side=8, share=0.4, generator=seeded())
    assert (hidden.sum(dim=1) == round(0.4 * 64)).all()
    square = hidden.view(20_000, 8, 8)
    alike = (square[:, 1:] == square[:, :-1]).float().mean()
    assert alike > 0.7, "rows of random masks would agree on 52 % of their patches"
    assert square.float().mean(0).min() > 0.1


def test_visual_tokens_are_the_nearest_codes() -> None:
    image = torch.rand(3, 3, 16, 16, generator=seeded())
    codebook = torch.rand(10, 3 * 64, generator=seeded(1))
    tokens = visual_tokens(image, codebook, patch_size=8)
    for scene in range(3):
        for patch in range(4):
            row, column = divmod(patch, 2)
            pixels = image[scene, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].reshape(-1)
            assert tokens[scene, patch] == (codebook - pixels).square().sum(dim=1).argmin()


def test_the_codebook_finds_clusters() -> None:
    centres = torch.rand(4, 3, 1, 1, generator=seeded())
    image = centres.repeat(8, 1, 8, 8) + 0.01 * torch.randn(32, 3, 8, 8, generator=seeded(1))
    codebook = learn_codebook(image, codes=8, patch_size=8, generator=seeded(2))
    nearest = (codebook[visual_tokens(image, codebook, patch_size=8)[:, 0]] - image.flatten(1)).abs().mean()
    assert nearest < 0.02


def test_encode_is_the_encoder_itself_and_hidden_patches_are_not_seen() -> None:
    torch.manual_seed(0)
    settings = tiny().vision
    beit = vision.build_encoder(vision.encoder_config(settings)).eval()
    for parameter in beit.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    image = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(vision.encode(beit, image), beit.forward_features((image - 0.5) / 0.5)[:, 1:])
    hidden = torch.zeros(2, 16, dtype=torch.bool)
    hidden[:, 0] = True
    token = torch.randn(24)
    changed = image.clone()
    changed[:, :, :8, :8] = 0.5
    torch.testing.assert_close(vision.encode(beit, image, hidden, token), vision.encode(beit, changed, hidden, token))
    assert not torch.allclose(vision.encode(beit, image), vision.encode(beit, changed))


def test_two_views_show_the_same_cutouts_in_other_company() -> None:
    cutouts = of_pixels(random_pictures(40), side=32)
    views = vision.two_views(cutouts, 12, size=32, generator=seeded())
    drawn = [view.pictures[view.pictures >= 0] for view in views]
    assert torch.equal(drawn[0].sort().values, drawn[1].sort().values)
    assert len(drawn[0].unique()) == len(drawn[0]) == 24
    assert not torch.equal(views[0].pictures, views[1].pictures)
    with pytest.raises(ValueError, match=r"\b24 cut-outs.* 7\b"):
        vision.two_views(of_pixels(random_pictures(7), side=32), 12, size=32, generator=seeded())


def test_features_of_both_views_are_paired_by_cutout() -> None:
    """With features that contain the cut-out's id, each pair must agree."""
    settings, cutouts = tiny().vision, of_pixels(random_pictures(40), side=32)
    paired = []
    for view in vision.two_views(cutouts, 12, size=96, generator=seeded()):
        padded = torch.cat([torch.full((12, 1), -1), view.pictures], dim=1)
        ids = padded.gather(1, view.label.flatten(1)).view(12, 12, 8, 12, 8)
        features = ids.transpose(2, 3).reshape(12, 144, 64).mode(dim=-1).values[..., None].float()
        chosen, seen = vision._of_objects(features, view, settings, seeded(1))
        paired.append((chosen, seen))
    both = paired[0][1] & paired[1][1]
    agree = (paired[0][0] == paired[1][0])[both].float().mean()
    assert agree > 0.95
    assert len(paired[0][0][both, 0].unique()) > 15


def test_losses_fall() -> None:
    torch.manual_seed(0)
    settings = replace(tiny().vision, batch=16, learning_rate=3e-3, warmup=1)
    run = vision.Run(settings, of_pixels(random_pictures(16), side=32), 0, torch.device("cpu"))
    losses = [run.advance(1.0) for _ in range(60)]
    for name in ("contrast", "masked"):
        early, late = (sum(step[name] for step in part) / 10 for part in (losses[:10], losses[-10:]))
        assert late < early - 0.2, (name, early, late)


def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    work: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path_factory.mktemp("whole")
    write_pictures(whole / "pictures", random_pictures(len(SPLITS)), SPLITS)
    expected = vision.run(tiny(20), whole)
    monkeypatch.setattr(vision, "CHECKPOINT_SECONDS", 0.0)
    advance, calls = vision.Run.advance, []

    def killed(run: vision.Run, share: float) -> dict[str, float]:
        calls.append(run.step)
        if len(calls) in (5, 17):
            raise KeyboardInterrupt
        return advance(run, share)

    monkeypatch.setattr(vision.Run, "advance", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            vision.run(tiny(20), work)
    report = vision.run(tiny(20), work)
    assert (report["stable_steps"], report["steps"]) == (18, 20) == (expected["stable_steps"], expected["steps"])
    ends = [load_file(folder / "vision" / "encoder.safetensors") for folder in (whole, work)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_finished_run_continues_from_before_the_decay(work: Path) -> None:
    first = vision.run(tiny(10), work)
    assert vision.run(tiny(10), work) == first
    before = torch.load(work / "vision" / "checkpoint.pt", weights_only=True)
    assert before["step"] == 9
    longer = vision.run(tiny(20), work)
    assert (longer["stable_steps"], longer["steps"]) == (18, 20)


def test_another_session_can_start_from_the_small_checkpoint(work: Path) -> None:
    vision.run(tiny(10), work)
    folder = work / "vision"
    assert (folder / "resume_fp16.pt").stat().st_size < 0.62 * (folder / "checkpoint.pt").stat().st_size
    for name in ("checkpoint.pt", "decay.pt", "done.json", "encoder.safetensors"):
        (folder / name).unlink()
    report = vision.run(tiny(20), work)
    assert (report["stable_steps"], report["steps"]) == (18, 20)
    assert all(value.isfinite().all() for value in load_file(folder / "encoder.safetensors").values())


def test_a_time_limit_ends_the_constant_part(work: Path) -> None:
    report = vision.run(tiny(10_000), work, minutes=0.01)
    assert report["stable_steps"] < 9000
    assert report["steps"] == report["stable_steps"] + max(1, round(report["stable_steps"] / 9))


def test_only_training_pictures_are_drawn_and_only_pixels_and_split_are_read(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table here has no noun, name or style, and there is no vocabulary: training needs none of them."""
    drawn: set[int] = set()
    compose = vision.compose

    def spy(cutouts, pictures, **settings):
        drawn.update(pictures[pictures >= 0].tolist())
        return compose(cutouts, pictures, **settings)

    monkeypatch.setattr(vision, "compose", spy)
    vision.run(tiny(10), work)
    pixels = np.load(work / "pictures" / "pixels.npy")
    shown = {hashlib.sha256(pixels[id_].tobytes()).hexdigest() for id_ in drawn}
    with (work / "pictures" / "pictures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == {"id", "sha256", "split"}
    assert shown == {row["sha256"] for row in rows if row["split"] == "train"}


def test_the_encoder_on_disk_loads_into_timm(work: Path) -> None:
    vision.run(tiny(10), work)
    described = json.loads((work / "vision" / "encoder.json").read_text())
    beit = vision.build_encoder(described["config"])
    beit.load_state_dict(load_file(work / "vision" / "encoder.safetensors"))
    assert beit.forward_features(torch.rand(2, 3, 32, 32)).shape == (2, 17, 24)


def test_the_probe_finds_what_is_there_and_nothing_else(tmp_path: Path) -> None:
    """Red, green and blue drawings are distinguished; drawings with shuffled nouns are not."""
    pixels = random_pictures(36)
    pixels[..., :3] //= 4
    for row in range(36):
        pixels[row, ..., row % 3] += 150
    splits = ["train"] * 18 + ["held_out_drawing"] * 9 + ["held_out_style"] * 9
    colours = [["red", "green", "blue"][row % 3] for row in range(36)]
    shuffled = [colours[row] for row in torch.randperm(36, generator=seeded(1)).tolist()]
    torch.manual_seed(0)
    beit = vision.build_encoder(vision.encoder_config(tiny().vision)).eval()
    figures = []
    for name, nouns in (("true", colours), ("shuffled", shuffled)):
        folder = write_pictures(tmp_path / name, pixels, splits, concept=nouns)
        data = {
            kind: read_labelled(folder, split=split, vocabulary=["blue", "green", "red"], side=32)
            for kind, split in (("known", "train"), ("held_out_drawing", "held_out_drawing"))
        }
        figures.append(probe(beit, data, classes=3, image_size=32, patch_size=8, scenes=240))
    assert figures[0]["known"] > 0.85
    assert figures[0]["held_out_drawing"] > 0.85
    assert figures[0]["held_out_drawing_patch"] > 0.7
    assert figures[1]["held_out_drawing"] < 0.75
