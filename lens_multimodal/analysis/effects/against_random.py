"""The causal experiment: effects of ablating neurons, against as many random neurons (paper section 3.3).

The first N neurons of a ranking are replaced, N growing if several counts are given, and so are N random neurons of
the same layers. All of a prompt's runs are rows of shared forward passes (see `by_row`), as are those of the same
`trials` in `experiments.causal`.

    case = Case(tokens=prompt.tokens, target=" dog", neurons=found, positions=prompt.image_pos[0])
    effects = effects_against_random(model, [case], counts=(10, 100, 1000))
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
from jaxtyping import Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from lens_multimodal import transformer
from lens_multimodal.analysis.effects.bootstrap import bootstrap_interval
from lens_multimodal.analysis.effects.by_row import Captioner, captions_without, logits_by_row, replaced_neurons
from lens_multimodal.analysis.effects.caption_effect import CaptionEffect
from lens_multimodal.analysis.effects.prediction_effect import Predictions, effect_between, effect_of
from lens_multimodal.analysis.effects.similarity import WORD_OVERLAP, Similarity
from lens_multimodal.arguments.boundary import ArgumentValueError, public
from lens_multimodal.arguments.positions import Positions, PositionSet, read_positions
from lens_multimodal.arguments.targets import Targets, first_read, read_targets
from lens_multimodal.arguments.units import Neurons, read_neuron_pairs
from lens_multimodal.hooks.ablate import ZERO
from lens_multimodal.hooks.random_neurons import random_neurons_like
from lens_multimodal.hooks.replacement import Replacement
from lens_multimodal.prompt.image_prompt import ImagePrompt
from lens_multimodal.seeds import generator_for


@dataclass(frozen=True, kw_only=True)
class Case:
    """A prompt, what is predicted in it, and the neurons whose effect is measured."""

    tokens: Int[Tensor, "1 pos"]
    target: Targets
    neurons: Neurons | None = None
    """The chosen neurons, best first. `effects_over` does not need them."""
    positions: Positions = None
    """Where neurons are replaced; None for everywhere. The paper takes the image positions."""
    to: Replacement = ZERO
    """What they are replaced with: `Zero()`, `Mean(means)` or `Resample(run)`."""
    name: str = ""
    key: Sequence[object] | None = None
    """Random draws depend on this, the seed, the count and the number of the draw; None for the case's number."""


@dataclass(frozen=True, kw_only=True)
class CaptionCase:
    """A picture, and the neurons whose effect on its caption is measured; further fields as in `Case`."""

    prompt: ImagePrompt
    """One row, whose continuation is the caption."""
    neurons: Neurons
    positions: Positions = None
    """Names such as "last" mean the positions of `prompt` for the caption, and those of `read` for the target."""
    to: Replacement = ZERO
    target: Targets | None = None
    """What is predicted as well; None for captions alone."""
    read: ImagePrompt | None = None
    """Where the target is predicted, with the same image at the same positions (`lens.prompt_before`); None for
    `prompt`."""
    name: str = ""
    key: Sequence[object] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """Neurons that are replaced together, and how they were chosen."""

    neurons: pd.DataFrame
    """Columns `layer` and `neuron`."""
    chosen: bool
    draw: int
    """0 for the chosen neurons, from 1 for random ones."""


@public
def effects_over(
    model: nn.Module, cases: Iterable[Case], intervene: Callable[[Case], Sequence[transformer.NamedHook]]
) -> pd.DataFrame:
    """`effect_of` for many prompts, each with its own intervention of any kind: in order, with each case's `name`."""
    rows = [
        effect_of(model, case.tokens, intervene(case), case.target).table().assign(name=case.name) for case in cases
    ]
    return _joined(rows)


