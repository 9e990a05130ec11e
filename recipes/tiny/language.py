"""Stage `language`: a GPT-J trained from scratch on text alone.

`transformers.GPTJForCausalLM` as it is: parallel attention and MLP, rotary positions, untied head with bias, no
dropout. Documents are packed end to end with the end-of-text token between them, cut into rows of `n_ctx + 1`
tokens, and the rows are shuffled once per epoch. The order depends on the seed alone, so an interrupted run continues
with the next batch. On CPUs and GPUs that support it, matrix products run in bfloat16 (autocast); weights, optimizer,
loss and checkpoints stay float32.

Schedule: linear warm-up, constant learning rate, linear decay to zero over the last 40 % of the steps. Until the decay
begins, the run does not depend on its own length. A longer run also decays to zero at each of `CYCLE_ENDS`, then warms
up again (warmup-stable-decay with continuation, Wen et al. 2024), so that the model is usable at each of them.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import GPTJConfig, GPTJForCausalLM, PreTrainedTokenizerFast

from lens_multimodal.files import write_atomically
from recipes.tiny import tokenizer as tokenizer_stage
from recipes.tiny.settings import Language, Settings
from recipes.tiny.stage import device, load_checkpoint, run_once, save_checkpoint
from recipes.tiny.text import read_documents

DECAY_SHARE = 0.4
CYCLE_ENDS = (2400, 4000, 9000)
"""Steps at which the learning rate reaches zero before the last step."""
CHECKPOINT_SECONDS = 150
HELD_OUT_EVERY = 200
HELD_OUT_ROWS = 64


def run(settings: Settings, work: Path) -> dict[str, Any]:
    """Train to `settings.language.steps`; write `work/language/model/` as float16 safetensors with the tokenizer."""
    folder = work / "language"
    stage = {**settings.of("language"), "tokenizer": settings.of("tokenizer"), "text": settings.of("text")}
    return run_once(folder, stage, lambda: _make(settings, work, folder))


def build(settings: Language, vocab_size: int, *, seed: int) -> GPTJForCausalLM:
    """A new model. The initial weights of residual outputs are divided by the square root of their number, as in GPT-2.

    The activation is GPT-J's `gelu_new`; under this name PyTorch computes it in one pass over memory.
    """
    torch.manual_seed(seed)
    config = GPTJConfig(
        vocab_size=vocab_size,
        n_positions=settings.n_ctx,
        n_embd=settings.d_model,
        n_layer=settings.n_layers,
        n_head=settings.n_heads,
        rotary_dim=settings.rotary_dim,
        n_inner=4 * settings.d_model,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    model = GPTJForCausalLM(config)
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.out_proj.weight.mul_((2 * settings.n_layers) ** -0.5)
            block.mlp.fc_out.weight.mul_((2 * settings.n_layers) ** -0.5)
    return model


def make_faster(model: GPTJForCausalLM) -> None:
    """The same computation with fewer passes over memory: no float32 attention scores.

    On CPUs this is faster than the fused `scaled_dot_product_attention`, whose bfloat16 backward pass is slow there.
    """

    def attend(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, None]:
        query, key, pos = query.to(value.dtype) * query.shape[-1] ** -0.5, key.to(value.dtype), query.shape[-2]
        future = torch.full((pos, pos), float("-inf"), dtype=value.dtype, device=value.device).triu(1)
        scores = torch.matmul(query, key.transpose(-1, -2)) + future
        return torch.matmul(scores.softmax(-1, dtype=value.dtype), value), None

    for block in model.transformer.h:
        block.attn._attn = attend


def pack(tokens: np.ndarray, n_ctx: int) -> np.ndarray:
    """Rows of `n_ctx + 1` tokens, neighbouring rows sharing one, so that every token is predicted once."""
    rows = (len(tokens) - 1) // n_ctx
    return np.lib.stride_tricks.sliding_window_view(tokens, n_ctx + 1)[::n_ctx][:rows]


def batch_rows(step: int, *, n_rows: int, batch: int, seed: int) -> np.ndarray:
    """The rows of step `step`: a new permutation for each epoch, which depends on the step and the seed alone."""
    places = np.arange(step * batch, (step + 1) * batch)
    passes = {p: np.random.default_rng([seed, p]).permutation(n_rows) for p in set((places // n_rows).tolist())}
    return np.array(
        [passes[p][i] for p, i in zip((places // n_rows).tolist(), (places % n_rows).tolist(), strict=True)]
    )


def rate(step: int, settings: Language) -> float:
    """The learning rate's share of its peak: each cycle is a warm-up, a plateau and a decay."""
    ends = [end for end in CYCLE_ENDS if end < settings.steps] + [settings.steps]
    end = next(e for e in ends if step < e)
    start = max((e for e in ends if e <= step), default=0)
    decay = max(1, round(DECAY_SHARE * (end - start)))
    return min((step - start + 1) / max(1, settings.warmup), 1.0, (end - step) / decay)


