"""Every public function takes every form of an argument, finds the same thing, and names the argument in its errors.

The functions are found in the public modules: a new one with such an argument is tested here automatically. Arguments
are filled in by name; a new required argument needs an entry in `GIVEN` or `GIVEN_TO`.
"""

import inspect
from collections.abc import Iterator, Mapping, Sized
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, get_args, get_type_hints

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import lens_multimodal
from lens_multimodal import ImagePrompt, analysis, hooks, transformer
from lens_multimodal.analysis import Logit
from lens_multimodal.arguments.positions import PositionSet
from tests.hooks import reference
from tests.lenses import picture, random_lens

PROMPT, OTHER, ROWS = reference.tokens(batch=1), reference.tokens(seed=1, batch=1), reference.tokens(seed=2)
N_POS = PROMPT.shape[1]
DOG, CAT = 30, 33  # of tests.tokenizers; the fixture checks it
TWO_AND_THREE = torch.arange(9) // 2 == 1


@dataclass(frozen=True)
class Kind:
    """What may be given for an argument."""

    groups: list[tuple]
    """The forms of one group mean the same in a prompt of nine tokens."""
    otherwise: Any
    """Leads to another result than the first group."""
    wrong: list[Any]

    def but(self, **changes: Any) -> "Kind":
        return replace(self, **changes)


POSITIONS = Kind(
    groups=[
        ([2, 3], (2, 3), range(2, 4), slice(2, 4), slice(-7, -5), slice(2, -5), [-7, -6], [np.int64(2), 3]),
        ([2, 3], torch.tensor([2, 3]), np.array([2, 3]), TWO_AND_THREE, TWO_AND_THREE.numpy(), TWO_AND_THREE[None, :4]),
        ([8], 8, -1, np.int64(8), torch.tensor(-1)),
        (range(3, 9), slice(3, 9), slice(3, None), slice(-6, None)),
        (range(9), None, slice(None)),
    ],
    otherwise=[5, 7],
    wrong=[[99], -99, [1, 1], [], slice(0, None, 2), "12", 1.5, [True], TWO_AND_THREE & False, np.ones((2, 2))],
)
# A cut leaves each query something to attend to: queries begin at 2 or later, keys are the first two.
KEYS = POSITIONS.but(
    groups=[(range(2), slice(2), [-9, -8], torch.tensor([0, 1]), np.array([True, True]), slice(-9, -7))], otherwise=[1]
)
READ_AT = Kind(groups=[(-1, 8, np.int64(8), torch.tensor(8))], otherwise=4, wrong=[99, -99, 1.5, "1"])
LAYERS = Kind(
    groups=[
        ([0, 2], (2, 0), range(0, 3, 2), torch.tensor([0, 2]), np.array([0, 2]), [np.int64(0), torch.tensor(2)]),
        ([1], 1, np.int64(1), torch.tensor(1)),
        (None, [0, 1, 2], range(3)),
    ],
    otherwise=[0],
    wrong=[[7], -1, [1, 1], [], "1", 1.5, [True]],
)
INDEX = Kind(groups=[(1, np.int64(1), torch.tensor(1))], otherwise=2, wrong=[99, -1, "1", 1.5, True, [1]])
TOKEN = Kind(
    groups=[(DOG, " dog", np.int64(DOG), torch.tensor(DOG))],
    otherwise=CAT,
    wrong=[999, -1, " dogs and cats", 1.5, True, None],
)


def last_dog(logits: Tensor) -> Tensor:
    return logits[-1, DOG]


TARGET_OBJECTS = (Logit(token=" dog", pos=8), (8, DOG), (np.int64(-1), " dog"), last_dog)
ONE_TARGET = TOKEN.but(groups=[(*TOKEN.groups[0], *TARGET_OBJECTS)])
TARGET = TOKEN.but(groups=[(*ONE_TARGET.groups[0], [DOG], np.array([DOG]))])
TARGETS = Kind(
    groups=[([DOG, CAT], [" dog", np.int64(CAT)], [(8, DOG), torch.tensor(CAT)])],
    otherwise=[CAT, 7],
    wrong=[[999, DOG], [DOG], DOG, [DOG, None]],
)


