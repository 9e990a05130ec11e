import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lens_multimodal import transformer
from lens_multimodal.hooks import CutHadNoEffect, cut_attention, freeze_attention, record
from lens_multimodal.hooks.attention import CutState, cut_scores_hook, verify_cut_hook
from tests.hooks import reference
from tests.hooks.reference import CASES, assert_close, assert_different, input_edited, wrapped
from tests.models import LAYOUTS, wrapped_model

cases = pytest.mark.parametrize(("layout", "kind"), CASES)
IMAGE = range(1, 5)
TEXT = slice(5, None)


def run(model, prompt, hooks, **settings):
    with torch.no_grad(), transformer.running_on(model, "hooked"), transformer.fired_hooks(model, hooks):
        return transformer.logits_of(model, prompt, **settings)


def patterns_of(model, prompt, hooks=()):
    names = [transformer.attn_pattern(layer) for layer in range(3)]
    with model.hooks(fwd_hooks=list(hooks)):
        return record(model, prompt, names)


def pattern_and_values(model, prompt, layer):
    names = [transformer.attn_pattern(layer), f"blocks.{layer}.attn.hook_v"]
    seen = record(model, prompt, names)
    return [seen[name].clone() for name in names]


def renormalised_z(layout, kind, prompt, layer, *, queries, keys, heads):
    """What the output projection should receive: the plain pattern with zeros, divided by the remaining sum."""
    model = wrapped(layout, kind)
    pattern, values = pattern_and_values(model, prompt, layer)
    for head in heads:
        cut = pattern[:, head, queries]
        cut[..., keys] = 0
        pattern[:, head, queries] = cut / cut.sum(-1, keepdim=True)
    return torch.einsum("bhqk,bkhd->bqhd", pattern, values).flatten(2)


@cases
@pytest.mark.parametrize("heads", [[0, 1], [1]])
def test_cut_in_one_layer_equals_zeroing_and_renormalising_the_pattern(layout, kind, heads):
    model, prompt = wrapped(layout, kind), reference.tokens()
    result = run(model, prompt, cut_attention(model, queries=TEXT, keys=IMAGE, heads={1: heads}))
    z = renormalised_z(layout, kind, prompt, 1, queries=slice(5, None), keys=list(IMAGE), heads=heads)
    edit = input_edited(reference.attention_out(layout, 1), lambda _: z)
    assert_close(result, reference.logits(layout, prompt, edit))
    assert_different(result, reference.logits(layout, prompt))


@cases
def test_cut_in_all_layers_is_seen_in_the_pattern(layout, kind):
    model, prompt = wrapped(layout, kind), reference.tokens()
    patterns = patterns_of(model, prompt, cut_attention(model, queries=TEXT, keys=IMAGE))
    for pattern in patterns.values():
        assert (pattern[:, :, 5:, 1:5] == 0).all()
        torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern[..., 0]), rtol=0, atol=1e-6)
        assert (pattern[:, :, 4, 1:5] > 0).all()


@cases
def test_text_cut_off_in_every_layer_does_not_depend_on_the_image(layout, kind):
    model = wrapped(layout, kind)
    prompt, other = reference.tokens(), reference.tokens()
    other[:, 1:5] = reference.tokens(seed=5)[:, 1:5]
    hooks = cut_attention(model, queries=TEXT, keys=IMAGE)
    assert_close(run(model, other, hooks)[:, 5:], run(model, prompt, hooks)[:, 5:])
    assert_different(run(model, other, [])[:, 5:], run(model, prompt, [])[:, 5:])


@cases
def test_generated_tokens_are_cut_with_the_text_and_free_with_a_list(layout, kind):
    model, prompt = wrapped(layout, kind), reference.tokens(seed=3)

    def generate(queries, keys=IMAGE, **settings):
        with transformer.fired_hooks(model, cut_attention(model, queries=queries, keys=keys)):
            return model.generate(
                prompt,
                max_new_tokens=4,
                do_sample=False,
                stop_at_eos=False,
                return_type="tokens",
                verbose=False,
                **settings,
            )

    for queries in (TEXT, range(5, 9)):
        row = prompt
        for _ in range(4):
            hooks = cut_attention(model, queries=queries, keys=IMAGE)
            row = torch.cat([row, run(model, row, hooks)[:, -1:].argmax(-1)], dim=1)
        assert torch.equal(generate(queries), row)
        from_the_end = slice(-4, None) if queries == TEXT else range(-4, 0)
        assert torch.equal(generate(from_the_end, range(-8, -4)), row)
    seen: list[torch.Tensor] = []
    observe = [(transformer.attn_pattern(2), lambda pattern, hook: seen.append(pattern))]
    with model.hooks(fwd_hooks=observe):
        generate(range(5, 9))
    assert all((pattern[..., 1:5] > 0).any() for pattern in seen[1:])
    seen.clear()
    with model.hooks(fwd_hooks=observe):
        generate(TEXT)
    assert len(seen) == 4
    assert all((pattern[:, :, -1, 1:5] == 0).all() for pattern in seen)


