"""What is explained: a scalar read off the logits, most often the logit of one token.

The paper's target is the raw logit of a caption token at the position that predicts it (section 2.1). Raw means
as the model returns it: a model with a centred unembedding (TransformerLens weight processing) returns logits
shifted by one number per position, which shifts this target and its gradient. `CentredLogit`, `LogitDifference`
and `LogProbability` do not change under that shift.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_multimodal.arguments.selection import resolve_position, resolve_token, wide

LogitFunction: TypeAlias = Callable[[Tensor], Tensor]
"""A function from one row's logits, `[pos, d_vocab]` in float32 or wider, to a scalar tensor."""


@dataclass(frozen=True, kw_only=True)
class Logit:
    """The raw logit of a token: the paper's target."""

    token: int | str
    pos: int = -1
    """The position whose logits are read, the one before the token itself. Negative counts from the end."""


@dataclass(frozen=True, kw_only=True)
class CaptionToken:
    """The raw logit of the token that stands at a position of the prompt, read at the position before it."""

    pos: int


@dataclass(frozen=True, kw_only=True)
class LogitDifference:
    """How far the logit of one token lies above that of another."""

    token: int | str
    other: int | str
    pos: int = -1


@dataclass(frozen=True, kw_only=True)
class CentredLogit:
    """A token's logit minus the mean logit of its position: unchanged by any weight processing."""

    token: int | str
    pos: int = -1


@dataclass(frozen=True, kw_only=True)
class LogProbability:
    """The natural logarithm of a token's probability."""

    token: int | str
    pos: int = -1


@dataclass(frozen=True, kw_only=True)
class LogitScalar:
    """Any differentiable scalar function of one row's logits, `[pos, d_vocab]` in float32 or wider."""

    function: LogitFunction
    label: str = "function of the logits"


Target: TypeAlias = (
    int
    | str
    | tuple[int, int | str]
    | Logit
    | CaptionToken
    | LogitDifference
    | CentredLogit
    | LogProbability
    | LogitScalar
    | LogitFunction
)
"""A target, or short for one: a token id or a string of one token at the last position; `(pos, token)`; a
function of the logits."""

Targets: TypeAlias = Target | list[Any]
"""One target or a list of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedTarget:
    """A target checked against a model and a prompt."""

    label: str
    pos: int | None
    """The position it reads, from 0; None for a function that may read all of them."""
    function: LogitFunction
    """Of the logits at that position, [d_vocab]; of those at all positions where it is None."""

    def value(self, logits: Float[Tensor, "pos_from_first d_vocab"], *, first: int = 0) -> Float[Tensor, ""]:
        """The target's value, in float32 or wider.

        Args: first: the position to which the first row of logits belongs.
        Raises: TypeError if a function of the logits does not return a scalar tensor.
        """
        value: Any = self.function(logits if self.pos is None else logits[self.pos - first])
        if not isinstance(value, Tensor) or value.ndim != 0:
            got = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"the target {self.label!r} must return a scalar tensor, it returned {got}")
        return value


def first_read(targets: Iterable[ResolvedTarget]) -> int:
    """The first position whose logits any of the targets read."""
    return min(0 if target.pos is None else target.pos for target in targets)


def resolve_targets(
    model: nn.Module, targets: Any, tokens: Int[Tensor, "batch prompt_pos"]
) -> tuple[ResolvedTarget, ...]:
    """Turn targets into functions of the logits, checked before any forward pass.

    Args: tokens: the prompt; its length limits positions, its first row names caption tokens.
    Raises:
        TypeError: something that is no target.
        ValueError: no target; a token outside the vocabulary; a string of several tokens; a position outside.
    """
    listed = targets if isinstance(targets, list) else [targets]
    if not listed:
        raise ValueError("no target given: expected a token id, a string of one token, or another target")
    return tuple(_resolve(target, model, tokens) for target in listed)


def _resolve(target: Any, model: nn.Module, tokens: Tensor) -> ResolvedTarget:
    if isinstance(target, tuple):
        if len(target) != 2:
            raise TypeError(f"expected (position, token), got {target!r}; several targets come as a list")
        resolve_token(model, target[1])
        target = Logit(token=target[1], pos=resolve_position(target[0], tokens.shape[1]))
    elif isinstance(target, str) or (hasattr(target, "__index__") and not isinstance(target, bool)):
        target = Logit(token=target)
    elif callable(target):
        target = LogitScalar(function=target, label=getattr(target, "__name__", "function of the logits"))
    if isinstance(target, CaptionToken):
        target = _predicted(target, tokens)
    if isinstance(target, LogitScalar):
        function = target.function
        return ResolvedTarget(label=target.label, pos=None, function=lambda logits: function(wide(logits)))
    if not isinstance(target, Logit | LogitDifference | CentredLogit | LogProbability):
        raise TypeError(
            f"expected a target (a token id, a string of one token, (position, token), Logit, CaptionToken, "
            f"LogitDifference, CentredLogit, LogProbability or a function of the logits), got "
            f"{type(target).__name__}"
        )
    pos = resolve_position(target.pos, tokens.shape[1])
    token = resolve_token(model, target.token)
    name = repr(target.token) if isinstance(target.token, str) else f"token {token}"
    if isinstance(target, LogitDifference):
        other = resolve_token(model, target.other)
        other_name = repr(target.other) if isinstance(target.other, str) else f"token {other}"
        return ResolvedTarget(
            label=f"logit of {name} minus {other_name} at {pos}",
            pos=pos,
            function=lambda logits: wide(logits[token]) - wide(logits[other]),
        )
    if isinstance(target, CentredLogit):
        return ResolvedTarget(
            label=f"centred logit of {name} at {pos}",
            pos=pos,
            function=lambda logits: wide(logits[token]) - wide(logits).mean(),
        )
    if isinstance(target, LogProbability):
        return ResolvedTarget(
            label=f"log-probability of {name} at {pos}",
            pos=pos,
            function=lambda logits: wide(logits).log_softmax(-1)[token],
        )
    return ResolvedTarget(label=f"logit of {name} at {pos}", pos=pos, function=lambda logits: wide(logits[token]))


def _predicted(target: CaptionToken, tokens: Tensor) -> Logit:
    pos = resolve_position(target.pos, tokens.shape[1])
    if pos == 0:
        raise ValueError("the token at position 0 is not predicted by anything before it")
    return Logit(token=int(tokens[0, pos]), pos=pos - 1)
