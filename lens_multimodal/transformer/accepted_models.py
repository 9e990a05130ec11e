"""Which models and TransformerLens releases work, and how a Hugging Face model becomes a TransformerLens model."""

import copy
import re
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from lens_multimodal.transformer.agreement import SAME_WEIGHTS, disagreement
from lens_multimodal.transformer.model_class import is_bridge, is_transformer_lens_model
from lens_multimodal.transformer.weights import config, w_e

OLDEST, TOO_NEW = (3, 8), (5, 0)
"""Releases from the first up to, not including, the second work. Before 3.7 the bridge gives GPT-J's W_out transposed;
in 3.7 the bridge of GPT-NeoX generates different text from `transformers` with the key-value cache, and OPT's has no
W_out."""


ADAPTERS = {"Qwen2VLForConditionalGeneration": "Qwen2_5_VLForConditionalGeneration"}
"""Adapters of TransformerLens that fit a class it has none for: these decoders have the same modules."""


class WrongInTransformerLens(RuntimeError):
    """TransformerLens cannot run a model, or computes logits that differ from the model's own."""


def check_version() -> None:
    """Raise for a TransformerLens release known not to work.

    Raises: RuntimeError naming the installed and the supported versions.
    """
    installed = version("transformer-lens")
    if not OLDEST <= tuple(int(part) for part in re.findall(r"\d+", installed)[:2]) < TOO_NEW:
        raise RuntimeError(
            f"transformer-lens {installed} is installed; lens_multimodal needs at least "
            f"{OLDEST[0]}.{OLDEST[1]} and less than {TOO_NEW[0]}.{TOO_NEW[1]} (pip install 'transformer-lens>="
            f"{OLDEST[0]}.{OLDEST[1]},<{TOO_NEW[0]}')"
        )


def as_transformer_lens(model: nn.Module, *, tokenizer: Any = None) -> nn.Module:
    """A TransformerLens model as it is, or a Hugging Face causal language model wrapped in a `TransformerBridge`.

    Raises: TypeError, ValueError as `wrap` and `check_model`.
    """
    if not is_transformer_lens_model(model):
        return wrap(model, tokenizer=tokenizer)
    check_model(model)
    return model


def check_model(model: Any) -> None:
    """Check that `model` has everything that this library uses of a TransformerLens model.

    Raises:
        TypeError: naming what is missing.
        ValueError: a layout that cannot take images, such as an embedding followed by its own norm.
    """
    missing = [
        name
        for name in ("cfg", "embed", "blocks", "unembed", "hooks", "run_with_cache", "generate")
        if not hasattr(model, name)
    ]
    if missing:
        raise TypeError(
            f"expected a TransformerLens model (HookedTransformer or TransformerBridge), got "
            f"{type(model).__name__} without {', '.join(missing)}. attach_vision also takes a "
            f"Hugging Face causal language model, its name or its folder, and wraps it"
        )
    if getattr(config(model), "post_embedding_ln", False):
        raise ValueError(
            "this model normalises its token embeddings in the embedding module itself (post_embedding_ln), so "
            "image vectors cannot be placed there; use a TransformerBridge of the same model"
        )
    d_model = config(model).d_model
    if w_e(model).shape[1] != d_model:
        raise ValueError(
            f"the token embeddings are {w_e(model).shape[1]} wide and the residual stream d_model={d_model}: "
            f"this model projects its embeddings, so image vectors of d_model cannot be placed among them"
        )
    _check_plain_mlps(model)


def _check_plain_mlps(model: Any) -> None:
    """Raise ValueError unless each block has one MLP with the same number of neurons."""
    d_model = config(model).d_model
    d_mlp = None
    for layer, block in enumerate(model.blocks):
        mlp = getattr(block, "mlp", None)
        into, out = getattr(mlp, "W_in", None), getattr(mlp, "W_out", None)
        if not isinstance(into, Tensor) or not isinstance(out, Tensor):
            raise ValueError(
                f"block {layer} of {_class_of(model)} has no plain MLP, but "
                + (f"{_class_of(mlp)} in its place" if mlp is not None else f"is {_class_of(block)} without any")
                + ": neurons of this library are rows of one W_out in each block, so mixtures of experts, state space "
                "models and attention-only models cannot be used"
            )
        d_mlp = out.shape[0] if d_mlp is None else d_mlp
        if out.shape != (d_mlp, d_model) or into.shape != (d_model, d_mlp):
            raise ValueError(
                f"block {layer} of {_class_of(model)} has an MLP ({_class_of(mlp)}) with W_in {list(into.shape)} and "
                f"W_out {list(out.shape)}, expected [d_model={d_model}, d_mlp={d_mlp}] and its transpose: every "
                f"block needs the same number of neurons"
            )


