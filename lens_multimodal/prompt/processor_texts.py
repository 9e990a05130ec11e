"""Texts with pictures as a model's own Hugging Face processor writes them."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from PIL import Image
from torch import Tensor

from lens_multimodal.latest import Latest

KEPT = 256
"""Texts whose token ids are kept."""


class ProcessorTexts:
    """What a processor makes of texts in which a placeholder stands for each picture.

    Args:
        config: the model's.
        n_vectors: how many vectors the model gives a picture.
    """

    def __init__(self, processor: Any, config: Any, *, n_vectors: Callable[[Image.Image], int]) -> None:
        self._processor, self._config, self._n_vectors = processor, config, n_vectors
        self._image_token_id: int = config.image_token_id
        self._known: Latest[tuple[Any, ...], list[int]] = Latest(KEPT)

    @cached_property
    def image_token(self) -> str:
        """The text that the processor replaces with an image; for older Gemma 3, the mark before the image."""
        own, mark = str(self._processor.image_token), getattr(self._processor, "boi_token", None)
        try:
            found = self.processed(own, [Image.new("RGB", (32, 32))])["input_ids"]
        except ValueError:
            if mark is None:
                raise
            return str(mark)
        return own if mark is None or bool((found == self._image_token_id).any()) else str(mark)

    @cached_property
    def placeholder(self) -> str:
        """What stands for an image in a text: `image_token`, between the marks that the model's configuration names."""
        ids = (getattr(self._config, f"vision_{end}_token_id", None) for end in ("start", "end"))
        start, end = ("" if i is None else self._processor.tokenizer.convert_ids_to_tokens(i) for i in ids)
        return f"{start}{self.image_token}{end}"

    def processed(self, text: str, pictures: Sequence[Image.Image], **options: Any) -> Any:
        """The processor's own output."""
        return self._processor(text=[text], images=[list(pictures)], return_tensors="pt", **options)

    def written(self, text: str, pictures: Sequence[Image.Image], **options: Any) -> Any:
        """The same, without placeholders for a processor that adds image tokens on its own."""
        return self.processed(text.replace(self.placeholder, "") if self._adds_images else text, pictures, **options)

    def ids(self, text: str, sizes: tuple[tuple[int, int], ...], **options: Any) -> list[int]:
        """The token ids of `written`, which depend on the pictures only through their sizes."""

        def written() -> list[int]:
            ids: Tensor = self.written(text, [Image.new("RGB", size) for size in sizes], **options)["input_ids"]
            return ids[0].tolist()

        return self._known.get((text, sizes, *options.items()), written)

    @cached_property
    def _adds_images(self) -> bool:
        """Whether the processor puts image tokens before the text without a placeholder, as BLIP-2's does."""
        blank = Image.new("RGB", (64, 64))
        ids = self.processed(self.placeholder, [blank])["input_ids"]
        return int((ids == self._image_token_id).sum()) == 1 + self._n_vectors(blank)
