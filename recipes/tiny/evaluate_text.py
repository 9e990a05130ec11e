"""How well the shipped language model predicts text, compared with a unigram and a 5-gram model and against chance.

Everything is measured on the weights as they ship (rounded to float16, computed in float32).
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import GPTJForCausalLM, PreTrainedTokenizerFast

from recipes.tiny.language import encode
from recipes.tiny.ngram import NGram
from recipes.tiny.settings import Settings
from recipes.tiny.stage import device, run_once
from recipes.tiny.text import read_documents

ORDERS = {"unigram": 1, "5-gram": 5}
NEUTRAL = "thing"
"""Replaces the noun where a choice's probability without knowledge of the noun is wanted."""
Sequences = list[tuple[list[int], list[int]]]
"""Pairs of a context and an ending, as token ids."""
Scorer = Callable[[Sequences], np.ndarray]
"""The log-probability in nats of each ending after its context."""


def run(settings: Settings, work: Path) -> dict[str, Any]:
    """Perplexities on both held-out sets and the cloze test, for the model and the baselines."""
    stage = {name: settings.of(name) for name in ("text", "tokenizer", "language")}
    return run_once(work / "evaluate_text", stage, lambda: evaluate(work))


def evaluate(work: Path) -> dict[str, Any]:
    """The figures of `run`, computed again."""
    model = GPTJForCausalLM.from_pretrained(work / "language" / "model", dtype=torch.float32).to(device()).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "language" / "model")
    train = np.load(work / "language" / "train.npy")
    baselines = {
        name: NGram(train, order=order, vocab_size=len(tokenizer))
        for name, order in tqdm(ORDERS.items(), desc="evaluate_text: baselines")
    }
    report: dict[str, Any] = {"perplexity": {}, "cloze": {}}
    for name in ("real", "generated"):
        documents = read_documents(work / "text" / f"held_out_{name}.txt")
        tokens = np.concatenate([np.zeros(4, dtype=np.uint16), encode(tokenizer, documents)])
        size = sum(len(document.encode()) for document in documents)
        nats = {"model": -model_log_probabilities(model, tokens[3:]).sum()}
        for baseline, ngram in baselines.items():
            nats[baseline] = -np.log(ngram.probabilities(tokens[5 - ngram.order :])).sum()
        scored = len(tokens) - 4
        report["perplexity"][name] = {
            "documents": len(documents), "tokens": scored, "bytes": size,
            **{who: {"per_token": math.exp(n / scored), "per_byte": math.exp(n / size)} for who, n in nats.items()},
        }  # fmt: skip
    items = json.loads((work / "text" / "cloze.json").read_text())
    scorers: dict[str, Scorer] = {
        "model": lambda sequences: endings(model, sequences),
        "5-gram": lambda sequences: np.array(
            [
                np.log(baselines["5-gram"].probabilities(np.array([0] * 4 + context + ending))[-len(ending) :]).sum()
                for context, ending in sequences
            ]
        ),
    }
    for name, score in scorers.items():
        report["cloze"][name] = cloze(items, tokenizer, score)
    return report


@torch.no_grad()
def model_log_probabilities(model: GPTJForCausalLM, tokens: np.ndarray) -> np.ndarray:
    """Log-probability in nats of every token but the first.

    Windows of `n_positions` tokens overlap by half, so that each token but the earliest sees at least half a window.
    """
    length = model.config.n_positions
    half = length // 2
    found = []
    for start in range(0, max(1, len(tokens) - 1 - half), half):
        window = torch.from_numpy(tokens[start : start + length + 1].astype(np.int64))[None].to(model.device)
        scores = model(window[:, :-1]).logits.float().log_softmax(-1)
        picked: Tensor = scores.gather(-1, window[:, 1:, None])[0, :, 0]
        found.append(picked[0 if start == 0 else half :].cpu().numpy())
    return np.concatenate(found)[: len(tokens) - 1].astype(np.float64)


@torch.no_grad()
def endings(model: GPTJForCausalLM, sequences: Sequences) -> np.ndarray:
    """The log-probability in nats of each ending after its context, all in one batch padded on the right.

    A context too long for the model loses its beginning.
    """
    room = model.config.n_positions + 1
    sequences = [(context[-(room - len(ending)) :], ending) for context, ending in sequences]
    width = max(len(context) + len(ending) for context, ending in sequences)
    tokens = torch.tensor([[*c, *e, *[0] * (width - len(c) - len(e))] for c, e in sequences], device=model.device)
    scores = model(tokens[:, :-1]).logits.float().log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0].cpu()
    return np.array(
        [
            row[len(context) - 1 : len(context) + len(ending) - 1].sum().item()
            for row, (context, ending) in zip(scores, sequences, strict=True)
        ]
    )


def cloze(
    items: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerFast, score: Scorer
) -> dict[str, dict[str, float]]:
    """Accuracy by field, for facts that training text tells in other words (`told`) and facts withheld from it.

    `plain` takes the most probable choice after the sentence; `calibrated` the one whose probability the noun raises
    most, compared with the same sentence about a `thing`. Chance is one in the number of choices.
    """
    hits: dict[str, list[tuple[bool, bool, float]]] = {}
    for item in tqdm(items, desc="evaluate_text: cloze", unit=" items"):
        choices = [tokenizer.encode(choice, add_special_tokens=False) for choice in item["choices"]]
        sentences = (item["prompt"], _without_noun(item))
        contexts = [[0, *tokenizer.encode(sentence, add_special_tokens=False)] for sentence in sentences]
        scores = score([(context, choice) for context in contexts for choice in choices]).reshape(2, -1)
        answer, likely, lifted = item["answer"], scores[0], scores[0] - scores[1]
        group = f"{item['field']} {'told' if item['told'] else 'withheld'}"
        hits.setdefault(group, []).append(
            (int(likely.argmax()) == answer, int(lifted.argmax()) == answer, 1 / len(choices))
        )
    return {
        group: dict(zip(("plain", "calibrated", "chance"), np.mean(rows, axis=0).tolist(), strict=True))
        | {"items": len(rows)}
        for group, rows in sorted(hits.items())
    }


def _without_noun(item: dict[str, Any]) -> str:
    """The same sentence about a `thing`."""
    pattern = rf"\b(an? )?{item['noun']}\b"
    return re.sub(pattern, lambda found: f"a {NEUTRAL}" if found[1] else NEUTRAL, item["prompt"])
