"""Generation: TransformerLens' own `generate` with its key-value cache, over groups of rows of equal length."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.arguments.boundary import read_integer
from lens_multimodal.prompt.image_prompt import ImagePrompt


def generate(
    model: nn.Module,
    prompt: ImagePrompt,
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    last_ids: Sequence[int] = (),
    sampling: transformer.Sampling | None = None,
    hooks: Sequence[transformer.NamedHook] = (),
) -> list[list[int]]:
    """New token ids of each row, up to the first stop token.

    Rows of equal length are generated together, unpadded, so a batch equals its single runs on every
    TransformerLens generation.

    Args:
        stop_ids: tokens that end a row.
        last_ids: those of them that still belong to it, such as ".\\n"; the others are left out.
        sampling: None for greedy.
        hooks: act in every pass. Rows of another length are another generation, with the same hooks.
    Raises:
        ValueError: the prompt and the new tokens do not fit into the model's context.
        HookDidNotFire: as `transformer.fired_hooks`.
    """
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
            sampling=sampling or transformer.GREEDY,
            hooks=hooks,
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
