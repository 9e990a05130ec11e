"""Many ablations at once: every row of a batch runs without its own set of neurons.

The rows may be one prompt many times or different prompts of one length. Reading nouns and writing captions both
work this way, so an ablation curve costs one forward pass, not one for each point.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.analysis.effects.caption_effect import Captioner
from lens_multimodal.precision import wide
from lens_multimodal.prompt.image_prompt import ImagePrompt


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """How some tokens are predicted in some rows, each token at its own position."""

    logit: Float[Tensor, "row token"]
    log_probability: Float[Tensor, "row token"]
    rank: Int[Tensor, "row token"]
    """Tokens with a larger logit; 0 is the model's first choice."""

    @property
    def probability(self) -> Float[Tensor, "row token"]:
        return self.log_probability.double().exp()

    @classmethod
    def joined(cls, parts: "Sequence[Reading]") -> "Reading":
        """The rows of several readings, one after the other."""
        return cls(
            logit=torch.cat([part.logit for part in parts]),
            log_probability=torch.cat([part.log_probability for part in parts]),
            rank=torch.cat([part.rank for part in parts]),
        )


def read_without(
    model: nn.Module,
    tokens: Int[Tensor, "row prompt_pos"],
    reads: Sequence[tuple[int, int]],
    without: Sequence[pd.DataFrame | None],
    *,
    positions: Int[Tensor, " pos"],
    batch_size: int,
) -> Reading:
    """Run each row with its neurons at zero and read tokens.

    Args:
        reads: (position, token) pairs: the token's prediction is read at the position.
        without: for each row a table of neurons (`layer`, `neuron`), or None for the untouched model.
        positions: where neurons are set to zero.
    Raises: FloatingPointError for logits that are not finite.
    """
    return Reading.joined(
        [
            read_logits(model, tokens[rows], reads, zero_rows(model, without[rows], positions=positions))
            for rows in _batches(len(tokens), batch_size)
        ]
    )


def read_logits(
    model: nn.Module,
    tokens: Int[Tensor, "row prompt_pos"],
    reads: Sequence[tuple[int, int]],
    hooks: Sequence[transformer.NamedHook],
) -> Reading:
    """One forward pass with any hooks, read as in `read_without`."""
    ids = torch.tensor([token for _, token in reads], device=tokens.device)
    first = min(pos for pos, _ in reads)
    with torch.no_grad(), transformer.fired_hooks(model, hooks):
        logits = wide(transformer.logits_of(model, tokens, first=first)[:, [pos - first for pos, _ in reads]])
    if not bool(logits.isfinite().all()):
        raise FloatingPointError(f"logits are not finite in {logits.dtype}; run the model in float32 or bfloat16")
    index = ids.to(logits.device).expand(len(logits), -1)[..., None]
    chosen = logits.gather(-1, index)
    return Reading(
        logit=chosen[..., 0].cpu(),
        log_probability=logits.log_softmax(-1).gather(-1, index)[..., 0].cpu(),
        rank=(logits > chosen).sum(-1).cpu(),
    )


def captions_without(
    lens: Captioner,
    tokens: Int[Tensor, "row prompt_pos"],
    without: Sequence[pd.DataFrame | None],
    *,
    positions: Int[Tensor, " pos"],
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """The greedy caption of each row with its neurons at zero; settings as in `read_without`."""
    captions = []
    for rows in _batches(len(tokens), batch_size):
        prompt = ImagePrompt(
            tokens=tokens[rows],
            attention_mask=torch.ones_like(tokens[rows]),
            spans=tuple(() for _ in tokens[rows]),
        )
        with transformer.fired_hooks(lens.model, zero_rows(lens.model, without[rows], positions=positions)):
            captions += lens.generate(prompt, max_new_tokens=max_new_tokens)
    return captions


def zero_rows(
    model: nn.Module, without: Sequence[pd.DataFrame | None], *, positions: Int[Tensor, " pos"]
) -> list[transformer.NamedHook]:
    """Hooks that set a set of neurons of its own to zero in each row; generated tokens are left alone."""
    d_mlp = transformer.shape(model).d_mlp
    masks: dict[int, Tensor] = {}
    for row, neurons in enumerate(without):
        if neurons is None:
            continue
        for layer, group in neurons.groupby("layer"):
            mask = masks.setdefault(int(layer), torch.zeros(len(without), d_mlp, dtype=torch.bool))
            mask[row, torch.from_numpy(group["neuron"].to_numpy(copy=True))] = True
    return [
        (transformer.mlp_post(layer), partial(zero_rows_hook, zeroed=masks[layer], positions=positions))
        for layer in sorted(masks)
    ]


def zero_rows_hook(
    activation: Tensor, hook: Any, *, zeroed: Bool[Tensor, "row d_mlp"], positions: Int[Tensor, " pos"]
) -> Tensor:
    """Hook function: neurons at zero at some positions of the prompt, each row its own."""
    if activation.shape[1] == 1:
        return activation
    at = positions.to(activation.device)
    result = activation.clone()
    result[:, at] = activation[:, at].masked_fill(zeroed.to(activation.device)[:, None], 0)
    return result


def _batches(n_rows: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, n_rows, size))
