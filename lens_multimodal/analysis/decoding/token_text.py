"""Token ids as text for people."""

from collections.abc import Iterable
from typing import Any

from torch import nn


def token_strings(model: nn.Module, ids: Iterable[int]) -> list[str]:
    """The text of each token, its leading space kept.

    A token without text of its own (a row beyond the tokenizer, or a model without a tokenizer) is written as its id,
    `<50300>`.
    """
    tokenizer: Any = getattr(model, "tokenizer", None)
    return [_text(tokenizer, int(i)) for i in ids]


def _text(tokenizer: Any, token: int) -> str:
    if tokenizer is None or token >= len(tokenizer):
        return f"<{token}>"
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    piece = tokenizer.convert_ids_to_tokens(token)
    if isinstance(piece, str) and piece.startswith("▁") and not text.startswith(" "):
        text = " " + text
    return text or f"<{token}>"
