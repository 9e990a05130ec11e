"""Where a pass begins in its row, on every model class, with and without the cache; the model is left as it was."""

import copy
import gc
import pickle

import pytest
import torch

from lens_multimodal import ablate, transformer
from lens_multimodal.hooks import add_vector, freeze_attention, patch_resid_pre
from lens_multimodal.transformer import passes_of
from tests.lenses import each_case
from tests.models import D_VOCAB, MODEL_CLASSES, random_language_model, wrapped_model

N_PROMPT, N_NEW = 5, 6


@pytest.fixture(scope="module")
def model_of():
    made = {}

    def of(layout, kind):
        if (layout, kind) not in made:
            language_model = random_language_model(layout, dtype=torch.float64)
            made[layout, kind] = wrapped_model(kind, language_model)
        return made[layout, kind]

    return of


def prompt(n_pos: int = N_PROMPT, batch: int = 2) -> torch.Tensor:
    return torch.randint(3, D_VOCAB, (batch, n_pos), generator=torch.Generator().manual_seed(1))


def new_tokens(model, hooks, *, cached: bool, n_pos: int = N_PROMPT) -> torch.Tensor:
    with model.hooks(fwd_hooks=hooks):
        row = model.generate(
            prompt(n_pos), max_new_tokens=N_NEW, do_sample=False, stop_at_eos=False, return_type="tokens",
            verbose=False, prepend_bos=False, use_past_kv_cache=cached,
        )  # fmt: skip
    return row[:, n_pos:]


@each_case
def test_every_pass_of_a_generation(model_of, layout, kind):
    model, seen = model_of(layout, kind), []
    passes = passes_of(model)
    for cached in (True, False):
        seen.clear()
        look = [(transformer.resid_pre(1), lambda a, hook: seen.append((passes.start, a.shape[1], passes.n_prompt)))]
        new_tokens(model, look, cached=cached)
        if cached:
            assert seen == [(0, N_PROMPT, N_PROMPT), *((N_PROMPT + i, 1, N_PROMPT) for i in range(N_NEW - 1))]
        else:
            assert seen == [(0, N_PROMPT + i, N_PROMPT + i) for i in range(N_NEW)]
        assert passes.start == 0


POSITIONS = [
    slice(N_PROMPT + 2, None),
    slice(N_PROMPT + 40, None),
    slice(2, None),
    slice(N_PROMPT + 1, N_PROMPT + 3),
    slice(3, N_PROMPT + 2),
    slice(0, N_PROMPT + 4, 3),
    slice(1, 3),
    [0, 4],
    3,
    None,
    torch.tensor([True, False, True, True, False]),
]


@each_case
@pytest.mark.parametrize("positions", POSITIONS, ids=str)
def test_cached_generation_equals_the_run_without_cache(model_of, layout, kind, positions):
    model = model_of(layout, kind)
    vector = 30 * torch.randn(24, generator=torch.Generator().manual_seed(0)).double()
    neurons = [(layer, unit) for layer in range(3) for unit in range(0, 40, 2)]
    for hooks in (
        add_vector(model, vector, layer=1, positions=positions),
        ablate(model, neurons, positions=positions),
    ):
        assert torch.equal(new_tokens(model, hooks, cached=True), new_tokens(model, hooks, cached=False))


@each_case
def test_nothing_happens_before_its_time(model_of, layout, kind):
    model = model_of(layout, kind)
    vector = 100 * torch.randn(24, generator=torch.Generator().manual_seed(0)).double()
    free, changed = new_tokens(model, [], cached=True), 0
    for after in range(N_NEW):
        hooks = add_vector(model, vector, layer=2, positions=slice(N_PROMPT + after, None))
        for cached in (True, False):
            steered = new_tokens(model, hooks, cached=cached)
            # The token at a position is read off the position before it.
            assert torch.equal(steered[:, : after + 1], free[:, : after + 1])
            changed += not torch.equal(steered, free)
    assert changed >= 2


