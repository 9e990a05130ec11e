"""Stage `vision`: a BEiT learns from pixels alone, from every picture of the training split.

Each step composes two views of the same cut-outs, with other neighbours, places, colours and backgrounds. Patches that
show the same cut-out should agree across the views (`patch_contrast`). In some scenes of the second view, blocks of
patches are hidden and their visual tokens are predicted, as in BEiT. No label, name or text is used.

The contrastive loss is computed after a head of two layers, which is dropped after training.

The learning rate is constant after a warm-up and decays to zero over the last steps. The state before the decay is kept
in `checkpoint.pt`, so that a later session can continue from it with more steps.
"""

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.beit import Beit
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from lens_multimodal.files import write_atomically
from recipes.tiny.objectives import (
    block_mask,
    covered_patches,
    learn_codebook,
    patch_contrast,
    visual_tokens,
)
from recipes.tiny.scenes.compose import SLOTS, STRONG, Look, Scenes, compose
from recipes.tiny.scenes.cutouts import CutOuts, load
from recipes.tiny.settings import Settings, Vision
from recipes.tiny.stage import device, load_checkpoint, run_once, save_checkpoint, write_json

SPLITS = ("train",)
CHECKPOINT_SECONDS = 180.0
CONTRASTED = 128
"""Width of the vectors that the contrastive loss compares."""


class Learner(nn.Module):
    """The encoder, and the parts that are dropped after training: contrast head, mask token, token classifier."""

    def __init__(self, settings: Vision) -> None:
        super().__init__()
        self.beit = build_encoder(encoder_config(settings))
        self.contrast = nn.Sequential(
            nn.Linear(settings.d_vision, settings.d_head), nn.GELU(), nn.Linear(settings.d_head, CONTRASTED)
        )
        self.mask_token = nn.Parameter(torch.zeros(settings.d_vision))
        self.token_classifier = nn.Linear(settings.d_vision, settings.codes)


def run(settings: Settings, work: Path, *, minutes: float | None = None, watch: Callable | None = None) -> dict:
    """Train until `settings.vision.steps`, or end the constant part after `minutes` and decay the rate.

    Writes `encoder.safetensors`, `encoder.json`, `checkpoint.pt` and `log.jsonl` in `work/vision`. A finished run
    continues from `checkpoint.pt` if the settings ask for more steps. `watch(beit, step)` returns figures for the log.
    """
    folder, done = work / "vision", work / "vision" / "done.json"
    fixed = {key: value for key, value in settings.of("vision").items() if key != "steps"}
    if done.exists() and json.loads(done.read_text())["stable_steps"] < stable_steps(settings.vision):
        done.unlink()
        (folder / "decay.pt").unlink(missing_ok=True)
    torch.set_flush_denormal(True)
    try:
        return run_once(folder, fixed, lambda: _train(settings, work, minutes, watch))
    finally:
        torch.set_flush_denormal(False)  # a state of the processor, shared with other code in this process


def stable_steps(settings: Vision) -> int:
    """Steps before the rate decays."""
    return max(1, settings.steps - round(settings.decay_share * settings.steps))


def encoder_config(settings: Vision) -> dict[str, Any]:
    """Keyword arguments of timm's `Beit`; `forward_features(x)[:, 1:]` are the features of the image's patches."""
    return {
        "img_size": settings.image_size,
        "patch_size": settings.patch_size,
        "embed_dim": settings.d_vision,
        "depth": settings.n_layers,
        "num_heads": settings.n_heads,
        "num_classes": 0,
        "global_pool": "",
        "use_abs_pos_emb": False,
        "use_shared_rel_pos_bias": True,
        "init_values": 0.1,
    }


def build_encoder(config: dict[str, Any]) -> Beit:
    """Plain attention, which is faster on a CPU than the fused kernel when there is a learned bias."""
    beit: Any = Beit(**config)
    for block in beit.blocks:
        block.attn.fused_attn = False
    return beit


def encode(beit: Beit, image: Tensor, hidden: Tensor | None = None, mask_token: Tensor | None = None) -> Tensor:
    """Features (scene, patch, d_vision) of images in [0, 1]: the normalised residual stream.

    Hidden patches are replaced with the mask token.
    """
    patches = beit.patch_embed((image - 0.5) / 0.5)
    if hidden is not None and mask_token is not None:
        patches = torch.where(hidden[..., None], mask_token.to(patches.dtype), patches)
    resid = torch.cat([beit.cls_token.expand(len(image), -1, -1).to(patches.dtype), patches], dim=1)
    bias = beit.rel_pos_bias().to(patches.dtype)
    for block in beit.blocks:
        resid = block(resid, shared_rel_pos_bias=bias)
    return beit.norm(resid)[:, 1:]


