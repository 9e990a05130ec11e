"""How an intervention changes a prediction: the target's value, its probability and rank, and the divergence.

    effect = effect_of(model, prompt.tokens, ablate(model, neurons), " dog")
    effect.relative_probability_change          # -0.8: the intervention took 80 % of the token's probability

The paper's causal experiment (section 3.3) compares this for the neurons found and for random ones: see
`effects_against_random`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.arguments.boundary import ArgumentValueError, public
from lens_multimodal.arguments.targets import ResolvedTarget, Targets, first_read, read_targets
from lens_multimodal.notebook import ShownInNotebooks
from lens_multimodal.precision import wide


@dataclass(frozen=True, kw_only=True)
class Effect(ShownInNotebooks):
    """Predictions before and after an intervention: one entry for each prompt of the batch.

    With a list of targets there is one entry for each target of each prompt, the targets of a prompt together.
    Numbers are float32 at least, whatever the model's dtype. A target about exactly one token has a logit, a
    probability and a rank; for any other (a logit difference, a function of the logits) `token` and the ranks are -1,
    and logits and probabilities NaN.
    """

    target: tuple[str, ...]
    """What was predicted, in words."""
    token: Int[Tensor, " entry"]
    value_before: Float[Tensor, " entry"]
    """The target itself: for a token, its logit."""
    value_after: Float[Tensor, " entry"]
    logit_before: Float[Tensor, " entry"]
    logit_after: Float[Tensor, " entry"]
    probability_before: Float[Tensor, " entry"]
    probability_after: Float[Tensor, " entry"]
    rank_before: Int[Tensor, " entry"]
    """0 when the token is the most likely one."""
    rank_after: Int[Tensor, " entry"]
    top_before: Int[Tensor, " entry"]
    """The most likely token at the target's position; a function of all logits is taken to read the last one."""
    top_after: Int[Tensor, " entry"]
    kl: Float[Tensor, " entry"]
    """KL(before || after) of the whole next-token distribution at that position, in nats."""

    @property
    def value_change(self) -> Float[Tensor, " entry"]:
        return self.value_after - self.value_before

    @property
    def logit_change(self) -> Float[Tensor, " entry"]:
        return self.logit_after - self.logit_before

    @property
    def probability_change(self) -> Float[Tensor, " entry"]:
        return self.probability_after - self.probability_before

    @property
    def relative_probability_change(self) -> Float[Tensor, " entry"]:
        """-1: all of the token's probability is gone; 0: unchanged; 1: doubled (what the paper reports)."""
        return self.probability_change / self.probability_before

    def table(self) -> pd.DataFrame:
        """One row for each entry, changes included."""
        names = [
            "token", "value_before", "value_after", "value_change", "logit_before", "logit_after", "logit_change",
            "probability_before", "probability_after", "probability_change", "relative_probability_change",
            "rank_before", "rank_after", "top_before", "top_after", "kl",
        ]  # fmt: skip
        return pd.DataFrame({"target": self.target, **{name: getattr(self, name).tolist() for name in names}})


@public
def effect_of(
    model: nn.Module,
    tokens: Int[Tensor, "batch pos"],
    hooks: Sequence[transformer.NamedHook],
    target: Targets,
    *,
    attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
) -> Effect:
    """Run prompts without and with hooks and compare a prediction.

    Args:
        hooks: what a builder of `lens_multimodal.hooks` returned, or several lists added together.
        target: a token id or a string of one token, predicted at the end of (left-padded) prompts; `(pos, token)` for
            another position; any other target, or a list of targets. A tensor or array of token ids `[batch]` gives
            each prompt its own.
    Raises: ValueError for targets that do not exist, no hooks or unknown hook names; TypeError for no target at all;
        FloatingPointError if logits are not finite (overflow in a half-precision model, for example).
    """
    return effects_of(model, tokens, [hooks], target, attention_mask=attention_mask)[0]


@public
def effects_of(
    model: nn.Module,
    tokens: Int[Tensor, "batch pos"],
    interventions: Iterable[Sequence[transformer.NamedHook]],
    target: Targets,
    *,
    attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
) -> list[Effect]:
    """`effect_of` for several interventions on the same prompts, which share the run without any.

    Args: interventions: one list of hooks for each; further settings and errors as in `effect_of`.
    """
    listed = list(interventions)
    for hooks in listed or [[]]:
        check_intervention(model, hooks)
    targets = targets_of_rows(model, tokens, target)
    first = first_read(resolved for of_row in targets for resolved in of_row)

    def predictions(hooks: Sequence[transformer.NamedHook]) -> Predictions:
        logits = transformer.logits_of(model, tokens, attention_mask=attention_mask, first=first, hooks=hooks)
        return Predictions.of(logits, targets, first=first)

    with torch.no_grad(), transformer.running_alike(model, (name for hooks in listed for name, _ in hooks)):
        before = predictions([])
        return [effect_between(before, predictions(hooks)) for hooks in listed]


