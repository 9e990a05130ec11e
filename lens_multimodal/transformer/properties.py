"""What a model is: its sizes, its class, how it was made."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lens_multimodal.transformer.weights import config, w_e, w_out

_ARCHITECTURES_WITH_BOS = frozenset(
    f"{family}ForCausalLM" for family in ("Llama", "OPT", "Mistral", "Mixtral", "Gemma", "Gemma2", "Gemma3")
)


@dataclass(frozen=True, kw_only=True)
class HostShape:
    """The sizes of a language model."""

    n_layers: int
    d_model: int
    d_mlp: int
    d_vocab: int
    n_heads: int
    d_head: int
    n_ctx: int

    @property
    def n_neurons(self) -> int:
        return self.n_layers * self.d_mlp


def shape(model: nn.Module) -> HostShape:
    """The sizes of a TransformerLens model, `d_vocab` and `d_mlp` read off its weights."""
    cfg = config(model)
    return HostShape(
        n_layers=cfg.n_layers,
        d_model=cfg.d_model,
        d_mlp=w_out(model, 0).shape[0],
        d_vocab=w_e(model).shape[0],
        n_heads=cfg.n_heads,
        d_head=cfg.d_head,
        n_ctx=cfg.n_ctx,
    )


def is_bridge(model: nn.Module) -> bool:
    """True for `TransformerBridge`, which wraps a Hugging Face model; False for `HookedTransformer`."""
    return hasattr(model, "original_model")


def device(model: nn.Module) -> torch.device:
    """Where token ids go in: the device of the embedding table."""
    return w_e(model).device


def weight_processing(model: nn.Module) -> str:
    """Under which weight processing the model's numbers are made: it changes what a decoded neuron means.

    Returns: "none" for weights as they were trained; otherwise what is known to have been done to them.
    """
    if is_bridge(model):
        return "processed" if getattr(model, "_weights_processed", False) else "none"
    return "fold_ln" if str(config(model).normalization_type).endswith("Pre") else "none"


def prepends_bos(model: nn.Module) -> bool:
    """Whether the language model was trained with a beginning-of-sequence token before its text.

    TransformerLens' own `default_prepend_bos` is True for GPT-J, which was trained without one.
    """
    if not is_bridge(model):
        return str(config(model).original_architecture) in _ARCHITECTURES_WITH_BOS
    inner: Any = model.original_model
    return type(inner).__name__ in _ARCHITECTURES_WITH_BOS


def embedding_module(model: nn.Module) -> nn.Module:
    """The module that looks up token embeddings: the one place where every path through the model passes.

    `HookedTransformer.generate` skips `hook_embed`'s caller and `reset_hooks()` clears hook points, so
    image vectors are placed by plain PyTorch hooks on this module.
    """
    embed = model.embed
    assert isinstance(embed, nn.Module)
    if not is_bridge(model):
        return embed
    original = embed.original_component
    assert isinstance(original, nn.Module)
    return original


def parallel_blocks(model: nn.Module) -> bool:
    """Whether attention and MLP of a layer read the same residual stream (GPT-J, Pythia), not one after the other."""
    return bool(getattr(config(model), "parallel_attn_mlp", False))


def attention_is_left_to_hugging_face(model: nn.Module, layer: int) -> bool:
    """Whether a layer's attention runs in Hugging Face's own code, so that edits of scores and patterns are dropped."""
    if not is_bridge(model):
        return False
    from transformer_lens.model_bridge.generalized_components import AttentionBridge

    return type(model.blocks[layer].attn).forward is AttentionBridge.forward  # type: ignore[index,union-attr]
