"""GPT-J as a `HookedTransformer`, built offline from local Hugging Face weights.

`HookedTransformer.from_pretrained` looks up names on the hub before it uses the model it was given, and fixes `d_mlp`
at four times the width, so the model is built here. TransformerLens 3.x only.
"""

import copy
from collections.abc import Callable
from typing import Any

from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import GPTJForCausalLM

from lens_multimodal import transformer


def is_available() -> bool:
    """Whether the installed TransformerLens still has `HookedTransformer` (3.x does, 4.x does not)."""
    try:
        from transformer_lens import HookedTransformer  # noqa: F401
    except (ImportError, AttributeError):
        return False
    return True


def hooked_gpt_j(language_model: GPTJForCausalLM, *, tokenizer: Any = None, process_weights: bool = False) -> nn.Module:
    """A `HookedTransformer` with a copy of the weights of a Hugging Face GPT-J: twice the memory while both live.

    Args:
        language_model: the source of the weights; it is not changed.
        tokenizer: its tokenizer, or None.
        process_weights: fold the norms and centre the writing and unembedding weights, as TransformerLens does
            by default. This changes what a decoded neuron means; the paper uses unprocessed weights.

    Raises:
        RuntimeError: the installed TransformerLens has no `HookedTransformer`.
        TypeError: an architecture other than GPT-J.
    """
    make, weights = _converted(language_model, tokenizer, normalization_type="LNPre" if process_weights else "LN")
    model = make()
    model.load_and_process_state_dict(
        weights,
        fold_ln=process_weights,
        center_writing_weights=process_weights,
        center_unembed=process_weights,
        fold_value_biases=process_weights,
    )
    transformer.move(model, device=language_model.device)
    return model.eval()


def share_gpt_j(language_model: nn.Module, *, tokenizer: Any = None) -> nn.Module:
    """A `HookedTransformer` that shares the tensors of a Hugging Face GPT-J: unprocessed, no copy.

    Discard the Hugging Face model afterwards: an edit to one changes the other.

    Raises: as `hooked_gpt_j`.
    """
    make, weights = _converted(language_model, tokenizer, normalization_type="LN")
    with init_empty_weights(include_buffers=False):
        model = make()
    shared = {name: tensor.detach() for name, tensor in weights.items()}
    lacking, _ = model.load_state_dict(shared, strict=False, assign=True)
    unfilled = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    assert not unfilled, f"{unfilled} of {lacking}"
    transformer.move(model, device=language_model.device)
    return model.eval().requires_grad_(False)


def check_available() -> None:
    """Raise RuntimeError if the installed TransformerLens has no `HookedTransformer`."""
    if not is_available():
        raise RuntimeError(
            "the installed TransformerLens has no HookedTransformer (removed in 4.0); use a TransformerBridge, "
            "or install transformer-lens<4"
        )


def _converted(
    language_model: nn.Module, tokenizer: Any, *, normalization_type: str
) -> tuple[Callable[[], Any], dict[str, Tensor]]:
    """A function that makes the `HookedTransformer`, and the weights to load into it."""
    check_available()
    if not isinstance(language_model, GPTJForCausalLM):
        raise TypeError(f"expected a GPTJForCausalLM, got {type(language_model).__name__}")
    from transformer_lens import HookedTransformer
    from transformer_lens.pretrained.weight_conversions import convert_gptj_weights

    cfg = _config(language_model, normalization_type=normalization_type)

    def make() -> Any:
        model = HookedTransformer(cfg, tokenizer=transformer.as_loaded(tokenizer), move_to_device=False)
        model.generation_config = copy.deepcopy(language_model.generation_config)  # end tokens
        return model

    return make, convert_gptj_weights(language_model, cfg)


def _config(language_model: GPTJForCausalLM, *, normalization_type: str) -> Any:
    from transformer_lens import HookedTransformerConfig

    config = language_model.config
    return HookedTransformerConfig(
        n_layers=config.n_layer,
        d_model=config.n_embd,
        n_heads=config.n_head,
        d_head=config.n_embd // config.n_head,
        d_mlp=config.n_inner or 4 * config.n_embd,
        n_ctx=config.n_positions,
        d_vocab=config.vocab_size,
        eps=config.layer_norm_epsilon,
        act_fn=config.activation_function,
        normalization_type=normalization_type,
        parallel_attn_mlp=True,
        positional_embedding_type="rotary",
        rotary_dim=config.rotary_dim,
        rotary_adjacent_pairs=True,
        original_architecture="GPTJForCausalLM",
        default_prepend_bos=False,
        init_weights=False,
        dtype=language_model.dtype,
        device=str(language_model.device),
    )