def test_positions_from_the_end_need_the_prompt_under_the_cut():
    scores = torch.zeros(1, 2, 1, 9)
    cut = cut_attention(wrapped("llama", "bridge"), queries=slice(-4, None), keys=[1], layers=0)[0][1]
    with pytest.raises(ValueError, match="8 keys"):
        cut(scores, hook=None)
    cut(torch.zeros(1, 2, 8, 8).triu(1) * -1e38, hook=None)
    assert (cut(scores, hook=None)[..., 1] < -1e37).all()
    assert (cut(scores, hook=None)[..., 2:] == 0).all()


@cases
def test_left_padded_rows_have_their_own_positions(layout, kind):
    if kind == "hooked":
        pytest.skip("HookedTransformer pads by tokenizer.padding_side")
    # In float64 transformers itself gives NaN for padded rows of OPT and Llama: its mask overflows in float32.
    model, short = wrapped(layout, kind, torch.float32), reference.tokens(batch=1, pos=7)
    padded = torch.cat([torch.full((1, 2), 3), short], dim=1)
    both = torch.cat([padded, reference.tokens(seed=4, batch=1)])
    mask = torch.ones_like(both)
    mask[0, :2] = 0
    image = torch.zeros(2, 9, dtype=torch.bool)
    image[0, 3:5], image[1, 1:3] = True, True
    text = torch.zeros(2, 9, dtype=torch.bool)
    text[0, 5:], text[1, 3:] = True, True
    together = run(model, both, cut_attention(model, queries=text, keys=image), attention_mask=mask)
    alone = run(model, both[1:], cut_attention(model, queries=slice(3, None), keys=[1, 2]))
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-4)
    alone = run(model, short, cut_attention(model, queries=slice(3, None), keys=[1, 2]))
    torch.testing.assert_close(together[:1, 2:], alone, rtol=0, atol=1e-4)


@cases
def test_frozen_patterns_of_another_run(layout, kind):
    model, prompt, other = wrapped(layout, kind), reference.tokens(), reference.tokens(seed=1, batch=1)
    frozen = patterns_of(model, other)
    result = run(model, prompt, freeze_attention(model, run=frozen, heads=[(1, 0)]))
    pattern, values = pattern_and_values(model, prompt, 1)
    pattern[:, 0] = frozen[transformer.attn_pattern(1)][:, 0]
    z = torch.einsum("bhqk,bkhd->bqhd", pattern, values).flatten(2)
    assert_close(
        result, reference.logits(layout, prompt, input_edited(reference.attention_out(layout, 1), lambda _: z))
    )
    assert_different(result, reference.logits(layout, prompt))


@cases
def test_own_patterns_change_nothing_and_generated_tokens_attend_freely(layout, kind):
    model, prompt = wrapped(layout, kind), reference.tokens()
    hooks = freeze_attention(model, run=patterns_of(model, prompt))
    assert_close(run(model, prompt, hooks), reference.logits(layout, prompt))
    settings = dict(max_new_tokens=4, do_sample=False, stop_at_eos=False, return_type="tokens", verbose=False)
    plain = model.generate(prompt, **settings)
    with transformer.fired_hooks(model, hooks):
        assert torch.equal(model.generate(prompt, **settings), plain)


