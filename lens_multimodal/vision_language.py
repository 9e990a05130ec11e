"""A lens on a trained vision-language model, with its own image encoder and projection.

The decoder is taken out and given to TransformerLens; image vectors are virtual tokens in its prompts. Whether
that is the model's own computation is not looked up but measured, on every model, before it is changed: its logits from
pixels against those of its decoder from image vectors. If those alone give others, the masks and positions that the
model computes for images go along (`prompt.forward_arguments`), and it is measured again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.lens import VisionLens
from lens_multimodal.prompt.other_projector import with_projector
from lens_multimodal.prompt.virtual_tokens import check_free
from lens_multimodal.prompt.vision_parts import parts_before
from lens_multimodal.prompt.vision_tower import VisionTower
from lens_multimodal.transformer.agreement import PIXELS_AND_VECTORS, disagreement
from lens_multimodal.transformer.decoder_inputs import DecoderInputs, along_with_images
from lens_multimodal.transformer.loading import place
from lens_multimodal.transformer.self_check import self_check
from lens_multimodal.transformer.vision_language_models import (
    forget_images,
    is_vision_language,
    load_vision_language,
    text_decoder,
)

SAMPLE_TEXT = " a picture of a"


class NotFromVectorsAlone(ValueError):
    """A vision-language model whose logits from pixels differ from those of its decoder on its image vectors."""


def read(
    model: Any, *, processor: Any = None, device: Any = None, dtype: torch.dtype | None = None
) -> tuple[Any, Any] | None:
    """A vision-language model, or a bridge around one, and its processor if there is one; None for anything else.

    Args: model: may be a folder. Raises: as `load_vision_language`.
    """
    if isinstance(model, (str, Path)):
        loaded = load_vision_language(model, device=device, dtype=dtype)
        return None if loaded is None else (loaded[0], processor or loaded[1])
    return (model, processor) if is_vision_language(getattr(model, "original_model", model)) else None


def without_vision(model: Any) -> tuple[nn.Module, nn.Module | None]:
    """The text decoder for another encoder, and the model's own projector, if it has one apart from its encoder.

    Raises: ValueError for a bridge around the whole model, or a decoder that only comes with its encoder (Qwen2-VL).
    """
    if transformer.is_bridge(model):
        raise ValueError(
            "the encoder or projection of a bridge around a whole vision-language model cannot be replaced: give the "
            "Hugging Face model itself"
        )
    *others, last = parts_before(model).values()
    decoder = text_decoder(model)
    if decoder is model:
        raise ValueError(
            f"the text decoder of {type(model).__name__} has no causal language model class in transformers, so it "
            f"cannot be had without the model's own encoder"
        )
    return decoder, last if others else None


def attach(
    model: Any,
    processor: Any,
    *,
    projection: nn.Module | None = None,
    device: Any = None,
    dtype: torch.dtype | None = None,
) -> VisionLens:
    """A lens on a vision-language model or on a bridge around it; a failure leaves the model changed.

    Args: projection: in the place of the model's own projector; the model itself keeps its own.
    Raises:
        TypeError, ValueError: a projection that does not fit; as `Projection`.
        NotFromVectorsAlone: image vectors in the prompt do not give the logits that pixels give.
        ValueError: no processor.
        HookDidNotFire, HookHasNoEffect: as `self_check`.
    """
    is_bridge = transformer.is_bridge(model)
    inner: Any = model.original_model if is_bridge else model
    if processor is None:
        raise ValueError(
            f"{type(inner).__name__} needs its processor, which prepares pictures and writes marks around them: "
            f"attach_vision(model, processor=AutoProcessor.from_pretrained(...)), or give the model's folder"
        )
    if any(weight.is_meta for weight in inner.parameters()):
        raise ValueError(
            f"some weights of {type(inner).__name__} are offloaded to main memory or disk (on the device meta), so "
            f"they cannot be decoded: load it without offloading, on more devices or in half precision"
        )
    tower = VisionTower(inner, processor)
    if is_bridge:
        transformer.move(model, device=device, dtype=dtype)
    else:
        place(tower.model, device=device, dtype=dtype)
    if projection is not None:
        tower = with_projector(tower, projection)
        inner = tower.model
    inner.set_attn_implementation({"text_config": "eager"})  # hooks on attention patterns need it
    sample = _sample(tower)
    forget_images(inner)
    decoder: Any = inner if is_bridge else text_decoder(inner)
    tower = VisionTower(inner, processor, sample=_needed_beside_vectors(decoder, tower, sample))
    if is_bridge:
        hooked = model
        transformer.check_model(hooked)
    else:
        hooked = transformer.as_transformer_lens(decoder, tokenizer=tower.processor.tokenizer)
    check_free(transformer.embedding_module(hooked))
    lens = VisionLens(hooked, images=tower, tokenizer=tower.processor.tokenizer, name=tower.name)
    self_check(hooked)
    (own,) = tower.encoded([sample.picture])
    image = lens.virtual_tokens.store(own.vectors, forward_arguments=own.forward_arguments)
    ids = sample.ids.masked_scatter(sample.ids == tower.image_token_id, image.ids.to(sample.ids.device))
    with torch.no_grad():
        found = transformer.logits_of(hooked, ids)
    wrapped = type(getattr(hooked, "original_model", hooked)).__name__
    _check(f"this TransformerLens does not compute what {wrapped} computes", tower, sample, found)
    return lens


class _Sample:
    """A small picture through the model's own route, before anything of it is changed."""

    def __init__(
        self, picture: Image.Image, written: Mapping[str, Tensor], logits: Float[Tensor, "1 pos d_vocab"]
    ) -> None:
        self.picture, self.written, self.logits = picture, written, logits

    @property
    def ids(self) -> Int[Tensor, "1 pos"]:
        return self.written["input_ids"]


