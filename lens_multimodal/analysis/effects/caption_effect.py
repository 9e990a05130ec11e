"""What an intervention did to captions: the greedy text before and after, and how alike they are.

Positions mean the same while tokens are generated one by one with the key-value cache (see `hooks.positions`): an
intervention at the image positions acts on the prompt's pass and leaves generated tokens alone.

    effect = caption_effect_of(lens, prompt, ablate(lens.model, neurons, positions=prompt.image_pos[0]))
    effect.after, effect.changed, effect.similarity
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from lens_multimodal import transformer
from lens_multimodal.analysis.effects.prediction_effect import effects_of
from lens_multimodal.analysis.effects.similarity import WORD_OVERLAP, Similarity
from lens_multimodal.arguments.units import Neurons
from lens_multimodal.hooks.random_neurons import random_neurons_like
from lens_multimodal.prompt.image_prompt import ImagePrompt

Intervention: TypeAlias = Sequence[transformer.NamedHook] | Callable[[ImagePrompt], Sequence[transformer.NamedHook]]
"""Hooks, or a function that builds them for some rows of one length, without padding."""


@runtime_checkable
class Captioner(Protocol):
    """What is needed of a `VisionLens`."""

    model: nn.Module

    def generate(self, prompt: ImagePrompt, *, max_new_tokens: int = 20) -> list[str]:
        """The greedy text that follows each row."""


@dataclass(frozen=True, kw_only=True)
class CaptionEffect:
    """Captions without and with an intervention, one entry for each row of the prompt."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    similarity: Float[Tensor, " batch"]
    """Of the caption after to the caption before."""
    measure: str
    """How similarity was measured."""

    @property
    def changed(self) -> Bool[Tensor, " batch"]:
        """Whether the text is another one, letter by letter."""
        return torch.tensor([a != b for a, b in zip(self.before, self.after, strict=True)])

    def table(self) -> pd.DataFrame:
        """One row for each prompt; the similarity's column has the name of its measure."""
        return pd.DataFrame(
            {
                "caption_before": self.before,
                "caption_after": self.after,
                "caption_changed": self.changed.tolist(),
                self.measure: self.similarity.tolist(),
            }
        )


@dataclass(frozen=True, kw_only=True)
class CaptionCase:
    """One picture of an experiment.

    Attributes:
        prompt: one row, whose continuation is the caption.
        target: a token whose prediction is watched as well; None for captions alone.
        read: where the target is predicted, with the same image at the same positions (`lens.prompt_before`); None for
            the end of `prompt`.
        name: kept in the table.
    """

    prompt: ImagePrompt
    target: int | None = None
    read: ImagePrompt | None = None
    name: str = ""


def caption_effect_of(
    lens: Captioner,
    prompt: ImagePrompt,
    hooks: Intervention,
    *,
    similarity: Similarity = WORD_OVERLAP,
    max_new_tokens: int = 20,
) -> CaptionEffect:
    """Caption a batch of prompts without and with hooks.

    Args:
        hooks: what a builder of `lens_multimodal.hooks` returned, or a function from a prompt to such hooks. Rows of
            unequal length are generated in groups of one length without their padding, so for these give a function: it
            is called once for each group.
        similarity: `WordOverlap()`, or `SentenceCosine(model)` or `BertScore(model)` with a model of yours.
    Raises:
        ValueError: no hooks, unknown hook names, ready-made hooks for rows of unequal length, or a caption that does
            not fit into the model's context.
        HookDidNotFire: a hook that the model never ran.
    """
    groups = _rows_by_length(prompt)
    if not callable(hooks) and len(groups) > 1:
        lengths = sorted(prompt.attention_mask.sum(dim=1).unique().tolist())
        raise ValueError(
            f"the rows of this prompt have {len(lengths)} lengths ({lengths}), and captions are generated without "
            f"padding, so ready-made hooks would miss their positions: give a function of the prompt that builds them, "
            f"such as lambda rows: ablate(lens.model, neurons, positions=rows.image_pos[0])"
        )
    built = [_built(lens, hooks, group) for _, group in groups]
    before, after = [""] * len(prompt), [""] * len(prompt)
    for (rows, group), of_group in zip(groups, built, strict=True):
        texts = lens.generate(group, max_new_tokens=max_new_tokens)
        with transformer.fired_hooks(lens.model, of_group):
            edited = lens.generate(group, max_new_tokens=max_new_tokens)
        for row, text, new in zip(rows, texts, edited, strict=True):
            before[row], after[row] = text, new
    return CaptionEffect(
        before=tuple(before), after=tuple(after), similarity=similarity(before, after), measure=similarity.name
    )


