"""Fitting: what is trained, what stays, and that splitting or interrupting a run changes nothing."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lens_multimodal import VisionLens
from lens_multimodal.train import BatchesFrom, CaptionBatch, FitSettings, captions_of, fit_projection
from tests.lenses import SQUARE, linear, picture, random_lens
from tests.models import MODEL_CLASSES

WORDS = [" dog", " big cat", " red boat sea", " sun", " key hat", " oak tree", " fish", " big red cup"]
SETTINGS = FitSettings(
    steps=4, batch_size=8, learning_rate=0.05, warmup=1, dropout=0.2, prompt=" picture", checkpoint_every=2
)


@pytest.fixture
def lens(tmp_path: Path) -> VisionLens:
    return random_lens(tmp_path)


def batches(lens: VisionLens, size: int) -> BatchesFrom:
    """Eight pictures in an endless cycle, with captions of unequal lengths."""
    pixels = lens.vision.preprocessing([picture(seed) for seed in range(len(WORDS))])

    def batches_from(first: int) -> Iterator[CaptionBatch]:
        while True:
            rows = [(first * size + i) % len(WORDS) for i in range(size)]
            yield CaptionBatch(pixels=pixels[rows], captions=[WORDS[row] for row in rows])
            first += 1

    return batches_from


def fit(lens: VisionLens, folder: Path, settings: FitSettings = SETTINGS, **options: Any) -> nn.Linear:
    """A fit of the random map, always from the same start."""
    lens.projection.linear.load_state_dict(linear(SQUARE.d_vision).state_dict())
    data = options.pop("data", None) or batches(lens, settings.batch_of_one_process(1))
    return fit_projection(lens, data, settings=settings, folder=folder, progress=False, **options)


def digest(*parts: nn.Module) -> str:
    seen = hashlib.sha256()
    for part in parts:
        for name, tensor in sorted(part.state_dict().items()):
            seen.update(
                name.encode() + tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
            )
    return seen.hexdigest()


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_learns_the_map_and_nothing_else(kind: str, tmp_path: Path) -> None:
    lens = random_lens(tmp_path, kind=kind)
    before, start = digest(lens.model, lens.vision), digest(linear(SQUARE.d_vision))
    settings = replace(SETTINGS, steps=40, dropout=0.0, gradient_clipping=1e9)
    fitted = fit(lens, tmp_path / "fit", settings)
    found = losses(tmp_path / "fit")
    assert found[-1] < 0.8 * found[0]
    assert digest(lens.model, lens.vision) == before
    assert digest(fitted) != start
    assert fitted is lens.projection.linear
    assert not fitted.weight.requires_grad
    assert all(p.grad is None for part in (lens.model, lens.vision) for p in part.parameters())


def test_saved_files_hold_the_trained_map(lens: VisionLens, tmp_path: Path) -> None:
    fitted = fit(lens, tmp_path / "fit")
    limber = torch.load(tmp_path / "fit" / "proj.ckpt", weights_only=True)
    for state in (limber, load_file(tmp_path / "fit" / "projection.safetensors")):
        assert torch.equal(state["weight"], fitted.weight)
        assert torch.equal(state["bias"], fitted.bias)


def test_settings_of_one_step_written_out(lens: VisionLens, tmp_path: Path) -> None:
    """One step by hand: mean over all tokens, clipping, AdamW, the rate of the warm-up."""
    from lens_multimodal.train.loss import token_losses

    settings = replace(SETTINGS, steps=1, dropout=0.0, warmup=2, weight_decay=0.1, gradient_clipping=0.3)
    expected = lens.projection.linear = linear(SQUARE.d_vision).requires_grad_(True)
    optimizer = torch.optim.AdamW(expected.parameters(), lr=0.05 * 1 / 2, weight_decay=0.1)
    loss = token_losses(lens, next(batches(lens, 8)(0)), prompt=" picture").mean()
    loss.backward()
    assert float(nn.utils.clip_grad_norm_(expected.parameters(), 0.3)) > 0.3
    optimizer.step()
    lens.projection.linear = linear(SQUARE.d_vision)
    fitted = fit(lens, tmp_path / "fit", settings)
    torch.testing.assert_close(fitted.weight, expected.weight, rtol=1e-5, atol=1e-6)
    assert losses(tmp_path / "fit") == pytest.approx([loss.item()], rel=1e-5)


def test_muon_steps_along_the_gradients_polar_factor(lens: VisionLens, tmp_path: Path) -> None:
    """Every singular direction of the weight's gradient gets about the same step; the bias takes AdamW's."""
    from lens_multimodal.train.loss import token_losses

    settings = replace(SETTINGS, steps=1, dropout=0.0, warmup=0, learning_rate=0.02, muon_rate=0.01)
    start = lens.projection.linear = linear(SQUARE.d_vision).requires_grad_(True)
    token_losses(lens, next(batches(lens, 8)(0)), prompt=" picture").mean().backward()
    lens.projection.linear = linear(SQUARE.d_vision)
    assert start.weight.grad is not None
    assert start.bias.grad is not None
    u, sizes, v = torch.linalg.svd(start.weight.grad, full_matrices=False)
    clear = sizes > 0.05 * sizes[0]
    fitted = fit(lens, tmp_path / "fit", settings)
    rows, columns = start.weight.shape
    step = (start.weight - fitted.weight).detach() / (0.01 * max(1.0, rows / columns) ** 0.5)
    along = torch.einsum("dk,dv,kv->k", u, step, v)[clear]
    assert clear.sum() > 4
    assert ((along > 0.6) & (along < 1.3)).all()
    torch.testing.assert_close((start.bias - fitted.bias).detach(), 0.02 * start.bias.grad.sign(), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("accumulation", [2, 8])
def test_accumulation_equals_one_larger_batch(accumulation: int, lens: VisionLens, tmp_path: Path) -> None:
    """With dropout, and although the batches hold unequal numbers of tokens."""
    whole = fit(lens, tmp_path / "whole").weight.detach().clone()
    parts = fit(lens, tmp_path / "parts", replace(SETTINGS, gradient_accumulation=accumulation)).weight
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    other = fit(lens, tmp_path / "other", replace(SETTINGS, seed=1)).weight
    assert not torch.allclose(other, whole, atol=1e-3)


@pytest.mark.parametrize(("precision", "muon_rate"), [("no", None), ("bf16", None), ("fp16", None), ("fp16", 0.01)])
def test_resumed_equals_uninterrupted_to_the_bit(
    precision: str, muon_rate: float | None, lens: VisionLens, tmp_path: Path
) -> None:
    """Killed in step 4, after the checkpoint of step 2: weights, files and the log are those of one run."""
    settings = replace(SETTINGS, steps=5, gradient_accumulation=2, precision=precision, muon_rate=muon_rate)
    fit(lens, tmp_path / "whole", settings)

    def killed(first: int) -> Iterator[CaptionBatch]:
        for number, batch in enumerate(batches(lens, 4)(first), start=first):
            if number == 7:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        fit(lens, tmp_path / "parts", settings, data=killed)
    assert len(losses(tmp_path / "parts")) == 3
    with (tmp_path / "parts" / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "lo')
    torch.manual_seed(12345)
    fit(lens, tmp_path / "parts", settings)
    for name in ("projection.safetensors", "log.jsonl"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    finished = (tmp_path / "parts" / "projection.safetensors").read_bytes()
    fit(lens, tmp_path / "parts", settings)
    assert (tmp_path / "parts" / "projection.safetensors").read_bytes() == finished


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.05), ("fp16", 0.02)])
def test_mixed_precision_is_close_and_keeps_float32_weights(
    precision: str, tolerance: float, lens: VisionLens, tmp_path: Path
) -> None:
    """Two fits one after another in one process, as in a notebook."""
    settings = replace(SETTINGS, dropout=0.0)
    fit(lens, tmp_path / "full", settings)
    fitted = fit(lens, tmp_path / precision, replace(settings, precision=precision))
    assert fitted.weight.dtype == torch.float32
    full, mixed = losses(tmp_path / "full"), losses(tmp_path / precision)
    assert mixed == pytest.approx(full, rel=tolerance)
    assert mixed != full


def test_half_precision_language_model(lens: VisionLens, tmp_path: Path) -> None:
    lens.model.to(torch.bfloat16)
    lens.vision.to(torch.bfloat16)
    before = digest(lens.model, lens.vision)
    fitted = fit(lens, tmp_path / "fit")
    assert fitted.weight.dtype == torch.float32
    assert digest(lens.model, lens.vision) == before


def test_the_callers_random_numbers_are_left_alone(lens: VisionLens, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    data = batches(lens, 8)
    torch.manual_seed(5)
    fit_projection(lens, data, settings=SETTINGS, folder=tmp_path / "fit", progress=False)
    assert torch.equal(torch.rand(3), expected)


def test_a_language_model_in_training_mode_drops_nothing(tmp_path: Path) -> None:
    """The only dropout is that on the projected vectors."""
    lens = random_lens(tmp_path)
    dropouts = [m for part in (lens.model, lens.vision) for m in part.modules() if isinstance(m, nn.Dropout)]
    assert dropouts
    settings = replace(SETTINGS, dropout=0.0)
    expected = fit(lens, tmp_path / "eval", settings).weight.detach().clone()
    for module in dropouts:
        module.p = 0.5
    lens.model.train()
    lens.vision.train()
    assert torch.equal(fit(lens, tmp_path / "train", settings).weight, expected)


def test_captions_while_training(lens: VisionLens, tmp_path: Path) -> None:
    """They are logged when due, and evaluation does not change the training."""
    settings = replace(SETTINGS, evaluate_every=3)
    silent = fit(lens, tmp_path / "silent", settings).weight.detach().clone()
    pictures = {"first": picture(0), "second": picture(1)}
    evaluate = captions_of(pictures, text=" picture", max_new_tokens=5)
    assert torch.equal(fit(lens, tmp_path / "fit", settings, evaluate=evaluate).weight, silent)
    records = [json.loads(line) for line in (tmp_path / "fit" / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "captions" in r] == [3, 4]
    now = {name: lens.caption(picture, " picture", max_new_tokens=5) for name, picture in pictures.items()}
    assert records[-1]["captions"] == now
    with pytest.raises(ValueError, match="no picture"):
        captions_of({})


def test_data_that_do_not_fit_the_settings(lens: VisionLens, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\b8 pictures.* 4: .*batch_size=4"):
        fit(lens, tmp_path / "a", replace(SETTINGS, gradient_accumulation=2), data=batches(lens, 8))

    def three(first: int) -> Iterator[CaptionBatch]:
        for number, batch in enumerate(batches(lens, 4)(first), start=first):
            if number == 3:
                return
            yield batch

    with pytest.raises(ValueError, match=r"step 1\b.* 2 batches"):
        fit(lens, tmp_path / "b", replace(SETTINGS, gradient_accumulation=2), data=three)


def test_a_loss_that_is_not_finite_stops_before_the_weights(lens: VisionLens, tmp_path: Path) -> None:
    start = linear(SQUARE.d_vision).weight

    def infinite(_module: nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor:
        return output * float("inf")

    handle = lens.model.unembed.register_forward_hook(infinite)  # type: ignore[union-attr]
    with pytest.raises(FloatingPointError, match=r"\b(nan|inf) .*step 0\b"):
        fit(lens, tmp_path / "fit")
    handle.remove()
    assert torch.equal(lens.projection.linear.weight, start)


def test_checkpoints_of_other_runs(lens: VisionLens, tmp_path: Path) -> None:
    fit(lens, tmp_path / "fit")
    with pytest.raises(ValueError, match=r"\bsteps: 4 .* 9 .*\n +seed: 0 .* 2 "):
        fit(lens, tmp_path / "fit", replace(SETTINGS, steps=9, seed=2))
    for content in (b"", b"not a checkpoint", (tmp_path / "fit" / "checkpoint.pt").read_bytes()[:500]):
        (tmp_path / "fit" / "checkpoint.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged"):
            fit(lens, tmp_path / "fit")


def test_a_map_of_several_layers(lens: VisionLens, tmp_path: Path) -> None:
    """All its weights are trained, from where they are; its file is a state dict."""
    wide = nn.Linear(SQUARE.d_vision, 8)
    deep = lens.projection.linear = nn.Sequential(wide, nn.GELU(), nn.Linear(8, lens.shape.d_model))
    before = {name: value.clone() for name, value in deep.state_dict().items()}
    settings = replace(SETTINGS, steps=20, dropout=0.0)
    fitted = fit_projection(lens, batches(lens, 8), settings=settings, folder=tmp_path / "fit", progress=False)
    assert fitted is deep
    found = load_file(tmp_path / "fit" / "projection.safetensors")
    for name, value in deep.state_dict().items():
        assert torch.equal(found[name], value)
        assert not torch.equal(before[name], value)
    assert losses(tmp_path / "fit")[-1] < losses(tmp_path / "fit")[0]
    assert not (tmp_path / "fit" / "proj.ckpt").exists()


def test_half_precision_is_kept_outside_of_training(lens: VisionLens, tmp_path: Path) -> None:
    """Small steps are not lost to rounding: the file holds float32, the lens its own precision."""
    lens.projection.linear.to(torch.bfloat16)
    start = lens.projection.linear.weight.detach().clone()
    settings = replace(SETTINGS, learning_rate=1e-6, warmup=0)
    fitted = fit_projection(lens, batches(lens, 8), settings=settings, folder=tmp_path / "fit", progress=False)
    assert fitted.weight.dtype == torch.bfloat16
    found = load_file(tmp_path / "fit" / "projection.safetensors")["weight"]
    assert found.dtype == torch.float32
    assert 0 < float((found - start.float()).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps .* 1, got 0"),
        ({"dropout": 1.0}, r"dropout .*\[0, 1\), got 1\.0"),
        ({"precision": "int8"}, "precision .*no, bf16 or fp16, got 'int8'"),
        ({"muon_rate": -0.1}, r"muon_rate .* -0\.1"),
        ({"learning_rate": 0.0}, r"learning_rate .* 0\.0"),
        ({"learning_rate": float("nan")}, "learning_rate .* nan"),
        ({"gradient_clipping": 0.0}, r"gradient_clipping .* 0\.0"),
        ({"warmup": -1}, "warmup .* -1,"),
        ({"gradient_accumulation": 3}, "batch_size 256 .* 3 batches .* 1 processes"),
    ],
)
def test_settings_outside_their_range(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FitSettings(**wrong)


def test_limbers_settings_are_the_default() -> None:
    settings = FitSettings()
    assert (settings.steps, settings.batch_size, settings.learning_rate, settings.dropout) == (15_000, 256, 8e-4, 0.1)
    assert settings.prompt == ""
