"""The one module that knows TransformerLens: hook names, weights, and what differs between generations.

Two model classes can be host to an image, told apart by structure, never by a class that may not exist:

- `HookedTransformer` (TransformerLens 3.x; removed in 4.0),
- `TransformerBridge` (3.x and 4.x), in or out of compatibility mode.

TransformerLens accepts many hooks that never run (unknown names in the 3.x bridge, switched-off hook points
in both). So everything here that reads or edits activations checks that the name exists *and* that it fired.
"""

import copy
import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

OLDEST, TOO_NEW = (3, 7), (5, 0)
"""TransformerLens releases that this library works with: before 3.7 the bridge gives GPT-J's W_out transposed."""

_ARCHITECTURES_WITH_BOS = frozenset(
    f"{family}ForCausalLM" for family in ("Llama", "OPT", "Mistral", "Mixtral", "Gemma", "Gemma2", "Gemma3")
)

HookFunction = Callable[..., Any]
"""`(activation, hook)`: returns a new activation to edit, or None to observe."""

NamedHook = tuple[str, HookFunction]
"""A hook name and its function, as `model.hooks(fwd_hooks=[...])` takes them."""


class HookDidNotFire(RuntimeError):
    """A hook point accepted a hook and never ran it."""


# --- names -----------------------------------------------------------------------------------------------


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

    Where the bridge leaves attention to Hugging Face (GPT-J, OPT) this hook point shows probabilities after the
    fact, and edits are dropped there and at `attn_pattern`; `hooks.cut_attention` knows another way.
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


EMBED = "hook_embed"
"""Token embeddings, image positions included, `[batch, pos, d_model]`."""

FINAL_NORM_SCALE = "ln_final.hook_scale"
"""What the final norm divides by, `[batch, pos, 1]`."""


# --- what a model is -------------------------------------------------------------------------------------


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
    cfg = _config(model)
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


def check_model(model: Any) -> None:
    """Raise unless `model` has everything that this library uses of a TransformerLens model.

    Raises:
        TypeError: naming what is missing.
        ValueError: for a model whose layout cannot take images (embedding followed by its own norm).
    """
    missing = [
        name
        for name in ("cfg", "embed", "blocks", "unembed", "hooks", "run_with_cache", "generate")
        if not hasattr(model, name)
    ]
    if missing:
        raise TypeError(
            f"expected a TransformerLens model (HookedTransformer or TransformerBridge), got "
            f"{type(model).__name__} without {', '.join(missing)}. A Hugging Face causal language model, a name "
            f"or a folder can be given to attach_vision, which wraps it."
        )
    if getattr(_config(model), "post_embedding_ln", False):
        raise ValueError(
            "this model normalises its token embeddings in the embedding module itself (post_embedding_ln), so "
            "image vectors cannot be placed there; use a TransformerBridge of the same model"
        )
    sizes = _config(model)
    out = w_out(model, 0)
    if w_e(model).shape[1] != sizes.d_model:
        raise ValueError(
            f"the token embeddings are {w_e(model).shape[1]} wide and the residual stream d_model={sizes.d_model}: "
            f"this model projects its embeddings, so image vectors of d_model cannot stand among them"
        )
    if out.ndim != 2 or out.shape[1] != sizes.d_model:
        raise ValueError(
            f"blocks[0].mlp.W_out has shape {tuple(out.shape)}, expected [d_mlp, d_model={sizes.d_model}]: this "
            f"TransformerLens release returns it transposed (fixed in 3.7.0), or the block is not a plain MLP"
        )


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


def wrap(language_model: nn.Module, *, tokenizer: Any = None) -> nn.Module:
    """A `TransformerBridge` around a Hugging Face causal language model: no copy, no hub access.

    The given model becomes part of the bridge: its modules are replaced in place.

    Raises:
        TypeError: the model is no causal language model of Hugging Face.
        ValueError: it is already part of a bridge.
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
            f"this {type(language_model).__name__} is already part of a TransformerBridge, which replaced its modules; "
            f"give that bridge, or load the model again"
        )
    return build_bridge_from_module(
        language_model, type(language_model).__name__, hf_config=config, tokenizer=as_loaded(tokenizer)
    ).eval()


def as_loaded(tokenizer: Any) -> Any:
    """A copy of a tokenizer that TransformerLens takes as it is.

    Otherwise it loads the tokenizer a second time from its path or the hub, and fails for one made in memory.
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


