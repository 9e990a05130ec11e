"""How an intervention changes captions: the greedy text before and after, and their similarity.

Positions mean the same while tokens are generated one by one with the key-value cache (see `arguments.positions`): an
intervention at the image positions acts on the prompt and leaves generated tokens alone.

    effect = caption_effect_of(lens, prompt, ablate(lens.model, neurons, positions=prompt.image_pos[0]))
    effect.after, effect.changed, effect.similarity
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_multimodal import transformer
from lens_multimodal.analysis.effects.by_row import Captioner
from lens_multimodal.analysis.effects.prediction_effect import check_intervention
from lens_multimodal.analysis.effects.similarity import WORD_OVERLAP, Similarity
from lens_multimodal.arguments.boundary import public
from lens_multimodal.prompt.image_prompt import ImagePrompt

Intervention: TypeAlias = Sequence[transformer.NamedHook] | Callable[[ImagePrompt], Sequence[transformer.NamedHook]]
"""Hooks, or a function that builds them for some rows of equal length, without padding."""


@dataclass(frozen=True, kw_only=True)
class CaptionEffect:
    """Captions without and with an intervention, one entry for each row of the prompt."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    similarity: Float[Tensor, " batch"]
    """Similarity of the caption after to the caption before."""
    measure: str
    """How similarity was measured."""

    @property
    def changed(self) -> Bool[Tensor, " batch"]:
        """Whether the two texts differ."""
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


@public
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
            unequal length are generated in groups of equal length without padding and need such a function, which is
            called once for each group.
        similarity: `WordOverlap()`, or `SentenceCosine(model)` or `BertScore(model)` with a model of your own.
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
        with transformer.running_alike(lens.model, [name for name, _ in of_group]):
            texts = lens.generate(group, max_new_tokens=max_new_tokens)
            edited = lens.generate(group, max_new_tokens=max_new_tokens, hooks=of_group)
        for row, text, new in zip(rows, texts, edited, strict=True):
            before[row], after[row] = text, new
    return CaptionEffect(
        before=tuple(before), after=tuple(after), similarity=similarity(before, after), measure=similarity.name
    )


def _built(lens: Captioner, hooks: Intervention, group: ImagePrompt) -> list[transformer.NamedHook]:
    found = list(hooks(group) if callable(hooks) else hooks)
    check_intervention(lens.model, found)
    return found


def _rows_by_length(prompt: ImagePrompt) -> list[tuple[list[int], ImagePrompt]]:
    """Rows of equal length together, without padding, with their row numbers."""
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
