"""Hook names, the same in both TransformerLens generations; no other module spells them out."""

EMBED = "hook_embed"
"""Token embeddings, image positions included, `[batch, pos, d_model]`."""

FINAL_NORM_SCALE = "ln_final.hook_scale"
"""What the final norm divides by, `[batch, pos, 1]`."""


def resid_pre(layer: int) -> str:
    """Residual stream entering a block, `[batch, pos, d_model]`."""
    return f"blocks.{layer}.hook_resid_pre"


def resid_post(layer: int) -> str:
    """Residual stream leaving a block, `[batch, pos, d_model]`."""
    return f"blocks.{layer}.hook_resid_post"


def mlp_pre(layer: int) -> str:
    """MLP hidden units before the non-linearity, `[batch, pos, d_mlp]`."""
    return f"blocks.{layer}.mlp.hook_pre"


def mlp_post(layer: int) -> str:
    """The neurons: MLP hidden units as `W_out` reads them, `[batch, pos, d_mlp]`."""
    return f"blocks.{layer}.mlp.hook_post"


def mlp_out(layer: int) -> str:
    """What a block's MLP adds to the residual stream, `[batch, pos, d_model]`."""
    return f"blocks.{layer}.hook_mlp_out"


def attn_out(layer: int) -> str:
    """What a block's attention adds to the residual stream, `[batch, pos, d_model]`."""
    return f"blocks.{layer}.hook_attn_out"


def head_z(layer: int) -> str:
    """Attention heads before the output projection, `[batch, pos, head, d_head]`."""
    return f"blocks.{layer}.attn.hook_z"


def attn_scores(layer: int) -> str:
    """Attention scores before the softmax, `[batch, head, query_pos, key_pos]`.

    Where the bridge leaves attention to Hugging Face (GPT-J, OPT), this hook point only reports probabilities. Edits
    here and at `attn_pattern` then have no effect; use `hooks.cut_attention` instead.
    """
    return f"blocks.{layer}.attn.hook_attn_scores"


def attn_pattern(layer: int) -> str:
    """Attention probabilities, `[batch, head, query_pos, key_pos]`."""
    return f"blocks.{layer}.attn.hook_pattern"


def attn_in(layer: int) -> str:
    """What a block's attention reads, `[batch, pos, d_model]`."""
    return f"blocks.{layer}.attn.hook_in"


def head_v(layer: int) -> str:
    """Values of the attention heads, `[batch, pos, head, d_head]`."""
    return f"blocks.{layer}.attn.hook_v"