def caption_effects_against_random(
    lens: Captioner,
    cases: Iterable[CaptionCase],
    neurons_of: Callable[[CaptionCase], Neurons],
    intervene: Callable[[Neurons, CaptionCase], Sequence[transformer.NamedHook]],
    *,
    n_random: int = 5,
    seed: int = 0,
    similarity: Similarity = WORD_OVERLAP,
    max_new_tokens: int = 20,
) -> pd.DataFrame:
    """Everything an intervention did, on chosen neurons and on matched random ones, picture by picture.

    Captions and, where a case has a target, probability, logit, rank and divergence of its prediction.
    `summary_against_random(table, column="caption_changed")` gives means with bootstrap intervals over pictures.

    Args:
        neurons_of, intervene, n_random, seed: as in `effects_against_random`.
        similarity, max_new_tokens: as in `caption_effect_of`.
    Returns: one row per case and draw: the columns of `CaptionEffect.table`, of `Effect.table` if all cases have a
        target, and `name`, `case`, `chosen`, `draw`.
    Raises: ValueError for no cases, a case of several rows, or targets in some cases only; and as the parts.
    Cost: `2 + n_random` captions for each picture.
    """
    if n_random < 1:
        raise ValueError(f"n_random is {n_random}; the comparison needs at least one random draw")
    tables = []
    for number, case in enumerate(tqdm(cases, desc="captions under interventions", delay=2)):
        if len(case.prompt) != 1:
            raise ValueError(f"expected a case of one row, got a prompt of {len(case.prompt)} (prompt.row(i))")
        neurons = neurons_of(case)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        draws = [neurons, *(random_neurons_like(lens.model, neurons, generator) for _ in range(n_random))]
        hooks = [intervene(drawn, case) for drawn in draws]
        tables.append(_effects(lens, case, hooks, similarity, max_new_tokens).assign(name=case.name, case=number))
    if not tables:
        raise ValueError("no prompts to measure effects over")
    if len({"target" in table for table in tables}) > 1:
        raise ValueError("some cases have a target and others have none; give all of them one, or none")
    return pd.concat(tables, ignore_index=True)


def _effects(
    lens: Captioner,
    case: CaptionCase,
    hooks: Sequence[Sequence[transformer.NamedHook]],
    similarity: Similarity,
    max_new_tokens: int,
) -> pd.DataFrame:
    """One row per intervention; the caption and the prediction without any are computed once."""
    row = case.prompt.row(0)
    [before] = lens.generate(row, max_new_tokens=max_new_tokens)
    after = []
    for of_draw in hooks:
        with transformer.fired_hooks(lens.model, _checked(lens, of_draw)):
            after += lens.generate(row, max_new_tokens=max_new_tokens)
    befores = [before] * len(after)
    captions = CaptionEffect(
        before=tuple(befores), after=tuple(after), similarity=similarity(befores, after), measure=similarity.name
    )
    table = captions.table().assign(chosen=[i == 0 for i in range(len(after))], draw=range(len(after)))
    if case.target is None:
        return table
    read = (case.read or row).tokens
    predictions = effects_of(lens.model, read, hooks, case.target)
    return table.join(pd.concat([effect.table() for effect in predictions], ignore_index=True))


def _built(lens: Captioner, hooks: Intervention, group: ImagePrompt) -> list[transformer.NamedHook]:
    found: Any = hooks(group) if callable(hooks) else hooks
    return _checked(lens, found)


def _checked(lens: Captioner, hooks: Sequence[transformer.NamedHook]) -> list[transformer.NamedHook]:
    if not hooks:
        raise ValueError("no hooks given: there is no intervention to measure")
    transformer.check_hook_names(lens.model, [name for name, _ in hooks])
    return list(hooks)


def _rows_by_length(prompt: ImagePrompt) -> list[tuple[list[int], ImagePrompt]]:
    """Rows of one length together, without padding, with their numbers."""
    lengths = prompt.attention_mask.sum(dim=1).tolist()
    groups = []
    for length in sorted(set(lengths)):
        numbers = [i for i, n in enumerate(lengths) if n == length]
        rows = [prompt.row(i) for i in numbers]
        group = ImagePrompt(
            tokens=torch.cat([row.tokens for row in rows]),
            attention_mask=torch.cat([row.attention_mask for row in rows]),
            spans=tuple(row.spans[0] for row in rows),
        )
        groups.append((numbers, group))
    return groups
