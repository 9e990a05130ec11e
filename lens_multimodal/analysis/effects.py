"""What an intervention did to a prediction: change of logit, probability, rank and distribution.

The paper's causal experiment (section 3.3) is `effects_against_random`: ablate the neurons found for a prompt, ablate
as many random neurons of the same layers, compare the target's probability over many prompts.

    effect = effect_of(model, prompt.tokens, ablate(neurons, model), target)
    effect.relative_probability_change          # -0.8: the intervention took 80 % of the target's probability
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lens_multimodal.hooks.neurons import Neurons, random_neurons_like
from lens_multimodal.model import host


@dataclass(frozen=True, kw_only=True)
class Effect:
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


@dataclass(frozen=True, kw_only=True)
class Case:
    """A prompt and the token whose prediction is watched."""

    tokens: Int[Tensor, "1 pos"]
    target: int
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over prompts and its bootstrap interval; the bounds are NaN for fewer than two prompts."""

    mean: float
    low: float
    high: float
    n: int
    level: float


def effect_of(
    model: nn.Module,
    tokens: Int[Tensor, "batch pos"],
    hooks: Sequence[host.NamedHook],
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
    if not hooks:
        raise ValueError("no hooks given: there is no intervention to measure")
    before = _prediction(model, tokens, [], attention_mask, read_pos)
    after = _prediction(model, tokens, hooks, attention_mask, read_pos)
    return _compare(before, after, _targets(target, before))


def effects_over(
    model: nn.Module, cases: Iterable[Case], intervene: Callable[[Case], Sequence[host.NamedHook]]
) -> pd.DataFrame:
    """`effect_of` for many prompts, each with its own intervention: one row for each, in order, with its `name`."""
    rows = []
    for case in cases:
        row = effect_of(model, case.tokens, intervene(case), case.target).table()
        rows.append(row.assign(name=case.name))
    if not rows:
        raise ValueError("no prompts to measure effects over")
    return pd.concat(rows, ignore_index=True)


def effects_against_random(
    model: nn.Module,
    cases: Iterable[Case],
    neurons_of: Callable[[Case], Neurons],
    intervene: Callable[[Neurons, Case], Sequence[host.NamedHook]],
    *,
    n_random: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Effects of an intervention on chosen neurons and on matched random ones, prompt by prompt.

    Args:
        neurons_of: the chosen neurons of a prompt.
        intervene: the intervention on some neurons, such as
            `lambda neurons, case: ablate(neurons, model, positions=image_positions)`.
        n_random: random draws for each prompt (same layers, same counts, none of the chosen).
        seed: decides the draws; a prompt's draws do not depend on the prompts before it.
    Returns: the columns of `effects_over` and `case` (number of the prompt), `chosen` (True or False) and `draw`.
    """
    if n_random < 1:
        raise ValueError(f"n_random is {n_random}; the comparison needs at least one random draw")
    rows = []
    for number, case in enumerate(cases):
        neurons = neurons_of(case)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        before = _prediction(model, case.tokens, [], None, -1)
        targets = _targets(case.target, before)
        for draw in range(n_random + 1):
            chosen = draw == 0
            drawn = neurons if chosen else random_neurons_like(neurons, model, generator)
            after = _prediction(model, case.tokens, intervene(drawn, case), None, -1)
            row = _compare(before, after, targets).table()
            rows.append(row.assign(name=case.name, case=number, chosen=chosen, draw=draw))
    if not rows:
        raise ValueError("no prompts to measure effects over")
    return pd.concat(rows, ignore_index=True)


def summary_against_random(
    effects: pd.DataFrame, *, column: str = "relative_probability_change", level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Mean effect of chosen and of random neurons and their difference, with bootstrap intervals over prompts.

    Draws are averaged within a prompt first, and the difference is taken within prompts, so that prompts are the
    unit that is resampled.

    Args:
        effects: from `effects_against_random`.
    Returns: rows `chosen`, `random`, `difference`; columns `mean`, `low`, `high`, `n`, `level`.
    """
    by_case = effects.groupby(["case", "chosen"])[column].mean().unstack("chosen")
    values = {"chosen": by_case[True], "random": by_case[False], "difference": by_case[True] - by_case[False]}
    intervals = {name: bootstrap_interval(v.to_numpy(), level=level, seed=seed) for name, v in values.items()}
    return pd.DataFrame({name: vars(interval) for name, interval in intervals.items()}).T


def bootstrap_interval(values: Any, *, level: float = 0.95, n_resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean of one value per prompt, with the percentile bootstrap interval (Efron 1979) over prompts.

    Raises: ValueError for no values, values that are not finite, or a level outside (0, 1).
    """
    sample = np.asarray(values, dtype=np.float64).ravel()
    if len(sample) == 0:
        raise ValueError("no values to take a bootstrap interval of")
    if not np.isfinite(sample).all():
        raise ValueError(f"{int((~np.isfinite(sample)).sum())} of {len(sample)} values are not finite")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a number between 0 and 1 such as 0.95")
    mean = float(sample.mean())
    if len(sample) < 2:
        return Interval(mean=mean, low=float("nan"), high=float("nan"), n=1, level=level)
    generator = np.random.default_rng(seed)
    means = np.array([sample[generator.integers(len(sample), size=len(sample))].mean() for _ in range(n_resamples)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean=mean, low=float(low), high=float(high), n=len(sample), level=level)


def _prediction(
    model: nn.Module,
    tokens: Tensor,
    hooks: Sequence[host.NamedHook],
    attention_mask: Tensor | None,
    read_pos: int,
) -> Float[Tensor, "batch d_vocab"]:
    """Logits at one position, in float32 or wider."""
    n_pos = tokens.shape[1]
    if not -n_pos <= read_pos < n_pos:
        raise ValueError(f"read_pos {read_pos} is outside a prompt of {n_pos} positions")
    with torch.no_grad(), host.fired_hooks(model, hooks):
        logits = host.logits_of(model, tokens, attention_mask=attention_mask)[:, read_pos]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if not bool(torch.isfinite(logits).all()):
        raise FloatingPointError(
            f"{int((~torch.isfinite(logits)).sum())} logits at position {read_pos} are not finite "
            f"{'with' if hooks else 'without'} the intervention; use float32, or smaller values"
        )
    return logits


def _targets(target: int | Tensor, logits: Tensor) -> Tensor:
    batch, d_vocab = logits.shape
    if isinstance(target, Tensor) and target.shape != (batch,):
        raise ValueError(f"expected one target or one for each of {batch} prompts, got shape {list(target.shape)}")
    targets = torch.as_tensor(target, device=logits.device).expand(batch)
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
