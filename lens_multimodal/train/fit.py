"""Fitting a projection: one map is trained on captions, everything else stays frozen (LiMBeR)."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from lens_multimodal import transformer
from lens_multimodal.files import check_folder_name
from lens_multimodal.lens import VisionLens
from lens_multimodal.prompt.projection import save_projector
from lens_multimodal.train import checkpoint
from lens_multimodal.train.loss import CaptionBatch, dropout_by_place, token_losses
from lens_multimodal.train.optimizers import optimizers_of

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a projection is trained; the defaults are LiMBeR's.

    Raises: ValueError for numbers outside their range.
    """

    steps: int = 15_000
    batch_size: int = 256
    """Pictures of one step, over all its batches and all processes."""
    gradient_accumulation: int = 1
    """Batches per step in each process; LiMBeR splits its 256 pictures into eight."""
    learning_rate: float = 8e-4
    muon_rate: float | None = None
    """Learning rate of Muon for the weight; `learning_rate` is then AdamW's for the bias alone. None: AdamW for both,
    as in LiMBeR. With Muon, the tiny trio's map reaches the same loss in half the steps."""
    warmup: int = 0
    """Steps of linear warm-up, followed by a cosine decay to zero at `steps`."""
    weight_decay: float = 0.0
    dropout: float = 0.1
    """Of the projected vectors, during training only."""
    gradient_clipping: float = 1.0
    prompt: str = ""
    """Text between the image and its caption; LiMBeR uses none. A caption follows it as it is: after "A picture of" it
    should begin with a space."""
    precision: str = "no"
    """`no`, `bf16` or `fp16`: mixed precision. The projection's weights and its optimizer stay float32."""
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
        for name in ("learning_rate", "muon_rate", "gradient_clipping"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.warmup < 0 or self.weight_decay < 0:
            raise ValueError(f"warmup and weight_decay must not be negative, got {self.warmup}, {self.weight_decay}")
        self.batch_of_one_process(1)

    def batch_of_one_process(self, n_processes: int) -> int:
        """Pictures of one batch.

        Raises: ValueError if `batch_size` does not divide evenly.
        """
        n_batches = self.gradient_accumulation * n_processes
        if self.batch_size % n_batches:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide into {self.gradient_accumulation} batches in each of "
                f"{n_processes} processes; choose a multiple of {n_batches}"
            )
        return self.batch_size // n_batches


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
) -> nn.Module:
    """Train `lens.images.projector` in place on the captions' next-token loss.

    That is the projection's linear map, or the projector that a vision-language model was trained with.

    The loss of a step is the mean over all caption tokens of its `batch_size` pictures, so splitting a step into
    batches or over processes (`accelerate launch`) changes it by rounding only. Dropout depends on the seed, the
    step and the picture's place in the step. All parts but the projector are frozen and put into evaluation mode.
    While it is trained, the projector has float32 weights, and afterwards its own precision again.

    Args:
        lens: language model, encoder and the projector to train, which starts as it is.
        batches_from: gives this process's batches from a batch number on, each of at most
            `settings.batch_of_one_process(n_processes)` pictures.
        folder: receives `checkpoint.pt` (to resume from), `log.jsonl`, and at the end `projection.safetensors` and,
            for an `nn.Linear`, `proj.ckpt` (LiMBeR's format).
        evaluate: called every `evaluate_every` steps with the step and the lens, in the main process; what it
            returns is logged.

    Returns:
        The trained map, which is also the lens's.

    Raises:
        ValueError: a batch larger than the settings allow, data that end before `steps`, a caption that does not
            fit into the context, a checkpoint that is damaged or was made under other settings, a folder whose name
            is not UTF-8, or a vision-language model without a projector apart from its encoder.
        FloatingPointError: the loss is not finite; the weights keep their last values.
        ImportError: `muon_rate` is given and torch is older than 2.9.
    """
    settings = settings or FitSettings()
    projector = lens.images.projector
    processes = _processes(lens)
    share = settings.batch_of_one_process(processes.num_processes)
    check_folder_name(folder).mkdir(parents=True, exist_ok=True)
    for part in (lens.model, *lens.images.parts.values()):
        part.eval().requires_grad_(False)
    with _in_float32(projector):
        _train(lens, projector, batches_from, settings, folder, evaluate, processes, share, progress)
        if processes.is_main_process:
            save_projector(projector, folder)
    processes.wait_for_everyone()
    return projector


