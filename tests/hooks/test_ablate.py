import copy

import pytest
import torch

from lens_multimodal import transformer
from lens_multimodal.hooks import (
    Mean,
    Resample,
    Zero,
    ablate,
    ablate_attention,
    ablate_heads,
    ablate_mlp,
    ablate_positions,
    mean_activations,
    record,
    shuffled,
)
from tests.hooks import reference
from tests.hooks.reference import CASES, assert_close, assert_different, input_edited, output_edited, put, wrapped

NEURONS = [(0, 3), (2, 11), (2, 30), (1, 0)]
BY_LAYER = {0: [3], 1: [0], 2: [11, 30]}
cases = pytest.mark.parametrize(("layout", "kind"), CASES)


def run(layout, kind, prompt, hooks):
    model = wrapped(layout, kind)
    with torch.no_grad(), transformer.running_on(model, "hooked"), transformer.fired_hooks(model, hooks):
        return transformer.logits_of(model, prompt)


def without_rows(layout):
    """A copy of the Hugging Face model whose chosen neurons write nothing."""
    model = copy.deepcopy(reference.hugging_face(layout))
    for layer, neurons in BY_LAYER.items():
        down = model.get_submodule(f"{reference.BLOCKS[layout]}.{layer}.{reference.MLP_OUT[layout]}")
        with torch.no_grad():
            rows = down.weight if layout == "gpt-2" else down.weight.T
            rows[neurons] = 0
    return model


@cases
def test_zero_everywhere_equals_weights_without_those_rows(layout, kind):
    prompt = reference.tokens()
    result = run(layout, kind, prompt, ablate(wrapped(layout, kind), NEURONS))
    assert_close(result, without_rows(layout)(prompt).logits)
    assert_different(result, reference.logits(layout, prompt))


@cases
def test_zero_at_positions_equals_pytorch_hooks(layout, kind):
    prompt, positions = reference.tokens(), [1, 4, 5]
    result = run(layout, kind, prompt, ablate(wrapped(layout, kind), NEURONS, positions=positions))
    edits = [
        input_edited(reference.mlp_down(layout, layer), put((..., torch.tensor(positions)[:, None], neurons), 0.0))
        for layer, neurons in BY_LAYER.items()
    ]
    expected = reference.logits(layout, prompt, *edits)
    assert_close(result, expected)
    plain = reference.logits(layout, prompt)
    assert_different(result, plain)
    torch.testing.assert_close(result[:, 0], plain[:, 0], rtol=0, atol=2e-5)


@cases
def test_mean_and_resample_equal_pytorch_hooks(layout, kind):
    model, prompt, others = wrapped(layout, kind), reference.tokens(), reference.tokens(seed=1, batch=3)
    names = [transformer.mlp_post(layer) for layer in BY_LAYER]
    modules = [reference.mlp_down(layout, layer) for layer in BY_LAYER]
    inputs = reference.inputs_of(layout, others, modules)

    means = mean_activations(model, [others[:1], others[1:]], names)
    result = run(layout, kind, prompt, ablate(model, NEURONS, to=Mean(means)))
    edits = [
        input_edited(module, put((..., neurons), value.mean((0, 1))[neurons]))
        for module, neurons, value in zip(modules, BY_LAYER.values(), inputs, strict=True)
    ]
    assert_close(result, reference.logits(layout, prompt, *edits))

    result = run(layout, kind, prompt, ablate(model, NEURONS, to=Resample(record(model, others[1:], names))))
    edits = [
        input_edited(module, put((..., neurons), value[1:, :, neurons]))
        for module, neurons, value in zip(modules, BY_LAYER.values(), inputs, strict=True)
    ]
    assert_close(result, reference.logits(layout, prompt, *edits))


@cases
def test_heads(layout, kind):
    prompt, sizes = reference.tokens(), transformer.shape(wrapped(layout, kind))
    result = run(layout, kind, prompt, ablate_heads(wrapped(layout, kind), [(1, 1)], positions=slice(2, None)))
    edit = put((slice(None), slice(2, None), slice(sizes.d_head, 2 * sizes.d_head)), 0.0)
    expected = reference.logits(layout, prompt, input_edited(reference.attention_out(layout, 1), edit))
    assert_close(result, expected)
    assert_different(result, reference.logits(layout, prompt))


@cases
@pytest.mark.parametrize("part", ["mlp", "attention"])
def test_whole_sublayers(layout, kind, part):
    prompt, model = reference.tokens(), wrapped(layout, kind)
    hooks = (ablate_mlp if part == "mlp" else ablate_attention)(model, [0, 2], positions=range(1, 5))
    outputs = reference.mlp_down if part == "mlp" else reference.attention_out
    edits = [output_edited(outputs(layout, layer), put((slice(None), slice(1, 5)), 0.0)) for layer in (0, 2)]
    result = run(layout, kind, prompt, hooks)
    assert_close(result, reference.logits(layout, prompt, *edits))
    assert_different(result, reference.logits(layout, prompt))


@cases
@pytest.mark.parametrize("layer", [0, 2])
def test_positions_replaced_by_a_mean_vector(layout, kind, layer):
    prompt, model = reference.tokens(), wrapped(layout, kind)
    mean = mean_activations(model, [prompt], [transformer.resid_pre(layer)], positions=[0, 1, 2])
    result = run(layout, kind, prompt, ablate_positions(model, [0, 2], to=Mean(mean), layer=layer))
    [inputs] = reference.inputs_of(layout, prompt, [reference.block(layout, layer)])
    edit = put((slice(None), [0, 2]), inputs[:, :3].mean((0, 1)))
    assert_close(result, reference.logits(layout, prompt, input_edited(reference.block(layout, layer), edit)))
    assert_different(result, reference.logits(layout, prompt))


