"""An image encoder's architecture as JSON, checked by building it again and comparing what it computes."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_NOT_ARCHITECTURE = frozenset(
    {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "device", "dtype"}
)
"""Options of `timm.create_model` that read other files or choose a place; refused in a description."""

_SAVE_IT_YOURSELF = (
    "Save the weights of this encoder yourself, save the lens with save_pretrained(folder, without=['vision']), and "
    "load it with attach_vision(folder, vision=...)"
)

LARGEST_NUMBER = 65_536
"""The largest number in a description: more than any encoder has of anything, less than what fills the memory."""

Description = dict[str, Any]
"""`{"beit": {...}}`, the arguments of timm's `Beit`; or `{"timm": {"name": ..., "options": {...}}}`."""


def describe(module: nn.Module, *, height: int, width: int) -> Description:
    """What `build` needs to make this encoder again, without its weights.

    Args:
        module: a timm `Beit`, or any model made by `timm.create_model`.
        height: of the pixels it is tested on.
        width: of the pixels it is tested on.

    Raises: ValueError for a module that this description would not reproduce: not timm's, or changed after timm
        made it.
    """
    described = _describe_beit(module) or _describe_timm(module)
    if described is None:
        raise ValueError(
            f"the architecture of {type(module).__name__} cannot be written down: only timm's Beit and models made by "
            f"timm.create_model can. {_SAVE_IT_YOURSELF}"
        )
    difference = _difference(module, described, height=height, width=width)
    if difference:
        raise ValueError(
            f"{type(module).__name__} was changed after timm made it ({difference}), so its architecture cannot be "
            f"written down. {_SAVE_IT_YOURSELF}"
        )
    return described


def build(description: Description) -> nn.Module:
    """The untrained encoder, in evaluation mode.

    Only names of timm's own registry are built: a description never makes timm read or fetch a file.

    Raises: ValueError for a description that is malformed or that this timm does not know.
    """
    import timm
    from timm.models.beit import Beit

    too_large = [n for n in _numbers(description) if abs(n) > LARGEST_NUMBER]
    if too_large:
        raise ValueError(f"the description of the image encoder holds {too_large[0]}, more than {LARGEST_NUMBER:,}")
    try:
        if "beit" in description:
            options = dict(description["beit"])
            norm_layer: Any = partial(nn.LayerNorm, eps=options.pop("norm_eps"))
            return Beit(**options, norm_layer=norm_layer).eval()
        name, options = description["timm"]["name"], description["timm"]["options"]
        refused = sorted(_NOT_ARCHITECTURE & set(options))
        if refused or not timm.is_model(name):
            raise KeyError(f"options {', '.join(refused)} are refused" if refused else f"timm has no {name!r}")
        return timm.create_model(name, pretrained=False, **options).eval()
    except Exception as error:  # timm takes anything and fails anywhere
        raise ValueError(
            f"timm {timm.__version__} cannot build the image encoder {json.dumps(description)[:300]}: {error}"
        ) from error


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _numbers(inner)


def _describe_beit(module: Any) -> Description | None:
    from timm.models.beit import Beit

    if type(module) is not Beit or not len(module.blocks):
        return None
    block: Any = module.blocks[0]
    width: Any = module.embed_dim
    swiglu = hasattr(block.mlp, "fc1_g")
    hidden = (block.mlp.fc1_g if swiglu else block.mlp.fc1).out_features
    return {
        "beit": {
            "img_size": list(module.patch_embed.img_size),
            "patch_size": list(module.patch_embed.patch_size),
            "in_chans": module.patch_embed.proj.in_channels,
            "num_classes": module.num_classes,
            "global_pool": module.global_pool,
            "embed_dim": width,
            "depth": len(module.blocks),
            "num_heads": block.attn.num_heads,
            "qkv_bias": block.attn.q_bias is not None,
            "mlp_ratio": hidden / width,
            "swiglu_mlp": swiglu,
            "scale_mlp": not isinstance(block.mlp.norm, nn.Identity),
            "init_values": None if block.gamma_1 is None else 1.0,
            "use_abs_pos_emb": module.pos_embed is not None,
            "use_rel_pos_bias": block.attn.relative_position_bias_table is not None,
            "use_shared_rel_pos_bias": module.rel_pos_bias is not None,
            "norm_eps": block.norm1.eps,
            **_final_norm(module),
        }
    }


def _final_norm(module: Any) -> dict[str, bool]:
    """Which norm comes last, where it does not follow from the pooling; older releases of timm have no such encoder."""
    after_pooling = isinstance(module.norm, nn.Identity)
    return {} if after_pooling == (module.global_pool == "avg") else {"use_fc_norm": after_pooling}


def _describe_timm(module: Any) -> Description | None:
    import timm

    name = (getattr(module, "pretrained_cfg", None) or {}).get("architecture")
    if not name or not timm.is_model(name):
        return None
    patch_embed = getattr(module, "patch_embed", None)
    guessed = {
        "num_classes": getattr(module, "num_classes", None),
        "img_size": getattr(patch_embed, "img_size", None),
        "global_pool": getattr(module, "global_pool", None),
    }
    options = {**guessed, **getattr(module, "_model_args", {})}
    return {"timm": {"name": name, "options": {k: _plain(v) for k, v in options.items() if _is_kept(k, v)}}}


def _is_kept(key: str, value: Any) -> bool:
    return key not in _NOT_ARCHITECTURE and isinstance(value, (bool, int, float, str, list, tuple))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@torch.no_grad()
def _difference(module: nn.Module, description: Description, *, height: int, width: int) -> str:
    """How the module built from the description differs; empty if it does not."""
    state = module.state_dict()
    like = next(iter(state.values()))
    try:
        twin = build(json.loads(json.dumps(description))).to(device=like.device, dtype=like.dtype)
        twin.load_state_dict(state)
    except (ValueError, RuntimeError) as error:
        return " ".join(str(error).split())[:300]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, height, width, generator=generator).to(like)
    theirs, ours = _features(twin, pixels), _features(module, pixels)
    return "" if torch.equal(theirs, ours) else "with the same weights it computes different features"


def _features(module: Any, pixels: Tensor) -> Tensor:
    was_training = module.training
    features: Tensor = module.eval().forward_features(pixels)
    module.train(was_training)
    return features
