"""BEiT from Hugging Face to timm: LiMBeR's encoder exists as a Hugging Face checkpoint only."""

import re
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_PAIRS = [
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"shared_position_bias\.(relative_position_bias_table)", r"rel_pos_bias.\1"),
    (r"layers\.(\d+)\.layernorm_before\.(weight|bias)", r"blocks.\1.norm1.\2"),
    (r"layers\.(\d+)\.layernorm_after\.(weight|bias)", r"blocks.\1.norm2.\2"),
    (r"layers\.(\d+)\.attention\.o_proj\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
    (r"layers\.(\d+)\.attention\.(q|v)_proj\.bias", r"blocks.\1.attn.\2_bias"),
    (r"layers\.(\d+)\.relative_position_bias\.(relative_position_bias_table)", r"blocks.\1.attn.\2"),
    (r"layers\.(\d+)\.lambda_(\d)", r"blocks.\1.gamma_\2"),
    (r"layers\.(\d+)\.mlp\.(fc1|fc2)\.(weight|bias)", r"blocks.\1.mlp.\2.\3"),
    (r"layernorm\.(weight|bias)", r"norm.\1"),
    (r"pooler\.layernorm\.(weight|bias)", r"fc_norm.\1"),
]
"""Hugging Face's name (transformers 5) and timm's; query, key and value weights are joined separately."""

_QKV = re.compile(r"layers\.(\d+)\.attention\.(q|k|v)_proj\.weight")
_IGNORED = re.compile(r"embeddings\.mask_token|.*relative_position_index")


def timm_beit(config: Any) -> nn.Module:
    """An untrained timm `Beit` with the layout of a Hugging Face `BeitConfig`.

    Raises: ValueError for an activation function that timm's BEiT does not have.
    """
    from timm.models.beit import Beit

    if config.hidden_act != "gelu":
        raise ValueError(f"timm's BEiT computes gelu, but this one was trained with {config.hidden_act!r}")
    norm_layer: Any = partial(nn.LayerNorm, eps=config.layer_norm_eps)
    return Beit(
        img_size=config.image_size,
        patch_size=config.patch_size,
        num_classes=0,
        global_pool="avg" if config.use_mean_pooling else "",
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        mlp_ratio=(config.intermediate_size + 0.5) / config.hidden_size,  # timm cuts off the fraction
        norm_layer=norm_layer,
        init_values=config.layer_scale_init_value or None,
        use_abs_pos_emb=config.use_absolute_position_embeddings,
        use_rel_pos_bias=config.use_relative_position_bias,
        use_shared_rel_pos_bias=config.use_shared_relative_position_bias,
    )


def to_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names and joined weights for timm, from `transformers.BeitModel.state_dict()`.

    Raises: ValueError for a name that belongs to no BEiT.
    """
    converted: dict[str, Tensor] = {}
    thirds: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if _IGNORED.match(name):
            continue
        if match := _QKV.fullmatch(name):
            thirds.setdefault(match[1], {})[match[2]] = tensor
            continue
        converted[_renamed(name)] = tensor
    for layer, parts in thirds.items():
        converted[f"blocks.{layer}.attn.qkv.weight"] = torch.cat([parts[part] for part in "qkv"])
    return converted


def beit_from_huggingface(model: Any) -> nn.Module:
    """A timm `Beit` with the weights of a `transformers.BeitModel`, and the same last hidden state up to rounding.

    Raises: ValueError if a weight is missing or left over.
    """
    module = timm_beit(model.config)
    missing, unexpected = module.load_state_dict(to_timm(model.state_dict()), strict=False)
    never_used = ("relative_position_index", "k_bias", "fc_norm.weight", "fc_norm.bias")
    missing = [name for name in missing if not name.endswith(never_used)]
    if missing or unexpected:
        raise ValueError(f"this BEiT does not fit timm's layout: missing {missing[:5]}, unexpected {unexpected[:5]}")
    return module.eval()


def _renamed(name: str) -> str:
    for pattern, replacement in _PAIRS:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    raise ValueError(f"{name!r} is not a weight of a BEiT encoder")