def prepends_bos(model: nn.Module) -> bool:
    """Whether the language model was trained with a beginning-of-sequence token before its text.

    TransformerLens' own `default_prepend_bos` is True for GPT-J, which was trained without one.
    """
    if not is_bridge(model):
        return str(_config(model).original_architecture) in _ARCHITECTURES_WITH_BOS
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


def attention_is_left_to_hugging_face(model: nn.Module, layer: int) -> bool:
    """Whether a layer's attention runs in Hugging Face's own code, so that edits of scores and patterns are dropped."""
    if not is_bridge(model):
        return False
    from transformer_lens.model_bridge.generalized_components import AttentionBridge

    return type(model.blocks[layer].attn).forward is AttentionBridge.forward  # type: ignore[index,union-attr]


def device(model: nn.Module) -> torch.device:
    """Where token ids go in: the device of the embedding table."""
    return w_e(model).device


def weight_processing(model: nn.Module) -> str:
    """Under which weight processing the model's numbers are made: it changes what a decoded neuron means.

    Returns: "none" for weights as they were trained; otherwise what is known to have been done to them.
    """
    if is_bridge(model):
        return "processed" if getattr(model, "_weights_processed", False) else "none"
    return "fold_ln" if str(_config(model).normalization_type).endswith("Pre") else "none"


# --- weights ---------------------------------------------------------------------------------------------


def w_in(model: nn.Module, layer: int) -> Float[Tensor, "d_model d_mlp"]:
    """Input weights of one layer's neurons."""
    return _block(model, layer).mlp.W_in