@torch.no_grad()
def _sample(tower: VisionTower) -> _Sample:
    rows, columns = np.mgrid[0:60, 0:90]
    colours = np.stack([rows * 4, columns * 2, (rows * columns) % 256], axis=-1).astype(np.uint8)
    picture = Image.fromarray(colours)
    inputs = tower.written(tower.placeholder + SAMPLE_TEXT, [picture])
    return _Sample(picture, inputs, tower.model(**inputs).logits.float())


@torch.no_grad()
def _needed_beside_vectors(decoder: Any, tower: VisionTower, sample: _Sample) -> Mapping[str, Tensor] | None:
    """What the processor wrote for the sample, if the decoder needs some of it; None if image vectors are enough.

    Raises: NotFromVectorsAlone if neither gives the model's logits.
    """
    vectors = tower.vectors([sample.picture])[0]
    table = decoder.get_input_embeddings()
    ids = sample.ids.to(table.weight.device)
    embedded = table(ids).index_put((ids == tower.image_token_id,), vectors.to(table.weight))
    found = decoder(inputs_embeds=embedded).logits
    if disagreement(found, sample.logits, PIXELS_AND_VECTORS, found.dtype) is None:
        return None
    if along := along_with_images(tower.model, sample.written):
        mask = sample.written.get("attention_mask")
        inputs = DecoderInputs(tower.model).of(sample.ids, attention_mask=mask, cache=None, arguments=along)
        found = decoder(inputs_embeds=embedded, **inputs).logits
    _check(_reason(tower), tower, sample, found)
    return sample.written


def _check(reason: str, tower: VisionTower, sample: _Sample, found: Tensor) -> None:
    off = disagreement(found, sample.logits, PIXELS_AND_VECTORS, found.dtype)
    if off is not None:
        largest = float(sample.logits.abs().max())
        raise NotFromVectorsAlone(
            f"{tower.name} gives logits up to {largest:.3g} from pixels, and others from image vectors (largest "
            f"difference {off * largest:.3g}), so virtual tokens would not be this model: {reason}"
        )


def _reason(tower: VisionTower) -> str:
    vision = getattr(tower.model.config, "vision_config", None)
    if getattr(vision, "deepstack_visual_indexes", None):
        return "it adds image features inside the decoder too (deepstack)"
    return "it does more with an image than its forward pass shows"