def two_views(
    cutouts: CutOuts, scenes: int, *, size: int, generator: Generator, look: Look = STRONG
) -> tuple[Scenes, Scenes]:
    """The same distinct cut-outs in two sets of scenes of one, two and three objects, with other neighbours.

    `_of_objects` sorts by the ids of the cut-outs, so that the two sets pair up.
    """
    counts = torch.arange(scenes, device=generator.device) % SLOTS + 1
    slots = torch.arange(SLOTS, device=generator.device) < counts[:, None]
    drawn = torch.randperm(len(cutouts.ids), generator=generator, device=generator.device)[: int(slots.sum())]
    if len(drawn) < int(slots.sum()):
        raise ValueError(f"{scenes} scenes need {int(slots.sum())} cut-outs, only {len(drawn)} are loaded")
    pictures = torch.full((2, *slots.shape), -1, device=generator.device)
    for view in pictures:
        order = torch.randperm(len(drawn), generator=generator, device=generator.device)
        view[slots] = cutouts.ids[drawn[order]]
    both = compose(cutouts, pictures.flatten(0, 1), size=size, generator=generator, look=look)
    return both.rows(slice(0, scenes)), both.rows(slice(scenes, None))


def loss(learner: Learner, cutouts: CutOuts, codebook: Tensor, settings: Vision, generator: Generator) -> dict:
    """Both losses of one step, as float32 scalars `contrast` and `masked`."""
    views = two_views(cutouts, settings.batch // 2, size=settings.image_size, generator=generator)
    image = torch.cat([view.image for view in views])
    side = settings.image_size // settings.patch_size
    masked = max(1, round(settings.masked_scenes * len(image)))
    hidden = torch.zeros(len(image), side * side, dtype=torch.bool, device=image.device)
    hidden[-masked:] = block_mask(masked, side=side, share=settings.hidden_share, generator=generator)
    with torch.autocast(image.device.type, torch.bfloat16):
        normed = encode(learner.beit, image, hidden, learner.mask_token)
        parts = zip(normed.chunk(2), views, strict=True)
        objects = [_of_objects(part, view, settings, generator) for part, view in parts]
        first, second = (F.normalize(learner.contrast(chosen).float(), dim=-1) for chosen, _ in objects)
        predicted = learner.token_classifier(normed[-masked:][hidden[-masked:]]).float()
    both = objects[0][1] & objects[1][1]
    tokens = visual_tokens(image[-masked:], codebook, patch_size=settings.patch_size)
    return {
        "contrast": patch_contrast(first[both], second[both], temperature=settings.temperature),
        "masked": F.cross_entropy(predicted, tokens[hidden[-masked:]]),
    }


def _of_objects(patches: Tensor, view: Scenes, settings: Vision, generator: Generator) -> tuple[Tensor, Tensor]:
    """The features at random covered patches (object, patch, d_vision), in the order of the pictures' ids."""
    present = view.pictures >= 0
    chosen, seen = covered_patches(
        view.label, present, patch_size=settings.patch_size, count=settings.patches_per_object, generator=generator
    )
    order = view.pictures[present].argsort()
    scene = present.nonzero()[:, 0]
    return patches[scene[:, None], chosen][order], seen[order]


class Run:
    """Everything that a later session needs to continue bit for bit."""

    def __init__(self, settings: Vision, cutouts: CutOuts, seed: int, where: torch.device) -> None:
        self.settings, self.cutouts, self.step, self.seconds = settings, cutouts, 0, 0.0
        torch.manual_seed(seed)
        self.learner = Learner(settings).to(where)
        self.average = copy.deepcopy(self.learner.beit).requires_grad_(False)
        self.generator = torch.Generator(where).manual_seed(seed)
        self.codebook = _first_codebook(cutouts, settings, self.generator)
        self.optimizers = _optimizers(self.learner, settings)

    def advance(self, share: float) -> dict[str, float]:
        """One step with this share of the learning rates."""
        began = time.monotonic()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = share * group["initial_lr"]
        losses = loss(self.learner, self.cutouts, self.codebook, self.settings, self.generator)
        (losses["contrast"] + self.settings.masked_weight * losses["masked"]).backward()
        nn.utils.clip_grad_norm_(self.learner.parameters(), 3.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        keep = min(self.settings.average_decay, self.step / (self.step + 10))
        follow = get_ema_multi_avg_fn(keep)
        follow(list(self.average.parameters()), list(self.learner.beit.parameters()), self.step)
        self.seconds += time.monotonic() - began
        return {name: value.item() for name, value in losses.items()}

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "seconds": self.seconds,
            "learner": self.learner.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "codebook": self.codebook,
            "generator": self.generator.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`, or from its 16-bit copy (`shrink`), whose optimizer state is rounded."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.learner.load_state_dict(state["learner"])
        self.average.load_state_dict(state["average"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.codebook = state["codebook"].to(self.codebook)
        self.generator.set_state(state["generator"])


def _optimizers(learner: Learner, settings: Vision) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks and head, AdamW for everything else."""
    inner = ("beit.blocks", "contrast")
    named = dict(learner.named_parameters())
    matrices = [p for name, p in named.items() if p.ndim == 2 and name.startswith(inner)]
    inside = {id(p) for p in matrices}
    rest = [p for p in named.values() if id(p) not in inside]
    adam = torch.optim.AdamW(
        rest, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay, fused=True
    )
    muon = torch.optim.Muon(
        matrices, lr=settings.muon_rate, weight_decay=settings.weight_decay, adjust_lr_fn="original"
    )
    for optimizer in (adam, muon):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return [adam, muon]


def shrink(state: dict[str, Any]) -> dict[str, Any]:
    """The state in 16 bits: float16 weights, bfloat16 moments of the optimizer (their range is wide)."""
    small = {key: _cast(state[key], torch.float16) for key in ("learner", "average", "codebook")}
    return state | small | {"optimizers": _cast(state["optimizers"], torch.bfloat16)}


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() and value.ndim else value
    if isinstance(value, dict):
        return {key: _cast(inner, dtype) for key, inner in value.items()}
    return [_cast(inner, dtype) for inner in value] if isinstance(value, list) else value


def _train(settings: Settings, work: Path, minutes: float | None, watch: Callable | None) -> dict[str, Any]:
    vision, folder, where = settings.vision, work / "vision", device()
    cutouts = load(work / "pictures", splits=SPLITS, side=source_side(settings)).to(where)
    run = Run(vision, cutouts, settings.seed, where)
    constant, decaying = folder / "checkpoint.pt", folder / "decay.pt"
    before = load_checkpoint(constant) or load_checkpoint(folder / "resume_fp16.pt")
    if before is not None:
        run.restore(before)
    if not decaying.exists():
        _constant_part(run, stable_steps(vision), folder, minutes, watch)
        save_checkpoint(constant, run.state())
        save_checkpoint(folder / "resume_fp16.pt", shrink(run.state()))
        save_checkpoint(decaying, run.state() | {"begin": run.step})
    _decay_part(run, decaying, folder, watch)
    with write_atomically(folder / "encoder.safetensors") as partial:
        save_file(run.average.state_dict(), partial)
    encoder = {
        "architecture": "timm.models.beit.Beit",
        "config": encoder_config(vision),
        "mean": 0.5,
        "std": 0.5,
    }
    write_json(folder / "encoder.json", encoder)
    begin = (load_checkpoint(decaying) or {})["begin"]
    return {"stable_steps": begin, "steps": run.step, "scenes": run.step * vision.batch,
            "minutes": run.seconds / 60, "pictures": len(cutouts.ids)}  # fmt: skip


def _constant_part(run: Run, steps: int, folder: Path, minutes: float | None, watch: Callable | None) -> None:
    end = None if minutes is None else time.monotonic() + 60 * minutes
    with _Log(run, folder, steps, watch, "stable") as log:
        while run.step < steps and (end is None or time.monotonic() < end):
            log.write(run.advance(min(1.0, (run.step + 1) / run.settings.warmup)))
            log.save_now_and_then(folder / "checkpoint.pt", run.state)


def _decay_part(run: Run, checkpoint: Path, folder: Path, watch: Callable | None) -> None:
    before = load_checkpoint(checkpoint)
    assert before is not None
    run.restore(before)
    begin, share = before["begin"], run.settings.decay_share
    steps = max(1, round(begin * share / (1 - share)))
    with _Log(run, folder, begin + steps, watch, "decay") as log:
        while run.step < begin + steps:
            left = 1 - (run.step - begin + 0.5) / steps
            log.write(run.advance(left))
            log.save_now_and_then(checkpoint, lambda: run.state() | {"begin": begin})
    save_checkpoint(checkpoint, run.state() | {"begin": begin})


class _Log:
    """Progress bar, a line of `log.jsonl` every minute, figures every ten, checkpoints every three."""

    def __init__(self, run: Run, folder: Path, steps: int, watch: Callable | None, part: str) -> None:
        self.run, self.folder, self.watch, self.part = run, folder, watch, part
        self.bar = tqdm(total=steps, initial=run.step, desc=f"vision, {part}", mininterval=5)
        self.said = self.saved = self.probed = time.monotonic()

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def write(self, losses: dict[str, float]) -> None:
        self.bar.update()
        now = time.monotonic()
        line = {"part": self.part, "step": self.run.step, "minutes": round(self.run.seconds / 60, 2), **losses}
        if self.watch is not None and now - self.probed > 600:
            line |= self.watch(self.run.average, self.run.step)
            self.probed = time.monotonic()
        elif now - self.said < 60:
            return
        self.said = now
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def save_now_and_then(self, path: Path, state: Callable[[], dict[str, Any]]) -> None:
        if time.monotonic() - self.saved > CHECKPOINT_SECONDS:
            save_checkpoint(path, state())
            self.saved = time.monotonic()


def _first_codebook(cutouts: CutOuts, settings: Vision, generator: Generator) -> Tensor:
    scenes = min(2 * settings.batch, len(cutouts.ids) // 2)
    views = two_views(cutouts, scenes, size=settings.image_size, generator=generator)
    return learn_codebook(views[0].image, codes=settings.codes, patch_size=settings.patch_size, generator=generator)


def source_side(settings: Settings) -> int:
    """Cut-outs are kept at the encoder's own resolution, or at the pictures' if that is lower."""
    return min(settings.pictures.size, settings.vision.image_size)