def units(kind: str, first: int = 0) -> Kind:
    """Unit 1 of one layer and unit 0 of the next."""
    pairs = [(first, 1), (first + 1, 0)]
    table = pd.DataFrame(pairs, columns=["layer", kind]).assign(score=0.5)
    by_layer = {first: [1], first + 1: torch.tensor([0])}
    other_order = {first + 1: np.array([0]), first: (1,)}
    return Kind(
        groups=[(pairs, table, torch.tensor(pairs), np.array(pairs), by_layer, other_order, pairs[::-1])],
        otherwise=[(first, 0), (first, 1)],
        wrong=[[], [(0, 99)], [(9, 0)], [(1, 1), (1, 1)], [(0, -1)], "ab", [3, 4], [(0, 1.5)], table[["layer"]]],
    )


KINDS = {
    "positions": POSITIONS,
    "receiver_positions": POSITIONS,
    "source_positions": POSITIONS.but(groups=POSITIONS.groups[:-1]),
    "queries": POSITIONS.but(groups=POSITIONS.groups[:-1]),
    "keys": KEYS,
    "read_pos": READ_AT,
    "layers": LAYERS,
    "layer": INDEX,
    "neuron": INDEX,
    "neurons": units("neuron"),
    "sender_neurons": units("neuron"),
    "receiver_neurons": units("neuron", 1),
    "heads": units("head"),
    "sender_heads": units("head"),
    "receiver_heads": units("head", 1),
    "token": TOKEN,
    "source": TOKEN,
    "target": TARGET,
    "targets": TARGETS,
}
"""By the argument's name."""

ONE_NEURON = Kind(
    groups=[((1, 4), [1, 4], np.array([1, 4]), torch.tensor([1, 4]), pd.Series({"layer": 1, "neuron": 4, "score": 2}))],
    otherwise=(0, 2),
    wrong=[(1, 99), (9, 1), (1, 1.5), "ab", 3],
)

TOKEN_TARGETS = {"edit_knowledge", "effect_of", "effects_of", "VisionLens.neurons", "VisionLens.show"}
"""Functions whose target is a token, predicted at a position of its own."""

CARDS = {"VisionLens.show"}
"""Functions whose neuron is a (layer, neuron) pair or a row of a table."""

ALWAYS = {"image"}
"""Arguments that are given although they have a default."""

NOT_THE_GRAMMAR = {("is_word", "token")}
"""Arguments of the same name with another meaning: this one is any text."""


def public_functions() -> dict[str, Any]:
    """Every public function, and every public method of a public class, by its name."""
    found = {}
    for module in (lens_multimodal, hooks, analysis):
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing):
                found[name] = thing
            elif inspect.isclass(thing):
                methods = [method for method in vars(thing).values() if inspect.isfunction(method)]
                found.update({m.__qualname__: m for m in methods if not m.__name__.startswith("_")})
    return found


def arguments_of(function: Any) -> dict[str, Any]:
    """Names and defaults, those of a `**settings: Unpack[...]` included."""
    parameters = inspect.signature(function).parameters.values()
    found = {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}
    for parameter in parameters:
        settings = get_args(parameter.annotation) if parameter.kind is parameter.VAR_KEYWORD else ()
        for name in get_type_hints(settings[0]) if settings else ():
            found[name] = None
    return found


def kind_of(name: str, argument: str) -> Kind:
    if argument == "target" and name in CARDS:
        return TOKEN.but(wrong=[value for value in TOKEN.wrong if value is not None])  # None: the card chooses
    if argument == "target" and name in TOKEN_TARGETS:
        return TOKEN
    if argument == "target" and (name == "faithfulness" or "patch" in name):
        return ONE_TARGET  # not a list: one target decides the whole result
    if argument == "neurons" and name in IN_ORDER:
        return KINDS["neurons"].but(groups=[KINDS["neurons"].groups[0][:-2]])  # the last two have another order
    return ONE_NEURON if argument == "neuron" and name in CARDS else KINDS[argument]


IN_ORDER = {
    "act_patch_neurons", "act_patch_neurons_by_position", "neuron_activations", "neuron_directions",
    "VisionLens.activations",
}  # fmt: skip
"""What gives one result for each neuron, in the order given."""


