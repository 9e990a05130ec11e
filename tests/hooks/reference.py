"""The independent computation: plain transformers with PyTorch hooks on the Hugging Face modules."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from lens_multimodal import transformer
from lens_multimodal.hooks import record
from tests.models import LAYOUTS, MLP_OUT, MODEL_CLASSES, random_language_model, wrapped_model

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


@cache
def hugging_face(layout: str, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """The language model, never wrapped, so never changed."""
    return random_language_model(layout, dtype=dtype)


@cache
def wrapped(layout: str, kind: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The same weights under a TransformerLens model class."""
    return wrapped_model(kind, hugging_face(layout, dtype))


def record_hooked(model: nn.Module, prompt: Tensor, names: list[str]) -> dict[str, Tensor]:
    """Activations of a pass through TransformerLens, to the bit; bare modules may round in another way."""
    with transformer.running_on(model, "hooked"):
        return record(model, prompt, names)


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


@dataclass(frozen=True)
class Edited:
    """What a module receives or returns, replaced by an edited copy while `logits` runs."""

    module: nn.Module
    edit: Callable[[Tensor], Tensor]
    of_input: bool

    def register(self, batch: int) -> RemovableHandle:
        """Args: batch: of the run; OPT's MLP sees batch and position as one axis, edits see two."""

        def edited(value: Tensor) -> Tensor:
            if value.ndim == 2:
                return self.edit(value.clone().unflatten(0, (batch, -1))).flatten(0, 1)
            return self.edit(value.clone())

        def of_input(_module, args, kwargs):
            if args:
                return (edited(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": edited(kwargs["hidden_states"])}

        def of_output(_module, _args, output):
            return (edited(output[0]), *output[1:]) if isinstance(output, tuple) else edited(output)

        if self.of_input:
            return self.module.register_forward_pre_hook(of_input, with_kwargs=True)
        return self.module.register_forward_hook(of_output)


def input_edited(module: nn.Module, edit: Callable[[Tensor], Tensor]) -> Edited:
    """`module` receives an edited copy of its first input."""
    return Edited(module, edit, of_input=True)


def output_edited(module: nn.Module, edit: Callable[[Tensor], Tensor]) -> Edited:
    """`module` returns an edited copy of its (first) output."""
    return Edited(module, edit, of_input=False)


def logits(layout: str, prompt: Tensor, *edits: Edited) -> Tensor:
    """Logits of the Hugging Face model under some of the edits above."""
    handles = [edit.register(len(prompt)) for edit in edits]
    try:
        with torch.no_grad():
            return hugging_face(layout)(prompt).logits
    finally:
        for handle in handles:
            handle.remove()


def greedy(layout: str, prompt: Tensor, n_new: int, edits: Callable[[], list]) -> Tensor:
    """Greedy generation without any cache: the whole row is run again for every token."""
    row = prompt
    for _ in range(n_new):
        row = torch.cat([row, logits(layout, row, *edits())[:, -1].argmax(-1, keepdim=True)], dim=1)
    return row


def inputs_of(layout: str, prompt: Tensor, modules: list[nn.Module]) -> list[Tensor]:
    """The inputs of some modules in a plain run."""
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