def _train(
    lens: VisionLens,
    projector: nn.Module,
    batches_from: BatchesFrom,
    settings: FitSettings,
    folder: Path,
    evaluate: Callable[[int, VisionLens], dict[str, Any]] | None,
    processes: Any,
    share: int,
    progress: bool,
) -> None:
    optimizers = optimizers_of(
        projector,
        learning_rate=settings.learning_rate,
        muon_rate=settings.muon_rate,
        weight_decay=settings.weight_decay,
    )
    where = next(projector.parameters()).device
    scaler = torch.amp.GradScaler(where.type, enabled=settings.precision == "fp16")
    step = checkpoint.resume(folder, projector, optimizers, scaler, settings)
    _same_everywhere(projector)
    if processes.is_main_process:
        checkpoint.cut_log(folder / "log.jsonl", step)
    batches = batches_from(step * settings.gradient_accumulation)
    with tqdm(
        total=settings.steps,
        initial=step,
        desc="projection",
        unit="step",
        disable=not progress or not processes.is_main_process,
    ) as bar:
        while step < settings.steps:
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * _rate(step, settings)
            own = _next(batches, settings.gradient_accumulation, step, share)
            places = [(i * processes.num_processes + processes.process_index) * share for i in range(len(own))]
            loss = _loss_and_gradient(lens, projector, own, places, settings=settings, step=step, scaler=scaler)
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss} at step {step}: lower the learning rate")
            for optimizer in optimizers:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(projector.parameters(), settings.gradient_clipping)
            for optimizer in optimizers:
                scaler.step(optimizer)
                optimizer.zero_grad()
            scaler.update()
            step += 1
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}")
            if processes.is_main_process:
                record: dict[str, Any] = {"step": step, "loss": loss}
                if evaluate is not None and (step % settings.evaluate_every == 0 or step == settings.steps):
                    record |= evaluate(step, lens)
                with (folder / "log.jsonl").open("a") as log:
                    log.write(json.dumps(record) + "\n")
                if step % settings.checkpoint_every == 0 or step == settings.steps:
                    checkpoint.save(folder, step, projector, optimizers, scaler, settings)


@contextmanager
def _in_float32(projector: nn.Module) -> Iterator[None]:
    """Trainable, with weights that small steps change; it takes features of the encoder's precision all the same."""
    own = next(projector.parameters()).dtype

    def widened(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(arg.float() if isinstance(arg, torch.Tensor) and arg.is_floating_point() else arg for arg in args)

    handle = projector.register_forward_pre_hook(widened)
    projector.requires_grad_(True).float()
    try:
        yield
    finally:
        handle.remove()
        projector.requires_grad_(False).to(own)


def _loss_and_gradient(
    lens: VisionLens,
    projector: nn.Module,
    batches: Sequence[CaptionBatch],
    places: Sequence[int],
    *,
    settings: FitSettings,
    step: int,
    scaler: torch.amp.GradScaler,
) -> float:
    """The mean loss over all tokens of this step in all processes; its (scaled) gradient is left in the projector."""
    from accelerate.utils import reduce

    loss, n_tokens = 0.0, 0
    drop = partial(dropout_by_place, share=settings.dropout, seed=settings.seed, step=step)
    where, dtype = next(projector.parameters()).device, _AUTOCAST.get(settings.precision)
    for batch, place in zip(batches, places, strict=True):
        with torch.autocast(where.type, dtype=dtype, enabled=dtype is not None):
            losses = token_losses(
                lens,
                batch,
                prompt=settings.prompt,
                edit_vectors=partial(drop, first_place=place) if settings.dropout else None,
            )
        summed = losses.sum()
        scaler.scale(summed / settings.batch_size).backward()
        loss += float(summed.detach())
        n_tokens += len(losses)
    totals: Any = reduce(torch.tensor([loss, n_tokens], dtype=torch.float32, device=where), "sum")
    loss, all_tokens = totals.tolist()
    for parameter in projector.parameters():
        gradient: Any = reduce(parameter.grad, "sum")
        parameter.grad = gradient * (settings.batch_size / all_tokens)
    return loss / all_tokens


def _processes(lens: VisionLens) -> Any:
    """accelerate's view of the processes, each with its own copy of the frozen parts on its own device."""
    from accelerate import PartialState

    where = transformer.device(lens.model)
    processes = PartialState(cpu=where.type == "cpu")
    expected = processes.device
    elsewhere = where.type != expected.type or (where.type != "cpu" and where.index != expected.index)
    if processes.num_processes > 1 and elsewhere:
        raise ValueError(
            f"process {processes.process_index} of {processes.num_processes} has its language model on {where}, "
            f"expected {expected}: use attach_vision(..., device=accelerate.PartialState().device)"
        )
    return processes


def _same_everywhere(projector: nn.Module) -> None:
    from accelerate.utils import broadcast

    with torch.no_grad():
        for parameter in projector.parameters():
            parameter.copy_(broadcast(parameter.detach().clone(), from_process=0))


def _rate(step: int, settings: FitSettings) -> float:
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return 0.5 * (1 + math.cos(done * math.pi))


def _next(batches: Iterator[CaptionBatch], n: int, step: int, share: int) -> list[CaptionBatch]:
    group = list(islice(batches, n))
    if len(group) < n:
        raise ValueError(f"the data ended at step {step}, before the {n} batches that this step needs")
    largest = max(len(batch.captions) for batch in group)
    if largest > share:
        raise ValueError(
            f"got a batch of {largest} pictures; batch_size / gradient_accumulation / processes is {share}: make the "
            f"batches with batch_size={share}, or change the settings"
        )
    return group
