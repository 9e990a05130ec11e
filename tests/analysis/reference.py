"""The same quantities computed independently: plain transformers and PyTorch hooks, no TransformerLens."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.models import MODEL_CLASSES, random_language_model, wrapped_model

LAYOUTS = ("gpt-j", "gpt-2", "pythia", "llama", "opt")

CASES = [
    *(("gpt-j", kind) for kind in MODEL_CLASSES),
    *((layout, "bridge") for layout in LAYOUTS[1:]),
    ("llama", "compat"),
]
"""Every layout, and every model class on GPT-J."""

each_case = pytest.mark.parametrize(("layout", "kind"), CASES, ids=map("-".join, CASES))

PROMPT = torch.tensor([[11, 42, 7, 90, 33, 64, 5]])


@cache
def plain(layout: str) -> PreTrainedModel:
    return random_language_model(layout, dtype=torch.float64)


@cache
def model_of(layout: str, kind: str) -> nn.Module:
    """A frozen language model in float64; tests do not change it."""
    return wrapped_model(kind, plain(layout)).requires_grad_(False)


def neuron_readers(model: PreTrainedModel) -> list[nn.Module]:
    """For each layer the module whose input is the MLP's hidden layer."""
    endings = ("mlp.fc_out", "mlp.c_proj", "mlp.dense_4h_to_h", "mlp.down_proj", "fc2")
    return [module for name, module in model.named_modules() if name.endswith(endings)]


def final_norm_of(model: PreTrainedModel) -> nn.Module:
    """The norm before the unembedding."""
    endings = ("transformer.ln_f", "final_layer_norm", "model.norm")
    return next(m for n, m in model.named_modules() if n.endswith(endings) and "layers." not in n)


def head_readers(model: PreTrainedModel) -> list[nn.Module]:
    """For each layer the module whose input is the heads' outputs side by side."""
    endings = ("attn.out_proj", "attn.c_proj", "attention.dense", "o_proj", "self_attn.out_proj")
    return [module for name, module in model.named_modules() if name.endswith(endings)]


def inputs_and_gradients(
    model: PreTrainedModel,
    readers: list[nn.Module],
    tokens: Tensor,
    value: Callable[[Tensor], Tensor],
    attention_mask: Tensor | None = None,
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """What the readers are given, and the gradient of a scalar of the logits with respect to it."""
    kept: list[Tensor] = []
    handles = [reader.register_forward_pre_hook(lambda _, args: kept.append(args[0])) for reader in readers]
    try:
        logits = model(tokens, attention_mask=attention_mask).logits
    finally:
        for handle in handles:
            handle.remove()
    gradients = torch.autograd.grad(value(logits), kept)
    shape = *tokens.shape, -1  # OPT flattens batch and positions.
    return [k.detach().reshape(shape) for k in kept], tuple(g.reshape(shape) for g in gradients)


def logits_with(model: PreTrainedModel, tokens: Tensor, edits: dict[nn.Module, Callable[[Tensor], Tensor]]) -> Tensor:
    """Logits when the inputs of some modules are edited."""

    def edit(module: nn.Module, args: tuple) -> tuple:
        given = args[0].clone().reshape(*tokens.shape, -1)
        return (edits[module](given).reshape(args[0].shape), *args[1:])

    handles = [module.register_forward_pre_hook(edit) for module in edits]
    try:
        with torch.no_grad():
            return model(tokens).logits
    finally:
        for handle in handles:
            handle.remove()
