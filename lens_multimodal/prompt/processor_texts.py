"""Texts with pictures as a model's own Hugging Face processor writes them, and its image tokens as parts of images."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from PIL import Image
from torch import Tensor

from lens_multimodal.prompt.image_prompt import EmbeddedImage, ImagePart, Piece
from lens_multimodal.prompt.tower_layouts import Latest


class ProcessorTexts:
    """What a processor makes of texts in which its placeholder stands for each picture.

    Args: n_vectors: how many vectors the model gives a picture.
    """

    def __init__(self, processor: Any, *, image_token_id: int, n_vectors: Callable[[Image.Image], int]) -> None:
        self.placeholder = str(processor.image_token)
        self._processor, self._image_token_id, self._n_vectors = processor, image_token_id, n_vectors
        self._known: Latest[tuple[Any, ...], list[int]] = Latest()

    def processed(self, text: str, pictures: Sequence[Image.Image], **options: Any) -> Any:
        """The processor's own answer."""
        return self._processor(text=[text], images=[list(pictures)], return_tensors="pt", **options)

    def written(self, text: str, pictures: Sequence[Image.Image], **options: Any) -> Any:
        """The same, without placeholders for a processor that adds its images by itself."""
        return self.processed(text.replace(self.placeholder, "") if self._adds_images else text, pictures, **options)

    def ids(self, text: str, sizes: tuple[tuple[int, int], ...], **options: Any) -> list[int]:
        """The token ids of `written`: of the pictures they depend on their sizes alone."""

        def written() -> list[int]:
            ids: Tensor = self.written(text, [Image.new("RGB", size) for size in sizes], **options)["input_ids"]
            return ids[0].tolist()

        return self._known.get((text, sizes, *options.items()), written)

    @cached_property
    def _adds_images(self) -> bool:
        """Whether image tokens come before the text by themselves, as BLIP-2's do."""
        blank = Image.new("RGB", (64, 64))
        ids = self.processed(self.placeholder, [blank])["input_ids"]
        return int((ids == self._image_token_id).sum()) == 1 + self._n_vectors(blank)


def with_images(ids: Sequence[int], images: Sequence[EmbeddedImage], *, image_token_id: int) -> list[Piece]:
    """Token ids in which the k-th image token stands for the k-th vector of the images.

    Raises: ValueError for another number of image tokens than vectors.
    """
    n_places, n_vectors = list(ids).count(image_token_id), sum(map(len, images))
    if n_places != n_vectors:
        raise ValueError(f"the processor left room for {n_places} image vectors, and the images have {n_vectors}")
    pieces: list[Piece] = []
    upcoming = iter([(image, index) for image in images for index in range(len(image))])
    for token in ids:
        last = pieces[-1] if pieces else None
        if token != image_token_id:
            if isinstance(last, list):
                last.append(token)
            else:
                pieces.append([token])
            continue
        image, index = next(upcoming)
        if isinstance(last, ImagePart) and last.image is image and last.stop == index:
            pieces[-1] = ImagePart(image=image, first=last.first, stop=index + 1)
        else:
            pieces.append(ImagePart(image=image, first=index, stop=index + 1))
    return pieces
