"""From pictures to image vectors, and from rows of text and images to token ids: what differs between kinds of models.

An `EncoderAndProjection` was put in front of a text decoder; its images go into the text as they are. A
vision-language model brings its own (`vision_tower`) and writes its own marks around its images.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from typing_extensions import override

from lens_multimodal.image.encoder import VisionEncoder
from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.prompt.image_prompt import PROMPT, EmbeddedImage, Piece
from lens_multimodal.prompt.projection import Projection
from lens_multimodal.prompt.tokenizer import PromptTokenizer
from lens_multimodal.prompt.virtual_tokens import Hooks, VirtualTokens


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """What the decoder gets of one picture."""

    vectors: Float[Tensor, "pos d_model"]
    forward_arguments: Mapping[str, Tensor] = field(default_factory=dict)
    """As in `SoftPrompt`."""

    def first_half(self) -> "EncodedImage":
        """The first of two equal pictures that were encoded together."""
        arguments = {name: value[: len(value) // 2] for name, value in self.forward_arguments.items()}
        return EncodedImage(vectors=self.vectors[: len(self.vectors) // 2], forward_arguments=arguments)


EncoderInput = Tensor | Mapping[str, Tensor]
"""One preprocessed picture: pixels, or what a Hugging Face processor makes of it."""


class ImageEmbedder(ABC):
    """What a lens needs to know about the part of a model that reads pictures."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name, for display."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """Its sizes in a few words."""

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, nn.Module]:
        """Its modules by name, in the order in which a picture passes them."""

    @property
    @abstractmethod
    def projector(self) -> nn.Module:
        """What maps the encoder's features to vectors of the decoder's width.

        Raises: ValueError for a model that has no such module apart from its encoder.
        """

    @abstractmethod
    def replaced(self, name: str, part: nn.Module) -> "ImageEmbedder":
        """The same with another module as one of its parts; this one is not changed."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything except weights that determines what it computes, as JSON."""

    @abstractmethod
    def encoded(self, pictures: Sequence[Image.Image], *, in_company: bool = False) -> list[EncodedImage]:
        """Each RGB picture as the decoder reads it.

        Args: in_company: whether the row has other pictures too.
        """

    def vectors(
        self, pictures: Sequence[Image.Image], *, in_company: bool = False
    ) -> list[Float[Tensor, "pos d_model"]]:
        """The image vectors of `encoded` alone."""
        return [image.vectors for image in self.encoded(pictures, in_company=in_company)]

    @abstractmethod
    def preprocessed(self, picture: Image.Image) -> EncoderInput:
        """The encoder's input for one RGB picture, on the CPU. Threads may call this while the encoder runs."""

    @abstractmethod
    def encoded_of(self, inputs: Sequence[EncoderInput]) -> list[EncodedImage]:
        """Preprocessed pictures, differentiable in the weights that require gradient."""

    @abstractmethod
    def n_positions(self, width: int, height: int) -> int:
        """How many vectors a picture of `width` by `height` pixels takes. Threads may call this likewise."""

    @abstractmethod
    def on_forward(self, model: nn.Module, virtual_tokens: VirtualTokens) -> Hooks | None:
        """Put hooks on a TransformerLens model's forward pass, where its images need more than their vectors."""

    @abstractmethod
    def layout(self, width: int, height: int, *, n_positions: int) -> ImageLayout:
        """What each of `n_positions` vectors of a picture of `width` by `height` pixels shows."""

    @abstractmethod
    def grid(self, n_positions: int) -> tuple[int, int]:
        """Rows and columns for this many vectors that came without a picture."""

    @abstractmethod
    def chat(self, question: str) -> str:
        """A user's turn with one image and a question, and the beginning of the answer, as the model was trained.

        Raises: ValueError for a model without a chat template.
        """

    @property
    @abstractmethod
    def caption_text(self) -> str:
        """The text for which the model writes a caption."""

    @abstractmethod
    def pieces(
        self, row: Sequence[EmbeddedImage | str], *, text: PromptTokenizer, prepend_bos: bool | None
    ) -> list[Piece]:
        """A row as token ids and images, as the model was trained to read them.

        Args: prepend_bos: None does what the tokenizer does by default.
        """


