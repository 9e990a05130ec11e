"""Generation: TransformerLens' own `generate` with its key-value cache, over groups of rows of equal length."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.arguments.boundary import read_integer
from lens_multimodal.prompt.image_prompt import ImagePrompt

LOWEST_TEMPERATURE = 0.01
"""Logits of hundreds divided by less leave the range of 16-bit floats."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen; the default is greedy.

    Raises: ValueError for numbers outside their range, for top_k, top_p or a temperature without sampling, and for
        beams with it.
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    num_beams: int = 1
    repetition_penalty: float = 1.0
    """Positive logits of words that the prompt or the text so far holds are divided by it, negative ones multiplied."""
    frequency_penalty: float = 0.0
    """What a word's logit, divided by the temperature, loses for each time that the prompt or the text so far holds it.
    Image positions do not count as words in either."""

    def __post_init__(self) -> None:
        transformer.check_penalties(self.repetition_penalty, self.frequency_penalty)
        if not self.do_sample and (self.top_k, self.top_p, self.temperature) != (None, None, 1.0):
            raise ValueError("top_k, top_p and temperature choose among samples: set do_sample=True with them")
        if not LOWEST_TEMPERATURE <= self.temperature < float("inf"):
            raise ValueError(
                f"the temperature must be finite and at least {LOWEST_TEMPERATURE}, got {self.temperature}; the "
                f"most likely token is taken without do_sample"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.do_sample and self.num_beams > 1:
            raise ValueError(f"beam search does not sample: use either do_sample or num_beams={self.num_beams}")
        if self.num_beams < 1:
            raise ValueError(f"num_beams must be at least 1, got {self.num_beams}")


def generate(
    model: nn.Module,
    prompt: ImagePrompt,
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    last_ids: Sequence[int] = (),
    sampling: Sampling | None = None,
    hooks: Sequence[transformer.NamedHook] = (),
) -> list[list[int]]:
    """New token ids of each row, up to the first stop token.

    Rows of equal length are generated together, unpadded, so a batch equals its single runs on every
    TransformerLens generation.

    Args:
        stop_ids: tokens that end a row.
        last_ids: those of them that still belong to it, such as ".\\n"; the others are left out.
        hooks: act in every pass. Rows of another length are another generation, with the same hooks.
    Raises:
        ValueError: the prompt and the new tokens do not fit into the model's context.
        HookDidNotFire: as `transformer.fired_hooks`.
    """
    sampling = sampling or Sampling()
    n_ctx = transformer.shape(model).n_ctx
    max_new_tokens = read_integer(max_new_tokens, "max_new_tokens")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    longest = prompt.tokens.shape[1]
    if longest + max_new_tokens > n_ctx:
        raise ValueError(
            f"a prompt of {longest} positions and {max_new_tokens} new tokens do not fit into the model's context of "
            f"{n_ctx}: shorten the text, use fewer images, or lower max_new_tokens"
        )
    lengths = prompt.attention_mask.sum(dim=1).tolist()
    new: list[list[int]] = [[] for _ in lengths]
    for length in sorted(set(lengths)):
        rows = [i for i, n in enumerate(lengths) if n == length]
        tokens = prompt.tokens[rows, longest - length :]
        out = transformer.generate(
            model,
            tokens,
            max_new_tokens=max_new_tokens,
            stop_ids=list(stop_ids),
            hooks=hooks,
            **asdict(sampling),
        )
        for row, ids in zip(rows, out[:, length:].tolist(), strict=True):
            new[row] = _until(ids, set(stop_ids), kept=set(last_ids))
    return new


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneratedActivations:
    """The activations of hook points while each token was generated.

    `activations[name][i]` is the activation at the position that predicted `token_ids[i]`.
    """

    token_ids: list[int]
    activations: dict[str, Float[Tensor, "new ..."]]
    prompt_activations: dict[str, Float[Tensor, "pos ..."]]
    """The same hook points over the whole prompt."""


def generate_with_activations(
    model: nn.Module,
    prompt: ImagePrompt,
    *,
    names: Sequence[str],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    last_ids: Sequence[int] = (),
) -> GeneratedActivations:
    """Greedy generation of one row with the activations that led to every generated token; arguments as in `generate`.

    Raises: ValueError for a prompt of more than one row, and for a hook point without a position axis such as an
        attention pattern.
    """
    prompt.check_one_row()
    passes: dict[str, list[Tensor]] = {name: [] for name in names}
    hooks = transformer.observe(names, into=passes)
    (ids,) = generate(model, prompt, max_new_tokens=max_new_tokens, stop_ids=stop_ids, last_ids=last_ids, hooks=hooks)
    for name, kept in passes.items():
        _check_positions(name, kept, n_prompt=prompt.tokens.shape[1])
    steps = {name: torch.cat([passed[0, -1:] for passed in kept[: max(len(ids), 1)]]) for name, kept in passes.items()}
    return GeneratedActivations(
        token_ids=ids,
        activations={name: values[: len(ids)] for name, values in steps.items()},
        prompt_activations={name: kept[0][0] for name, kept in passes.items()},
    )


def _check_positions(name: str, kept: list[Tensor], *, n_prompt: int) -> None:
    for index, passed in enumerate(kept):
        if passed.ndim < 3 or passed.shape[1] != (1 if index else n_prompt):
            raise ValueError(
                f"{name} holds {list(passed.shape)} for {1 if index else n_prompt} positions: expected "
                f"[batch, pos, ...], so this hook point cannot be recorded token by token"
            )


def _until(ids: list[int], stops: set[int], *, kept: set[int]) -> list[int]:
    for index, token in enumerate(ids):
        if token in stops:
            return ids[: index + (token in kept)]
    return ids
