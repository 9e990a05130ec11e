"""A plain Hugging Face causal language model from a TransformerLens model's weights."""

import copy
from typing import Any

from accelerate import init_empty_weights
from torch import Tensor, nn

from lens_multimodal import transformer

WRAPPED = "._original_component"
"""What a `TransformerBridge` adds to the names of the modules it wraps in place."""


def to_hugging_face(model: nn.Module) -> Any:
    """A Hugging Face model that shares its weights with a bridge, or has a `HookedTransformer`'s GPT-J weights.

    A bridge replaces modules inside its Hugging Face model, which can then be neither saved nor wrapped again; the
    model returned here can.

    Raises: ValueError for processed weights, from which the trained ones cannot be recovered, or a
        `HookedTransformer` of an architecture other than GPT-J.
    """
    processing = transformer.weight_processing(model)
    if processing != "none":
        raise ValueError(
            f"the weights of this {type(model).__name__} were processed ({processing}), so the trained weights cannot "
            f"be recovered: make the lens from an unprocessed model (enable_compatibility_mode(no_processing=True), "
            f"or hooked_gpt_j(..., process_weights=False))"
        )
    return _from_bridge(model) if transformer.is_bridge(model) else _gpt_j_from_hooked(model)


def _from_bridge(bridge: Any) -> Any:
    return unwrapped(bridge.original_model)


def unwrapped(inner: Any) -> Any:
    """A Hugging Face model that shares the weights of one whose modules a bridge has replaced."""
    weights = {name.replace(WRAPPED, ""): tensor for name, tensor in inner.state_dict().items()}
    with init_empty_weights(include_buffers=False):
        plain = type(inner)(inner.config)
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()}, assign=True)
    plain.tie_weights()
    plain.generation_config = _settings(inner.generation_config)
    return plain.eval().requires_grad_(False)


def _settings(own: Any) -> Any:
    """A copy of a model's generation settings, end tokens included, that transformers is willing to save.

    It refuses some that it loads, such as a temperature without sampling; then only the token ids are kept.
    """
    settings = copy.deepcopy(own)
    try:
        settings.validate(strict=True)
    except ValueError:
        ids = ("bos_token_id", "eos_token_id", "pad_token_id")
        settings = type(own)(**{name: getattr(own, name) for name in ids})
    return settings


def _gpt_j_from_hooked(model: Any) -> Any:
    from transformers import GPTJConfig, GPTJForCausalLM

    cfg = model.cfg
    if cfg.original_architecture != "GPTJForCausalLM":
        raise ValueError(
            f"expected a HookedTransformer of GPTJForCausalLM, got one of {cfg.original_architecture}: only GPT-J can "
            f"be converted to Hugging Face; use a TransformerBridge of the same model"
        )
    config = GPTJConfig(
        vocab_size=cfg.d_vocab,
        n_positions=cfg.n_ctx,
        n_embd=cfg.d_model,
        n_layer=cfg.n_layers,
        n_head=cfg.n_heads,
        rotary_dim=cfg.rotary_dim,
        n_inner=cfg.d_mlp,
        activation_function=cfg.act_fn,
        layer_norm_epsilon=cfg.eps,
        bos_token_id=getattr(model.tokenizer, "bos_token_id", None),
        eos_token_id=getattr(model.tokenizer, "eos_token_id", None),
        tie_word_embeddings=False,
    )
    config._attn_implementation = "eager"
    with init_empty_weights(include_buffers=False):
        plain = GPTJForCausalLM(config)
    plain.load_state_dict(_gpt_j_weights(model), assign=True)
    if (own := getattr(model, "generation_config", None)) is not None:
        plain.generation_config = _settings(own)
    return plain.eval().requires_grad_(False)


def _gpt_j_weights(model: Any) -> dict[str, Tensor]:
    weights = {
        "transformer.wte.weight": model.embed.W_E,
        "transformer.ln_f.weight": model.ln_final.w,
        "transformer.ln_f.bias": model.ln_final.b,
        "lm_head.weight": model.unembed.W_U.T,
        "lm_head.bias": model.unembed.b_U,
    }
    for layer, block in enumerate(model.blocks):
        home = f"transformer.h.{layer}"
        for letter in "QKV":
            per_head = getattr(block.attn, f"W_{letter}")
            weights[f"{home}.attn.{letter.lower()}_proj.weight"] = per_head.transpose(1, 2).flatten(0, 1)
        weights[f"{home}.attn.out_proj.weight"] = block.attn.W_O.flatten(0, 1).T
        weights[f"{home}.ln_1.weight"] = block.ln1.w
        weights[f"{home}.ln_1.bias"] = block.ln1.b
        weights[f"{home}.mlp.fc_in.weight"] = block.mlp.W_in.T
        weights[f"{home}.mlp.fc_in.bias"] = block.mlp.b_in
        weights[f"{home}.mlp.fc_out.weight"] = block.mlp.W_out.T
        weights[f"{home}.mlp.fc_out.bias"] = block.mlp.b_out
    return {name: tensor.detach().contiguous() for name, tensor in weights.items()}
