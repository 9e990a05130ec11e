"""Targets, which analyses explain: a scalar computed from the logits, most often the logit of one token.

The paper's target is the raw logit of a caption token at the position that predicts it (section 2.1). Raw means
as the model returns it: a model with a centred unembedding (TransformerLens weight processing) returns logits
shifted by one number per position, which shifts this target and its gradient. `CentredLogit`, `LogitDifference`
and `LogProbability` do not change under that shift.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.arguments.boundary import ArgumentTypeError, ArgumentValueError, read_integer, shown
from lens_multimodal.arguments.positions import positions_in
from lens_multimodal.precision import wide

Token: TypeAlias = int | np.integer | str | Tensor
"""A token id of the vocabulary, or a string that is exactly one token."""

Tokens: TypeAlias = Token | Sequence[Token] | np.ndarray
"""One token or several."""

LogitFunction: TypeAlias = Callable[[Tensor], Tensor]
"""A function from one row's logits, `[pos, d_vocab]` in float32 or wider, to a scalar tensor."""


@dataclass(frozen=True, kw_only=True)
class TokenTarget:
    """A target that reads one token at one position: the base class of four others."""

    token: Token
    pos: int = -1
    """The position whose logits are read, the one before the token itself. Negative counts from the end."""


@dataclass(frozen=True, kw_only=True)
class Logit(TokenTarget):
    """The raw logit of a token: the paper's target."""


@dataclass(frozen=True, kw_only=True)
class CentredLogit(TokenTarget):
    """A token's logit minus the mean logit of its position: unchanged by any weight processing."""


@dataclass(frozen=True, kw_only=True)
class LogProbability(TokenTarget):
    """The natural logarithm of a token's probability."""


@dataclass(frozen=True, kw_only=True)
class LogitDifference(TokenTarget):
    """The logit of one token minus that of another."""

    other: Token


@dataclass(frozen=True, kw_only=True)
class CaptionToken:
    """The raw logit of the token at a position of the prompt, read at the position before it."""

    pos: int


@dataclass(frozen=True, kw_only=True)
class LogitScalar:
    """Any differentiable scalar function of one row's logits, `[pos, d_vocab]` in float32 or wider."""

    function: LogitFunction
    label: str = "function of the logits"


Target: TypeAlias = (
    Token
    | tuple[Any, Token]
    | Logit
    | CaptionToken
    | LogitDifference
    | CentredLogit
    | LogProbability
    | LogitScalar
    | LogitFunction
)
"""A target, or its short form: a token id or a string of one token at the last position; `(pos, token)`; a
function of the logits."""