@public
def effects_against_random(
    model: nn.Module,
    cases: Iterable[Case],
    *,
    counts: Sequence[int] | None = None,
    n_random: int = 5,
    seed: int = 0,
    batch_size: int = 32,
) -> pd.DataFrame:
    """Effects of replacing chosen neurons and matched random ones, prompt by prompt.

    Args:
        counts: how many of a case's neurons are replaced, from the first; None for all of them, once. Left out are
            counts beyond the number of neurons, and random draws where layers have too few other neurons.
        n_random: random draws for each prompt and count (same layers, same number, none of the chosen); 0 for none.
        seed: decides the draws; a case's draws do not depend on the cases before it.
        batch_size: runs in one forward pass.
    Returns: the columns of `Effect.table`, `n_neurons`, `chosen`, `draw` (0 for the chosen ones), `name` and `case`.
    Raises: ValueError for no cases, a negative `n_random`, counts that are not positive and ascending, or layers with
        too few other neurons where no counts are given; and as `effect_of` and `ablate`.
    """
    _check_draws(counts, n_random)
    tables: list[pd.DataFrame] = []
    for number, case in enumerate(cases):
        tried = trials(model, case.neurons, counts=counts, n_random=n_random, seed=seed, key=_key(case, number))
        tables.append(_effects(model, case, tried, batch_size).assign(name=case.name, case=number))
    return _joined(tables)


@public
def caption_effects_against_random(
    lens: Captioner,
    cases: Iterable[CaptionCase],
    *,
    counts: Sequence[int] | None = None,
    n_random: int = 5,
    seed: int = 0,
    similarity: Similarity = WORD_OVERLAP,
    max_new_tokens: int = 20,
    batch_size: int = 32,
) -> pd.DataFrame:
    """Captions written without chosen neurons and without matched random ones, picture by picture.

    Where a case has a target, its prediction is measured as well. `summary_against_random(table,
    column="caption_changed")` gives means with bootstrap intervals over pictures.

    Args:
        counts, n_random, seed, batch_size: as in `effects_against_random`; the same draws are taken.
        similarity, max_new_tokens: as in `caption_effect_of`.
    Returns: one row for each case and draw: the columns of `CaptionEffect.table`, `n_neurons`, `chosen`, `draw`,
        `name`, `case`, and those of `Effect.table` if all cases have a target.
    Raises: ValueError for no cases, a case of several rows, targets in some cases only, or a list of targets; and as
        the parts.
    Cost: one caption for each draw and count, and one for each picture.
    """
    _check_draws(counts, n_random)
    tables: list[pd.DataFrame] = []
    for number, case in enumerate(tqdm(cases, desc="captions under interventions", delay=2)):
        case.prompt.check_one_row()
        if tables and (case.target is None) == ("target" in tables[0]):
            given = "no target" if case.target is None else "a target"
            message = f"case {number} has {given}, unlike those before it; give all cases a target, or none"
            raise ArgumentValueError(message, "cases")
        tried = trials(lens.model, case.neurons, counts=counts, n_random=n_random, seed=seed, key=_key(case, number))
        tokens = case.prompt.row(0).tokens
        predictions = _predictions(lens.model, case, tried, batch_size)
        before, *after = captions_without(
            lens,
            tokens.expand(len(tried) + 1, -1),
            [None, *(trial.neurons for trial in tried)],
            positions=case.prompt.row(0).at(case.positions),
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            to=case.to,
        )
        befores = [before] * len(after)
        effect = CaptionEffect(
            before=tuple(befores), after=tuple(after), similarity=similarity(befores, after), measure=similarity.name
        )
        table = _with_trials(effect.table(), tried)
        if predictions is not None:
            table = table.join(predictions.drop(columns=["n_neurons", "chosen", "draw"]))
        tables.append(table.assign(name=case.name, case=number))
    return _joined(tables)


def trials(
    model: nn.Module,
    neurons: Neurons | None,
    *,
    counts: Sequence[int] | None,
    n_random: int,
    seed: int,
    key: Sequence[object],
) -> list[Trial]:
    """The neurons that are replaced together: the first of a ranking by count, each with its random draws.

    A draw depends on seed, key, count and its own number, and on nothing that was drawn before.
    """
    ranked = _ranked(model, neurons)
    d_mlp = transformer.shape(model).d_mlp
    found = []
    for count in [len(ranked)] if counts is None else [count for count in counts if count <= len(ranked)]:
        top = ranked.head(count)
        found.append(Trial(neurons=top, chosen=True, draw=0))
        if counts is not None and 2 * top["layer"].value_counts().max() > d_mlp:
            continue
        for draw in range(n_random):
            drawn = random_neurons_like(model, top, generator_for(seed, *key, count, draw))
            found.append(Trial(neurons=drawn, chosen=False, draw=draw + 1))
    return found