def _class_of(module: Any) -> str:
    """The class of a module, or of the Hugging Face module that it wraps."""
    inner = getattr(module, "original_component", getattr(module, "original_model", None))
    return type(module if inner is None else inner).__name__


def wrap(language_model: nn.Module, *, tokenizer: Any = None) -> nn.Module:
    """A `TransformerBridge` around a Hugging Face causal language model, without a copy and without hub access.

    The given model becomes part of the bridge: its modules are replaced in place, and its attention becomes "eager",
    the only implementation whose patterns can be read.

    Raises:
        TypeError: the model is not a causal language model of Hugging Face.
        ValueError: it is already part of a bridge.
        WrongInTransformerLens: wrapped, it fails or computes different logits.
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    config: Any = getattr(language_model, "config", None)
    if config is None or not getattr(language_model, "can_generate", lambda: False)():
        raise TypeError(
            f"expected a Hugging Face causal language model, a TransformerLens model, a name or a folder, got "
            f"{type(language_model).__name__}"
        )
    if hasattr(language_model.get_input_embeddings(), "original_component"):  # type: ignore[operator]
        raise ValueError(
            f"this {type(language_model).__name__} is already part of a TransformerBridge, which replaced its modules: "
            f"pass that bridge, or load the model again"
        )
    parts = {"text_config": "eager"} if hasattr(config, "vision_config") else "eager"
    language_model.eval().set_attn_implementation(parts)  # type: ignore[operator]
    name, runner = type(language_model).__name__, f"TransformerLens {version('transformer-lens')}"
    try:
        before: Tensor | Exception = few_logits(language_model)
    except Exception as error:  # a reason visible in the model's structure is reported instead, below
        before = error
    try:
        bridge = build_bridge_from_module(
            language_model,
            ADAPTERS.get(name, name),
            hf_config=config,
            tokenizer=as_loaded(tokenizer),
            post_adapter_hook=_leave_vision_alone,
        ).eval()
    except Exception as error:
        raise WrongInTransformerLens(f"{runner} cannot take this {name}: {error}") from error
    check_model(bridge)
    if isinstance(before, Exception):
        raise WrongInTransformerLens(f"this {name} does not run by itself: {before}") from before
    try:
        after = few_logits(bridge.original_model)
    except Exception as error:
        raise WrongInTransformerLens(f"{runner} cannot run this {name}: {error}") from error
    off = disagreement(after, before, SAME_WEIGHTS, before.dtype)
    if off is not None:
        raise WrongInTransformerLens(
            f"{runner} runs this {name} wrongly: with and without the key-value cache the logits of four tokens "
            f"differ from the model's own by up to {off:.3g} of the largest"
        )
    return bridge


def _leave_vision_alone(adapter: Any) -> None:
    """Keep a vision-language model's image encoder and projector as they are."""
    for part in ("vision_encoder", "vision_projector"):
        adapter.component_mapping.pop(part, None)


@torch.no_grad()
def few_logits(language_model: Any) -> Tensor:
    """Logits of four tokens, and of the last one again after the key-value cache of the others."""
    table: Tensor = language_model.get_input_embeddings().weight
    tokens = torch.arange(1, 5, device=table.device)[None] % len(table)
    whole = language_model(input_ids=tokens, use_cache=False).logits
    cache = getattr(language_model(input_ids=tokens[:, :-1], use_cache=True), "past_key_values", None)
    if cache is None:
        return whole
    mask = torch.ones_like(tokens)
    step = language_model(input_ids=tokens[:, -1:], past_key_values=cache, attention_mask=mask, use_cache=True).logits
    return torch.cat([whole, step], dim=1)


def untrained(model: nn.Module, *, tokenizer: Any) -> nn.Module:
    """A model of the same class and sizes with its library's initial weights."""
    if is_bridge(model):
        inner: Any = model.original_model
        return wrap(type(inner)(inner.config).eval().requires_grad_(False), tokenizer=tokenizer)
    own = copy.deepcopy(config(model))
    own.init_weights = True
    made: Any = type(model)
    return made(own, tokenizer=as_loaded(tokenizer), move_to_device=False).eval().requires_grad_(False)


def as_loaded(tokenizer: Any) -> Any:
    """A copy of a tokenizer that TransformerLens uses unchanged.

    Given the original, it loads the tokenizer a second time from its path or the hub, and fails for one made in memory.
    """
    if tokenizer is None:
        return None
    own = copy.deepcopy(tokenizer)
    own.init_kwargs = {"name_or_path": "", **own.init_kwargs, "add_bos_token": True}
    return own


def move(model: nn.Module, *, device: Any = None, dtype: torch.dtype | None = None) -> None:
    """Move or cast a TransformerLens model without its printing."""
    for target in (device, dtype):
        if target is not None:
            model.to(target, print_details=False)  # type: ignore[call-overload]
