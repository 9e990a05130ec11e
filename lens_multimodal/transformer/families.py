"""What differs between decoder families: one table, and what an unknown family's model says of itself.

To support a family's quirk, add a field to `FamilyFacts`, its value to the families that have it, and how to read it
off a model to `read_facts`. Everything else in the library asks `facts(model)` and never the configuration.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, kw_only=True)
class FamilyFacts:
    """Facts of one decoder family; the defaults describe GPT-2."""

    prepends_bos: bool = False
    """It was trained with a beginning-of-sequence token before its text. No configuration tells: TransformerLens'
    `default_prepend_bos` is True for GPT-J, which was trained without one."""
    parallel_blocks: bool = False
    """Attention and MLP of a block read the same residual stream, so no path leads from one to the other."""
    mlp_has_own_norm: bool = True
    """False where a block has a single norm, which then feeds its MLP too."""
    norms_centre: bool = True
    """LayerNorm, which subtracts the mean over d_model; False for RMSNorm."""
    caps_logits: bool = False
    """The model itself squashes its logits after the unembedding, so unembedding alone does not give them."""


_LLAMA_LIKE = FamilyFacts(prepends_bos=True, norms_centre=False)

FAMILIES: dict[str, FamilyFacts] = {
    "GPT2LMHeadModel": FamilyFacts(),
    "GPTJForCausalLM": FamilyFacts(parallel_blocks=True, mlp_has_own_norm=False),
    "OPTForCausalLM": FamilyFacts(prepends_bos=True),
    "LlamaForCausalLM": _LLAMA_LIKE,
    "MistralForCausalLM": _LLAMA_LIKE,
    "MixtralForCausalLM": _LLAMA_LIKE,
    "GemmaForCausalLM": _LLAMA_LIKE,
    "Gemma2ForCausalLM": FamilyFacts(prepends_bos=True, norms_centre=False, caps_logits=True),
    "Gemma3ForCausalLM": _LLAMA_LIKE,
}
"""By the name of the Hugging Face class. GPT-NeoX (Pythia) is read off the model: its blocks are parallel or not."""


def facts(model: nn.Module) -> FamilyFacts:
    """The facts of a TransformerLens model's family, from the table or, if it is not listed, from the model."""
    known = FAMILIES.get(architecture(model))
    return read_facts(model) if known is None else known


def read_facts(model: Any) -> FamilyFacts:
    """What a model of any family says of itself; `prepends_bos` is False, since no model tells."""
    cfg = model.cfg
    norm = str(getattr(cfg, "normalization_type", None) or "")
    return FamilyFacts(
        parallel_blocks=bool(getattr(cfg, "parallel_attn_mlp", False)),
        mlp_has_own_norm=hasattr(model.blocks[0], "ln2"),
        norms_centre=not norm.startswith("RMS") and not getattr(cfg, "uses_rms_norm", False),
        caps_logits=(getattr(cfg, "output_logits_soft_cap", None) or -1) > 0,
    )


def architecture(model: Any) -> str:
    """The name of the Hugging Face class that a TransformerLens model wraps, or was converted from."""
    wrapped = getattr(model, "original_model", None)
    return str(model.cfg.original_architecture) if wrapped is None else type(wrapped).__name__
