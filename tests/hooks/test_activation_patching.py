import pytest
import torch

from lens_multimodal import transformer
from lens_multimodal.hooks import (
    patch_attn_out,
    patch_heads,
    patch_mlp_out,
    patch_neurons,
    patch_resid_pre,
    record,
)
from tests.hooks import reference
from tests.hooks.reference import (
    CASES,
    assert_close,
    assert_different,
    input_edited,
    output_edited,
    put,
    record_hooked,
    wrapped,
)

cases = pytest.mark.parametrize(("layout", "kind"), CASES)
NAMES = [
    name(layer)
    for layer in range(3)
    for name in (transformer.resid_pre, transformer.mlp_out, transformer.attn_out, transformer.mlp_post)
]
NAMES += [transformer.head_z(layer) for layer in range(3)]


def run(model, prompt, hooks):
    with torch.no_grad(), transformer.running_on(model, "hooked"), transformer.fired_hooks(model, hooks):
        return transformer.logits_of(model, prompt)


@cases
def test_patching_everything_gives_the_other_run_and_patching_itself_changes_nothing(layout, kind):
    model, prompt, other = wrapped(layout, kind), reference.tokens(), reference.tokens(seed=1)
    clean, own = record(model, other, NAMES), record_hooked(model, prompt, NAMES)
    assert_close(run(model, prompt, patch_resid_pre(model, [0], run=clean)), reference.logits(layout, other))
    itself = [
        *patch_resid_pre(model, None, run=own, positions=[1, 4]),
        *patch_mlp_out(model, [0, 2], run=own),
        *patch_attn_out(model, None, run=own, positions=slice(3, None)),
        *patch_neurons(model, [(1, 3), (0, 2)], run=own),
        *patch_heads(model, [(2, 0)], run=own),
    ]
    assert torch.equal(run(model, prompt, itself), run(model, prompt, []))


@cases
def test_positions_move_between_prompts_of_unequal_length(layout, kind):
    model, prompt, other = wrapped(layout, kind), reference.tokens(), reference.tokens(seed=1, batch=1, pos=12)
    clean = record(model, other, NAMES)
    hooks = patch_resid_pre(model, [1], run=clean, positions=[4, 2], source_positions=[10, 11])
    [inputs] = reference.inputs_of(layout, other, [reference.block(layout, 1)])
    edit = put((slice(None), [4, 2]), inputs[:, [10, 11]])
    result = run(model, prompt, hooks)
    assert_close(result, reference.logits(layout, prompt, input_edited(reference.block(layout, 1), edit)))
    assert_different(result, reference.logits(layout, prompt))
    from_the_end = patch_resid_pre(model, [1], run=clean, positions=[-5, -7], source_positions=slice(-2, None))
    assert torch.equal(run(model, prompt, from_the_end), result)
    each_from_its_end = patch_resid_pre(model, [1], run=clean, positions=[-5, -7])
    edit = put((slice(None), [4, 2]), inputs[:, [7, 5]])
    expected = reference.logits(layout, prompt, input_edited(reference.block(layout, 1), edit))
    assert_close(run(model, prompt, each_from_its_end), expected)
    same = patch_resid_pre(model, [1], run=clean, positions=[4, 2])
    edit = put((slice(None), [4, 2]), inputs[:, [4, 2]])
    expected = reference.logits(layout, prompt, input_edited(reference.block(layout, 1), edit))
    assert_close(run(model, prompt, same), expected)


