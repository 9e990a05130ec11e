"""Forward passes and generation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from inspect import signature
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lens_multimodal.transformer.checked_hooks import NamedHooks, fired_hooks
from lens_multimodal.transformer.losses_and_penalties import penalise, penalised
from lens_multimodal.transformer.model_class import is_bridge
from lens_multimodal.transformer.one_at_a_time import runs_alone
from lens_multimodal.transformer.pass_checks import check_before_pass
from lens_multimodal.transformer.residual_stream import unembed_normed
from lens_multimodal.transformer.sampling import GREEDY, Sampling
from lens_multimodal.transformer.sizes import shape
from lens_multimodal.transformer.token_ids import check_token_ids
from lens_multimodal.transformer.weights import config
from lens_multimodal.transformer.which_model import which_model


@runs_alone
def logits_of(
    model: nn.Module,
    tokens: Int[Tensor, "batch pos"],
    *,
    attention_mask: Int[Tensor, "batch pos"] | Bool[Tensor, "batch pos"] | None = None,
    first: int = 0,
    hooks: NamedHooks = (),
) -> Float[Tensor, "batch pos_from_first d_vocab"]:
    """One forward pass, through the model or its bare twin: `which_model`.

    `HookedTransformer` always gets a mask: without one it takes leading end tokens for padding.

    Args:
        attention_mask: zeros mark left padding.
        first: logits are wanted from this position on; where that can be, earlier ones are not unembedded. With a
            vocabulary of 50,400 the logits of an image's 196 positions take more memory than anything else.
        hooks: act in this pass alone.
    Raises: as `fired_hooks` and `check_before_pass`.
    """
    check_token_ids(model, tokens)
    with _chosen(model, hooks) as chosen:
        return _logits(chosen, tokens, attention_mask, first, bare=chosen is not model)


@contextmanager
def _chosen(model: nn.Module, hooks: NamedHooks) -> Iterator[Any]:
    """The model to run: this one or its bare twin, with the hooks on it.

    A twin is out of training, and was differentiated when it was compared.
    """
    chosen = which_model(model, [name for name, _ in hooks])
    if chosen is model:
        check_before_pass(model, differentiated=bool(hooks) and torch.is_grad_enabled())
    with fired_hooks(chosen, hooks) if hooks else nullcontext():
        yield chosen


def _logits(model: nn.Module, tokens: Tensor, attention_mask: Tensor | None, first: int, *, bare: bool) -> Tensor:
    if attention_mask is None:
        attention_mask = torch.ones_like(tokens)
    if is_bridge(model):
        own: dict[str, Any] = {} if bool(attention_mask.all()) else {"attention_mask": attention_mask.to(tokens.device)}
        known = _arguments(model.original_model)  # type: ignore[arg-type]
        if bare and torch.is_grad_enabled() and "use_cache" in known:
            own["use_cache"] = False  # a cache copies keys and values, and the graph would keep the copies
        if first and "logits_to_keep" in known:
            return model(tokens, return_type="logits", logits_to_keep=tokens.shape[1] - first, **own)
        return model(tokens, return_type="logits", **own)[:, first:]
    attention_mask = attention_mask.to(tokens.device)
    if first:
        residual = model(tokens, stop_at_layer=config(model).n_layers, attention_mask=attention_mask)
        return unembed_normed(model, model.ln_final(residual)[:, first:])  # type: ignore[operator]
    return model(tokens, return_type="logits", attention_mask=attention_mask)[:, first:]


@contextmanager
def _last_position_unembedded(bare: nn.Module) -> Iterator[None]:
    """Within the block, a model of bare modules gives the logits of the last position alone, all that generation reads.

    TransformerLens' generation unembeds every position of the prompt.
    """
    if "logits_to_keep" not in _arguments(bare):
        yield
        return
    own = {name: value for name, value in vars(bare).items() if name == "forward"}
    vars(bare)["forward"] = partial(bare.forward, logits_to_keep=1)
    try:
        yield
    finally:
        del vars(bare)["forward"]
        vars(bare).update(own)


def _arguments(model: nn.Module) -> frozenset[str]:
    """The names of the arguments that a Hugging Face model takes; none if its forward pass is no method."""
    forward = getattr(model.forward, "__func__", None)
    return frozenset() if forward is None else _parameters(forward)


@cache
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(signature(function).parameters)


@runs_alone
@torch.no_grad()
def generate(
    model: nn.Module,
    tokens: Int[Tensor, "batch pos"],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    sampling: Sampling = GREEDY,
    hooks: NamedHooks = (),
) -> Int[Tensor, "batch pos_and_new"]:
    """TransformerLens' own generation with the key-value cache, over rows of equal length without padding.

    Args:
        sampling: `transformers` applies its penalties to the log-probabilities of beams.
        hooks: act in this generation alone, in the pass over the prompt and in that over each new token.
    Raises: ValueError for beams on a model class that has none, and for a `HookedTransformer`'s prompt that both
        begins and ends with its padding token; as `fired_hooks` and `check_before_pass`.
    """
    check_token_ids(model, tokens)
    penalties = {"repetition": sampling.repetition_penalty, "frequency": sampling.frequency_penalty}
    with _chosen(model, hooks) as chosen:
        if sampling.num_beams > 1:
            return _beam_search(
                chosen,
                tokens,
                max_new_tokens=max_new_tokens,
                stop_ids=stop_ids,
                num_beams=sampling.num_beams,
                penalties=penalties,
            )
        last_alone = nullcontext() if chosen is model else _last_position_unembedded(chosen.original_model)
        with last_alone, penalised(chosen, temperature=sampling.temperature, **penalties):
            return chosen.generate(
                tokens,
                max_new_tokens=max_new_tokens,
                stop_at_eos=bool(stop_ids),
                eos_token_id=list(stop_ids) or None,
                do_sample=sampling.do_sample,
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                use_past_kv_cache=True,
                prepend_bos=False,
                return_type="tokens",
                verbose=False,
                **({} if is_bridge(chosen) else {"padding_side": _side_without_padding(chosen, tokens)}),
            )


def end_tokens(model: Any) -> list[int]:
    """The tokens that end generation by the model's own settings: `generation_config.eos_token_id`, one or several."""
    settings = getattr(model.original_model if is_bridge(model) else model, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    ids = [] if named is None else torch.as_tensor(named).flatten().tolist()
    return [i for i in ids if 0 <= i < shape(model).d_vocab]


def _side_without_padding(model: Any, tokens: Tensor) -> str:
    """The side to give to `HookedTransformer`, which masks every padding token at that end; these rows have none."""
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


def _beam_search(
    model: Any,
    tokens: Tensor,
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    num_beams: int,
    penalties: dict[str, float],
) -> Tensor:
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
        logits_processor=[lambda ids, scores: penalise(scores, ids, **penalties)],
        do_sample=False,
        eos_token_id=list(stop_ids) or None,
        pad_token_id=stop_ids[0] if stop_ids else 0,
    )
