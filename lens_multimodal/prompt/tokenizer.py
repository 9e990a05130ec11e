"""A tokenizer as prompts and captions need it: no special tokens, and one rule for where a caption ends."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from lens_multimodal.arguments.targets import single_token, token_ids


class PromptTokenizer:
    """Text to token ids and back in the middle of a prompt, and generated ids to a caption.

    Everything but `pad_id` needs a tokenizer.

    Raises: ValueError on use if the model came without one.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer."""
        if self._tokenizer is None:
            raise ValueError("this model came without a tokenizer: pass attach_vision(..., tokenizer=...)")
        return self._tokenizer

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

    def first_line(self, ids: Sequence[int]) -> list[int]:
        """Generated ids up to and including the token that ends the first line.

        A tokenizer may hold a line's end inside a longer token (Llama 3 has ".\\n\\n"), where generation does not stop.
        """
        for index, token in enumerate(ids):
            if "\n" in self.token(token):
                return list(ids[: index + 1])
        return list(ids)

    def caption(self, ids: Sequence[int]) -> str:
        """The caption that generated ids spell: their first line, without surrounding spaces."""
        return self.decode(ids).split("\n")[0].strip()

    def token(self, token_id: int) -> str:
        """One token as it is, special ones too."""
        text: str = self.tokenizer.decode([token_id])
        return text

    def token_id(self, word: str | int) -> int:
        """The id of a string that is exactly one token; an id is returned as it is.

        Raises: ValueError for a string of several tokens, naming them.
        """
        return single_token(self.tokenizer, word, "word") if isinstance(word, str) else word

    @cached_property
    def stop_ids(self) -> list[int]:
        """The end token and new lines: where generation stops."""
        newlines = [ids[0] for text in ("\n", "\n\n") if len(ids := self.encode(text)) == 1]
        known = [i for i in newlines if i != self.tokenizer.unk_token_id]
        return [i for i in dict.fromkeys([self.tokenizer.eos_token_id, *known]) if i is not None]

    @property
    def bos(self) -> list[int]:
        """The beginning-of-sequence token.

        Raises: ValueError if the tokenizer has none.
        """
        bos = self.tokenizer.bos_token_id
        if bos is None:
            raise ValueError("this tokenizer has no beginning-of-sequence token; use prepend_bos=False")
        return [bos]

    @property
    def pad_id(self) -> int:
        """What fills a shorter row on the left; attention is masked there."""
        candidates = (getattr(self._tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
        return next((i for i in candidates if i is not None), 0)