@cases
def test_neurons_heads_and_sublayers_equal_pytorch_hooks(layout, kind):
    model, prompt, other = wrapped(layout, kind), reference.tokens(), reference.tokens(seed=1)
    clean, d_head = record(model, other, NAMES), transformer.shape(model).d_head
    down, out = reference.mlp_down(layout, 1), reference.attention_out(layout, 1)
    down_in, out_in = reference.inputs_of(layout, other, [down, out])
    outputs: dict[str, torch.Tensor] = {}

    def keep(name):
        def edit(value):
            outputs[name] = value
            return value

        return edit

    reference.logits(layout, other, output_edited(down, keep("mlp")), output_edited(out, keep("attention")))
    where = [0, 3]
    last = slice(d_head, 2 * d_head)
    for hooks, edit in (
        (
            patch_neurons(model, [(1, 7)], run=clean, positions=where),
            input_edited(down, put((slice(None), where, 7), down_in[:, where, 7])),
        ),
        (
            patch_heads(model, [(1, 1)], run=clean, positions=where),
            input_edited(out, put((slice(None), where, last), out_in[:, where, last])),
        ),
        (
            patch_mlp_out(model, [1], run=clean, positions=where),
            output_edited(down, put((slice(None), where), outputs["mlp"][:, where])),
        ),
        (
            patch_attn_out(model, [1], run=clean, positions=where),
            output_edited(out, put((slice(None), where), outputs["attention"][:, where])),
        ),
    ):
        result = run(model, prompt, hooks)
        assert_close(result, reference.logits(layout, prompt, edit))
        assert_different(result, reference.logits(layout, prompt))


@cases
def test_patched_prompt_positions_stay_patched_while_generating(layout, kind):
    model, prompt, other = wrapped(layout, kind), reference.tokens(seed=3), reference.tokens(seed=1)
    hooks = patch_resid_pre(model, [1], run=record(model, other, NAMES), positions=range(9))
    [inputs] = reference.inputs_of(layout, other, [reference.block(layout, 1)])
    with model.hooks(fwd_hooks=hooks):
        generated = model.generate(
            prompt, max_new_tokens=5, do_sample=False, stop_at_eos=False, return_type="tokens", verbose=False
        )
    edits = [put((slice(None), slice(0, 9)), inputs)]
    expected = reference.greedy(
        layout, prompt, 5, lambda: [input_edited(reference.block(layout, 1), edit) for edit in edits]
    )
    assert torch.equal(generated, expected)
    assert not torch.equal(generated, reference.greedy(layout, prompt, 5, list))


@pytest.mark.parametrize("kind", sorted({kind for _, kind in CASES}))
def test_a_transformer_lens_cache_serves_as_run(kind):
    model, prompt, other = wrapped("gpt-j", kind), reference.tokens(), reference.tokens(seed=1)
    _, cache = model.run_with_cache(other)
    hooks = patch_neurons(model, [(0, 1), (2, 5)], run=cache)
    expected = run(model, prompt, patch_neurons(model, [(0, 1), (2, 5)], run=record_hooked(model, other, NAMES)))
    assert torch.equal(run(model, prompt, hooks), expected)
    with pytest.raises(ValueError, match=r"\[9, 40\].*\[batch, pos, 40\]"):
        patch_neurons(model, [(0, 1)], run=model.run_with_cache(other[:1], remove_batch_dim=True)[1])


def test_what_does_not_fit_is_named():
    model, other = wrapped("gpt-j", "bridge"), reference.tokens(seed=1)
    clean = record(model, other, [transformer.resid_pre(1)])
    with pytest.raises(ValueError, match=r"blocks\.2\.hook_resid_pre.* blocks\.1"):
        patch_resid_pre(model, [2], run=clean)
    with pytest.raises(ValueError, match=r"patch_resid_pre\(source_positions=.* 3 .* 2 positions"):
        patch_resid_pre(model, [1], run=clean, positions=[0, 1], source_positions=[0, 1, 2])
    with pytest.raises(ValueError, match=r"patch_resid_pre\(source_positions="):
        patch_resid_pre(model, [1], run=clean, source_positions=[0, 1, 2])
    with pytest.raises(ValueError, match=r"patch_resid_pre\(source_positions=.* position 12 .* 9 positions"):
        run(model, other, patch_resid_pre(model, [1], run=clean, positions=[0], source_positions=[12]))
