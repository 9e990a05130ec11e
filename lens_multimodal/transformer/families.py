"""What differs between decoder families, read off the model itself.

Everything else in the library asks `facts(model)` and never the configuration. To support a family's quirk, add a field
to `FamilyFacts` and how it is read. `docs/models.md` shows what was found and checked for each family.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

NORM_BEHIND_MLP_IN_HOOKED = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")
"""Architectures whose `ln2` follows the MLP in a `HookedTransformer`."""


@dataclass(frozen=True, kw_only=True)
class FamilyFacts:
    """Facts of one decoder family."""

    parallel_blocks: bool = False
    """Attention and MLP of a block read the same residual stream, so no path leads from one to the other."""
    norm_before_mlp: str | None = "ln2"
    """The norm whose output the MLP reads, by its name in a block; None where the MLP reads the residual stream."""
    norm_behind_mlp: str | None = None
    """The norm between the MLP and the residual stream (Gemma 2, OLMo 2, GLM-4)."""
    residual_multiplier: float = 1.0
    """What a block multiplies the output of its MLP by before it adds it (Granite)."""
    embedding_scale: float = 1.0
    """What the embedding module multiplies its table by (Gemma)."""
    embedding_multiplier: float = 1.0
    """What token embeddings and image vectors alike are multiplied by after the embedding module (Granite)."""
    logit_multiplier: float = 1.0
    """What the model multiplies its logits by (Cohere, Granite)."""
    logit_cap: float | None = None
    """The bound of `cap * tanh(logits / cap)`, which the model applies last (Gemma 2)."""


def facts(model: nn.Module) -> FamilyFacts:
    """The facts of a TransformerLens model's family."""
    inner: Any = getattr(model, "original_model", None)
    return _of_hooked_transformer(model) if inner is None else _of_bridge(model, inner)


def architecture(model: Any) -> str:
    """The name of the Hugging Face class that a TransformerLens model wraps, or was converted from."""
    wrapped = getattr(model, "original_model", None)
    return str(model.cfg.original_architecture) if wrapped is None else type(wrapped).__name__


def _of_hooked_transformer(model: Any) -> FamilyFacts:
    """A conversion writes embedding scales and norms of `1 + w` into the weights."""
    block, cap = model.blocks[0], getattr(model.cfg, "output_logits_soft_cap", None)
    behind_alone = architecture(model) in NORM_BEHIND_MLP_IN_HOOKED
    return FamilyFacts(
        parallel_blocks=bool(model.cfg.parallel_attn_mlp),
        norm_before_mlp=None if behind_alone else "ln2",
        norm_behind_mlp="ln2" if behind_alone else "ln2_post" if hasattr(block, "ln2_post") else None,
        logit_cap=cap if cap is not None and cap > 0 else None,
    )


def _of_bridge(model: Any, inner: Any) -> FamilyFacts:
    block = model.blocks[0]
    layer, decoder, embedding = block.original_component, inner.base_model, model.embed.original_component
    # A bridge shows as `hook_mlp_out` what is added to the residual stream: the output of the norm after the MLP.
    behind = next((n for n in ("ln2_post", "ln2") if _output(block, n) is block.hook_mlp_out), None)
    before = next((n for n in ("ln2", "ln1") if hasattr(block, n)), None)
    return FamilyFacts(
        parallel_blocks=bool(getattr(model.cfg, "parallel_attn_mlp", False)),
        norm_before_mlp=None if behind == "ln2" else before,
        norm_behind_mlp=behind,
        residual_multiplier=float(getattr(layer, "residual_multiplier", 1.0)),
        embedding_scale=float(getattr(embedding, "scalar_embed_scale", getattr(embedding, "embed_scale", 1.0))),
        embedding_multiplier=float(getattr(decoder, "embedding_multiplier", 1.0)),
        logit_multiplier=getattr(inner, "logit_scale", 1.0) / getattr(inner.config, "logits_scaling", 1.0),
        logit_cap=getattr(inner.config, "final_logit_softcapping", None),
    )


def _output(block: Any, name: str) -> Any:
    return getattr(getattr(block, name, None), "hook_out", None)
