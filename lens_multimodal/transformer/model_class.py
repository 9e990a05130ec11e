"""What differs between the model classes of TransformerLens' generations.

`TransformerBridge` (3.x and 4.x) wraps a Hugging Face model; `HookedTransformer` (3.x, removed in 4.0) has modules of
its own. Their structure tells them apart, because an installed release may lack one of the classes.
"""

from typing import Any

from torch import nn

from lens_multimodal.transformer.weights import config

HOOKED, BRIDGE, COMPATIBLE = "HookedTransformer", "TransformerBridge", "TransformerBridge in compatibility mode"


def is_transformer_lens_model(model: object) -> bool:
    """True for a `HookedTransformer` or `TransformerBridge`, False for a plain Hugging Face model."""
    return hasattr(model, "hooks")


def is_bridge(model: nn.Module) -> bool:
    """True for `TransformerBridge`, which wraps a Hugging Face model; False for `HookedTransformer`."""
    return hasattr(model, "original_model")


def class_name(model: nn.Module) -> str:
    """`HOOKED`, `BRIDGE` or `COMPATIBLE`: how a saved lens names the model class."""
    if not is_bridge(model):
        return HOOKED
    return COMPATIBLE if getattr(model, "compatibility_mode", False) else BRIDGE


def weight_processing(model: nn.Module) -> str:
    """Which weight processing the model's numbers assume: it changes what a decoded neuron means.

    Returns: "none" for weights as trained; otherwise the processing that the model records.
    """
    if is_bridge(model):
        return "processed" if getattr(model, "_weights_processed", False) else "none"
    return "fold_ln" if str(config(model).normalization_type).endswith("Pre") else "none"


def embedding_module(model: nn.Module) -> nn.Module:
    """The module that looks up token embeddings: the one place that every path through the model passes.

    `HookedTransformer.generate` skips `hook_embed`'s caller and `reset_hooks()` clears hook points, so image vectors
    are placed by plain PyTorch hooks on this module.
    """
    embed: Any = model.embed
    found: Any = embed.original_component if is_bridge(model) else embed
    assert isinstance(found, nn.Module)
    return found


def attention_is_left_to_hugging_face(model: nn.Module, layer: int) -> bool:
    """Whether a layer's attention runs in Hugging Face's own code, so that edits of scores and patterns are dropped.

    The bridge decides this for each family (GPT-J and OPT), and releases differ, so the module itself is inspected.
    """
    if not is_bridge(model):
        return False
    from transformer_lens.model_bridge.generalized_components import AttentionBridge

    return type(model.blocks[layer].attn).forward is AttentionBridge.forward  # type: ignore[index,union-attr]