def check_intervention(model: nn.Module, hooks: Sequence[transformer.NamedHook]) -> None:
    """Raise ValueError for no hooks or unknown hook names."""
    if not hooks:
        raise ValueError("no hooks given: there is no intervention to measure")
    transformer.check_hook_names(model, [name for name, _ in hooks])


def targets_of_rows(model: nn.Module, tokens: Int[Tensor, "batch pos"], target: Targets) -> list[list[ResolvedTarget]]:
    """The targets of each prompt: a tensor or array has one token for each, everything else is meant for all."""
    if isinstance(target, Tensor | np.ndarray) and target.ndim:
        if tuple(target.shape) != (len(tokens),):
            raise ArgumentValueError(
                f"expected one target, or one for each of {len(tokens)} prompts, got shape {list(target.shape)}",
                "target",
            )
        return [read_targets(model, token, tokens[row : row + 1]) for row, token in enumerate(target.tolist())]
    return [read_targets(model, target, tokens[row : row + 1]) for row in range(len(tokens))]


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """How targets are predicted in some rows: one entry for each target of each row."""

    targets: tuple[ResolvedTarget, ...]
    value: Float[Tensor, " entry"]
    logits: Float[Tensor, "entry d_vocab"]
    """At the target's position; at the last one where the target is a function of all logits."""

    @classmethod
    def of(
        cls,
        logits: Float[Tensor, "row pos_from_first d_vocab"],
        targets: Sequence[Sequence[ResolvedTarget]],
        *,
        first: int,
    ) -> "Predictions":
        """Raises: FloatingPointError for logits that are not finite."""
        entries = [(row, target) for row, of_row in enumerate(targets) for target in of_row]
        rows = torch.tensor([row for row, _ in entries], device=logits.device)
        at = [logits.shape[1] - 1 if target.pos is None else target.pos - first for _, target in entries]
        read = wide(logits[rows, torch.tensor(at, device=logits.device)])
        if not bool(torch.isfinite(read).all()):
            raise FloatingPointError(
                f"{int((~torch.isfinite(read)).sum())} logits at positions {sorted({first + pos for pos in at})} are "
                f"not finite; run the model in float32, or intervene with smaller values"
            )
        value = torch.stack([target.value(logits[row], first=first) for row, target in entries])
        return cls(targets=tuple(target for _, target in entries), value=value, logits=read)

    def __getitem__(self, entries: slice) -> "Predictions":
        return Predictions(targets=self.targets[entries], value=self.value[entries], logits=self.logits[entries])


def effect_between(before: Predictions, after: Predictions) -> Effect:
    """The effect between two runs; one row of `before` may serve several rows of `after`."""
    n_times = len(after.targets) // len(before.targets)
    tokens = torch.tensor(
        [-1 if target.token is None else target.token for target in after.targets], device=before.logits.device
    )
    has_token = tokens >= 0
    log_before, log_after = (
        run.logits.log_softmax(-1).repeat(times, 1) for run, times in ((before, n_times), (after, 1))
    )
    logits_before, logits_after = before.logits.repeat(n_times, 1), after.logits

    def at_token(values: Tensor) -> Tensor:
        chosen = values.gather(1, tokens.clamp(min=0)[:, None])[:, 0]
        return chosen.masked_fill(~has_token, torch.nan)

    def rank(logits: Tensor) -> Tensor:
        return (logits > at_token(logits)[:, None]).sum(-1).masked_fill(~has_token, -1)

    return Effect(
        target=tuple(target.label for target in after.targets),
        token=tokens,
        value_before=before.value.repeat(n_times),
        value_after=after.value,
        logit_before=at_token(logits_before),
        logit_after=at_token(logits_after),
        probability_before=at_token(log_before).exp(),
        probability_after=at_token(log_after).exp(),
        rank_before=rank(logits_before),
        rank_after=rank(logits_after),
        top_before=logits_before.argmax(-1),
        top_after=logits_after.argmax(-1),
        kl=(log_before.exp() * (log_before - log_after)).sum(-1).clamp(min=0),
    )
