"""Losses and penalties over the words of a prompt with images.

TransformerLens computes both with token ids as indices of the vocabulary, and the ids of image positions lie beyond it.
So `count_words_alone` gives a model methods of its own, which leave prompts without images to TransformerLens' code.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from types import MethodType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_multimodal.transformer.model_class import embedding_module, is_bridge
from lens_multimodal.transformer.sizes import shape
from lens_multimodal.transformer.watched_modules import harmless


def count_words_alone(model: nn.Module) -> None:
    """Let a model's `return_type="loss"` and the penalties of its `generate` skip image positions."""
    for method in OWN_METHODS:
        if hasattr(type(model), method.__name__):
            model.__dict__[method.__name__] = MethodType(method, model)


def count_as_before(model: nn.Module) -> None:
    """Undo `count_words_alone`."""
    for method in OWN_METHODS:
        model.__dict__.pop(method.__name__, None)


def loss_fn(
    self: Any,
    logits: Float[Tensor, "batch pos d_vocab"],
    tokens: Int[Tensor, "batch pos"],
    attention_mask: Tensor | None = None,
    per_token: bool = False,
) -> Float[Tensor, "*batch_pos"]:
    """Next-token loss (nats) in place of a TransformerLens model's own: the mean over words, or 0 at image positions.

    The word after an image counts, too: the image predicts it.

    Raises: ValueError for a mean over no words.
    """
    own = type(self).loss_fn
    tokens = tokens.to(logits.device)
    image = tokens >= shape(self).d_vocab
    if not bool(image.any()):
        return own(self, logits, tokens, attention_mask, per_token)
    losses = own(self, logits, tokens.masked_fill(image, 0), attention_mask, True)
    scored = ~image[:, 1:]
    if attention_mask is not None:
        mask = attention_mask.to(logits.device)
        mask = self._prepare_loss_attention_mask(mask, tokens) if is_bridge(self) else mask
        scored = scored & mask[:, :-1].bool() & mask[:, 1:].bool()
    losses = losses.masked_fill(~scored, 0.0)
    if per_token:
        return losses
    if not bool(scored.any()):
        raise ValueError("this prompt has no word after its first position, so there is no loss to average")
    return losses.sum() / scored.sum()


@harmless
def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
    """A TransformerLens model's own `generate`, with penalties that skip image positions."""
    own = type(self).generate
    given = signature(own).bind(self, *args, **kwargs)
    repetition = given.arguments.get("repetition_penalty", 1.0)
    frequency = given.arguments.get("freq_penalty", 0.0)
    tokens = given.arguments.get("input")
    if (repetition, frequency) == (1.0, 0.0) or not _holds_images(self, tokens):
        return own(self, *args, **kwargs)
    check_penalties(repetition, frequency)
    for name in ("repetition_penalty", "freq_penalty"):
        given.arguments.pop(name, None)
    given.apply_defaults()
    asked = given.arguments
    frequency = frequency if asked["do_sample"] else 0.0  # TransformerLens has none without sampling
    with penalised(self, repetition=repetition, frequency=frequency, temperature=asked["temperature"]):
        return own(*given.args, **given.kwargs)


def _without_penalties(name: str) -> Callable[..., Any]:
    """A TransformerLens model's own method, which would look image positions up in the vocabulary to penalise them."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        neutral = {"repetition_penalty": 1.0, "freq_penalty": 0.0}
        given = [penalty for penalty, none in neutral.items() if kwargs.get(penalty, none) != none]
        if given and _holds_images(self, kwargs.get("input", args[0] if args else None)):
            raise ValueError(
                f"{name}({given[0]}=...) cannot take image positions: use model.generate, or "
                f"lens.generate(sampling=Sampling(repetition_penalty=..., frequency_penalty=...))"
            )
        return getattr(type(self), name)(self, *args, **kwargs)

    method.__name__ = name
    return method


def _holds_images(model: nn.Module, tokens: Any) -> bool:
    """Whether these are token ids, some of which stand for image positions."""
    is_ids = isinstance(tokens, Tensor) and not tokens.is_floating_point()
    return is_ids and bool((tokens >= shape(model).d_vocab).any())


def tokens_to_residual_directions(self: Any, tokens: Any) -> Tensor:
    """A TransformerLens model's own `tokens_to_residual_directions`, which `cache.logit_attrs` uses, too.

    Raises: ValueError for image positions, which have no direction in the unembedding.
    """
    if _holds_images(self, tokens):
        raise ValueError(
            "some of these tokens stand for image positions, which have no logit and so no residual direction: give "
            "the words alone (tokens[prompt.text_mask])"
        )
    return type(self).tokens_to_residual_directions(self, tokens)


OWN_METHODS = (
    loss_fn,
    generate,
    _without_penalties("generate_stream"),
    _without_penalties("hf_generate"),
    tokens_to_residual_directions,
)


def check_penalties(repetition: float, frequency: float) -> None:
    """Raise ValueError for a repetition penalty that is not positive, or a negative frequency penalty."""
    if not 0 < repetition < float("inf"):
        raise ValueError(f"the repetition penalty must be positive and finite, got {repetition}")
    if not 0 <= frequency < float("inf"):
        raise ValueError(f"the frequency penalty must be finite and at least 0, got {frequency}")


def penalise(
    logits: Float[Tensor, "batch d_vocab"], tokens: Int[Tensor, "batch pos"], *, repetition: float, frequency: float
) -> Float[Tensor, "batch d_vocab"]:
    """Logits of the next token with those of the words among `tokens` lowered.

    Args:
        repetition: positive logits of such words are divided by it, negative ones multiplied (Keskar et al. 2019).
        frequency: subtracted for each time that the word occurs.
    """
    tokens = tokens.to(logits.device)
    words = (tokens >= 0) & (tokens < logits.shape[-1])
    times = torch.zeros_like(logits).scatter_add_(1, tokens.masked_fill(~words, 0), words.to(logits.dtype))
    lowered = torch.where(logits > 0, logits / repetition, logits * repetition)
    return torch.where(times > 0, lowered, logits) - frequency * times


@contextmanager
def penalised(
    model: nn.Module, *, repetition: float = 1.0, frequency: float = 0.0, temperature: float = 1.0
) -> Iterator[None]:
    """Within this block, every forward pass of a generation gives penalised logits at its last position.

    Which words came before is seen at the embedding lookup, the only place that all passes share: with the cache each
    pass looks up the new token alone, without it the whole row.

    Args: temperature: by which sampling will divide the logits, before TransformerLens subtracts its frequency penalty.
    """
    if (repetition, frequency) == (1.0, 0.0):
        yield
        return
    so_far: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple[Any, ...]) -> None:
        looked_up = args[0]
        if so_far and looked_up.shape[1] != so_far[0].shape[1] + 1:
            looked_up = torch.cat([so_far[0], looked_up], dim=1)
        so_far[:] = [looked_up]

    own = model.forward

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        logits = own(*args, **kwargs)
        last = penalise(logits[:, -1], so_far[0], repetition=repetition, frequency=frequency * temperature)
        return torch.cat([logits[:, :-1], last[:, None]], dim=1)

    handle = embedding_module(model).register_forward_pre_hook(keep, prepend=True)
    model.__dict__["forward"] = forward
    try:
        yield
    finally:
        del model.__dict__["forward"]
        handle.remove()