FUNCTIONS = public_functions()
CASES = [
    (name, argument)
    for name, function in FUNCTIONS.items()
    for argument in arguments_of(function)
    if argument in KINDS and (name, argument) not in NOT_THE_GRAMMAR
]
each_case = pytest.mark.parametrize(("name", "argument"), CASES, ids=[".".join(case) for case in CASES])


@pytest.fixture(scope="module")
def lens(tmp_path_factory):
    lens = random_lens(tmp_path_factory.mktemp("lens"))
    lens.model.requires_grad_(False)
    assert lens.tokenizer(" dog cat")["input_ids"] == [DOG, CAT]
    return lens


@pytest.fixture(scope="module")
def given(lens):
    """Values for required arguments, by name."""
    model, layers = lens.model, range(3)
    sites = [transformer.resid_pre, transformer.mlp_post, transformer.mlp_out, transformer.attn_out]
    names = [site(layer) for site in (*sites, transformer.head_z, transformer.attn_pattern) for layer in layers]
    run = hooks.record(model, OTHER, names)
    ablated = hooks.ablate(model, [(0, 1), (1, 3)])
    return {name: kind.groups[0][0] for name, kind in KINDS.items()} | dict(
        self=lens, model=model, tokens=PROMPT, clean_tokens=PROMPT, corrupted_tokens=OTHER, batches=[PROMPT, OTHER],
        image=lens.prompt(picture(), ""), run=run, to=hooks.Resample(run), names=[transformer.mlp_post(1)],
        hooks=ablated, interventions=[ablated], n_pos=N_POS, vector=torch.linspace(-3, 3, 24), amount=2.0, factor=3.0,
        value=4.0, source=CAT, prompt=lens.prompt_from_vectors(torch.randn(1, N_POS, 24), "", prepend_bos=False),
        by=torch.linspace(-1, 1, 24), queries=slice(4, None), keys=[1, 2], positions=[2, 3],
    )  # fmt: skip


GIVEN_TO: dict[str, dict[str, Any]] = {
    "faithfulness": {"n_neurons": 40, "n_points": 4},
    "patch_path": {"sender_neurons": [(0, 3)], "receiver_neurons": [(1, 5), (2, 6)], "receiver_heads": [(2, 0)]},
    "neuron_attribution_by_row": {"tokens": ROWS},
    "VisionLens.show": {"neuron": (1, 4), "pictures": [picture(1)]},
    "top_neurons_by_row": {"tokens": ROWS},
    "edit_knowledge": {"strength": 3.0, "source": 7, "target": 8},
    "patch_resid_pre": {"positions": [2, 3]},
}
"""Values for arguments of one function, those with a default included."""


def result(lens, given, name: str, argument: str, value: Any) -> Any:
    """The result of a function; for hooks and weight edits, what the model then computes."""
    function = FUNCTIONS[name]
    given = given | {"generator": torch.Generator().manual_seed(0)}
    needed = {key for key, default in arguments_of(function).items() if default is inspect.Parameter.empty}
    needed |= ALWAYS & arguments_of(function).keys()
    arguments = {key: given[key] for key in needed} | GIVEN_TO.get(name, {}) | {argument: value}
    if argument == "source_positions":
        arguments["positions"] = range(how_many(value))
    return settled(function(**arguments), lens.model)


def how_many(positions: Any) -> int:
    """The number of positions, or 2 if it has none."""
    if isinstance(positions, slice):
        return len(range(N_POS)[positions])
    if isinstance(positions, int | np.integer) or getattr(positions, "ndim", 1) == 0:
        return 1
    if getattr(positions, "dtype", None) in (torch.bool, np.bool_):
        return int(positions.sum()) or 2
    return len(positions) if isinstance(positions, Sized) and len(positions) else 2


