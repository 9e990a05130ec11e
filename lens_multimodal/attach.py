"""`attach_vision`: give a language model eyes."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lens_multimodal import presets, saved_lens, transformer
from lens_multimodal.image.encoder import VisionEncoder
from lens_multimodal.lens import VisionLens
from lens_multimodal.presets.random_weights import RandomWeights
from lens_multimodal.prompt.projection import Projection, load_linear
from lens_multimodal.prompt.virtual_tokens import check_free
from lens_multimodal.transformer.loading import load_language_model
from lens_multimodal.transformer.self_check import self_check


@torch.inference_mode(False)
def attach_vision(
    model: str | Path | nn.Module | None = None,
    *,
    vision: str | Path | nn.Module | None = None,
    projection: str | Path | nn.Module | None = None,
    tokenizer: Any = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    weights: RandomWeights | str | None = None,
) -> VisionLens:
    """Make a TransformerLens model accept images wherever it accepts tokens.

    Args:
        model: nothing for the embedded tiny trio; a preset (`gpt-j-limber-beit`, ...); a folder written by
            `lens.save_pretrained`; the name or folder of a
            Hugging Face causal language model on this machine; such a model itself (it becomes part of a
            `TransformerBridge`); a `TransformerBridge` or `HookedTransformer`.
        vision: an encoder preset or timm model name, the folder of a Hugging Face BEiT, a timm model, a
            `VisionEncoder`, or any module that gives `[batch, patch, d_vision]` wrapped with its preprocessing as
            `VisionEncoder(module, preprocessing=...)`.
        projection: a `.ckpt` or `.safetensors` file with `weight [d_model, d_vision]` and `bias`, an `nn.Linear`,
            or any module from `d_vision` to `d_model`.
        tokenizer: for a model that came without one.
        device: where everything is moved; None leaves the parts where they are.
        dtype: the precision everything is brought to; None leaves it.
        weights: "random" for a preset's true shape with random numbers, made on the device: what costs time and
            memory can be measured without the weights. `RandomWeights(seed=..., n_layers=...)` for a seed or a slice.

    Returns:
        The lens. The model itself is `lens.model`; `lens.detach()` restores it.

    Raises:
        TypeError: a part of another kind.
        ValueError: parts whose widths do not fit, both sides named.
        FileNotFoundError: weights that are not on this machine; says which file, from where, and where to put it.
        HookDidNotFire, HookHasNoEffect: a hook point of this model cannot be trusted.
        RuntimeError: the model already has eyes, or this TransformerLens release is not supported.
    """
    transformer.check_version()
    if model is None and vision is None and projection is None:
        model = "tiny"
    preset = _preset(model)
    if weights is not None:
        preset = presets.with_random_weights(preset, weights, device=device, dtype=dtype)
    language_model, own_tokenizer = _language_model(model, preset, device=device, dtype=dtype)
    encoder = _vision(vision, preset)
    linear = _linear(projection, preset)
    tokenizer = own_tokenizer if tokenizer is None else tokenizer
    host_model = (
        language_model if hasattr(language_model, "hooks") else transformer.wrap(language_model, tokenizer=tokenizer)
    )
    transformer.check_model(host_model)
    check_free(transformer.embedding_module(host_model))
    transformer.move(host_model, device=device, dtype=dtype)
    _move(encoder, linear, device=device, dtype=dtype)
    d_model = transformer.shape(host_model).d_model
    lens = VisionLens(
        host_model,
        vision=encoder,
        projection=Projection(linear, d_vision=encoder.d_vision, d_model=d_model, n_patches=encoder.n_patches),
        tokenizer=tokenizer,
        name=preset.name if preset else type(language_model).__name__,
    )
    try:
        self_check(host_model)
    except Exception:
        lens.detach()
        raise
    return lens


def _preset(model: Any) -> presets.Preset | saved_lens.SavedLens | None:
    return saved_lens.open_saved(model) if saved_lens.is_saved_lens(model) else presets.get(model)


def _language_model(
    model: str | Path | nn.Module | None,
    preset: presets.Preset | saved_lens.SavedLens | None,
    *,
    device: Any,
    dtype: Any,
) -> tuple[nn.Module, Any]:
    if preset is not None:
        return preset.language_model(device=device, dtype=dtype)
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


def _vision(
    vision: str | Path | nn.Module | None, preset: presets.Preset | saved_lens.SavedLens | None
) -> VisionEncoder:
    if isinstance(vision, VisionEncoder):
        return vision
    if isinstance(vision, nn.Module):
        return VisionEncoder(vision)
    if isinstance(vision, (str, Path)):
        return presets.load_vision(str(vision))
    if vision is not None:
        raise TypeError(f"expected an image encoder, a preset or a timm name, got {type(vision).__name__}")
    if preset is None:
        raise ValueError(
            "this language model needs an image encoder: pass vision=... (a timm name, a timm model or a VisionEncoder)"
        )
    return preset.vision()


def _linear(
    projection: str | Path | nn.Module | None, preset: presets.Preset | saved_lens.SavedLens | None
) -> nn.Module:
    if isinstance(projection, nn.Module):
        return projection
    if isinstance(projection, (str, Path)):
        return load_linear(projection)
    if projection is not None:
        raise TypeError(f"expected a projection file, an nn.Linear or a module, got {type(projection).__name__}")
    if preset is None:
        raise ValueError(
            "this language model and encoder need a projection: pass projection=... (a LiMBeR proj.ckpt, a "
            ".safetensors file or an nn.Linear), or train one with lens_multimodal.train"
        )
    return preset.projection()


def _move(*parts: nn.Module, device: Any, dtype: Any) -> None:
    for part in parts:
        if device is not None:
            part.to(device)
        if dtype is not None:
            part.to(dtype)
