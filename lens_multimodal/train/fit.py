"""Fitting a projection: the one linear map is trained on captions, everything else stays frozen (LiMBeR)."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from lens_multimodal.lens import VisionLens
from lens_multimodal.model import host
from lens_multimodal.model.projection import save_linear


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a projection is trained; the defaults are LiMBeR's.

    Raises: ValueError for numbers outside their range.
    """

    steps: int = 15_000
    batch_size: int = 256
    gradient_accumulation: int = 1
    """Batches per step; LiMBeR reaches 256 pictures in eight."""
    learning_rate: float = 8e-4
    warmup: int = 0
    """Steps of linear warm-up; afterwards a cosine to zero at `steps`."""
    weight_decay: float = 0.0
    dropout: float = 0.1
    """On the projected vectors, while training only."""
    gradient_clipping: float = 1.0
    prompt: str = ""
    """Text between the image and its caption; LiMBeR trains without."""
    precision: str = "no"
    """`no`, `bf16` or `fp16`: accelerate's mixed precision. The projection and its optimizer stay float32."""
    seed: int = 0
    checkpoint_every: int = 500
    evaluate_every: int = 500

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "gradient_accumulation", "checkpoint_every", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if self.precision not in ("no", "bf16", "fp16"):
            raise ValueError(f"precision must be no, bf16 or fp16, got {self.precision!r}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")


@dataclass(frozen=True, kw_only=True, eq=False)
class CaptionBatch:
    """Preprocessed pictures and their captions."""

    pixels: Float[Tensor, "batch 3 height width"]
    captions: Sequence[str]


BatchesFrom = Callable[[int], Iterator[CaptionBatch]]
"""Batches from a given batch number on: a resumed run sees what the uninterrupted one would have seen."""


def fit_projection(
    lens: VisionLens,
    batches_from: BatchesFrom,
    *,
    settings: FitSettings | None = None,
    folder: Path,
    evaluate: Callable[[int, VisionLens], dict[str, Any]] | None = None,
    progress: bool = True,
) -> nn.Linear:
    """Train `lens.projection.linear` in place on next-token loss of the captions.

    Args:
        lens: language model, encoder and an `nn.Linear` to train.
        batches_from: gives the batches from a batch number on.
        folder: gets `checkpoint.pt` (resume), `log.jsonl`, and at the end `proj.ckpt` (LiMBeR's format) and
            `projection.safetensors`.
        evaluate: called every `evaluate_every` steps with the step and the lens; what it returns is logged.

    Returns:
        The trained map, which is also the lens's.

    Raises:
        TypeError: the lens's projection is no `nn.Linear`.
        ValueError: a caption batch of the wrong size, or data that end before `steps`.
        FloatingPointError: the loss is not finite.
    """
    from accelerate import Accelerator

    settings = settings or FitSettings()
    linear = lens.projection.linear
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"only an nn.Linear can be fitted here, the lens has a {type(linear).__name__}")
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(
        mixed_precision=settings.precision,
        gradient_accumulation_steps=settings.gradient_accumulation,
        cpu=host.device(lens.model).type == "cpu",
    )
    for part in (lens.model, lens.vision):
        part.requires_grad_(False)
    linear.requires_grad_(True).float()
    trained, optimizer = accelerator.prepare(
        linear,
        torch.optim.AdamW(linear.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay),
    )
    step = _resume(folder, linear, optimizer, settings)
    batches = batches_from(step * settings.gradient_accumulation)
    with tqdm(total=settings.steps, initial=step, desc="projection", unit="step", disable=not progress) as bar:
        while step < settings.steps:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _rate(step, settings)
            torch.manual_seed(settings.seed * 1_000_003 + step)
            loss = 0.0
            for batch in _next(batches, settings.gradient_accumulation, step):
                with accelerator.accumulate(trained), accelerator.autocast():
                    one = caption_loss(lens, trained, batch, settings)
                    accelerator.backward(one)
                    loss += float(one.detach()) / settings.gradient_accumulation
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(linear.parameters(), settings.gradient_clipping)
                        optimizer.step()
                        optimizer.zero_grad()
            if loss != loss:
                raise FloatingPointError(f"the loss is not a number at step {step}: lower the learning rate")
            step += 1
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}")
            if accelerator.is_main_process:
                record: dict[str, Any] = {"step": step, "loss": loss}
                if evaluate is not None and (step % settings.evaluate_every == 0 or step == settings.steps):
                    record |= evaluate(step, lens)
                with (folder / "log.jsonl").open("a") as log:
                    log.write(json.dumps(record) + "\n")
                if step % settings.checkpoint_every == 0 or step == settings.steps:
                    _checkpoint(folder, step, linear, optimizer, settings)
    linear.requires_grad_(False)
    if accelerator.is_main_process:
        save_linear(linear, folder / "proj.ckpt")
        save_linear(linear, folder / "projection.safetensors")
    return linear


