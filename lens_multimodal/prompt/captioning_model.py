"""A language model that captions pictures: its parts, prompts from pictures, and text from prompts."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, overload

from jaxtyping import Float
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.arguments.targets import Token, read_token
from lens_multimodal.image.encoder import VisionEncoder
from lens_multimodal.image.pictures import Picture, as_picture, as_pictures, picture_batches
from lens_multimodal.prompt import generation
from lens_multimodal.prompt.building import PromptBuilder
from lens_multimodal.prompt.image_embedder import ImageEmbedder, pair_of
from lens_multimodal.prompt.image_prompt import PROMPT, EmbeddedImage, ImagePrompt
from lens_multimodal.prompt.makers import Makers
from lens_multimodal.prompt.projection import Projection
from lens_multimodal.prompt.tokenizer import PromptTokenizer
from lens_multimodal.prompt.virtual_tokens import VirtualTokens
from lens_multimodal.transformer.checked_hooks import NamedHooks
from lens_multimodal.transformer.sampling import Sampling

BATCH_SIZE = 32
"""Pictures that `CaptioningModel.caption` runs at once."""

_MAKERS: "Makers[CaptioningModel]" = Makers()


class CaptioningModel:
    """A TransformerLens model with an image encoder and a projection: a `VisionLens` without its analyses."""

    def __init__(self, model: nn.Module, *, images: ImageEmbedder, tokenizer: Any = None, name: str = "lens") -> None:
        self.model = model
        self.images = images
        self.tokenizer = tokenizer if tokenizer is not None else getattr(model, "tokenizer", None)
        self.text = PromptTokenizer(self.tokenizer, model)
        self.name = name
        self.shape = shape = transformer.shape(model)
        self.virtual_tokens = VirtualTokens(
            transformer.embedding_module(model), d_vocab=shape.d_vocab, d_model=shape.d_model
        )
        self.virtual_tokens.on_forward = images.on_forward(model, self.virtual_tokens)
        transformer.count_words_alone(model)

    @property
    def vision(self) -> VisionEncoder:
        """The frozen image encoder. Raises: ValueError for a vision-language model, which has its own (`images`)."""
        return pair_of(self.images).vision

    @property
    def projection(self) -> Projection:
        """The map from image features to soft prompts. Raises: as `vision`."""
        return pair_of(self.images).projection

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
            prepend_bos: whether a beginning-of-sequence token comes first; None does what the tokenizer does by
                default (GPT-J's adds none). A text that already begins with it gets no second one.
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
        images_and_texts = zip(self.builder.embed(pictures, with_gradient=with_gradient), texts, strict=True)
        return self._assemble([list(row) for row in images_and_texts], prepend_bos)

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
        prepared: list[list[EmbeddedImage | str]] = []
        for row in rows:
            in_company = sum(not isinstance(piece, str) for piece in row) > 1
            embed = partial(self.builder.embed, with_gradient=with_gradient, in_company=in_company)
            ready = (str, EmbeddedImage)
            prepared.append([piece if isinstance(piece, ready) else embed([as_picture(piece)])[0] for piece in row])
        return self._assemble(prepared, prepend_bos)

    def prompt_from_vectors(
        self,
        vectors: Float[Tensor, "batch pos d_model"],
        text: str = PROMPT,
        *,
        grid: tuple[int, int] | None = None,
        prepend_bos: bool | None = None,
    ) -> ImagePrompt:
        """Any soft prompts followed by text: shuffled features, means, vectors from elsewhere.

        Raises: ValueError if the grid does not have as many cells as there are vectors, or the width is wrong.
        """
        return self._assemble([[image, text] for image in self.builder.embed_vectors(vectors, grid=grid)], prepend_bos)

    def embed(
        self, pictures: Sequence[Picture], *, with_gradient: bool = False, batch_size: int = 64
    ) -> list[EmbeddedImage]:
        """Encode and project pictures once, for use in any number of prompts."""
        opened = [as_picture(picture) for picture in pictures]
        return self.builder.embed(opened, with_gradient=with_gradient, batch_size=batch_size)

    def forget(self, *prompts: ImagePrompt) -> None:
        """Drop these prompts' images (all images, if none is named); their token ids become unknown."""
        named = [span.image.soft_prompt for prompt in prompts for spans in prompt.spans for span in spans]
        if named or not prompts:
            self.virtual_tokens.forget(*named)

    # --- running -----------------------------------------------------------------------------------------

    def logits(self, prompt: ImagePrompt) -> Float[Tensor, "batch pos d_vocab"]:
        """One forward pass over a prompt; left padding is masked."""
        return transformer.logits_of(self.model, prompt.tokens, attention_mask=prompt.attention_mask)

    def generate(
        self, prompt: ImagePrompt, *, max_new_tokens: int = 20, sampling: Sampling | None = None, hooks: NamedHooks = ()
    ) -> list[str]:
        """The text that follows each row, up to the end token or a new line.

        Args: hooks: what a builder of `lens_multimodal.hooks` returned; they act in this generation alone.
        """
        rows = self.generate_ids(prompt, max_new_tokens=max_new_tokens, sampling=sampling, hooks=hooks)
        return [self.text.caption(ids) for ids in rows]

    def generate_ids(
        self, prompt: ImagePrompt, *, max_new_tokens: int = 20, sampling: Sampling | None = None, hooks: NamedHooks = ()
    ) -> list[list[int]]:
        """The tokens of `generate`: no end token, and nothing after the first line."""
        rows = generation.generate(
            self.model, prompt, max_new_tokens=max_new_tokens, sampling=sampling, hooks=hooks, **self._stops
        )
        return [self.text.first_line(ids) for ids in rows]

    def generate_with_activations(
        self, prompt: ImagePrompt, names: Sequence[str], *, max_new_tokens: int = 20
    ) -> generation.GeneratedActivations:
        """Greedy generation of one row, with the activations at the named hook points that led to every new token."""
        return generation.generate_with_activations(
            self.model, prompt, names=names, max_new_tokens=max_new_tokens, **self._stops
        )

    @overload
    def caption(
        self,
        images: list[Picture] | tuple[Picture, ...],
        text: str | None = ...,
        *,
        prepend_bos: bool | None = ...,
        max_new_tokens: int = ...,
        sampling: Sampling | None = ...,
    ) -> list[str]: ...
    @overload
    def caption(
        self,
        images: Picture,
        text: str | None = ...,
        *,
        prepend_bos: bool | None = ...,
        max_new_tokens: int = ...,
        sampling: Sampling | None = ...,
    ) -> str: ...
    def caption(
        self,
        images: Picture | list[Picture] | tuple[Picture, ...],
        text: str | None = None,
        *,
        prepend_bos: bool | None = None,
        max_new_tokens: int = 20,
        sampling: Sampling | None = None,
    ) -> str | list[str]:
        """What the model writes after the image and `text`: a string for one picture, a list for a list.

        Greedy and deterministic by default; stops at an end token of the tokenizer or of the model's generation
        settings, or at a new line, as LiMBeR does.

        Args:
            text: None takes `caption_text`: "A picture of", or an instruction for an instruction-tuned model.
            prepend_bos: as in `prompt`.
        """
        pictures = as_pictures(images)
        found = list(
            self.caption_stream(
                pictures,
                text,
                prepend_bos=prepend_bos,
                max_new_tokens=max_new_tokens,
                sampling=sampling,
                batch_size=BATCH_SIZE,
                progress=None if len(pictures) > BATCH_SIZE else False,
            )
        )
        one = not isinstance(images, (list, tuple)) and getattr(images, "ndim", 0) != 4
        return found[0] if one else found

    def caption_stream(
        self,
        images: Picture | Iterable[Picture],
        text: str | None = None,
        *,
        prepend_bos: bool | None = None,
        max_new_tokens: int = 20,
        sampling: Sampling | None = None,
        batch_size: int = 16,
        progress: bool | None = None,
    ) -> Iterator[str]:
        """Captions of any number of pictures, one at a time in constant memory.

        Args:
            prepend_bos: as in `prompt`.
            batch_size: pictures that are captioned together.
            progress: show a progress bar; None shows it for anything longer than two seconds.
        """
        text = self.caption_text if text is None else text
        for pictures in picture_batches(images, batch_size=batch_size, progress=progress):
            prompt = self._assemble([[image, text] for image in self.builder.embed(pictures)], prepend_bos)
            captions = self.generate(prompt, max_new_tokens=max_new_tokens, sampling=sampling)
            self.forget(prompt)
            yield from captions

    def prompt_before(
        self,
        image: Picture,
        word: Token,
        text: str | None = None,
        *,
        prepend_bos: bool | None = None,
        max_new_tokens: int = 20,
    ) -> ImagePrompt:
        """The image, `text` and the model's own caption before `word`: a prompt that ends where `word` is predicted.

        Args:
            word: a string that is one token, or a token id.
            prepend_bos: as in `prompt`.
        Raises: ValueError if the caption does not contain `word`, or `word` is not one token.
        """
        target = read_token(self.model, word, name="word", tokenizer=self.tokenizer)
        prompt = self.prompt(image, self.caption_text if text is None else text, prepend_bos=prepend_bos)
        (ids,) = self.generate_ids(prompt, max_new_tokens=max_new_tokens)
        if target not in ids:
            raise ValueError(
                f"the caption {self.text.caption(ids)!r} does not contain {self.text.token(target)!r}; give the words "
                f"before it yourself: lens.prompt(image, 'A picture of a')"
            )
        return prompt.followed_by(ids[: ids.index(target)])

    @property
    def caption_text(self) -> str:
        """The text that `caption` continues: "A picture of", or an instruction in its own chat template."""
        return self.images.caption_text

    @property
    def builder(self) -> PromptBuilder:
        """What makes this model's prompts."""
        return PromptBuilder(model=self.model, images=self.images, text=self.text, virtual_tokens=self.virtual_tokens)

    # --- inside ------------------------------------------------------------------------------------------

    @property
    def _stops(self) -> dict[str, list[int]]:
        return {"stop_ids": self.text.stop_ids, "last_ids": self.text.last_ids}

    def _assemble(self, rows: Sequence[Sequence[EmbeddedImage | str]], prepend_bos: bool | None) -> ImagePrompt:
        prompt = self.builder.assemble(rows, prepend_bos=prepend_bos)
        _MAKERS.remember(prompt, self)
        return prompt


def maker_of(prompt: ImagePrompt) -> CaptioningModel | None:
    """The lens that made a prompt or its images, or None if it no longer exists in this process."""
    return _MAKERS.of(prompt)