def settled(value: Any, model: Any) -> Any:
    """Numbers, strings and tensors in dicts and lists."""
    if isinstance(value, list) and value and isinstance(value[0], tuple) and callable(value[0][-1]):
        with torch.no_grad(), transformer.fired_hooks(model, value):
            return transformer.logits_of(model, PROMPT)
    if isinstance(value, AbstractContextManager) and not isinstance(value, Iterator):
        with torch.no_grad(), value:
            return transformer.logits_of(model, PROMPT)
    if isinstance(value, ImagePrompt):  # two prompts of the same vectors have different ids
        with torch.no_grad():
            return transformer.logits_of(model, value.tokens)
    if isinstance(value, pd.DataFrame):
        return settled(value.drop(columns="target", errors="ignore").to_dict("list"), model)
    if isinstance(value, PositionSet):  # a slice may reach into generated tokens, a list may not
        return value.mask(PROMPT.shape[1])
    if is_dataclass(value):
        return settled({field.name: getattr(value, field.name) for field in fields(value)}, model)
    if isinstance(value, Mapping):
        return {key: settled(member, model) for key, member in value.items() if key not in ("label", "target")}
    if isinstance(value, list | tuple | Iterator):
        return [settled(member, model) for member in value]
    return value


def assert_same(actual: Any, expected: Any) -> None:
    if isinstance(expected, Mapping):
        assert list(actual) == list(expected)
        actual, expected = list(actual.values()), list(expected.values())
    if isinstance(expected, list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, Tensor | float):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
    else:
        assert actual == expected


def test_the_functions_are_found():
    assert len(CASES) > 80
    assert {"ablate", "neuron_attribution", "act_patch_resid_pre", "VisionLens.neurons"} <= {name for name, _ in CASES}
    assert ("act_patch_heads", "source_positions") in CASES


@each_case
def test_every_form_means_the_same(lens, given, name, argument):
    kind = kind_of(name, argument)
    for forms in kind.groups:
        expected = result(lens, given, name, argument, forms[0])
        for form in forms[1:]:
            assert_same(result(lens, given, name, argument, form), expected)
    other = result(lens, given, name, argument, kind.otherwise)
    with pytest.raises(AssertionError):
        assert_same(other, result(lens, given, name, argument, kind.groups[0][0]))


@pytest.mark.usefixtures("as_users_have_it")
@each_case
def test_errors_name_the_function_and_the_argument(lens, given, name, argument):
    for value in kind_of(name, argument).wrong:
        with pytest.raises((ValueError, TypeError)) as raised:
            result(lens, given, name, argument, value)
        assert f"{name}({argument}=...)" in str(raised.value), f"{value!r}: {raised.value}"


def test_the_mask_of_an_image_prompt_fits_hooks_and_analysis(lens):
    prompt = lens.prompt(picture(), "a dog")
    at = prompt.image_pos[0]

    def ablated(where):
        with transformer.fired_hooks(lens.model, hooks.ablate(lens.model, [(0, 1), (2, 3)], positions=where)):
            return transformer.logits_of(lens.model, prompt.tokens)

    for positions in (prompt.image_mask, prompt.image_mask[0], prompt.image_mask.numpy()):
        for find in (
            ablated,
            lambda where: analysis.neuron_attribution(lens.model, prompt.tokens, DOG, where),
            lambda where: analysis.neuron_activations(lens.model, prompt.tokens, [(0, 1)], where),
        ):
            assert_same(find(positions), find(at))


def test_a_mask_by_row_chooses_for_each_row_or_is_refused(lens, given):
    rows = torch.zeros(2, N_POS, dtype=torch.bool)
    rows[0, 2:4], rows[1, 5] = True, True

    def run(tokens, positions):
        with transformer.fired_hooks(lens.model, hooks.scale(lens.model, [(0, 1)], factor=9, positions=positions)):
            return transformer.logits_of(lens.model, tokens)

    together = run(ROWS, rows)
    torch.testing.assert_close(together[:1], run(ROWS[:1], [2, 3]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together[1:], run(ROWS[1:], [5]), rtol=1e-5, atol=1e-5)
    for name in ("neuron_attribution_by_row", "top_neurons_by_row"):
        with pytest.raises(ValueError, match=rf"{name}\(positions=.*\[2, 9\]"):
            result(lens, given, name, "positions", rows)
        assert_same(
            result(lens, given, name, "positions", rows[:1].expand(2, -1)),
            result(lens, given, name, "positions", [2, 3]),
        )
