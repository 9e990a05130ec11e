"""An intervention gives the logits of a plain model with the same edit in its weights."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lens_multimodal.hooks import (
    ablate,
    ablate_attention,
    ablate_heads,
    ablate_mlp,
    add_vector,
    edit_knowledge,
    scale,
    set_to,
    steer,
)
from tests.decoders.cases import OTHER, TOKEN, Case, assert_exact, case, difference, each_family
from tests.decoders.families import FAMILIES
from tests.decoders.family import D_MODEL, N_HEADS
from tests.decoders.plain_models import block, head_reader, neuron_reader, part, plain, twin
from tests.decoders.plain_runs import hooked

NEURONS = [(0, 3), (1, 5), (1, 21)]


@torch.no_grad()
def measured(case: Case) -> dict[str, float]:
    model = case.lens.model
    vector = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def at_neurons(edit: Callable[[nn.Module, int], None]) -> Callable[[nn.Module], None]:
        def edit_all(plain_model: nn.Module) -> None:
            for layer, neuron in NEURONS:
                edit(neuron_reader(case.name, plain_model, layer), neuron)

        return edit_all

    def hooks(made: list) -> AbstractContextManager:
        return model.hooks(fwd_hooks=made)

    cases: dict[str, tuple[AbstractContextManager, Callable[[nn.Module], object]]] = {
        "ablate": (hooks(ablate(model, NEURONS)), at_neurons(lambda linear, k: rows(linear)[k].zero_())),
        "scale": (hooks(scale(model, NEURONS, factor=-2.0)), at_neurons(lambda linear, k: rows(linear)[k].mul_(-2))),
        "steer": (
            hooks(steer(model, NEURONS, amount=3.0)),
            at_neurons(lambda linear, k: add_bias(linear, 3.0 * rows(linear)[k])),
        ),
        "set_to": (hooks(set_to(model, NEURONS, value=1.5)), at_neurons(fixed_at(1.5))),
        "edit_knowledge": (
            edit_knowledge(model, NEURONS, source=OTHER, target=TOKEN, strength=2.0),
            lambda plain_model: move_towards(case, plain_model, strength=2.0),
        ),
        "ablate_mlp": (
            hooks(ablate_mlp(model, [1])),
            lambda plain_model: silence(neuron_reader(case.name, plain_model, 1)),
        ),
        "ablate_attention": (
            hooks(ablate_attention(model, [1])),
            lambda plain_model: silence(head_reader(case.name, plain_model, 1)),
        ),
        "ablate_heads": (
            hooks(ablate_heads(model, [(0, 1), (1, 2)])),
            lambda plain_model: [silence_head(case.name, plain_model, *head) for head in ((0, 1), (1, 2))],
        ),
    }
    clean = plain(case.name)(inputs_embeds=case.embeds).logits
    found = {}
    for kind, (intervention, edit) in cases.items():
        edited = twin(case.name)
        edit(edited)
        expected = edited(inputs_embeds=case.embeds).logits
        assert difference(clean, expected) > 1e-3, f"{kind} changes nothing"
        with intervention:
            found[kind] = difference(case.lens.logits(case.prompt), expected)
    entering = block(case.name, plain(case.name), 1)
    with hooked(inputs={entering: lambda resid: resid + vector.to(resid)}):
        expected = plain(case.name)(inputs_embeds=case.embeds).logits
    with hooks(add_vector(model, vector, layer=1)):
        found["add_vector"] = difference(case.lens.logits(case.prompt), expected)
    return found


def rows(linear: nn.Module) -> Tensor:
    """What each input of a linear layer writes, `[input, output]`."""
    return linear.weight.data if isinstance(linear, Conv1D) else linear.weight.data.T


def add_bias(linear: nn.Module, vector: Tensor) -> None:
    own = getattr(linear, "bias", None)
    linear.bias = nn.Parameter(vector if own is None else own.data + vector, requires_grad=False)


def fixed_at(value: float) -> Callable[[nn.Module, int], None]:
    def fix(linear: nn.Module, neuron: int) -> None:
        add_bias(linear, value * rows(linear)[neuron])
        rows(linear)[neuron].zero_()

    return fix


def move_towards(case: Case, model: nn.Module, *, strength: float) -> None:
    """What each neuron writes, moved by `strength` times its length towards one token and away from another."""
    unembedding = model.get_output_embeddings().weight.data
    direction = nn.functional.normalize(unembedding[TOKEN] - unembedding[OTHER], dim=0)
    for layer, neuron in NEURONS:
        row = rows(neuron_reader(case.name, model, layer))[neuron]
        behind = FAMILIES[case.name].norm_behind_mlp
        weight = torch.ones_like(row) if behind is None else gain(part(block(case.name, model, layer), behind))
        row += strength * (row * weight).norm() * direction / weight


def gain(norm: nn.Module) -> Tensor:
    """The weight of an RMSNorm from its behaviour: what it makes of a vector whose root mean square is 1."""
    return norm(torch.ones(1, 1, D_MODEL, dtype=next(norm.parameters()).dtype))[0, 0]


def silence(linear: nn.Module) -> None:
    for parameter in linear.parameters():
        parameter.data.zero_()


def silence_head(name: str, model: nn.Module, layer: int, head: int) -> None:
    rows(head_reader(name, model, layer)).unflatten(0, (N_HEADS, -1))[head].zero_()


@each_family
def test_interventions_are_edits_of_weights(name):
    assert_exact(measured(case(name)))
