"""What an intervention did to a prediction: change of logit, probability, rank and distribution.

The paper's causal experiment (section 3.3) is `effects_against_random`: ablate the neurons found for a prompt, ablate
as many random neurons of the same layers, compare the target's probability over many prompts.

    effect = effect_of(model, prompt.tokens, ablate(model, neurons), target)
    effect.relative_probability_change          # -0.8: the intervention took 80 % of the target's probability
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.notebook import ShownInNotebooks


@dataclass(frozen=True, kw_only=True)
class Effect(ShownInNotebooks):
    """One prediction before and after an intervention; every tensor has one entry for each prompt of the batch.

    Log-probabilities, probabilities and divergence are computed in float32 at least, whatever the model's dtype.
    """

    target: Int[Tensor, " batch"]
    logit_before: Float[Tensor, " batch"]
    logit_after: Float[Tensor, " batch"]
    probability_before: Float[Tensor, " batch"]
    probability_after: Float[Tensor, " batch"]
    rank_before: Int[Tensor, " batch"]
    """0 when the target is the most likely token."""
    rank_after: Int[Tensor, " batch"]
    top_before: Int[Tensor, " batch"]
    """The most likely token."""
    top_after: Int[Tensor, " batch"]
    kl: Float[Tensor, " batch"]
    """KL(before || after) of the whole next-token distribution, in nats."""

    @property
    def logit_change(self) -> Float[Tensor, " batch"]:
        return self.logit_after - self.logit_before

    @property
    def probability_change(self) -> Float[Tensor, " batch"]:
        return self.probability_after - self.probability_before

    @property
    def relative_probability_change(self) -> Float[Tensor, " batch"]:
        """-1: all of the target's probability is gone; 0: unchanged; 1: doubled (what the paper reports)."""
        return self.probability_change / self.probability_before

    def table(self) -> pd.DataFrame:
        """One row for each prompt, changes included."""
        names = [
            "target", "logit_before", "logit_after", "logit_change", "probability_before", "probability_after",
            "probability_change", "relative_probability_change", "rank_before", "rank_after", "top_before",
            "top_after", "kl",
        ]  # fmt: skip
        return pd.DataFrame({name: getattr(self, name).tolist() for name in names})


def effect_of(
    model: nn.Module,
    tokens: Int[Tensor, "batch pos"],
    hooks: Sequence[transformer.NamedHook],
    target: int | Tensor,
    *,
    attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
    read_pos: int = -1,
) -> Effect:
    """Run prompts without and with hooks and compare the prediction at one position.

    Args:
        hooks: what a builder of `lens_multimodal.hooks` returned, or several lists added together.
        target: token id, one for all prompts or `[batch]`, one for each.
        read_pos: the position whose next token is predicted; -1 is the end of (left-padded) prompts.
    Raises: ValueError for targets outside the vocabulary, a position outside, no hooks or unknown hook names;
        FloatingPointError if a distribution is not finite (overflow in a half-precision model, for example).
    """
    return effects_of(model, tokens, [hooks], target, attention_mask=attention_mask, read_pos=read_pos)[0]


def effects_of(
    model: nn.Module,
    tokens: Int[Tensor, "batch pos"],
    interventions: Iterable[Sequence[transformer.NamedHook]],
    target: int | Tensor,
    *,
    attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
    read_pos: int = -1,
) -> list[Effect]:
    """`effect_of` for several interventions on the same prompts, which share the pass without any.

    Args: interventions: one list of hooks for each; further settings and errors as in `effect_of`.
    """
    listed = list(interventions)
    if not listed or not all(listed):
        raise ValueError("no hooks given: there is no intervention to measure")
    targets = _targets(target, len(tokens), transformer.w_u(model))
    for hooks in listed:
        transformer.check_hook_names(model, [name for name, _ in hooks])
    before = _prediction(model, tokens, [], attention_mask, read_pos)
    return [
        _compare(before, _prediction(model, tokens, hooks, attention_mask, read_pos), targets.to(before.device))
        for hooks in listed
    ]


def _prediction(
    model: nn.Module,
    tokens: Tensor,
    hooks: Sequence[transformer.NamedHook],
    attention_mask: Tensor | None,
    read_pos: int,
) -> Float[Tensor, "batch d_vocab"]:
    """Logits at one position, in float32 or wider."""
    n_pos = tokens.shape[1]
    if not -n_pos <= read_pos < n_pos:
        raise ValueError(f"read_pos {read_pos} is outside a prompt of {n_pos} positions")
    with torch.no_grad(), transformer.fired_hooks(model, hooks):
        logits = transformer.logits_of(model, tokens, attention_mask=attention_mask)[:, read_pos]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if not bool(torch.isfinite(logits).all()):
        raise FloatingPointError(
            f"{int((~torch.isfinite(logits)).sum())} logits at position {read_pos} are not finite "
            f"{'with' if hooks else 'without'} the intervention; use float32, or smaller values"
        )
    return logits


def _targets(target: int | Tensor, batch: int, w_u: Float[Tensor, "d_model d_vocab"]) -> Int[Tensor, " batch"]:
    if isinstance(target, Tensor) and target.shape != (batch,):
        raise ValueError(f"expected one target or one for each of {batch} prompts, got shape {list(target.shape)}")
    targets = torch.as_tensor(target).expand(batch)
    d_vocab = w_u.shape[1]
    outside = targets[(targets < 0) | (targets >= d_vocab)]
    if len(outside):
        raise ValueError(f"target {int(outside[0])} is outside the vocabulary of {d_vocab} (0 to {d_vocab - 1})")
    return targets.long()


def _compare(before: Tensor, after: Tensor, targets: Tensor) -> Effect:
    log_before, log_after = before.log_softmax(-1), after.log_softmax(-1)

    def at_target(values: Tensor) -> Tensor:
        return values.gather(1, targets[:, None])[:, 0]

    def rank(values: Tensor) -> Tensor:
        return (values > at_target(values)[:, None]).sum(-1)

    return Effect(
        target=targets,
        logit_before=at_target(before),
        logit_after=at_target(after),
        probability_before=at_target(log_before).exp(),
        probability_after=at_target(log_after).exp(),
        rank_before=rank(before),
        rank_after=rank(after),
        top_before=before.argmax(-1),
        top_after=after.argmax(-1),
        kl=(log_before.exp() * (log_before - log_after)).sum(-1).clamp(min=0),
    )
