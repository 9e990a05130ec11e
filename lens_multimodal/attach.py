"""`attach_vision`: images for a language model that was trained on text alone."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lens_multimodal import presets, saved_lens, transformer, vision_language
from lens_multimodal.image.encoder import VisionEncoder
from lens_multimodal.lens import VisionLens
from lens_multimodal.presets.random_weights import RandomWeights
from lens_multimodal.prompt.image_embedder import EncoderAndProjection
from lens_multimodal.prompt.projection import Projection, load_linear
from lens_multimodal.prompt.virtual_tokens import check_free
from lens_multimodal.transformer.loading import load_language_model
from lens_multimodal.transformer.restored_on_failure import restored_on_failure
from lens_multimodal.transformer.self_check import self_check

NamedTrio = presets.Preset | saved_lens.SavedLens
"""A name or a folder that stands for all three parts; each is loaded when it is needed."""


@torch.inference_mode(False)
def attach_vision(
    model: str | Path | nn.Module | None = None,
    *,
    vision: str | Path | nn.Module | None = None,
    projection: str | Path | nn.Module | None = None,
    tokenizer: Any = None,
    processor: Any = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    weights: RandomWeights | str | None = None,
) -> VisionLens:
    """Make a TransformerLens model accept images wherever it accepts tokens.

    A part that is given is used; any other comes from the preset or the saved lens that `model` names. If this fails
    or is interrupted, the modules that were given are left as they were: submodules, weights, hooks, precision.

    Args:
        model: None for the tiny trio inside the package; a preset (`gpt-j-limber-beit`, ...); a folder written by
            `lens.save_pretrained`; the name or folder of a Hugging Face causal language model on this machine; such a
            model itself (it becomes part of a `TransformerBridge`); a `TransformerBridge` or `HookedTransformer`. A
            Hugging Face vision-language model (LLaVA, InternVL, ...), its name or its folder, brings its own encoder
            and projection, which are used unless others are given. With another `vision`, prompts have no marks around
            images, and the projection takes that encoder's features.
        vision: an encoder preset or timm model name, the folder of a Hugging Face BEiT, a timm model, a
            `VisionEncoder`, or any module that gives `[batch, patch, d_vision]` wrapped with its preprocessing as
            `VisionEncoder(module, preprocessing=...)`.
        projection: a `.ckpt` or `.safetensors` file with `weight [d_model, d_vision]` and `bias`, an `nn.Linear`,
            or any module from `d_vision` to `d_model`.
        tokenizer: for a model that came without one.
        processor: the Hugging Face processor of a vision-language model that is given itself, not by its folder.
        device: where all parts are moved; None leaves them where they are.
        dtype: the precision of all parts; None leaves it.
        weights: "random" for a preset's true shape with random numbers, made on the device: time and memory can be
            measured without the weights. `RandomWeights(seed=..., n_layers=...)` for a seed, or the first layers only.

    Returns:
        The lens. The model itself is `lens.model`; `lens.detach()` restores it.

    Raises:
        TypeError: a part of another kind.
        ValueError: parts whose widths do not fit; the error names both.
        FileNotFoundError: weights that are not on this machine; the error names the file, its source and its place.
        NotFromVectorsAlone: a vision-language model whose logits from pixels differ from those from image vectors.
        HookDidNotFire, HookHasNoEffect: a hook point of this model cannot be trusted.
        RuntimeError: a lens is already attached, or this TransformerLens release is not supported.
    """
    transformer.check_version()
    if model is None and vision is None and projection is None:
        model = "tiny"
    with restored_on_failure(*(part for part in (model, vision, projection) if isinstance(part, nn.Module))):
        trio = _named_trio(model)
        own = None if trio else vision_language.read(model, processor=processor, device=device, dtype=dtype)
        if own is not None and vision is None:
            other = None if projection is None else _linear(projection, None)
            return vision_language.attach(*own, projection=other, device=device, dtype=dtype)
        if own is not None:
            model, own_projector = vision_language.without_vision(own[0])
            tokenizer = getattr(own[1], "tokenizer", None) if tokenizer is None else tokenizer
            projection = own_projector if projection is None else projection
        if weights is not None:
            trio = presets.with_random_weights(trio, weights, device=device, dtype=dtype)
        language_model, own_tokenizer = _language_model(model, trio, device=device, dtype=dtype)
        encoder = _vision(vision, trio)
        linear = _linear(projection, trio)
        tokenizer = own_tokenizer if tokenizer is None else tokenizer

        hooked = transformer.as_transformer_lens(language_model, tokenizer=tokenizer)
        check_free(transformer.embedding_module(hooked))
        d_model = transformer.shape(hooked).d_model
        fitting = Projection(linear, d_vision=encoder.d_vision, d_model=d_model, n_patches=encoder.n_patches)
        transformer.move(hooked, device=device, dtype=dtype)
        encoder.to(device=device, dtype=dtype)
        fitting.to(device=device, dtype=dtype)
        lens = VisionLens(
            hooked,
            images=EncoderAndProjection(encoder, fitting),
            tokenizer=tokenizer,
            name=trio.name if trio else type(language_model).__name__,
        )
        self_check(hooked)
        return lens


def _named_trio(model: Any) -> NamedTrio | None:
    return saved_lens.open_saved(model) if saved_lens.is_saved_lens(model) else presets.get(model)


def _language_model(
    model: str | Path | nn.Module | None,
    trio: NamedTrio | None,
    *,
    device: Any,
    dtype: Any,
) -> tuple[nn.Module, Any]:
    if trio is not None:
        return trio.language_model(device=device, dtype=dtype)
    if model is None:
        raise ValueError("vision and projection were given without a model; give the language model they belong to")
    if isinstance(model, (str, Path)):
        return load_language_model(model, device=device, dtype=dtype)
    if isinstance(model, nn.Module):
        return model, getattr(model, "tokenizer", None)
    raise TypeError(
        f"expected a model, its name or its folder, got {type(model).__name__}; for the embedded trio call "
        f"attach_vision() without arguments"
    )


def _vision(vision: str | Path | nn.Module | None, trio: NamedTrio | None) -> VisionEncoder:
    if isinstance(vision, VisionEncoder):
        return vision
    if isinstance(vision, nn.Module):
        return VisionEncoder(vision)
    if isinstance(vision, (str, Path)):
        return presets.load_vision(str(vision))
    if vision is not None:
        raise TypeError(f"expected an image encoder, a preset or a timm name, got {type(vision).__name__}")
    if trio is None:
        raise ValueError(
            "this language model needs an image encoder: pass vision=... (a timm name, a timm model or a VisionEncoder)"
        )
    return trio.vision()


def _linear(projection: str | Path | nn.Module | None, trio: NamedTrio | None) -> nn.Module:
    if isinstance(projection, nn.Module):
        return projection
    if isinstance(projection, (str, Path)):
        return load_linear(projection)
    if projection is not None:
        raise TypeError(f"expected a projection file, an nn.Linear or a module, got {type(projection).__name__}")
    if trio is None:
        raise ValueError(
            "this language model and encoder need a projection: pass projection=... (a LiMBeR proj.ckpt, a "
            ".safetensors file or an nn.Linear), or train one with lens_multimodal.train"
        )
    return trio.projection()
