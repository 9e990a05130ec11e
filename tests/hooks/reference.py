"""The independent route: plain transformers with PyTorch hooks on the Hugging Face modules."""

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from functools import cache

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.models import LAYOUTS, MODEL_CLASSES, random_language_model, wrapped_model

CASES = [
    *(("gpt-j", kind) for kind in MODEL_CLASSES),
    *((layout, "bridge") for layout in LAYOUTS if layout != "gpt-j"),
    ("gpt-2", "compat"),
    ("llama", "compat"),
]
"""Every layout, and every model class of the installed TransformerLens on GPT-J."""

BLOCKS = {
    "gpt-j": "transformer.h",
    "gpt-2": "transformer.h",
    "pythia": "gpt_neox.layers",
    "llama": "model.layers",
    "opt": "model.decoder.layers",
}
ATTENTION = {"gpt-j": "attn", "gpt-2": "attn", "pythia": "attention", "llama": "self_attn", "opt": "self_attn"}
ATTENTION_OUT = {
    "gpt-j": "attn.out_proj",
    "gpt-2": "attn.c_proj",
    "pythia": "attention.dense",
    "llama": "self_attn.o_proj",
    "opt": "self_attn.out_proj",
}
MLP_OUT = {
    "gpt-j": "mlp.fc_out",
    "gpt-2": "mlp.c_proj",
    "pythia": "mlp.dense_4h_to_h",
    "llama": "mlp.down_proj",
    "opt": "fc2",
}


@cache
def hugging_face(layout: str, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """The language model, never wrapped, so never changed."""
    return random_language_model(layout, dtype=dtype)


@cache
def wrapped(layout: str, kind: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The same weights under a TransformerLens model class."""
    return wrapped_model(kind, hugging_face(layout, dtype))


def tokens(*, seed: int = 0, batch: int = 2, pos: int = 9) -> Tensor:
    return torch.randint(3, 97, (batch, pos), generator=torch.Generator().manual_seed(seed))


def block(layout: str, layer: int) -> nn.Module:
    return hugging_face(layout).get_submodule(f"{BLOCKS[layout]}.{layer}")


def mlp_down(layout: str, layer: int) -> nn.Module:
    return block(layout, layer).get_submodule(MLP_OUT[layout])


def attention_out(layout: str, layer: int) -> nn.Module:
    return block(layout, layer).get_submodule(ATTENTION_OUT[layout])


def attention(layout: str, layer: int) -> nn.Module:
    return block(layout, layer).get_submodule(ATTENTION[layout])


_batch = [1]
"""Batch of the run in progress: OPT's MLP sees batch and position as one axis, edits see two."""


def _by_position(edit: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    if value.ndim == 2:
        return edit(value.clone().unflatten(0, (_batch[0], -1))).flatten(0, 1)
    return edit(value.clone())


@contextmanager
def input_edited(module: nn.Module, edit: Callable[[Tensor], Tensor]):
    """Within the block, `module` receives an edited copy of its first input."""

    def hook(_module, args, kwargs):
        if args:
            return (_by_position(edit, args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": _by_position(edit, kwargs["hidden_states"])}

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def output_edited(module: nn.Module, edit: Callable[[Tensor], Tensor]):
    """Within the block, `module` returns an edited copy of its (first) output."""

    def hook(_module, _args, output):
        if isinstance(output, tuple):
            return (_by_position(edit, output[0]), *output[1:])
        return _by_position(edit, output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def logits(layout: str, prompt: Tensor, *edits) -> Tensor:
    """Logits of the Hugging Face model under some of the edits above."""
    _batch[0] = len(prompt)
    with ExitStack() as stack, torch.no_grad():
        for edit in edits:
            stack.enter_context(edit)
        return hugging_face(layout)(prompt).logits


def greedy(layout: str, prompt: Tensor, n_new: int, edits: Callable[[], list]) -> Tensor:
    """Greedy generation without any cache: the whole row is run again for every token."""
    row = prompt
    for _ in range(n_new):
        row = torch.cat([row, logits(layout, row, *edits())[:, -1].argmax(-1, keepdim=True)], dim=1)
    return row


def inputs_of(layout: str, prompt: Tensor, modules: list[nn.Module]) -> list[Tensor]:
    """What some modules receive in a plain run."""
    seen: dict[int, Tensor] = {}

    def keep(index: int):
        def edit(value: Tensor) -> Tensor:
            seen[index] = value
            return value

        return edit

    logits(layout, prompt, *[input_edited(module, keep(i)) for i, module in enumerate(modules)])
    return [seen[i] for i in range(len(modules))]


def assert_close(actual: Tensor, expected: Tensor) -> None:
    # Pythia's Hugging Face code runs part of its attention in float32, also for a float64 model.
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)


def assert_different(actual: Tensor, expected: Tensor) -> None:
    assert (actual - expected).abs().max() > 1e-2, "the intervention changed nothing"


def put(index, value) -> Callable[[Tensor], Tensor]:
    """An edit that assigns `value` at `index`."""

    def edit(activation: Tensor) -> Tensor:
        activation[index] = value
        return activation

    return edit