class EncoderAndProjection(ImageEmbedder):
    """An image encoder and a map from its features to the decoder's width."""

    def __init__(self, vision: VisionEncoder, projection: Projection) -> None:
        self.vision = vision
        self.projection = projection

    @property
    def name(self) -> str:
        return self.vision.name

    @property
    def summary(self) -> str:
        return f"{self.vision.grid_h} x {self.vision.grid_w} image patches of d_vision={self.vision.d_vision}"

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return {"vision": self.vision, "projection": self.projection}

    @property
    def projector(self) -> nn.Module:
        return self.projection.linear

    def replaced(self, name: str, part: nn.Module) -> ImageEmbedder:
        own: dict[str, Any] = {**self.parts, name: part}
        return EncoderAndProjection(**own)

    def settings(self) -> dict[str, Any]:
        own = self.vision
        return {"vision": own.name, "grid": [own.grid_h, own.grid_w], "preprocessing": own.preprocessing.to_json()}

    @override
    def encoded(self, pictures: Sequence[Image.Image], *, in_company: bool = False) -> list[EncodedImage]:
        return [EncodedImage(vectors=vectors) for vectors in self.projection(self.vision.features(pictures))]

    @override
    def preprocessed(self, picture: Image.Image) -> Float[Tensor, "3 height width"]:
        return self.vision.preprocessing([picture])[0]

    @override
    def encoded_of(self, inputs: Sequence[EncoderInput]) -> list[EncodedImage]:
        pixels = torch.stack([own for own in inputs if isinstance(own, Tensor)])
        return [EncodedImage(vectors=vectors) for vectors in self.projection(self.vision.features_of(pixels))]

    @override
    def n_positions(self, width: int, height: int) -> int:
        return self._n_positions

    @cached_property
    def _n_positions(self) -> int:
        with torch.no_grad():
            return self.projection(torch.zeros(1, self.vision.n_patches, self.vision.d_vision)).shape[1]

    @override
    def on_forward(self, model: nn.Module, virtual_tokens: VirtualTokens) -> None:
        return None

    @override
    def layout(self, width: int, height: int, *, n_positions: int) -> ImageLayout:
        one_per_patch = n_positions == self.vision.n_patches
        return ImageLayout.one_grid(
            *self.grid(n_positions), self.vision.geometry(width, height) if one_per_patch else None
        )

    @override
    def grid(self, n_positions: int) -> tuple[int, int]:
        return (self.vision.grid_h, self.vision.grid_w) if n_positions == self.vision.n_patches else (1, n_positions)

    @override
    def chat(self, question: str) -> str:
        raise ValueError(
            f"this language model has no chat template for pictures; ask {question!r} in a text for it to continue: "
            f"lens.prompt(image, 'Question: ... Answer:')"
        )

    @property
    @override
    def caption_text(self) -> str:
        return PROMPT

    @override
    def pieces(
        self, row: Sequence[EmbeddedImage | str], *, text: PromptTokenizer, prepend_bos: bool | None
    ) -> list[Piece]:
        pieces: list[Piece] = [text.encode(piece) if isinstance(piece, str) else piece for piece in row]
        return _after_start(text.start_ids(prepend_bos), pieces)


def pair_of(images: ImageEmbedder) -> EncoderAndProjection:
    """The encoder and projection of a lens that has them as separate parts.

    Raises: ValueError for a vision-language model, which has its own.
    """
    if not isinstance(images, EncoderAndProjection):
        raise ValueError(
            f"{images.name} has an image encoder and a projection of its own, as lens.images, so the lens has no "
            f"separate vision and projection; attach_vision(model, vision=..., projection=...) replaces both"
        )
    return images


def _after_start(start: list[int], pieces: list[Piece]) -> list[Piece]:
    """A row that begins with these tokens once; if its first text begins with them, they move to the front."""
    for index, piece in enumerate(pieces):
        if isinstance(piece, list) and piece:
            own = len(start) if piece[: len(start)] == start else 0
            return [start, *pieces[:index], piece[own:], *pieces[index + 1 :]]
    return [start, *pieces]
