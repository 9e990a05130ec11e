"""Pictures, vectors and texts to one prompt of token ids."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.image.encoder import VisionEncoder
from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.prompt.image_prompt import EmbeddedImage, ImagePrompt, Piece, assemble
from lens_multimodal.prompt.projection import Projection
from lens_multimodal.prompt.tokenizer import PromptTokenizer
from lens_multimodal.prompt.virtual_tokens import VirtualTokens


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptBuilder:
    """What a prompt is made with: the parts of a lens."""

    model: nn.Module
    vision: VisionEncoder
    projection: Projection
    text: PromptTokenizer
    virtual_tokens: VirtualTokens

    def embed(
        self, pictures: Sequence[Image.Image], *, with_gradient: bool = False, batch_size: int = 64
    ) -> list[EmbeddedImage]:
        """Encode and project RGB images."""
        embedded = []
        for start in range(0, len(pictures), batch_size):
            chunk = pictures[start : start + batch_size]
            # Made under inference_mode, an image could never be used with autograd later.
            with torch.inference_mode(False), torch.no_grad():
                vectors = self.projection(self.vision.features(chunk))
                leaves = [own.clone().requires_grad_(with_gradient) for own in vectors]
            grid = self._grid_of(vectors.shape[1])
            one_per_patch = vectors.shape[1] == self.vision.n_patches
            embedded += [
                EmbeddedImage(
                    soft_prompt=self.virtual_tokens.store(leaf),
                    layout=ImageLayout.one_grid(
                        *grid, self.vision.geometry(picture.width, picture.height) if one_per_patch else None
                    ),
                    picture=picture,
                )
                for picture, leaf in zip(chunk, leaves, strict=True)
            ]
        return embedded

    def embed_vectors(self, vectors: Tensor, *, grid: tuple[int, int] | None) -> list[EmbeddedImage]:
        """Soft prompts from vectors, without a picture.

        Raises: ValueError for another width, or a grid with more or fewer cells than vectors.
        """
        d_model = self.virtual_tokens.d_model
        if vectors.ndim != 3 or vectors.shape[-1] != d_model or not len(vectors):
            raise ValueError(f"expected vectors [batch, pos, d_model={d_model}], got {list(vectors.shape)}")
        grid_h, grid_w = grid or self._grid_of(vectors.shape[1])
        if grid_h * grid_w != vectors.shape[1]:
            raise ValueError(f"a grid of {grid_h} x {grid_w} image patches does not hold {vectors.shape[1]} vectors")
        layout = ImageLayout.one_grid(grid_h, grid_w)
        return [EmbeddedImage(soft_prompt=self.virtual_tokens.store(v), layout=layout) for v in vectors]

    def assemble(self, rows: Sequence[Sequence[Piece | str]], *, prepend_bos: bool | None) -> ImagePrompt:
        """Rows of texts, token ids and images as a prompt.

        A text that begins with BOS itself, as chat templates do, gets no second one; its own goes before the images.

        Args: prepend_bos: None does what the tokenizer does by itself.
        Raises: ValueError for an empty row, more positions than the model's context, or tokens that the model lacks.
        """
        start = self.text.start_ids(prepend_bos)
        pieces = [_after_start(start, [self._encoded(piece) for piece in row]) for row in rows]
        prompt = assemble(pieces, pad_id=self.text.pad_id, device=transformer.device(self.model))
        n_pos, n_ctx = prompt.tokens.shape[1], transformer.shape(self.model).n_ctx
        if n_pos > n_ctx:
            raise ValueError(
                f"the prompt has {n_pos} positions, more than the model's context of {n_ctx}: use fewer images or "
                f"less text"
            )
        return prompt

    def _encoded(self, piece: Piece | str) -> Piece:
        if not isinstance(piece, str):
            return piece
        ids, d_vocab = self.text.encode(piece), self.virtual_tokens.d_vocab
        if unknown := [i for i in ids if i >= d_vocab]:
            raise ValueError(
                f"the tokenizer writes {self.text.token(unknown[0])!r} as token {unknown[0]}, but the model's "
                f"vocabulary ends at {d_vocab - 1}: take the model's own tokenizer, or resize its embeddings"
            )
        return ids

    def _grid_of(self, n_positions: int) -> tuple[int, int]:
        return (self.vision.grid_h, self.vision.grid_w) if n_positions == self.vision.n_patches else (1, n_positions)


def _after_start(start: list[int], pieces: list[Piece]) -> list[Piece]:
    """A row that begins with these tokens, once: those with which its first text begins are moved to the front."""
    for index, piece in enumerate(pieces):
        if isinstance(piece, list) and piece:
            own = len(start) if piece[: len(start)] == start else 0
            return [start, *pieces[:index], piece[own:], *pieces[index + 1 :]]
    return [start, *pieces]