def test_heads_that_share_values():
    config = LlamaConfig.from_dict(LAYOUTS["llama"].to_dict() | {"num_attention_heads": 4, "num_key_value_heads": 2})
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    plain = LlamaForCausalLM(config).double().eval()
    model, prompt = wrapped_model("bridge", plain), reference.tokens()
    frozen = patterns_of(model, reference.tokens(seed=1))
    assert_close(run(model, prompt, freeze_attention(model, run=patterns_of(model, prompt))), plain(prompt).logits)
    seen = patterns_of(model, prompt, freeze_attention(model, run=frozen, layers=0))
    assert not torch.equal(seen[transformer.attn_pattern(1)], patterns_of(model, prompt)[transformer.attn_pattern(1)])

    pattern = frozen[transformer.attn_pattern(2)]
    values = pattern_and_values(model, prompt, 2)[1]
    assert values.shape[2] == 2
    z = torch.cat([pattern[:, head] @ values[:, :, head // 2] for head in range(4)], dim=-1)
    with torch.no_grad(), input_edited(plain.model.layers[2].self_attn.o_proj, lambda _: z).register(1):
        expected = plain(prompt).logits
    assert_close(run(model, prompt, freeze_attention(model, run=frozen, layers=2)), expected)


@cases
def test_nothing_left_behind(layout, kind):
    model, prompt = wrapped(layout, kind), reference.tokens()
    before = run(model, prompt, [])

    def fail(_activation, hook):
        raise KeyError("on purpose")

    for place in ("attn.hook_in", "attn.hook_q", "hook_mlp_out"):
        if kind == "hooked" and place == "attn.hook_in":
            continue
        hooks = [*cut_attention(model, queries=TEXT, keys=IMAGE), (f"blocks.1.{place}", fail)]
        with pytest.raises(KeyError, match="on purpose"), model.hooks(fwd_hooks=hooks):
            transformer.logits_of(model, prompt)
        assert torch.equal(run(model, prompt, []), before)


def test_a_failed_pass_within_the_block_does_not_double_the_next():
    model, prompt = wrapped("gpt-j", "bridge"), reference.tokens()
    hooks = cut_attention(model, queries=TEXT, keys=IMAGE)
    expected = run(model, prompt, hooks)
    failing = [True]

    def fail_once(_activation, hook):
        if failing.pop():
            raise KeyError("on purpose")

    with model.hooks(fwd_hooks=[*hooks, ("blocks.1.attn.hook_in", fail_once)]):
        with pytest.raises(KeyError):
            transformer.logits_of(model, prompt)
        failing.append(False)
        assert torch.equal(transformer.logits_of(model, prompt), expected)
    assert not model.blocks[1].attn.original_component._forward_pre_hooks


def test_two_cuts_add_up():
    for layout, kind in CASES:
        model, prompt = wrapped(layout, kind), reference.tokens()
        both = cut_attention(model, queries=TEXT, keys=[1, 2, 3])
        parts = [cut_attention(model, queries=TEXT, keys=keys) for keys in ([1], [2, 3])]
        assert torch.equal(run(model, prompt, [*parts[0], *parts[1]]), run(model, prompt, both))


@pytest.mark.parametrize(
    ("queries", "keys", "message"),
    [
        (None, IMAGE, None),
        (None, [0, 1], "query position 0 .* 0 to 0"),
        ([3, 2], [0, 1, 2, 5], "query position 2 .* 0 to 2"),
        (TEXT, None, "query position 5 .* 0 to 5"),
        ([3, 4], [0, 1, 2, 5], None),
    ],
)
def test_a_cut_that_leaves_a_query_no_key_is_refused_when_built(queries, keys, message):
    model = wrapped("llama", "bridge")
    if message is None:
        cut_attention(model, queries=queries, keys=keys)
        return
    with pytest.raises(ValueError, match=rf"cut_attention\(keys=.*{message}"):
        cut_attention(model, queries=queries, keys=keys)


@pytest.mark.parametrize("layout", ["gpt-j", "llama"])
def test_a_cut_that_leaves_a_padded_row_no_key_is_refused_in_the_pass(layout):
    model, prompt = wrapped(layout, "bridge", torch.float32), reference.tokens()
    mask = torch.ones_like(prompt)
    mask[1, :2] = 0
    hooks = cut_attention(model, queries=[3], keys=[2, 3])
    run(model, prompt, hooks)
    with pytest.raises(ValueError, match="position 3 of row 1"):
        run(model, prompt, hooks, attention_mask=mask)


def test_a_dropped_edit_is_noticed():
    """Editing the scores on GPT-J's bridge: the hook fires, but has no effect."""
    model, prompt = wrapped("gpt-j", "bridge"), reference.tokens()
    state = CutState()

    def cut(scores):
        state.cut = torch.zeros_like(scores, dtype=torch.bool)
        state.cut[..., 5:, 1:5] = True
        return scores.masked_fill(state.cut, -1e9)

    names = [transformer.attn_scores(1), transformer.attn_pattern(1)]
    silent = [(names[0], lambda scores, hook: cut_scores_hook(scores, hook, cut=cut))]
    checked = [*silent, (names[1], lambda pattern, hook: verify_cut_hook(pattern, hook, state=state, layer=1))]
    with pytest.raises(CutHadNoEffect, match="layer 1"):
        run(model, prompt, checked)


def test_wrong_settings_are_named():
    model = wrapped("gpt-j", "bridge")
    pattern = torch.full((1, 2, 9, 9), 1 / 9)
    names = [transformer.attn_pattern(layer) for layer in range(3)]
    with pytest.raises(ValueError, match=r"cut_attention\(heads=\.\.\.\): head 2 .* 2 heads"):
        cut_attention(model, queries=TEXT, keys=IMAGE, heads=[(0, 2)])
    with pytest.raises(ValueError, match=r"freeze_attention\(layers=\.\.\.\).*heads"):
        freeze_attention(model, run={names[0]: pattern}, layers=0, heads=[(0, 1)])
    with pytest.raises(ValueError, match=r"cut_attention\(layers=.* layer 3 .* 3 layers"):
        cut_attention(model, queries=TEXT, keys=IMAGE, layers=[0, 3])
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.hook_pattern"):
        freeze_attention(model, run={names[0]: pattern})
    with pytest.raises(ValueError, match="2 to 2"):
        freeze_attention(model, run={names[0]: 2 * pattern}, layers=0)
    with pytest.raises(ValueError, match=r"\[batch, head=2.*\[1, 1, 9, 9\]"):
        freeze_attention(model, run={names[0]: pattern[:, :1]}, layers=0)
    with pytest.raises(ValueError, match=r"1 and 9 .* 2 and 5"):
        run(model, reference.tokens(pos=5), freeze_attention(model, run={names[0]: pattern}, layers=0))