def caption_loss(lens: VisionLens, linear: nn.Module, batch: CaptionBatch, settings: FitSettings) -> Float[Tensor, ""]:
    """Mean next-token loss over the captions' tokens and their end token, the image and the prompt unscored."""
    if len(batch.pixels) != len(batch.captions) or not len(batch.captions):
        raise ValueError(f"got {len(batch.pixels)} pictures and {len(batch.captions)} captions; they go in pairs")
    like = next(lens.vision.parameters())
    with torch.no_grad():
        features = lens.vision(batch.pixels.to(device=like.device, dtype=like.dtype))
    vectors = linear(features.to(next(linear.parameters()).device).float())
    vectors = nn.functional.dropout(vectors, settings.dropout, training=True)
    vectors = vectors.reshape(len(vectors), -1, lens.shape.d_model)
    stored = [lens.virtual_tokens.store(own) for own in vectors]
    prompt = lens.encode(settings.prompt)
    captions = [[*lens.encode(caption), lens.stop_ids[0]] for caption in batch.captions]
    longest = max(map(len, captions))
    start = vectors.shape[1] + len(prompt)
    padding = lens.stop_ids[0]
    tokens = torch.tensor(
        [
            [*s.ids.tolist(), *prompt, *caption, *[padding] * (longest - len(caption))]
            for s, caption in zip(stored, captions, strict=True)
        ],
        device=host.device(lens.model),
    )
    scored = torch.arange(longest)[None] < torch.tensor([[len(c)] for c in captions])
    logits = host.logits_of(lens.model, tokens)[:, start - 1 : start - 1 + longest]
    targets = tokens[:, start:].masked_fill(~scored.to(tokens.device), -100)
    lens.virtual_tokens.forget(*stored)
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100)


def _rate(step: int, settings: FitSettings) -> float:
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return float(0.5 * (1 + torch.cos(torch.tensor(done * torch.pi))))


def _next(batches: Iterator[CaptionBatch], n: int, step: int) -> list[CaptionBatch]:
    group = list(islice(batches, n))
    if len(group) < n:
        raise ValueError(f"the data ended at step {step}, before the {n} batches that this step needs")
    return group


def _resume(folder: Path, linear: nn.Linear, optimizer: Any, settings: FitSettings) -> int:
    path = folder / "checkpoint.pt"
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    before, now = state["settings"], asdict(settings)
    changed = {k: (before.get(k), now[k]) for k in now if before.get(k) != now[k]}
    if changed:
        raise ValueError(
            f"{path} was made with other settings: "
            + ", ".join(f"{k}: {old!r} then, {new!r} now" for k, (old, new) in changed.items())
            + "; use another folder, or delete this checkpoint"
        )
    linear.load_state_dict(state["linear"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _checkpoint(folder: Path, step: int, linear: nn.Linear, optimizer: Any, settings: FitSettings) -> None:
    partial = folder / ".checkpoint.pt.partial"
    state = {
        "step": step,
        "linear": linear.state_dict(),
        "optimizer": optimizer.state_dict(),
        "settings": asdict(settings),
    }
    torch.save(state, partial)
    os.replace(partial, folder / "checkpoint.pt")
