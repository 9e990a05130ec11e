"""A language model with eyes."""

import weakref
from collections.abc import Collection, Iterable, Iterator, Sequence, Sized
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, cast, overload

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from lens_multimodal import saved_lens, transformer
from lens_multimodal.analysis import top_neurons
from lens_multimodal.analysis.decoding import decode_neurons
from lens_multimodal.analysis.neuron_table import NeuronTable
from lens_multimodal.image.encoder import VisionEncoder
from lens_multimodal.image.pictures import Picture, as_picture, as_pictures
from lens_multimodal.neuron_card import NeuronCard, neuron_card
from lens_multimodal.notebook import ShownInNotebooks
from lens_multimodal.prompt import generation
from lens_multimodal.prompt.generation import GeneratedActivations, Sampling
from lens_multimodal.prompt.image_prompt import PROMPT, EmbeddedImage, ImagePrompt, Piece, assemble
from lens_multimodal.prompt.projection import Projection
from lens_multimodal.prompt.tokenizer import PromptTokenizer
from lens_multimodal.prompt.virtual_tokens import VirtualTokens

_MADE_BY: "weakref.WeakKeyDictionary[object, weakref.ref[VisionLens]]" = weakref.WeakKeyDictionary()
"""Which lens made a prompt or a soft prompt. Kept here, so that neither holds a reference to its lens."""


