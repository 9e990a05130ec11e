"""Effects over many prompts, on chosen neurons and on as many random ones of the same layers (paper section 3.3)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.analysis.effects.bootstrap import bootstrap_interval
from lens_multimodal.analysis.effects.prediction_effect import effect_of, effects_of
from lens_multimodal.arguments.units import Neurons
from lens_multimodal.hooks.random_neurons import random_neurons_like


@dataclass(frozen=True, kw_only=True)
class Case:
    """A prompt and the token whose prediction is watched."""

    tokens: Int[Tensor, "1 pos"]
    target: int
    name: str = ""


def effects_over(
    model: nn.Module, cases: Iterable[Case], intervene: Callable[[Case], Sequence[transformer.NamedHook]]
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
    intervene: Callable[[Neurons, Case], Sequence[transformer.NamedHook]],
    *,
    n_random: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Effects of an intervention on chosen neurons and on matched random ones, prompt by prompt.

    Args:
        neurons_of: the chosen neurons of a prompt.
        intervene: the intervention on some neurons, such as
            `lambda neurons, case: ablate(model, neurons, positions=image_positions)`.
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
        draws = [neurons, *(random_neurons_like(model, neurons, generator) for _ in range(n_random))]
        effects = effects_of(model, case.tokens, (intervene(drawn, case) for drawn in draws), case.target)
        for draw, effect in enumerate(effects):
            rows.append(effect.table().assign(name=case.name, case=number, chosen=draw == 0, draw=draw))
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