@public
def summary_against_random(
    effects: pd.DataFrame, *, column: str = "relative_probability_change", level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Mean effect of chosen and of random neurons and their difference, with bootstrap intervals over prompts.

    Draws are averaged within a prompt first, and the difference is taken within prompts, so that prompts are the
    unit that is resampled.

    Args: effects: from `effects_against_random` or `caption_effects_against_random`, for one count and one target.
    Returns: rows `chosen`, `random`, `difference`; columns `mean`, `low`, `high`, `n`, `level`.
    """
    by_case = effects.groupby(["case", "chosen"])[column].mean().unstack("chosen")
    if False not in by_case:
        raise ArgumentValueError("no random draws to compare with: measure with n_random >= 1", "effects")
    values = {"chosen": by_case[True], "random": by_case[False], "difference": by_case[True] - by_case[False]}
    intervals = {name: bootstrap_interval(v.to_numpy(), level=level, seed=seed) for name, v in values.items()}
    return pd.DataFrame({name: vars(interval) for name, interval in intervals.items()}).T


def _effects(model: nn.Module, case: Case, tried: Sequence[Trial], batch_size: int) -> pd.DataFrame:
    """One row for each trial and target; the untouched prompt is the first row of the first batch."""
    targets = read_targets(model, case.target, case.tokens)
    at = _checked_positions(model, case, case.positions, tried, case.tokens.shape[1])
    rows = [[], *(replaced_neurons(trial.neurons, at) for trial in tried)]
    first = first_read(targets)
    before, tables = None, []
    for logits in logits_by_row(model, case.tokens, rows, batch_size=batch_size, first=first, to=case.to):
        runs = Predictions.of(logits, [targets] * len(logits), first=first)
        if before is None:
            before, runs = runs[: len(targets)], runs[len(targets) :]
        if runs.targets:
            tables.append(effect_between(before, runs).table())
    repeated = [trial for trial in tried for _ in targets]
    return _with_trials(pd.concat(tables, ignore_index=True), repeated)


def _predictions(model: nn.Module, case: CaptionCase, tried: Sequence[Trial], batch_size: int) -> pd.DataFrame | None:
    """One row for each trial; None for a case without target."""
    read = case.prompt if case.read is None else case.read
    if case.target is None:
        _checked_positions(model, case, case.prompt.row(0).at(case.positions), tried, case.prompt.tokens.shape[1])
        return None
    at = read.row(0).at(case.positions)
    predicted = Case(tokens=read.row(0).tokens, target=case.target, positions=at, to=case.to)
    found = _effects(model, predicted, tried, batch_size)
    if len(found) != len(tried):
        raise ValueError(f"expected one target for each case, got {len(found) // len(tried)}")
    return found


def _with_trials(table: pd.DataFrame, tried: Sequence[Trial]) -> pd.DataFrame:
    return table.assign(
        n_neurons=[len(trial.neurons) for trial in tried],
        chosen=[trial.chosen for trial in tried],
        draw=[trial.draw for trial in tried],
    )


def _ranked(model: nn.Module, neurons: Neurons | None) -> pd.DataFrame:
    """Neurons as a table in the order given, checked against the model."""
    if neurons is None:
        raise ArgumentValueError("a case has no neurons; expected the chosen neurons, best first", "cases")
    return pd.DataFrame(read_neuron_pairs(model, neurons, name="cases"), columns=["layer", "neuron"])


def _checked_positions(
    model: nn.Module, case: Case | CaptionCase, given: Positions, tried: Sequence[Trial], n_pos: int
) -> PositionSet:
    """Where a case's neurons are replaced, after a check that there is something to replace them with."""
    layers = {int(layer) for trial in tried for layer in trial.neurons["layer"].unique()}
    case.to.check({transformer.mlp_post(layer): (transformer.shape(model).d_mlp,) for layer in layers})
    positions = read_positions(given, name="cases")
    positions.index(n_pos)
    return positions


def _check_draws(counts: Sequence[int] | None, n_random: int) -> None:
    if n_random < 0:
        raise ArgumentValueError(f"the number of random draws must not be negative, got {n_random}", "n_random")
    if counts is not None and (list(counts) != sorted(set(counts)) or min(counts, default=0) < 1):
        raise ArgumentValueError(f"expected positive and ascending counts, got {list(counts)}", "counts")


def _key(case: Case | CaptionCase, number: int) -> Sequence[object]:
    return (number,) if case.key is None else case.key


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    if not tables:
        raise ArgumentValueError("no prompts to measure effects over", "cases")
    return pd.concat(tables, ignore_index=True)