class VisionLens(ShownInNotebooks):
    """A TransformerLens model that takes images wherever it takes tokens; made by `attach_vision`.

    Attributes:
        model: the TransformerLens model, to be used as always: `run_with_cache`, `hooks`, `generate`, ...
        vision: the frozen image encoder.
        projection: the linear map from image features to soft prompts.
        tokenizer: the language model's Hugging Face tokenizer, or None.
        text: the same tokenizer as prompts and captions use it: `lens.text.encode`, `lens.text.caption`, ...
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        vision: VisionEncoder,
        projection: Projection,
        tokenizer: Any = None,
        name: str = "lens",
    ) -> None:
        shape = transformer.shape(model)
        self.model = model
        self.vision = vision
        self.projection = projection
        self.tokenizer = tokenizer if tokenizer is not None else getattr(model, "tokenizer", None)
        self.text = PromptTokenizer(self.tokenizer)
        self.name = name
        self.shape = shape
        self.virtual_tokens = VirtualTokens(
            transformer.embedding_module(model), d_vocab=shape.d_vocab, d_model=shape.d_model
        )

    # --- prompts -----------------------------------------------------------------------------------------

    def prompt(
        self,
        images: Picture | Sequence[Picture],
        text: str | Sequence[str] = PROMPT,
        *,
        prepend_bos: bool | None = None,
        with_gradient: bool = False,
    ) -> ImagePrompt:
        """An image followed by text, as token ids; several images make a batch.

        Args:
            images: one picture, or one per row.
            text: the same for every row, or one per row.
            prepend_bos: None does what the model was trained with (GPT-J: none).
            with_gradient: make each image's vectors a leaf that requires gradient, reachable as
                `prompt.spans[row][0].image.soft_prompt.vectors`.

        Raises:
            ValueError: not as many texts as images, a picture that cannot be read, or a prompt longer than the
                model's context.
        """
        pictures = as_pictures(images)
        if not isinstance(text, (str, list, tuple)):
            raise TypeError(f"expected a text or a list of texts, got {text!r} ({type(text).__name__})")
        texts = [text] * len(pictures) if isinstance(text, str) else list(text)
        if len(texts) != len(pictures):
            raise ValueError(f"got {len(pictures)} images but {len(texts)} texts; give one text, or one for each image")
        embedded = self.embed(pictures, with_gradient=with_gradient)
        return self._assemble([[e, t] for e, t in zip(embedded, texts, strict=True)], prepend_bos)

    def interleave(
        self,
        rows: Sequence[Sequence[Picture | EmbeddedImage]],
        *,
        prepend_bos: bool | None = None,
        with_gradient: bool = False,
    ) -> ImagePrompt:
        """Rows of text and images in any order, each a string, a `Path`, a picture or an embedded image.

        A string is text; give a path to a picture as `pathlib.Path`.
        """
        for row in [rows, *rows] if isinstance(rows, (list, tuple)) else [rows]:
            if not isinstance(row, (list, tuple)):
                raise TypeError(f"expected a list of rows, each a list of pieces, got {type(row).__name__} among them")
        prepared = [
            [
                piece
                if isinstance(piece, (str, EmbeddedImage))
                else self.embed([as_picture(piece)], with_gradient=with_gradient)[0]
                for piece in row
            ]
            for row in rows
        ]
        return self._assemble(prepared, prepend_bos)

    def prompt_from_vectors(
        self,
        vectors: Float[Tensor, "batch pos d_model"],
        text: str = PROMPT,
        *,
        grid: tuple[int, int] | None = None,
        prepend_bos: bool | None = None,
    ) -> ImagePrompt:
        """Any soft prompts followed by text: shuffled features, means, other people's vectors.

        Raises: ValueError if the grid does not have as many cells as there are vectors, or the width is wrong.
        """
        if vectors.ndim != 3 or vectors.shape[-1] != self.shape.d_model or not len(vectors):
            raise ValueError(f"expected vectors [batch, pos, d_model={self.shape.d_model}], got {list(vectors.shape)}")
        grid_h, grid_w = grid or self._grid_of(vectors.shape[1])
        if grid_h * grid_w != vectors.shape[1]:
            raise ValueError(f"a grid of {grid_h} x {grid_w} image patches does not hold {vectors.shape[1]} vectors")
        rows: list[list[EmbeddedImage | str]] = [
            [EmbeddedImage(soft_prompt=self.virtual_tokens.store(v), grid_h=grid_h, grid_w=grid_w), text]
            for v in vectors
        ]
        return self._assemble(rows, prepend_bos)

    def embed(
        self, pictures: Sequence[Picture], *, with_gradient: bool = False, batch_size: int = 64
    ) -> list[EmbeddedImage]:
        """Encode and project pictures once, to be used in as many prompts as wanted."""
        images = [as_picture(picture) for picture in pictures]
        embedded = []
        for start in range(0, len(images), batch_size):
            chunk = images[start : start + batch_size]
            # Made under inference_mode, an image could never be used with autograd later.
            with torch.inference_mode(False), torch.no_grad():
                vectors = self.projection(self.vision.features(chunk))
                leaves = [own.clone().requires_grad_(with_gradient) for own in vectors]
            grid_h, grid_w = self._grid_of(vectors.shape[1])
            one_per_patch = vectors.shape[1] == self.vision.n_patches
            embedded += [
                EmbeddedImage(
                    soft_prompt=self.virtual_tokens.store(leaf),
                    grid_h=grid_h,
                    grid_w=grid_w,
                    picture=picture,
                    geometry=self.vision.geometry(picture.width, picture.height) if one_per_patch else None,
                )
                for picture, leaf in zip(chunk, leaves, strict=True)
            ]
        return embedded

    def forget(self, *prompts: ImagePrompt) -> None:
        """Let go of these prompts' images (of all, if none is named); their token ids become unknown."""
        named = [span.image.soft_prompt for prompt in prompts for spans in prompt.spans for span in spans]
        if named or not prompts:
            self.virtual_tokens.forget(*named)

    # --- running -----------------------------------------------------------------------------------------

    def logits(self, prompt: ImagePrompt) -> Float[Tensor, "batch pos d_vocab"]:
        """One forward pass over a prompt, left padding masked."""
        return transformer.logits_of(self.model, prompt.tokens, attention_mask=prompt.attention_mask)

    def generate(self, prompt: ImagePrompt, *, max_new_tokens: int = 20, sampling: Sampling | None = None) -> list[str]:
        """The text that follows each row, up to the end token or a new line."""
        rows = generation.generate(
            self.model, prompt, max_new_tokens=max_new_tokens, stop_ids=self.text.stop_ids, sampling=sampling
        )
        return [self.text.caption(ids) for ids in rows]

    def generate_with_activations(
        self, prompt: ImagePrompt, names: Sequence[str], *, max_new_tokens: int = 20
    ) -> GeneratedActivations:
        """Greedy generation of one row, with what the named hook points held behind every new token."""
        return generation.generate_with_activations(
            self.model, prompt, names=names, max_new_tokens=max_new_tokens, stop_ids=self.text.stop_ids
        )

    @overload
    def caption(
        self,
        images: list[Picture] | tuple[Picture, ...],
        text: str = ...,
        *,
        max_new_tokens: int = ...,
        sampling: Sampling | None = ...,
    ) -> list[str]: ...
    @overload
    def caption(
        self, images: Picture, text: str = ..., *, max_new_tokens: int = ..., sampling: Sampling | None = ...
    ) -> str: ...
    def caption(
        self,
        images: Picture | list[Picture] | tuple[Picture, ...],
        text: str = PROMPT,
        *,
        max_new_tokens: int = 20,
        sampling: Sampling | None = None,
    ) -> str | list[str]:
        """What the model says follows the image and `text`: a string for one picture, a list for a list.

        Greedy and deterministic by default; stops at the model's end token or a new line, as LiMBeR does.
        """
        one = not isinstance(images, (list, tuple)) and getattr(images, "ndim", 0) != 4
        found = list(
            self.caption_stream(
                as_pictures(images), text, max_new_tokens=max_new_tokens, sampling=sampling, batch_size=32
            )
        )
        return found[0] if one else found

    def caption_stream(
        self,
        images: Picture | Iterable[Picture],
        text: str = PROMPT,
        *,
        max_new_tokens: int = 20,
        sampling: Sampling | None = None,
        batch_size: int = 16,
        progress: bool | None = None,
    ) -> Iterator[str]:
        """Captions of any number of pictures, one by one as they come, in flat memory.

        A progress bar is shown when it takes more than two seconds, or as `progress` says.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if isinstance(images, (str, Path, Image.Image)) or getattr(images, "ndim", 4) < 4:
            images = [cast(Picture, images)]
        total = len(images) if isinstance(images, Sized) else None
        source = iter(images)
        delay = 2.0 if progress is None else 0.0
        with tqdm(total=total, desc="captions", unit="picture", disable=progress is False, delay=delay) as bar:
            while batch := list(islice(source, batch_size)):
                prompt = self.prompt(batch, text)
                yield from self.generate(prompt, max_new_tokens=max_new_tokens, sampling=sampling)
                self.forget(prompt)
                bar.update(len(batch))

    # --- neurons -----------------------------------------------------------------------------------------

    def prompt_before(
        self, image: Picture, word: str | int, text: str = PROMPT, *, max_new_tokens: int = 20
    ) -> ImagePrompt:
        """The image, `text` and the model's own caption up to, not including, `word`: where `word` is predicted.

        Args: word: a string that is one token, or a token id.
        Raises: ValueError if the caption does not say `word`, or `word` is not one token.
        """
        target = self.text.token_id(word) if isinstance(word, str) else word
        prompt = self.prompt(image, text)
        (ids,) = generation.generate(self.model, prompt, max_new_tokens=max_new_tokens, stop_ids=self.text.stop_ids)
        ids = self.text.first_line(ids)
        if target not in ids:
            raise ValueError(
                f"the caption {self.text.caption(ids)!r} does not say {self.text.token(target)!r}; give the words "
                f"before it yourself: lens.prompt(image, 'A picture of a')"
            )
        return prompt.followed_by(ids[: ids.index(target)])

    def neurons(
        self,
        image: Picture | ImagePrompt,
        target: str | int,
        *,
        top_k: int = 100,
        score: str = "activation_x_gradient",
        reduce: str = "max",
    ) -> NeuronTable:
        """The MLP neurons that turn the image into a word: the paper's ranking (sections 2.1 and 2.2).

        Args:
            image: a picture, whose caption must say the target; or a prompt of one row that ends where the target
                is predicted (`lens.prompt(image, "A picture of a")`).
            target: a token id, or a string that is one token, its leading space included.
            score: a name of `analysis.attribution.SCORES`.
            reduce: over image positions: max (paper), sum or mean.

        Returns:
            One row per neuron, best first: layer, neuron, attribution (logits), image_pos (position in the prompt
            where the attribution is largest), row, col (its image patch), tokens (decoded, best first),
            interpretable (at least 7 of 10 are English words).

        Raises: ValueError, TypeError as the parts; for a prompt without image positions.
        """
        if not isinstance(image, ImagePrompt):
            image = self.prompt_before(image, target)
        if not len(image.row(0).spans[0]):
            raise ValueError("this prompt holds no image, so no neuron can be attributed to one")
        token = self.text.token_id(target) if isinstance(target, str) else target
        found = top_neurons(
            self.model, image.tokens, token, image.image_pos[0], top_k=top_k, score=score, reduce=reduce
        ).rename(columns={"pos": "image_pos"})
        cells = {s.start + i: s.image.cell(i) for s in image.spans[0] for i in range(s.stop - s.start)}
        found["row"] = [cells[p][0] for p in found["image_pos"]]
        found["col"] = [cells[p][1] for p in found["image_pos"]]
        decoded = decode_neurons(self.model, found)[["layer", "neuron", "tokens", "interpretable"]]
        table = found.merge(decoded, on=["layer", "neuron"], how="left", validate="one_to_one")
        table.attrs.update(found.attrs)
        images = image.spans[0]
        table = table.drop(columns=["target", "rank"])
        return NeuronTable.of(table, image=images[0].image if len(images) == 1 else None)

    def show(
        self,
        neuron: Any,
        *,
        image: Picture | ImagePrompt | None = None,
        target: str | int | None = None,
        pictures: Sequence[Picture] | None = None,
    ) -> NeuronCard:
        """Everything about one neuron on a card: receptive field, words, attribution, ablation, sample pictures.

        Args:
            neuron: `(layer, neuron)`, or a row of a table of neurons (`found.iloc[0]`).
            image: a picture or a prompt of one row, as in `neurons`; None takes the sample picture on which the neuron
                is most active.
            target: as in `neurons`; None takes the word of the model's own caption that the neuron raises most, or,
                for a prompt, the most likely next token.
            pictures: to look for activity in; None takes 24 of the embedded scenes.

        Returns:
            A card with its data as attributes, shown as HTML in notebooks, with `save_html(path)` and figures.

        Raises: ValueError, TypeError as `neurons`; for a neuron that does not exist, or an image without a patch grid.
        Cost: one forward pass for each sample picture, three for the card, one backward pass for each candidate word.
        """
        return neuron_card(self, neuron, image=image, target=target, pictures=pictures)

    # --- tokens ------------------------------------------------------------------------------------------

    def to_str_tokens(self, prompt: ImagePrompt | Int[Tensor, " pos"]) -> list[str]:
        """Each position as people read it: words as text, image positions as `<image:row,col>`.

        Takes a prompt of one row, or the ids of one.
        """
        if isinstance(prompt, ImagePrompt):
            if len(prompt) != 1:
                raise ValueError(f"expected a prompt of one row, got {len(prompt)} (prompt.row(i))")
            names = {s.start + i: s.image.cell(i) for s in prompt.spans[0] for i in range(s.stop - s.start)}
            ids = prompt.tokens[0].tolist()
            return ["<image:{},{}>".format(*names[p]) if p in names else self.text.token(i) for p, i in enumerate(ids)]
        return ["<image>" if i >= self.shape.d_vocab else self.text.token(i) for i in prompt.tolist()]

    # --- life --------------------------------------------------------------------------------------------

    def detach(self) -> None:
        """Take the eyes off again: the model is as it was before, bit for bit."""
        self.virtual_tokens.remove()

    def save_pretrained(self, folder: str | Path, *, without: Collection[str] = (), overwrite: bool = False) -> None:
        """Write one folder that `attach_vision(folder)` loads: language model, tokenizer, encoder, projection, card.

        Args:
            folder: made anew; it appears whole or not at all.
            without: of "vision" and "projection", what to leave out and to give to `attach_vision` on loading.
            overwrite: replace a lens saved there before.

        Raises:
            FileExistsError: the folder holds something else, or a lens and `overwrite` is False.
            ValueError: processed weights, an encoder that timm did not build, or a projection that is no
                `nn.Linear`; says what to do.
        """
        saved_lens.save(
            Path(folder),
            name=self.name,
            model=self.model,
            tokenizer=self.tokenizer,
            vision=self.vision,
            projection=self.projection,
            without=without,
            overwrite=overwrite,
        )

    def __enter__(self) -> "VisionLens":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def __repr__(self) -> str:
        s = self.shape
        return (
            f"VisionLens({self.name}: {type(self.model).__name__} with {s.n_layers} layers of d_model={s.d_model}, "
            f"{s.n_neurons:,} neurons; {self.vision.name}, {self.vision.grid_h} x {self.vision.grid_w} image patches "
            f"of d_vision={self.vision.d_vision}; weight processing: {transformer.weight_processing(self.model)}; "
            f"{len(self.virtual_tokens)} images in {self.virtual_tokens.nbytes / 2**20:.1f} MiB)"
        )

    # --- inside ------------------------------------------------------------------------------------------

    def _assemble(self, rows: Sequence[Sequence[Piece | str]], prepend_bos: bool | None) -> ImagePrompt:
        wanted = transformer.facts(self.model).prepends_bos if prepend_bos is None else prepend_bos
        bos = self.text.bos if wanted else []
        pieces: list[list[Piece]] = [
            [bos, *(self.text.encode(piece) if isinstance(piece, str) else piece for piece in row)] for row in rows
        ]
        prompt = assemble(pieces, pad_id=self.text.pad_id, device=transformer.device(self.model))
        if prompt.tokens.shape[1] > self.shape.n_ctx:
            raise ValueError(
                f"the prompt has {prompt.tokens.shape[1]} positions, more than the model's context of "
                f"{self.shape.n_ctx}: use fewer images or less text"
            )
        for made in (prompt, *(span.image.soft_prompt for spans in prompt.spans for span in spans)):
            _MADE_BY[made] = weakref.ref(self)
        return prompt

    def _grid_of(self, n_positions: int) -> tuple[int, int]:
        return (self.vision.grid_h, self.vision.grid_w) if n_positions == self.vision.n_patches else (1, n_positions)


def lens_of(prompt: ImagePrompt) -> VisionLens | None:
    """The lens that made a prompt or its images, or None if it no longer exists in this process."""
    for made in (prompt, *(span.image.soft_prompt for spans in prompt.spans for span in spans)):
        lens = _MADE_BY[made]() if made in _MADE_BY else None
        if lens is not None:
            return lens
    return None
