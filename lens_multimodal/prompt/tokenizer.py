"""A tokenizer as prompts and captions need it: what comes first, where a caption ends, and the text in between.

The tokenizer and the model's generation settings decide, never the name of the architecture.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import nn

from lens_multimodal import transformer
from lens_multimodal.arguments.targets import single_token, token_ids


class PromptTokenizer:
    """Turn text inside a prompt into token ids and back, and generated ids into a caption.

    Without a tokenizer there is no text: ids can be padded and generation ends at the model's own end tokens.

    Args:
        tokenizer: a Hugging Face tokenizer, or None.
        model: whose vocabulary the ids belong to, and whose generation settings may name further end tokens.
    Raises: ValueError on use of text if the model came without a tokenizer.
    """

    def __init__(self, tokenizer: Any, model: nn.Module | None = None) -> None:
        self._tokenizer = tokenizer
        self._model = model

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer."""
        if self._tokenizer is None:
            raise ValueError("this model came without a tokenizer: pass attach_vision(..., tokenizer=...)")
        return self._tokenizer

    # --- text and ids ----------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Token ids of a text as the model reads it in the middle of a prompt: no special token is added.

        Raises: TypeError if it is not a string; ValueError for half a character.
        """
        if not isinstance(text, str):
            raise TypeError(f"expected text, got {text!r} ({type(text).__name__})")
        return token_ids(self.tokenizer, text) if text else []

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def token(self, token_id: int) -> str:
        """The text of one token, special tokens included."""
        text: str = self.tokenizer.decode([token_id])
        return text

    def token_id(self, word: str | int) -> int:
        """The id of a string that is exactly one token; an id is returned as it is.

        Raises: ValueError for a string of several tokens, naming them.
        """
        return single_token(self.tokenizer, word, "word") if isinstance(word, str) else word

    # --- what comes first ------------------------------------------------------------------------------

    def start_ids(self, prepend_bos: bool | None = None) -> list[int]:
        """The tokens that a prompt begins with.

        Args: prepend_bos: None for what the tokenizer puts before a text by default (most often BOS or nothing), True
            for BOS even if it puts none, False for nothing.
        Raises: ValueError for True if the tokenizer has no beginning-of-sequence token.
        """
        if prepend_bos is False or (prepend_bos is None and self._tokenizer is None):
            return []
        bos = self.tokenizer.bos_token_id
        if prepend_bos and not self._put_before_texts and bos is None:
            raise ValueError(
                "this tokenizer has no beginning-of-sequence token; use prepend_bos=False, or None for what it does "
                "by default"
            )
        return self._put_before_texts or ([bos] if prepend_bos else [])

    @cached_property
    def _put_before_texts(self) -> list[int]:
        """What the tokenizer adds on the left; there may be several, such as GLM's `[gMASK]<sop>`."""
        tokenizer = self._as_its_files_say
        for text in ("a", "A", ".", "0", "\n"):
            inside, whole = token_ids(tokenizer, text), list(tokenizer(text)["input_ids"])
            for start in reversed(range(len(whole) - len(inside) + 1 if inside else 0)):
                if whole[start : start + len(inside)] == inside:
                    return whole[:start]
        return []

    @property
    def _as_its_files_say(self) -> Any:
        """The tokenizer before TransformerLens made it add BOS, which it does to every tokenizer that it loads."""
        changed = self._tokenizer is getattr(self._model, "tokenizer", None)
        if not changed or not getattr(self._tokenizer, "add_bos_token", False):
            return self._tokenizer
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self._tokenizer.name_or_path, local_files_only=True)
        except (OSError, ValueError):  # made in memory, or its folder is gone
            return self._tokenizer

    # --- where a caption ends --------------------------------------------------------------------------

    @property
    def end_ids(self) -> list[int]:
        """The end tokens: the tokenizer's own first, then those that the model's generation settings name."""
        own = getattr(self._tokenizer, "eos_token_id", None)
        named = [] if self._model is None else transformer.end_tokens(self._model)
        return list(dict.fromkeys(i for i in (own, *named) if i is not None))

    @property
    def stop_ids(self) -> list[int]:
        """Where generation stops: end tokens, and every token that holds a new line."""
        return list(dict.fromkeys([*self.end_ids, *self._line_ends]))

    @property
    def last_ids(self) -> list[int]:
        """Those of `stop_ids` that hold words of the caption before their new line, such as Llama 3's ".\\n\\n"."""
        return [i for i, text in self._line_ends.items() if text.split("\n")[0].strip() and i not in self.end_ids]

    @cached_property
    def _line_ends(self) -> dict[int, str]:
        """The vocabulary's tokens with a new line in their text."""
        if self._tokenizer is None:
            return {}
        signs = ("\n", "Ċ", "<0x0A>")  # plain, in byte-level tokenizers, and in those that fall back to bytes
        vocabulary = ((_as_text(token), i) for token, i in self._tokenizer.get_vocab().items())
        candidates = sorted(i for token, i in vocabulary if any(sign in token for sign in signs))
        return {i: text for i in candidates if "\n" in (text := self.token(i))}

    def first_line(self, ids: Sequence[int]) -> list[int]:
        """Generated ids before the end token, up to and including the one whose new line ends the caption.

        A token that only ends the line adds nothing to the caption and is left out.
        """
        ends = set(self.end_ids)
        for n, token in enumerate(ids):
            if token in ends:
                return list(ids[:n])
            if self._tokenizer is not None and "\n" in self.decode(ids[: n + 1]):
                adds_words = self.caption(ids[: n + 1]) != self.caption(ids[:n])
                return list(ids[: n + 1] if adds_words else ids[:n])
        return list(ids)

    def caption(self, ids: Sequence[int]) -> str:
        """The caption in generated ids: their first line, without surrounding spaces."""
        return self.decode(ids).split("\n")[0].strip()

    # --- padding ---------------------------------------------------------------------------------------

    @property
    def pad_id(self) -> int:
        """The padding on the left of shorter rows: any word will do, since attention is masked there."""
        n_words = None if self._model is None else transformer.shape(self._model).d_vocab
        candidates = (getattr(self._tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
        return next((i for i in candidates if i is not None and 0 <= i < (n_words or i + 1)), 0)


def _as_text(token: str | bytes) -> str:
    return token if isinstance(token, str) else token.decode("utf-8", "replace")