Targets: TypeAlias = Target | list[Any] | np.ndarray
"""One target, a list of them, or a tensor or array of token ids."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedTarget:
    """A target checked against a model and a prompt."""

    label: str
    pos: int | None
    """The position it reads, from 0; None for a function that may read all of them."""
    function: LogitFunction
    """Takes the logits at that position, `[d_vocab]`, or at all positions where `pos` is None."""
    token: int | None = None
    """The token that the target is about, if it is exactly one."""

    def value(self, logits: Float[Tensor, "pos_from_first d_vocab"], *, first: int = 0) -> Float[Tensor, ""]:
        """The target's value, in float32 or wider.

        Args: first: the position to which the first row of logits belongs.
        Raises: TypeError if a function of the logits does not return a scalar tensor.
        """
        value: Any = self.function(logits if self.pos is None else logits[self.pos - first])
        if not isinstance(value, Tensor) or value.ndim != 0:
            got = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"the target {self.label!r} must return a scalar tensor, but it returned {got}")
        return value


def first_read(targets: Iterable[ResolvedTarget]) -> int:
    """The first position whose logits any of the targets read."""
    return min(0 if target.pos is None else target.pos for target in targets)


def read_token(model: nn.Module, token: Any, *, name: str = "token", tokenizer: Any = None) -> int:
    """A token id of the vocabulary, given as such or as a string that is exactly one token.

    Args: tokenizer: for a model that has none of its own.
    Raises: ArgumentValueError for an id outside the vocabulary, and for a string of several tokens, listing them;
        ArgumentTypeError for anything else.
    """
    if isinstance(token, str):
        return single_token(getattr(model, "tokenizer", None) if tokenizer is None else tokenizer, token, name)
    if not hasattr(token, "__index__"):
        raise ArgumentTypeError(f"expected a token id or a string of one token, got {shown(token)}", name)
    found = read_integer(token, name)
    d_vocab = transformer.w_u(model).shape[1]
    if not 0 <= found < d_vocab:
        raise ArgumentValueError(
            f"token {found} is outside the vocabulary of {d_vocab} tokens (0 to {d_vocab - 1}); ids above "
            f"it stand for image positions, which have no logit",
            name,
        )
    return found


def read_tokens(model: nn.Module, tokens: Any, *, name: str = "token") -> list[int]:
    """One token or several, as a list of ids; errors as in `read_token`, and for none at all."""
    found = [read_token(model, token, name=name) for token in _listed(tokens)]
    if not found:
        raise ArgumentValueError("no token given; expected at least one", name)
    return found


def read_targets(
    model: nn.Module, targets: Any, tokens: Int[Tensor, "batch prompt_pos"], *, name: str = "target"
) -> list[ResolvedTarget]:
    """Targets as functions of the logits, checked before any forward pass.

    Args: tokens: the prompt; its length limits positions, its first row names caption tokens.
    Raises:
        ArgumentTypeError: something that is not a target.
        ArgumentValueError: no target; a token outside the vocabulary; a string of several tokens; a position outside.
    """
    listed = [targets] if isinstance(targets, tuple) else _listed(targets)
    if not listed:
        raise ArgumentValueError("no target given; expected a token id, a string of one token, or another target", name)
    return [_resolved(_as_object(target, model, name), model, tokens, name) for target in listed]


def _as_object(target: Any, model: nn.Module, name: str) -> Any:
    """The target object that a short form stands for."""
    if isinstance(target, tuple):
        if len(target) != 2:
            raise ArgumentTypeError(f"expected (position, token), got {target!r}; give several targets as a list", name)
        read_token(model, target[1], name=name)
        return Logit(token=target[1], pos=read_integer(target[0], name))
    if isinstance(target, str) or (hasattr(target, "__index__") and not isinstance(target, bool)):
        return Logit(token=target)
    if callable(target):
        return LogitScalar(function=target, label=getattr(target, "__name__", "function of the logits"))
    return target


def _resolved(target: Any, model: nn.Module, tokens: Tensor, name: str) -> ResolvedTarget:
    if isinstance(target, LogitScalar):
        function = target.function
        return ResolvedTarget(label=target.label, pos=None, function=lambda logits: function(wide(logits)))
    if isinstance(target, CaptionToken):
        target = _predicted(target, tokens, name)
    if not isinstance(target, TokenTarget):
        raise ArgumentTypeError(
            f"expected a target (a token id, a string of one token, (position, token), Logit, CaptionToken, "
            f"LogitDifference, CentredLogit, LogProbability or a function of the logits), got {shown(target)}",
            name,
        )
    pos = _one_position(target.pos, tokens, name)
    token, what = _named(model, target.token, name)
    if isinstance(target, LogitDifference):
        other, what_else = _named(model, target.other, name)
        return ResolvedTarget(
            label=f"logit of {what} minus {what_else} at {pos}",
            pos=pos,
            function=lambda logits: wide(logits[token]) - wide(logits[other]),
        )
    if isinstance(target, CentredLogit):
        return ResolvedTarget(
            label=f"centred logit of {what} at {pos}",
            pos=pos,
            token=token,
            function=lambda logits: wide(logits[token]) - wide(logits).mean(),
        )
    if isinstance(target, LogProbability):
        return ResolvedTarget(
            label=f"log-probability of {what} at {pos}",
            pos=pos,
            token=token,
            function=lambda logits: wide(logits).log_softmax(-1)[token],
        )
    return ResolvedTarget(
        label=f"logit of {what} at {pos}", pos=pos, token=token, function=lambda logits: wide(logits[token])
    )


def _predicted(target: CaptionToken, tokens: Tensor, name: str) -> Logit:
    pos = _one_position(target.pos, tokens, name)
    if pos == 0:
        raise ArgumentValueError("the token at position 0 is not predicted by anything before it", name)
    return Logit(token=int(tokens[0, pos]), pos=pos - 1)


def _one_position(pos: Any, tokens: Tensor, name: str) -> int:
    return int(positions_in(read_integer(pos, name), tokens.shape[1], name=name))


def _named(model: nn.Module, token: Token, name: str) -> tuple[int, str]:
    """A token's id, and its name in a label."""
    found = read_token(model, token, name=name)
    return found, repr(token) if isinstance(token, str) else f"token {found}"


def _listed(values: Any) -> list[Any]:
    """A list unchanged, an array or tensor of one axis as a list, anything else as the only item."""
    if isinstance(values, np.ndarray) or (isinstance(values, Tensor) and values.ndim):
        return values.tolist()
    return list(values) if isinstance(values, list | tuple) else [values]


def single_token(tokenizer: Any, text: str, name: str) -> int:
    """The id of a string that is one token, as in `read_token`."""
    if tokenizer is None:
        raise ArgumentValueError(f"this model has no tokenizer to look up {text!r}; give the token id instead", name)
    ids = token_ids(tokenizer, text, name)
    if len(ids) != 1:
        pieces = ", ".join(repr(tokenizer.decode([i])) for i in ids) or "nothing"
        raise ArgumentValueError(
            f"{text!r} is {len(ids)} tokens, not one: {pieces}; a word inside a sentence usually starts with a "
            f"space, {' ' + text.strip()!r}, and the first piece of a longer word can be a target by itself",
            name,
        )
    return ids[0]


def token_ids(tokenizer: Any, text: str, name: str = "text") -> list[int]:
    """Token ids of a text, without special tokens. Raises: ArgumentValueError for half a character."""
    if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ArgumentValueError(
            f"{text!r} contains half a character (a lone surrogate), which no tokenizer can read", name
        )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
