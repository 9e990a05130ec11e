import pytest
import torch

from lens_multimodal import transformer
from lens_multimodal.hooks import Resample, Zero, ablate, ablate_heads, patch_path, record
from tests.hooks import reference
from tests.hooks.reference import CASES, assert_close, assert_different, input_edited, put, wrapped

cases = pytest.mark.parametrize(("layout", "kind"), CASES)


def run(model, prompt, hooks):
    with torch.no_grad(), transformer.running_on(model, "hooked"), transformer.fired_hooks(model, hooks):
        return transformer.logits_of(model, prompt)


def other_run(model):
    other = reference.tokens(seed=1)
    return record(
        model, other, [name(layer) for layer in range(3) for name in (transformer.mlp_post, transformer.head_z)]
    )


@cases
def test_path_to_the_logits_is_the_final_residual_moved_by_the_senders_write(layout, kind):
    model, prompt = wrapped(layout, kind), reference.tokens()
    source = other_run(model)
    plain = record(model, prompt, [transformer.mlp_post(0), transformer.resid_post(2)])
    result = run(model, prompt, patch_path(model, prompt, to=Resample(source), sender_neurons=[(0, 3), (0, 8)]))
    change = (source[transformer.mlp_post(0)] - plain[transformer.mlp_post(0)])[..., [3, 8]] @ transformer.w_out(
        model, 0
    )[[3, 8]]
    with torch.no_grad():
        expected = transformer.unembed(model, plain[transformer.resid_post(2)] + change)
    assert_close(result, expected)
    assert_different(result, run(model, prompt, []))
    total = run(model, prompt, ablate(model, [(0, 3), (0, 8)], to=Resample(source)))
    assert_different(result, total)


@cases
def test_path_from_neurons_to_neurons_equals_three_hand_made_runs(layout, kind):
    """By Hugging Face: freeze every sublayer's input, change the sender, record the receiver, and put it into a free
    run."""
    model, prompt, other = wrapped(layout, kind), reference.tokens(), reference.tokens(seed=1)
    hooks = patch_path(
        model,
        prompt,
        to=Resample(other_run(model)),
        sender_neurons=[(0, 3)],
        receiver_neurons=[(2, 5), (2, 6)],
        positions=[1, 4],
        receiver_positions=slice(3, None),
    )
    modules = [f(layout, layer) for layer in range(3) for f in (reference.attention_out, reference.mlp_down)]
    held = reference.inputs_of(layout, prompt, modules)
    sender = held[1].clone()
    [clean] = reference.inputs_of(layout, other, [reference.mlp_down(layout, 0)])
    sender[:, [1, 4], 3] = clean[:, [1, 4], 3]
    held[1] = sender
    read = {}

    def last_mlp(value):
        read["received"] = value
        return held[5]

    edits = [input_edited(modules[i], put(..., held[i])) for i in range(5)]
    reference.logits(layout, prompt, *edits, input_edited(modules[5], last_mlp))
    received = read["received"][:, 3:, [5, 6]]
    edit = input_edited(modules[5], put((slice(None), slice(3, None), slice(5, 7)), received))
    result = run(model, prompt, hooks)
    assert_close(result, reference.logits(layout, prompt, edit))
    assert (result - reference.logits(layout, prompt)).abs().max() > 1e-4


@cases
def test_heads_to_heads_and_sender_unchanged_changes_nothing(layout, kind):
    model, prompt = wrapped(layout, kind), reference.tokens()
    ends = dict(sender_heads=[(0, 0), (1, 1)], receiver_heads=[(2, 0), (2, 1)])
    plain = run(model, prompt, [])
    own = reference.record_hooked(model, prompt, [transformer.head_z(layer) for layer in range(3)])
    with transformer.running_on(model, "hooked"):
        paths = patch_path(model, prompt, to=Resample(own), **ends)
    unchanged = run(model, prompt, paths)
    torch.testing.assert_close(unchanged, plain, rtol=0, atol=1e-12)
    moved = run(model, prompt, patch_path(model, prompt, to=Resample(other_run(model)), **ends))
    assert_different(moved, plain)
    assert_different(moved, run(model, prompt, ablate_heads(model, [(0, 0), (1, 1)], to=Resample(other_run(model)))))


def test_heads_reach_neurons_of_their_own_layer_unless_blocks_are_parallel():
    serial, prompt = wrapped("gpt-2", "bridge"), reference.tokens()
    ends = dict(sender_heads=[(1, 0)], receiver_neurons=[(1, k) for k in range(40)])
    hooks = patch_path(serial, prompt, to=Zero(), **ends)
    assert_different(run(serial, prompt, hooks), run(serial, prompt, []))
    for layout in ("gpt-j", "pythia"):
        with pytest.raises(ValueError, match=r"patch_path\(receiver_neurons=.*neurons of layer 1"):
            patch_path(wrapped(layout, "bridge"), prompt, to=Zero(), **ends)


def test_what_cannot_be_a_path_is_refused():
    model, prompt = wrapped("gpt-j", "bridge"), reference.tokens()
    with pytest.raises(ValueError, match=r"patch_path\(sender_neurons="):
        patch_path(model, prompt, to=Zero(), receiver_heads=[(1, 0)])
    with pytest.raises(ValueError, match=r"patch_path\(receiver_heads=.*heads of layer 0"):
        patch_path(model, prompt, to=Zero(), sender_neurons=[(1, 2)], receiver_heads=[(0, 0), (2, 0)])
    hooks = patch_path(model, prompt, to=Zero(), sender_neurons=[(1, 2)])
    with pytest.raises(ValueError, match=r"\[2, 9, .*\[2, 5, "):
        run(model, reference.tokens(pos=5), hooks)
