import pytest
import torch

from lens_multimodal import transformer
from lens_multimodal.hooks import mean_activations, observe, record
from tests.hooks import reference
from tests.hooks.reference import CASES, assert_close, wrapped

cases = pytest.mark.parametrize(("layout", "kind"), CASES)


@cases
def test_recorded_equals_what_the_hugging_face_modules_receive(layout, kind):
    model, prompt = wrapped(layout, kind), reference.tokens()
    seen = record(model, prompt, [transformer.mlp_post(1), transformer.resid_pre(2), transformer.head_z(0)])
    modules = [reference.mlp_down(layout, 1), reference.block(layout, 2), reference.attention_out(layout, 0)]
    for actual, expected in zip(seen.values(), reference.inputs_of(layout, prompt, modules), strict=True):
        assert_close(actual.flatten(2), expected)
        assert not actual.requires_grad


@cases
def test_observed_while_generating_equals_the_whole_row_run_again(layout, kind):
    model, prompt = wrapped(layout, kind), reference.tokens(seed=3)
    seen: dict[str, list[torch.Tensor]] = {}
    with model.hooks(fwd_hooks=observe([transformer.mlp_post(2)], into=seen)):
        row = model.generate(
            prompt, max_new_tokens=4, do_sample=False, stop_at_eos=False, return_type="tokens", verbose=False
        )
    assert [value.shape[1] for value in seen[transformer.mlp_post(2)]] == [9, 1, 1, 1]
    [expected] = reference.inputs_of(layout, row[:, :-1], [reference.mlp_down(layout, 2)])
    assert_close(torch.cat(seen[transformer.mlp_post(2)], dim=1), expected)


@cases
def test_mean_over_prompts_of_unequal_length(layout, kind):
    model, batches = wrapped(layout, kind), [reference.tokens(), reference.tokens(seed=1, batch=3, pos=5)]
    mean = mean_activations(model, batches, [transformer.mlp_post(0)], positions=slice(2, None))[
        transformer.mlp_post(0)
    ]
    values = [reference.inputs_of(layout, prompt, [reference.mlp_down(layout, 0)])[0] for prompt in batches]
    assert_close(mean, torch.cat([value[:, 2:].flatten(0, 1) for value in values]).mean(0))


def test_wrong_names_and_nothing_at_all():
    model = wrapped("gpt-j", "bridge")
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.hook_pst.* blocks\.1\.mlp"):
        record(model, reference.tokens(), ["blocks.1.mlp.hook_pst"])
    with pytest.raises(ValueError, match=r"record\(names="):
        record(model, reference.tokens(), [])
    with pytest.raises(ValueError, match=r"mean_activations\(batches="):
        mean_activations(model, [], [transformer.mlp_post(0)])
    with pytest.raises(ValueError, match=r"mean_activations\(batches="):
        mean_activations(model, [reference.tokens()], [transformer.mlp_post(0)], positions=slice(20, None))


def test_only_the_last_position_is_unembedded_for_what_lies_in_blocks():
    model, tokens, widths = wrapped("gpt-j", "bridge"), reference.tokens(), []
    in_block, logits = transformer.resid_post(2), "unembed.hook_out"
    with model.hooks(fwd_hooks=[(logits, lambda value, hook: widths.append(value.shape[1]))]):
        kept = record(model, tokens, [in_block])
        both = record(model, tokens, [in_block, logits])
    assert widths == [1, tokens.shape[1]]
    assert both[logits].shape[1] == tokens.shape[1]
    assert torch.equal(kept[in_block], both[in_block])
