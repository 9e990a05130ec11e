"""The image encoder, projection and preprocessing of a vision-language model, as it was trained with them."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from typing_extensions import override

from lens_multimodal.files import write_atomically
from lens_multimodal.image.encoder_layout import EncoderLayouts, EncoderLock
from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.prompt.forward_arguments import ForwardArguments
from lens_multimodal.prompt.image_embedder import EncodedImage, EncoderInput, ImageEmbedder
from lens_multimodal.prompt.image_prompt import PROMPT, EmbeddedImage, Piece
from lens_multimodal.prompt.pictures_in_one_pass import PicturesInOnePass
from lens_multimodal.prompt.placeholders import with_images
from lens_multimodal.prompt.processor_texts import ProcessorTexts
from lens_multimodal.prompt.tokenizer import PromptTokenizer
from lens_multimodal.prompt.virtual_tokens import VirtualTokens
from lens_multimodal.prompt.vision_parts import check_class_holds, parts_before
from lens_multimodal.transformer.decoder_inputs import shallow
from lens_multimodal.transformer.to_hugging_face import unwrapped

INSTRUCTION = "Describe the picture in one sentence."
"""The question that asks an instruction-tuned model for a caption."""


class VisionTower(ImageEmbedder):
    """Images through a Hugging Face vision-language model's own tower and projector.

    Args:
        model: the vision-language model. Its text decoder may be part of a bridge.
        processor: its Hugging Face processor: image preprocessing, tokenizer, and the marks around images.
        sample: what the processor makes of a picture followed by a text, for a model that needs more of an image than
            its vectors (`forward_arguments`).
    """

    def __init__(self, model: Any, processor: Any, *, sample: Mapping[str, Tensor] | None = None) -> None:
        self.model = model
        self.processor = processor
        self.image_token_id: int = model.config.image_token_id
        self.sample = sample
        self._encoder = EncoderLock()
        self._together = PicturesInOnePass(self._vectors_of)
        self._texts = ProcessorTexts(processor, model.config, n_vectors=self._n_vectors)

    @property
    def name(self) -> str:
        return type(self.model).__name__

    @property
    def image_token(self) -> str:
        """What the processor takes for an image in a text."""
        return self._texts.image_token

    @property
    def placeholder(self) -> str:
        """What stands for an image in a text, with the marks around it."""
        return self._texts.placeholder

    @property
    def summary(self) -> str:
        return "its own image encoder and projection"

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        return parts_before(self.model)

    @property
    def projector(self) -> nn.Module:
        *others, last = self.parts.values()
        if not others:
            raise ValueError(f"{self.name} has no projection apart from its image encoder, a {type(last).__name__}")
        return last

    def replaced(self, name: str, part: nn.Module) -> "VisionTower":
        outer = shallow(self.model)
        inner = outer
        if hasattr(outer, "model"):
            inner = outer._modules["model"] = shallow(outer.model)
        inner._modules[name] = part
        return VisionTower(outer, self.processor, sample=self.sample)

    def settings(self) -> dict[str, Any]:
        return {"vision": self.name, "preprocessing": self.processor.image_processor.to_dict()}

    @override
    def encoded(self, pictures: Sequence[Image.Image], *, in_company: bool = False) -> list[EncodedImage]:
        in_company = in_company and self.reads_company_differently
        found = self.encoded_of([self.preprocessed(picture, in_company=in_company) for picture in pictures])
        return [image.first_half() for image in found] if in_company else found

    @override
    def encoded_of(self, inputs: Sequence[EncoderInput]) -> list[EncodedImage]:
        given = [own for own in inputs if not isinstance(own, Tensor)]
        with self._encoder:
            found = self._together.vectors(given)
        return [
            EncodedImage(
                vectors=vectors,
                forward_arguments={name: value for name, value in own.items() if name != "pixel_values"},
            )
            for vectors, own in zip(found, given, strict=True)
        ]

    @override
    def on_forward(self, model: nn.Module, virtual_tokens: VirtualTokens) -> ForwardArguments | None:
        if self.sample is None:
            return None
        module: Any = model.original_model
        return ForwardArguments(module, self.model, virtual_tokens, sample=self.sample)

    @cached_property
    def reads_company_differently(self) -> bool:
        """Whether a picture's vectors differ when another picture is present, as in LLaVA-OneVision, which then cuts
        no tiles."""
        wide = Image.new("RGB", (300, 100))
        alone, twice = (self._texts.processed(self.placeholder * n, [wide] * n)["input_ids"] for n in (1, 2))
        return int((twice == self.image_token_id).sum()) != 2 * int((alone == self.image_token_id).sum())

    def preprocessed(self, picture: Image.Image, *, in_company: bool = False, **changes: Any) -> dict[str, Tensor]:
        """The encoder's input for one picture.

        Args:
            in_company: twice, as two pictures of one prompt.
            changes: options of the image processor.
        """
        copies = 1 + in_company
        inputs = self._texts.processed(self.placeholder * copies, [picture] * copies, **changes)
        wanted = signature(self.model.get_image_features).parameters
        return {name: value for name, value in inputs.items() if name in wanted and isinstance(value, Tensor)}

    @property
    def _required(self) -> dict[str, Any]:
        """Arguments without a default that the model itself takes from its configuration (Llama 4 before 5.10)."""
        name, config = "vision_feature_select_strategy", self.model.config.vision_config
        parameter = signature(self.model.get_image_features).parameters.get(name)
        missing = parameter is not None and parameter.default is Parameter.empty
        return {name: getattr(config, name)} if missing else {}

    def _vectors_of(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "pos d_model"]:
        """The vectors that the decoder reads for one preprocessed picture, in order."""
        like = self._like
        found = self.model.get_image_features(
            **{name: value.to(like if value.is_floating_point() else like.device) for name, value in inputs.items()},
            **self._required,
        )
        features = getattr(found, "pooler_output", found)
        if features is None:  # Llama 4 leaves the projector to its caller.
            features = self.model.multi_modal_projector(found.last_hidden_state)
        tensors = [features] if isinstance(features, Tensor) else list(features)
        return torch.cat([tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors])

    @override
    def n_positions(self, width: int, height: int) -> int:
        return self._texts.ids(self.placeholder, ((width, height),)).count(self.image_token_id)

    @override
    def layout(self, width: int, height: int, *, n_positions: int) -> ImageLayout:
        """Measured; see `image.measured_layout`. The latest are kept.

        Cost: dozens of passes of the image encoder for each new shape of its input.
        """
        if self._layouts is None:
            return ImageLayout(n_positions=n_positions, grids=())
        in_company = self.reads_company_differently and n_positions != self.n_positions(width, height)
        return self._layouts.of(width, height, n_positions=n_positions, in_company=in_company)

    @cached_property
    def _layouts(self) -> EncoderLayouts | None:
        side = getattr(self.model.config.vision_config, "patch_size", None)
        side = side[0] if isinstance(side, (list, tuple)) else side
        if not isinstance(side, int):
            return None
        return EncoderLayouts(self.preprocessed, self._vectors_of, self.parts, side=side, lock=self._encoder)

    @override
    def grid(self, n_positions: int) -> tuple[int, int]:
        return 1, n_positions

    @override
    def chat(self, question: str) -> str:
        if getattr(self.processor, "chat_template", None) is None:
            raise ValueError(
                f"the processor of {self.name} has no chat template; write the prompt as the model was trained: "
                f"lens.prompt(image, '...')"
            )
        content = [{"type": "image"}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        return str(self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    @property
    @override
    def caption_text(self) -> str:
        return PROMPT if getattr(self.processor, "chat_template", None) is None else self.chat(INSTRUCTION)

    @override
    def pieces(
        self, row: Sequence[EmbeddedImage | str], *, text: PromptTokenizer, prepend_bos: bool | None
    ) -> list[Piece]:
        """The row as the model's own processor writes it, with its marks around each image.

        Where a text contains the processor's placeholder (`<image>`), the images go there; otherwise where they are in
        the row.

        Raises: ValueError unless there are as many placeholders as images.
        """
        images = [piece for piece in row if isinstance(piece, EmbeddedImage)]
        if any(image.size is None for image in images):
            return self._around_bare_vectors(row, text=text, prepend_bos=prepend_bos)
        words = [piece for piece in row if isinstance(piece, str)]
        n_named = sum(piece.count(self.image_token) for piece in words)
        if n_named and n_named != len(images):
            raise ValueError(
                f"the text says {self.image_token} {n_named} times, and this row has {len(images)} images; say it once "
                f"for each image, or not at all"
            )
        written = "".join(words if n_named else [p if isinstance(p, str) else self.placeholder for p in row])
        ids = self._ids(written, images, prepend_bos=prepend_bos)
        return self._with_images(ids, images)

    def _around_bare_vectors(
        self, row: Sequence[EmbeddedImage | str], *, text: PromptTokenizer, prepend_bos: bool | None
    ) -> list[Piece]:
        """Vectors without a picture have no marks: the processor could not tell how many positions they take."""
        pieces: list[Piece] = [self._ids("", [], prepend_bos=prepend_bos)]
        for piece in row:
            if isinstance(piece, str):
                pieces.append(text.encode(piece))
            elif piece.size is None:
                pieces.append(piece)
            else:
                pieces += self._with_images(self._ids(self.placeholder, [piece], prepend_bos=False), [piece])
        return pieces

    def _ids(self, written: str, images: Sequence[EmbeddedImage], *, prepend_bos: bool | None) -> list[int]:
        bos: Any = self.processor.tokenizer.bos_token
        begun = bos is not None and written.startswith(bos)
        options = {"add_special_tokens": False} if begun or prepend_bos is False else {}
        if not images:
            ids = list(self.processor.tokenizer(written, **options)["input_ids"])
        else:
            ids = self._texts.ids(written, tuple(image.size for image in images if image.size), **options)
        bos_id = self.processor.tokenizer.bos_token_id
        first_word = next((token for token in ids if token != self.image_token_id), None)
        if prepend_bos and not begun and first_word != bos_id:
            ids = [*PromptTokenizer(self.processor.tokenizer).start_ids(True), *ids]
        if prepend_bos is False and not begun and bos_id is not None and first_word == bos_id:
            ids = [*ids]
            ids.remove(bos_id)  # PaliGemma's processor writes it after the images
        return ids

    def _with_images(self, ids: Sequence[int], images: Sequence[EmbeddedImage]) -> list[Piece]:
        return with_images(ids, images, image_token_id=self.image_token_id, model=self.name)

    def written(self, text: str, pictures: Sequence[Image.Image]) -> dict[str, Any]:
        """A row as the model's own forward pass takes it, pixels included."""
        inputs = self._texts.written(text, pictures)
        like = self._like
        return {
            name: value.to(like if value.is_floating_point() else like.device)
            for name, value in inputs.items()
            if isinstance(value, Tensor)
        }

    def save(self, folder: Path) -> None:
        """Write the whole model, its decoder from a bridge or not, and the processor, as Hugging Face does.

        Raises: FileExistsError: the folder holds something.
        """
        if folder.exists() and (folder.is_file() or any(folder.iterdir())):
            raise FileExistsError(f"{str(folder)!r} exists")
        check_class_holds(self.model)
        with write_atomically(folder) as partial:
            partial.mkdir()
            unwrapped(self.model).save_pretrained(partial)
            self.processor.save_pretrained(partial)

    @torch.no_grad()
    def _n_vectors(self, picture: Image.Image) -> int:
        return len(self._vectors_of(self.preprocessed(picture)))

    @property
    def _like(self) -> Tensor:
        return next(parameter for part in self.parts.values() for parameter in part.parameters())