def w_out(model: nn.Module, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """Output weights: row k is what neuron k adds to the residual stream."""
    return _block(model, layer).mlp.W_out


def w_u(model: nn.Module) -> Float[Tensor, "d_model d_vocab"]:
    """Unembedding."""
    return model.unembed.W_U  # type: ignore[union-attr,return-value]


def b_u(model: nn.Module) -> Float[Tensor, " d_vocab"]:
    """Bias of the unembedding, zeros where the model has none."""
    bias = getattr(model.unembed, "b_U", None)
    if bias is None:
        weight = w_u(model)
        return torch.zeros(weight.shape[1], dtype=weight.dtype, device=weight.device)
    return bias


def w_e(model: nn.Module) -> Float[Tensor, "d_vocab d_model"]:
    """Token embeddings."""
    return model.embed.W_E  # type: ignore[union-attr,return-value]


def final_norm_weight(model: nn.Module) -> Float[Tensor, " d_model"]:
    """Scale of the final norm, ones where it was folded into the unembedding."""
    weight = getattr(model.ln_final, "w", None)
    if weight is None:
        table = w_e(model)
        return torch.ones(table.shape[1], dtype=table.dtype, device=table.device)
    return weight


def final_norm_centres(model: nn.Module) -> bool:
    """True for LayerNorm, which subtracts the mean over d_model; False for RMSNorm."""
    kind = getattr(_config(model), "normalization_type", None) or ""
    return not str(kind).startswith("RMS") and not getattr(_config(model), "uses_rms_norm", False)


def read_out(model: nn.Module, resid: Float[Tensor, "... pos d_model"]) -> Float[Tensor, "... pos d_vocab"]:
    """Final norm and unembedding of any residual stream: the logit lens."""
    return model.unembed(model.ln_final(resid))  # type: ignore[operator]


# --- running ---------------------------------------------------------------------------------------------


def logits_of(
    model: nn.Module,
    tokens: Int[Tensor, "batch pos"],
    *,
    attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
) -> Float[Tensor, "batch pos d_vocab"]:
    """One forward pass; the attention mask marks left padding with zeros.

    `HookedTransformer` always gets a mask: left to itself it takes leading end tokens for padding.
    """
    if attention_mask is None:
        attention_mask = torch.ones_like(tokens)
    if is_bridge(model) and bool(attention_mask.all()):
        return model(tokens, return_type="logits")
    return model(tokens, return_type="logits", attention_mask=attention_mask.to(tokens.device))


@torch.no_grad()
def generate(
    model: nn.Module,
    tokens: Int[Tensor, "batch pos"],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    num_beams: int = 1,
) -> Int[Tensor, "batch pos_and_new"]:
    """TransformerLens' own generation with the key-value cache, over rows of one length without padding.

    Raises: ValueError for beams on a model class that has none, and for a `HookedTransformer`'s prompt that both
        begins and ends with its padding token.
    """
    if num_beams > 1:
        return _beam_search(model, tokens, max_new_tokens=max_new_tokens, stop_ids=stop_ids, num_beams=num_beams)
    return model.generate(  # type: ignore[operator]
        tokens,
        max_new_tokens=max_new_tokens,
        stop_at_eos=bool(stop_ids),
        eos_token_id=list(stop_ids) or None,
        do_sample=do_sample,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        use_past_kv_cache=True,
        prepend_bos=False,
        return_type="tokens",
        verbose=False,
        **({} if is_bridge(model) else {"padding_side": _side_without_padding(model, tokens)}),
    )


def check_hook_names(model: nn.Module, names: Iterable[str]) -> None:
    """Raise for a hook name that the model does not have, with the closest ones it has.

    Raises: ValueError.
    """
    hook_points: Any = model.hook_dict
    known: set[str] = {*hook_points, *(getattr(model, "_hook_alias_registry", None) or {})}
    for name in dict.fromkeys(names):
        if name in known:
            continue
        close = difflib.get_close_matches(name, known, n=3)
        raise ValueError(
            f"{type(model).__name__} has no hook point {name!r}"
            + (f"; closest: {', '.join(close)}" if close else "")
            + f" ({len(known)} names, blocks 0 to {_config(model).n_layers - 1})"
        )


@contextmanager
def fired_hooks(model: nn.Module, hooks: Sequence[NamedHook]) -> Iterator[None]:
    """`model.hooks(fwd_hooks=hooks)` with known names, and an error on exit if one of them never ran.

    Raises:
        ValueError: a name that the model does not have.
        HookDidNotFire: after the block, when a hook was accepted and no forward pass reached it.
    """
    check_hook_names(model, [name for name, _ in hooks])
    fired = [False] * len(hooks)

    def watched(index: int, function: HookFunction) -> HookFunction:
        def run(activation: Any, hook: Any) -> Any:
            fired[index] = True
            return function(activation, hook=hook)

        return run

    with model.hooks(fwd_hooks=[(name, watched(i, f)) for i, (name, f) in enumerate(hooks)]):  # type: ignore[operator]
        yield
    silent = [name for (name, _), ran in zip(hooks, fired, strict=True) if not ran]
    if silent:
        raise HookDidNotFire(
            f"hook points {', '.join(dict.fromkeys(silent))} of {type(model).__name__} accepted a hook but never "
            f"ran it: no forward pass happened inside the block, or the model does not compute this activation"
        )


@contextmanager
def capture(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect activations by hook name during the block, graph included, nothing copied.

    Yields a dictionary filled by the forward pass (the last pass wins). Raises like `fired_hooks`.
    """
    kept: dict[str, Tensor] = {}

    def keeper(name: str) -> HookFunction:
        def keep(activation: Tensor, hook: Any) -> None:
            kept[name] = activation

        return keep

    with fired_hooks(model, [(name, keeper(name)) for name in names]):
        yield kept


def _config(model: Any) -> Any:
    return model.cfg


def _block(model: Any, layer: int) -> Any:
    n_layers = model.cfg.n_layers
    if not 0 <= layer < n_layers:
        raise ValueError(f"layer {layer} is outside the model's {n_layers} layers (0 to {n_layers - 1})")
    return model.blocks[layer]


def _side_without_padding(model: Any, tokens: Tensor) -> str:
    """The side to name to `HookedTransformer`, which masks every padding token at that end; these rows have none."""
    padding = getattr(model.tokenizer, "pad_token_id", None)
    if padding is None:
        return "right"
    begins, ends = (bool((tokens[:, end] == padding).any()) for end in (0, -1))
    if begins and ends:
        raise ValueError(
            f"HookedTransformer takes token {padding} for padding at one end of a prompt, and this prompt has it at "
            f"both: leave it out at one end, or use a TransformerBridge of the same weights"
        )
    return "left" if ends else "right"


def _beam_search(model: Any, tokens: Tensor, *, max_new_tokens: int, stop_ids: Sequence[int], num_beams: int) -> Tensor:
    if not is_bridge(model):
        raise ValueError(
            f"{type(model).__name__} has no beam search (num_beams={num_beams}); a TransformerBridge of the same "
            f"weights has"
        )
    return model.original_model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        do_sample=False,
        eos_token_id=list(stop_ids) or None,
        pad_token_id=stop_ids[0] if stop_ids else 0,
    )