@each_case
def test_a_prompt_of_one_token_is_edited_and_its_generated_tokens_are_not(model_of, layout, kind):
    model = model_of(layout, kind)
    vector = 30 * torch.randn(24, generator=torch.Generator().manual_seed(2)).double()
    for positions in (0, [0], slice(0, 1), slice(1, None), None):
        hooks = add_vector(model, vector, layer=0, positions=positions)
        cached, uncached = (new_tokens(model, hooks, cached=c, n_pos=1) for c in (True, False))
        assert torch.equal(cached, uncached)
    with torch.no_grad():
        plain = model(prompt(1))
        with model.hooks(fwd_hooks=add_vector(model, vector, layer=0, positions=[0])):
            assert not torch.allclose(model(prompt(1)), plain)


@each_case
def test_vectors_one_by_one_reach_generated_tokens(model_of, layout, kind):
    model = model_of(layout, kind)
    vectors = 30 * torch.randn(4, 24, generator=torch.Generator().manual_seed(3)).double()
    hooks = add_vector(model, vectors, layer=1, positions=slice(N_PROMPT - 2, N_PROMPT + 2))
    cached, uncached = (new_tokens(model, hooks, cached=c) for c in (True, False))
    assert torch.equal(cached, uncached)
    assert not torch.equal(cached, new_tokens(model, [], cached=True))


@each_case
def test_patches_from_a_longer_run_reach_generated_tokens(model_of, layout, kind):
    model = model_of(layout, kind)
    name = transformer.resid_pre(1)
    _, cache = model.run_with_cache(prompt(N_PROMPT + 3).flip(1), names_filter=name)
    hooks = patch_resid_pre(model, 1, run={name: cache[name]}, positions=slice(N_PROMPT - 1, N_PROMPT + 3))
    cached, uncached = (new_tokens(model, hooks, cached=c) for c in (True, False))
    assert torch.equal(cached, uncached)
    beyond = patch_resid_pre(model, 1, run={name: cache[name]}, positions=slice(N_PROMPT - 1, None))
    with pytest.raises(ValueError, match="generated tokens"):
        new_tokens(model, beyond, cached=True)


def test_frozen_patterns_of_one_position(model_of):
    model = model_of("gpt-j", "bridge")
    one = {transformer.attn_pattern(0): torch.ones(1, 2, 1, 1).double()}
    frozen = freeze_attention(model, run=one, layers=0)
    assert torch.equal(new_tokens(model, frozen, cached=True, n_pos=1), new_tokens(model, [], cached=True, n_pos=1))
    longer = {transformer.attn_pattern(0): torch.eye(3).expand(1, 2, 3, 3).double()}
    with (
        pytest.raises(ValueError, match="3 positions"),
        model.hooks(fwd_hooks=freeze_attention(model, run=longer, layers=0)),
    ):
        model(prompt(1))


@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_the_model_is_watched_for_as_long_as_hooks_live(kind):
    model = wrapped_model(kind, random_language_model("gpt-j"))

    def watching() -> int:
        return sum(
            type(getattr(hook, "__self__", None)).__name__ == "_Watcher"
            for module in model.modules()
            for hooks in (module._forward_pre_hooks, module._forward_hooks)
            for hook in hooks.values()
        )

    assert watching() == 0
    hooks = [*ablate(model, [(0, 1)]), *ablate(model, [(1, 1)], positions=[0])]
    assert watching() == 2
    twin = copy.deepcopy(model)
    with torch.no_grad():
        assert torch.equal(twin(prompt()), model(prompt()))
    begin = next(iter(model.blocks[0]._forward_pre_hooks.values()))
    pickle.loads(pickle.dumps(begin))(model.blocks[0], (torch.zeros(1, 2, 3),), {})
    del hooks
    gc.collect()
    assert watching() == 0


def test_hooks_of_another_models_passes_take_them_for_whole_rows(model_of):
    """Hooks know the passes of the model they were made for; they treat another model's passes as whole rows."""
    one, other = model_of("gpt-2", "bridge"), wrapped_model("bridge", random_language_model("gpt-2"))
    hooks = ablate(one, [(0, 1)], positions=[1])
    new_tokens(one, hooks, cached=True)
    with torch.no_grad(), other.hooks(fwd_hooks=hooks), pytest.raises(ValueError, match="1 positions"):
        other(prompt(1))