def mean_loss(model: GPTJForCausalLM, rows: Tensor) -> Tensor:
    """Cross-entropy of the next token in nats, the mean over all positions of all rows."""
    hidden = model.transformer(rows[:, :-1], use_cache=False).last_hidden_state
    logits = model.lm_head(hidden).float()
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def encode(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> np.ndarray:
    """All documents as one sequence of tokens, each followed by the end-of-text token."""
    pieces = []
    for start in tqdm(range(0, len(documents), 5000), desc="language: tokens", unit=" x 5000 documents"):
        encodings = tokenizer.backend_tokenizer.encode_batch(documents[start : start + 5000], add_special_tokens=False)
        pieces += [np.array([*encoding.ids, 0], dtype=np.uint16) for encoding in encodings]
    return np.concatenate(pieces)


class Training:
    """Model, optimizer and step: everything a checkpoint holds."""

    def __init__(self, settings: Settings, vocab_size: int) -> None:
        self.settings, self.step = settings, 0
        self.device = device()
        self.autocast = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=_has_bfloat16(self.device))
        self.model = build(settings.language, vocab_size, seed=settings.seed).to(self.device)
        make_faster(self.model)
        self.optimizer = _optimizer(self.model, settings.language)

    def load(self, path: Path) -> None:
        state = load_checkpoint(path)
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]

    def save(self, path: Path) -> None:
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
        save_checkpoint(path, state)

    def update(self, rows: np.ndarray) -> float:
        """One optimizer step. Returns: the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.language.learning_rate * rate(self.step, self.settings.language)
        with self.autocast:
            loss = mean_loss(self.model, self._tensor(rows))
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    @torch.no_grad()
    def held_out(self, rows: np.ndarray) -> float:
        with self.autocast:
            parts = np.array_split(rows, min(4, len(rows)))
            return float(np.mean([mean_loss(self.model, self._tensor(part)).item() for part in parts]))

    def _tensor(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(rows.astype(np.int64)).to(self.device)


def _make(settings: Settings, work: Path, folder: Path) -> dict[str, Any]:
    tokenizer = tokenizer_stage.load(work)
    config = settings.language
    rows = pack(_tokens(work, tokenizer, "train"), config.n_ctx)
    held_out = {
        name: pack(_tokens(work, tokenizer, f"held_out_{name}"), config.n_ctx)[:HELD_OUT_ROWS]
        for name in ("real", "generated")
    }
    training = Training(settings, len(tokenizer))
    training.load(folder / "checkpoint.pt")
    log = _Log(folder / "log.jsonl", training.step)
    saved = time.monotonic()
    bar = tqdm(total=config.steps, initial=training.step, desc="language", unit=" steps")
    while training.step < config.steps:
        begun = time.perf_counter()
        order = batch_rows(training.step, n_rows=len(rows), batch=config.batch, seed=settings.seed)
        loss = training.update(rows[order])
        entry = {"step": training.step, "loss": loss, "seconds": time.perf_counter() - begun}
        if training.step % HELD_OUT_EVERY == 0 or training.step == config.steps:
            entry |= {f"held_out_{name}": training.held_out(part) for name, part in held_out.items() if len(part)}
        log.write(entry)
        bar.update()
        bar.set_postfix(loss=f"{loss:.3f}")
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            training.save(folder / "checkpoint.pt")
            saved = time.monotonic()
    bar.close()
    training.save(folder / "checkpoint.pt")
    _export(training, tokenizer, folder / "model")
    trained = config.steps * config.batch * config.n_ctx
    return {
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "tokens_trained": trained,
        "passes": trained / rows[:, 1:].size,
        **log.summary(),
    }


def _tokens(work: Path, tokenizer: PreTrainedTokenizerFast, name: str) -> np.ndarray:
    """The encoded corpus file, cached beside the checkpoint."""
    cache = work / "language" / f"{name}.npy"
    if not cache.exists():
        with write_atomically(cache) as partial, partial.open("wb") as file:
            np.save(file, encode(tokenizer, read_documents(work / "text" / f"{name}.txt")))
    return np.load(cache, mmap_mode="r")


def _has_bfloat16(where: torch.device) -> bool:
    if where.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported())


def _optimizer(model: nn.Module, settings: Language) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.95), foreach=True)


def _export(training: Training, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A plain Hugging Face folder in float16. The card's figures are measured on these rounded weights."""
    model = GPTJForCausalLM(training.model.config)
    model.load_state_dict(training.model.state_dict())
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class _Log:
    """One JSON line per step. Lines after the loaded checkpoint are dropped, because those steps run again."""

    def __init__(self, path: Path, step: int) -> None:
        lines = path.read_text().splitlines() if path.exists() else []
        self.entries = [entry for entry in map(_json_or_none, lines) if entry and entry["step"] <= step]
        with write_atomically(path) as partial:
            partial.write_text("".join(json.dumps(entry) + "\n" for entry in self.entries))
        self.path = path

    def write(self, entry: dict[str, float]) -> None:
        self.entries.append(entry)
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def summary(self) -> dict[str, Any]:
        held_out = [entry for entry in self.entries if any(k.startswith("held_out") for k in entry)]
        curve = {
            key: [[e["step"], round(e[key], 4)] for e in held_out if key in e]
            for key in ("held_out_real", "held_out_generated")
        }
        return {
            "loss_last_50_steps": float(np.mean([entry["loss"] for entry in self.entries[-50:]])),
            "seconds": float(sum(entry["seconds"] for entry in self.entries)),
            **curve,
        }


def _json_or_none(line: str) -> dict[str, float] | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