@cases
def test_generation_with_cache_equals_rerunning_the_whole_row(layout, kind):
    model, prompt, positions = wrapped(layout, kind), reference.tokens(seed=3), [0, 2, 3, 4, 5, 6]
    chosen = [(layer, neuron) for layer in range(3) for neuron in range(0, 40, 2)]

    def generate(hooks):
        with transformer.fired_hooks(model, hooks):
            return model.generate(
                prompt, max_new_tokens=6, do_sample=False, stop_at_eos=False, return_type="tokens", verbose=False
            )

    def edits(where):
        return lambda: [
            input_edited(reference.mlp_down(layout, layer), put((slice(None), where, slice(0, 40, 2)), 0.0))
            for layer in range(3)
        ]

    plain = reference.greedy(layout, prompt, 6, list)
    at_prompt = reference.greedy(layout, prompt, 6, edits(positions))
    everywhere = reference.greedy(layout, prompt, 6, edits(slice(None)))
    from_text_on = reference.greedy(layout, prompt, 6, edits(slice(7, None)))
    assert torch.equal(generate(ablate(model, chosen, positions=positions)), at_prompt)
    assert torch.equal(generate(ablate(model, chosen)), everywhere)
    assert torch.equal(generate(ablate(model, chosen, positions=slice(7, None))), from_text_on)
    assert len({tuple(x.flatten().tolist()) for x in (plain, at_prompt, everywhere, from_text_on)}) == 4
    assert torch.equal(generate(ablate(model, chosen, positions=[p - 9 for p in positions])), at_prompt)
    assert torch.equal(generate(ablate(model, chosen, positions=slice(-2, None))), from_text_on)


def test_a_prompt_of_one_token_is_edited_by_positions_of_any_kind():
    model, prompt = wrapped("gpt-j", "bridge"), reference.tokens(pos=1)
    plain, without = run("gpt-j", "bridge", prompt, []), run("gpt-j", "bridge", prompt, ablate(model, NEURONS))
    assert_different(without, plain)
    for positions, expected in ((slice(-1, None), without), ([-1], without), ([0], without), (slice(1, None), plain)):
        assert torch.equal(run("gpt-j", "bridge", prompt, ablate(model, NEURONS, positions=positions)), expected)


def test_shuffled_moves_every_prompt_and_all_hook_points_together():
    run = {"a": torch.arange(5.0)[:, None], "b": torch.arange(5.0)[:, None] + 10}
    moved = shuffled(run, ["a", "b"], torch.Generator().manual_seed(0))
    assert torch.equal(moved["b"] - 10, moved["a"])
    assert sorted(moved["a"].flatten().tolist()) == [0, 1, 2, 3, 4]
    assert not (moved["a"] == run["a"]).any()
    with pytest.raises(ValueError, match=r"prompts.*\[1\]"):
        shuffled({"a": torch.zeros(1, 2)}, ["a"], torch.Generator())


def test_builders_refuse_what_does_not_fit():
    model = wrapped("gpt-j", "bridge")
    name = transformer.mlp_post(0)
    with pytest.raises(ValueError, match=r"means .*blocks\.0\.mlp\.hook_post.* x"):
        ablate(model, [(0, 1)], to=Mean({"x": torch.zeros(40)}))
    with pytest.raises(ValueError, match=r"means .*\[41\].*\[40\]"):
        ablate(model, [(0, 1)], to=Mean({name: torch.zeros(41)}))
    with pytest.raises(ValueError, match=r"\[9, 40\].*\[batch, pos, 40\]"):
        ablate(model, [(0, 1)], to=Resample({name: torch.zeros(9, 40)}))
    with pytest.raises(ValueError, match=r"ablate_mlp\(layers=.* layer 7 .* 3 layers"):
        ablate_mlp(model, [7])
    with pytest.raises(ValueError, match=r"ablate_mlp\(layers="):
        ablate_mlp(model, [])
    with pytest.raises(ValueError, match=r"ablate_attention\(layers=.*\[1\]"):
        ablate_attention(model, [1, 1])


def test_runs_that_do_not_fit_the_pass():
    model, prompt = wrapped("gpt-j", "bridge"), reference.tokens()
    name = transformer.mlp_post(0)
    with pytest.raises(ValueError, match=r"hook_post.* 3, .* 2"):
        run("gpt-j", "bridge", prompt, ablate(model, [(0, 1)], to=Resample({name: torch.zeros(3, 9, 40)})))
    with pytest.raises(ValueError, match=r"hook_post.* 4 positions.* 9"):
        run("gpt-j", "bridge", prompt, ablate(model, [(0, 1)], to=Resample({name: torch.zeros(1, 4, 40)})))
    with pytest.raises(ValueError, match=r"ablate\(positions=.* position 9 .* 9 positions"):
        run("gpt-j", "bridge", prompt, ablate(model, [(0, 1)], positions=[9]))
    everywhere = ablate(model, [(0, 1)], to=Resample({name: torch.zeros(1, 9, 40)}))
    with pytest.raises(ValueError, match=r"hook_post: .*generated"), model.hooks(fwd_hooks=everywhere):
        model.generate(prompt, max_new_tokens=3, do_sample=False, stop_at_eos=False, verbose=False)


def test_zero_prints_what_it_is():
    assert repr(Zero()) == "Zero()"
    assert repr(Mean({})) == "Mean()"
