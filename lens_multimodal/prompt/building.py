"""From pictures, vectors and texts to one prompt of token ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.prompt.assembling import assemble
from lens_multimodal.prompt.image_embedder import EncoderInput, ImageEmbedder
from lens_multimodal.prompt.image_prompt import EmbeddedImage, ImagePrompt, Piece
from lens_multimodal.prompt.tokenizer import PromptTokenizer
from lens_multimodal.prompt.virtual_tokens import VirtualTokens


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptBuilder:
    """The parts of a lens that a prompt is made with."""

    model: nn.Module
    images: ImageEmbedder
    text: PromptTokenizer
    virtual_tokens: VirtualTokens

    def embed(
        self,
        pictures: Sequence[Image.Image],
        *,
        inputs: Sequence[EncoderInput] | None = None,
        with_gradient: bool = False,
        batch_size: int = 64,
        in_company: bool = False,
    ) -> list[EmbeddedImage]:
        """Encode and project RGB images.

        Args:
            inputs: of the image encoder, where they were made ahead; without other pictures in a row.
            in_company: whether the row has other pictures too.
        """
        embedded = []
        for start in range(0, len(pictures), batch_size):
            chunk = pictures[start : start + batch_size]
            # Made under inference_mode, an image could never be used with autograd later.
            with torch.inference_mode(False), torch.no_grad():
                encoded = (
                    self.images.encoded(chunk, in_company=in_company)
                    if inputs is None
                    else self.images.encoded_of(inputs[start : start + batch_size])
                )
                stored = [
                    self.virtual_tokens.store(
                        own.vectors.clone().requires_grad_(with_gradient), forward_arguments=own.forward_arguments
                    )
                    for own in encoded
                ]
            embedded += [
                EmbeddedImage(
                    soft_prompt=own,
                    placing=partial(self.images.layout, picture.width, picture.height, n_positions=len(own.vectors)),
                    size=picture.size,
                    picture=picture,
                )
                for picture, own in zip(chunk, stored, strict=True)
            ]
        return embedded

    def embed_vectors(self, vectors: Tensor, *, grid: tuple[int, int] | None) -> list[EmbeddedImage]:
        """Soft prompts from vectors, without a picture.

        Raises: ValueError for another width, or a grid with more or fewer cells than vectors.
        """
        d_model = self.virtual_tokens.d_model
        if vectors.ndim != 3 or vectors.shape[-1] != d_model or not len(vectors):
            raise ValueError(f"expected vectors [batch, pos, d_model={d_model}], got {list(vectors.shape)}")
        n_positions = vectors.shape[1]
        grid_h, grid_w = self.images.grid(n_positions) if grid is None else map(int, grid)
        if grid_h * grid_w != n_positions:
            raise ValueError(f"a grid of {grid_h} x {grid_w} image patches does not hold {n_positions} vectors")
        layout = ImageLayout.one_grid(grid_h, grid_w)
        return [EmbeddedImage(soft_prompt=self.virtual_tokens.store(v), placing=layout) for v in vectors]

    def assemble(self, rows: Sequence[Sequence[EmbeddedImage | str]], *, prepend_bos: bool | None) -> ImagePrompt:
        """Rows of texts and images as a prompt.

        A text that begins with BOS itself, as chat templates do, gets no second one; its own goes before the images.

        Args: prepend_bos: None does what the tokenizer does by default.
        Raises: ValueError for an empty row, more positions than the model's context, or tokens that the model does not
        have.
        """
        pieces = [self.images.pieces(row, text=self.text, prepend_bos=prepend_bos) for row in rows]
        self._check_vocabulary(pieces)
        prompt = assemble(pieces, pad_id=self.text.pad_id, device=transformer.device(self.model))
        n_pos, n_ctx = prompt.tokens.shape[1], transformer.shape(self.model).n_ctx
        if n_pos > n_ctx:
            raise ValueError(
                f"the prompt has {n_pos} positions, more than the model's context of {n_ctx}: use fewer images or "
                f"less text"
            )
        return prompt

    def _check_vocabulary(self, rows: Sequence[Sequence[Piece]]) -> None:
        d_vocab = self.virtual_tokens.d_vocab
        written = (ids for row in rows for ids in row if isinstance(ids, list))
        if unknown := [i for ids in written for i in ids if i >= d_vocab]:
            raise ValueError(
                f"the tokenizer writes {self.text.token(unknown[0])!r} as token {unknown[0]}, but the model's "
                f"vocabulary ends at {d_vocab - 1}: use the model's own tokenizer, or resize its embeddings"
            )
