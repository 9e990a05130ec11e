"""The text decoder inside a Hugging Face vision-language model, as a causal language model of its own.

A vision-language model of the LLaVA kind is an image encoder, a projection and a text decoder. TransformerLens knows
the decoder, so the decoder is what it gets; the encoder and the projection stay where they are. No weight is copied.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lens_multimodal.transformer.loading import check_complete, explained, load_pretrained

_LOGITS_AS_UNEMBEDDED = {"logit_scale": 1.0, "logits_scaling": 1.0, "final_logit_softcapping": None}
"""What the causal classes of Cohere, Granite and Gemma 2 do to their logits, and how not to. Some vision-language
classes around their decoders unembed and do no more."""


def is_vision_language(model: object) -> bool:
    """Whether this is a Hugging Face model that writes text about images and has an image encoder of its own."""
    return (
        isinstance(model, nn.Module)
        and hasattr(model, "get_image_features")
        and getattr(model, "can_generate", lambda: False)()
    )


def load_vision_language(
    name: str | Path, *, device: Any = None, dtype: torch.dtype | None = None
) -> tuple[Any, Any] | None:
    """A frozen vision-language model and its processor from a folder or this machine's cache.

    Returns: None for a name that is not that of a vision-language model.
    Raises: FileNotFoundError without its weights or its processor; ValueError for damaged or missing weights.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    try:
        config = AutoConfig.from_pretrained(name, local_files_only=True)
    except Exception:  # a damaged configuration fails anywhere; reading it as a language model's says how
        return None
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING or not hasattr(config, "vision_config"):
        return None
    needed = "config.json, *.safetensors, the processor and the tokenizer"
    with explained("vision-language model", name, needed):
        processor = AutoProcessor.from_pretrained(name, local_files_only=True)
        model, info = load_pretrained(AutoModelForImageTextToText, name, device=device, dtype=dtype)
    check_complete(f"vision-language model {str(name)!r}", info)
    return model, processor


def forget_images(model: Any) -> None:
    """Let a vision-language model forget the images of its latest prompt.

    Qwen2-VL keeps how far that prompt's positions lag behind, and would number those of the next text by it.
    """
    inner = getattr(model, "model", model)
    if hasattr(inner, "rope_deltas"):
        inner.rope_deltas = None


def text_decoder(model: Any) -> nn.Module:
    """The decoder of a vision-language model as a Hugging Face causal language model that shares its modules.

    The model itself if `transformers` has no causal language model class for its decoder (Qwen2-VL): TransformerLens
    then takes it whole.
    """
    own = getattr(model, "language_model", None)
    if own is not None and own.get_output_embeddings() is not None:
        return own  # type: ignore[no-any-return]
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    found = model.config.get_text_config(decoder=True)
    classes: Any = MODEL_FOR_CAUSAL_LM_MAPPING
    if type(found) not in classes:
        return model  # type: ignore[no-any-return]
    config = copy.deepcopy(found)
    changed = {name: value for name, value in _LOGITS_AS_UNEMBEDDED.items() if hasattr(config, name)}
    if changed and _only_unembeds(model):
        for name, value in changed.items():
            setattr(config, name, value)
    with torch.device("meta"):
        decoder: Any = classes[type(found)](config)
    setattr(decoder, decoder.base_model_prefix, model.get_decoder())
    decoder.set_output_embeddings(model.get_output_embeddings())
    decoder.generation_config = copy.deepcopy(model.generation_config)
    left = [name for name, value in [*decoder.named_parameters(), *decoder.named_buffers()] if value.is_meta]
    if left:
        raise ValueError(
            f"{type(decoder).__name__} has weights that {type(model).__name__} lacks: {', '.join(left[:5])}"
        )
    return decoder.train(model.training)  # type: ignore[no-any-return]


@torch.no_grad()
def _only_unembeds(model: Any) -> bool:
    """Whether a model's logits are what its unembedding gives; releases of transformers differ (PaliGemma 2)."""
    head, unembedded = model.get_output_embeddings(), []
    handle = head.register_forward_hook(lambda _module, _args, output: unembedded.append(output))
    try:
        logits = model(input_ids=torch.arange(1, 5, device=head.weight.device)[None] % len(head.weight)).logits
    finally:
        handle.remove()
    return torch.equal(logits, unembedded[0])
