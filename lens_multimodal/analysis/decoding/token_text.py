"""Token ids as text for people."""

import weakref
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any

from torch import nn

_known: "weakref.WeakKeyDictionary[Any, tuple[int, dict[int, str]]]" = weakref.WeakKeyDictionary()
"""The texts of tokens by tokenizer, and the size of its vocabulary when they were looked up."""


def token_strings(model: nn.Module, ids: Iterable[int]) -> list[str]:
    """The text of each token, its leading space kept.

    A token without text of its own (a row beyond the tokenizer, or a model without a tokenizer) is written as its id,
    `<50300>`.
    """
    tokenizer: Any = getattr(model, "tokenizer", None)
    tokens = [int(i) for i in ids]
    if tokenizer is None:
        return [f"<{token}>" for token in tokens]
    n_tokens = len(tokenizer)
    size, text = _known.get(tokenizer, (None, {}))
    if size != n_tokens:
        _, text = _known[tokenizer] = n_tokens, {}
    for token in tokens:
        if token not in text:
            text[token] = _text(tokenizer, token, n_tokens)
    return [text[token] for token in tokens]


def rows_of_strings(model: nn.Module, rows: Sequence[Sequence[int]]) -> list[list[str]]:
    """`token_strings` of several rows."""
    strings = iter(token_strings(model, chain.from_iterable(rows)))
    return [list(islice(strings, len(row))) for row in rows]


def _text(tokenizer: Any, token: int, n_tokens: int) -> str:
    if token >= n_tokens:
        return f"<{token}>"
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    piece = tokenizer.convert_ids_to_tokens(token)
    if isinstance(piece, str) and piece.startswith("▁") and not text.startswith(" "):
        text = " " + text
    return text or f"<{token}>"
