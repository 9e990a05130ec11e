"""Generation: token for token what `transformers` gives for the same embeddings."""

import pytest
import torch

from lens_multimodal import Sampling, transformer
from lens_multimodal.hooks import ablate
from lens_multimodal.prompt import generation
from lens_multimodal.prompt.image_prompt import ImagePrompt
from tests.lenses import CASES, each_case, hugging_face, inputs_embeds, picture, random_prompt
from tests.models import LAYOUTS, MODEL_CLASSES

N_NEW = 10
SHAPES = [[6, -4], [-3, 6, -2], [-1, 2, -2, 2]]
"""Prompts of three lengths: 10, 11 and 7 positions."""
N_PROMPTS = 40
"""For each of five layouts, so 200 in all, shared by the model classes."""


def greedy_by_transformers(layout: str, prompt: ImagePrompt, *, num_beams: int = 1) -> list[list[int]]:
    model = hugging_face(layout, torch.float64)
    rows: dict[int, list[int]] = {}
    for row, length in enumerate(prompt.attention_mask.sum(dim=1).tolist()):
        rows.setdefault(length, []).append(row)
    found: list[list[int]] = [[] for _ in range(len(prompt))]
    embedded = inputs_embeds(model, prompt)
    for length, members in rows.items():
        new = model.generate(
            inputs_embeds=embedded[members, -length:],
            attention_mask=torch.ones(len(members), length, dtype=torch.long),
            max_new_tokens=N_NEW,
            do_sample=False,
            num_beams=num_beams,
            eos_token_id=0,
            pad_token_id=0,
        )
        for row, ids in zip(members, new.tolist(), strict=True):
            found[row] = ids[: ids.index(0)] if 0 in ids else ids
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_greedy_equals_transformers(lens_of, layout):
    kinds = [kind for name, kind in CASES if name == layout]
    expected = None
    for kind in kinds:
        lens = lens_of(layout, kind, torch.float64)
        prompt = random_prompt(lens, *(SHAPES[i % 3] for i in range(N_PROMPTS)), seed=3)
        if expected is None:
            expected = greedy_by_transformers(layout, prompt)
            assert len({tuple(ids) for ids in expected}) > N_PROMPTS // 2
            assert len({i for ids in expected for i in ids}) > 20
        found = generation.generate(lens.model, prompt, max_new_tokens=N_NEW, stop_ids=[0])
        assert found == expected


@each_case
def test_one_row_of_a_batch_equals_itself_alone(lens_of, layout, kind):
    lens = lens_of(layout, kind, torch.float64)
    prompt = random_prompt(lens, *SHAPES, seed=4)
    together = generation.generate(lens.model, prompt, max_new_tokens=N_NEW, stop_ids=[])
    alone = [
        generation.generate(lens.model, prompt.row(i), max_new_tokens=N_NEW, stop_ids=[])[0] for i in range(len(prompt))
    ]
    assert together == alone
    assert all(len(ids) == N_NEW for ids in alone)
    # TransformerLens' own call, by code that does not know about lenses.
    row = prompt.row(1)
    plain = lens.model.generate(
        row.tokens, max_new_tokens=N_NEW, do_sample=False, stop_at_eos=False, return_type="tokens", verbose=False,
        prepend_bos=False,
    )  # fmt: skip
    assert plain[0, row.tokens.shape[1] :].tolist() == alone[1]


def test_generation_stops_at_any_of_the_stop_tokens(lens_of):
    for kind in MODEL_CLASSES:
        lens = lens_of("gpt-j", kind, torch.float64)
        prompt = random_prompt(lens, *[SHAPES[0]] * 6, seed=5)
        free = generation.generate(lens.model, prompt, max_new_tokens=N_NEW, stop_ids=[])
        stops = {free[0][2], free[1][4]}
        stopped = generation.generate(lens.model, prompt, max_new_tokens=N_NEW, stop_ids=list(stops))
        for row, ids in zip(free, stopped, strict=True):
            first = next((i for i, token in enumerate(row) if token in stops), len(row))
            assert ids == row[:first]


def test_beams_equal_transformers(lens_of):
    for layout in LAYOUTS:
        lens = lens_of(layout, "bridge", torch.float64)
        prompt = random_prompt(lens, *SHAPES, seed=6)
        beams = generation.generate(
            lens.model, prompt, max_new_tokens=N_NEW, stop_ids=[0], sampling=Sampling(num_beams=3)
        )
        assert beams == greedy_by_transformers(layout, prompt, num_beams=3)
    lens = lens_of("gpt-j", "bridge")
    assert isinstance(lens.caption(picture(), sampling=Sampling(num_beams=2)), str)


@pytest.mark.skipif("hooked" not in MODEL_CLASSES, reason="TransformerLens 4 has no HookedTransformer")
def test_beams_on_a_model_class_without_them(lens_of):
    lens = lens_of("gpt-j", "hooked")
    with pytest.raises(ValueError, match=r"HookedTransformer .*num_beams=2.*TransformerBridge"):
        lens.generate(random_prompt(lens, [3, -1]), sampling=Sampling(num_beams=2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0, "do_sample": True}, r"temperature.* 0\.01, got 0\.0"),
        ({"temperature": 1e-40, "do_sample": True}, r"temperature.* 0\.01, got 1e-40"),
        ({"temperature": 0.5}, "temperature.*do_sample=True"),
        ({"top_k": 3}, "temperature.*do_sample=True"),
        ({"top_p": 0.3}, "temperature.*do_sample=True"),
        ({"top_k": 0, "do_sample": True}, r"top_k.* 1, got 0$"),
        ({"top_p": 0.0, "do_sample": True}, r"top_p.*\(0, 1\].* 0\.0$"),
        ({"top_p": 1.5, "do_sample": True}, r"top_p.* 1\.5$"),
        ({"num_beams": 0}, r"num_beams.* 1, got 0$"),
        ({"num_beams": 2, "do_sample": True}, "num_beams=2"),
    ],
)
def test_sampling_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


def test_no_new_tokens(lens):
    with pytest.raises(ValueError, match=r"max_new_tokens.*\b0$"):
        lens.generate(random_prompt(lens, [3, -1]), max_new_tokens=0)


def test_end_tokens_at_the_ends_of_a_prompt_are_no_padding(lens_of):
    """GPT-J's padding token is its end token, and a prompt may begin or end with it."""
    for kind in MODEL_CLASSES:
        lens = lens_of("gpt-j", kind, torch.float64)
        for seed, row in enumerate((["<|endoftext|>", picture(0)], [picture(0), " dog<|endoftext|>"])):
            prompt = lens.interleave([row])
            for side in ("left", "right"):
                lens.model.tokenizer.padding_side = side
                found = generation.generate(lens.model, prompt, max_new_tokens=N_NEW, stop_ids=[0])
                assert found == greedy_by_transformers("gpt-j", prompt), (kind, seed, side)
        if kind == "hooked":
            both = lens.interleave([["<|endoftext|>", picture(0), "<|endoftext|>"]])
            with pytest.raises(ValueError, match=r"HookedTransformer .*token 0\b.*TransformerBridge"):
                lens.generate(both)


# --- activations during generation -------------------------------------------------------------------------


def recordable(kind: str) -> list[str]:
    per_layer = (
        transformer.resid_pre,
        transformer.resid_post,
        transformer.mlp_post,
        transformer.mlp_out,
        transformer.attn_out,
        transformer.head_z,
    )
    everywhere = [*(name(layer) for layer in (0, 2) for name in per_layer), "blocks.1.attn.hook_q"]
    return everywhere if kind == "hooked" else [transformer.EMBED, *everywhere]


@each_case
def test_activations_equal_those_of_the_whole_sequence(lens_of, layout, kind):
    lens = lens_of(layout, kind, torch.float64)
    prompt = random_prompt(lens, [-2, 6, -3], seed=7)
    names = recordable(kind)
    (expected_ids,) = generation.generate(lens.model, prompt, max_new_tokens=6, stop_ids=[])
    found = generation.generate_with_activations(lens.model, prompt, names=names, max_new_tokens=6, stop_ids=[])
    assert found.token_ids == expected_ids
    whole = torch.cat([prompt.tokens, torch.tensor([found.token_ids])], dim=1)
    with torch.no_grad():
        _, cache = lens.model.run_with_cache(whole)
    n = prompt.tokens.shape[1]
    for name in names:
        at_once = cache[name][0]
        # Hugging Face computes parts of some attentions in float32, in another order with the cache.
        torch.testing.assert_close(found.prompt_activations[name], at_once[:n], rtol=1e-5, atol=5e-5)
        torch.testing.assert_close(found.activations[name], at_once[n - 1 : -1], rtol=1e-5, atol=5e-5)
        assert len(found.activations[name]) == 6
    assert not any(tensor.requires_grad for tensor in found.activations.values())


@pytest.mark.skipif("hooked" not in MODEL_CLASSES, reason="TransformerLens 4 has no HookedTransformer")
def test_hook_embed_never_runs_in_the_generation_of_a_hooked_transformer(lens_of):
    lens = lens_of("gpt-j", "hooked")
    with pytest.raises(transformer.HookDidNotFire, match="hook_embed of HookedTransformer"):
        lens.generate_with_activations(random_prompt(lens, [6, -3]), [transformer.EMBED])


def test_activations_of_a_caption_that_stops(lens_of):
    for kind in MODEL_CLASSES:
        lens = lens_of("gpt-j", kind, torch.float64)
        prompt = random_prompt(lens, [-2, 6, -3], seed=7)
        (free,) = generation.generate(lens.model, prompt, max_new_tokens=6, stop_ids=[])
        name = transformer.mlp_post(1)
        for n in range(4):
            if free.index(free[n]) < n:
                continue
            found = generation.generate_with_activations(
                lens.model, prompt, names=[name], max_new_tokens=6, stop_ids=[free[n]]
            )
            assert found.token_ids == free[:n]
            assert found.activations[name].shape == (n, 40)


def test_hooks_work_during_generation(lens_of):
    for kind in MODEL_CLASSES:
        lens = lens_of("gpt-j", kind)
        prompt = random_prompt(lens, [6, -3], seed=8)
        plain = lens.generate(prompt)

        def silence(activation, hook):
            return torch.zeros_like(activation)

        with lens.model.hooks(fwd_hooks=[(transformer.mlp_post(layer), silence) for layer in range(3)]):
            assert lens.generate(prompt) != plain
        assert lens.generate(prompt) == plain


@pytest.mark.parametrize("positions", [None, [0, 2, 7], slice(9, None)], ids=["everywhere", "of the prompt", "new"])
def test_hooks_of_one_generation_equal_pytorch_hooks_of_transformers(lens_of, positions):
    neurons = [(layer, neuron) for layer in range(3) for neuron in range(0, 40, 2)]
    model = hugging_face("gpt-j", torch.float64)
    start = 0

    def without(_module, args):
        nonlocal start
        (activation,) = args
        changed = activation.clone()
        at = torch.arange(start, start + activation.shape[1])
        if positions is not None:
            inside = range(1000)[positions] if isinstance(positions, slice) else positions
            at = torch.tensor([i for i in at.tolist() if i in inside], dtype=torch.long)
        changed[:, at - start, ::2] = 0
        return (changed,)

    def count(_module, _args, output):
        nonlocal start
        start += output.shape[1]

    for kind in MODEL_CLASSES:
        lens = lens_of("gpt-j", kind, torch.float64)
        prompt = random_prompt(lens, [6, -3], seed=8)
        handles = [block.mlp.fc_out.register_forward_pre_hook(without) for block in model.transformer.h]
        handles.append(model.transformer.ln_f.register_forward_hook(count))
        start, plain = 0, lens.generate_ids(prompt, max_new_tokens=N_NEW)
        ids = model.generate(
            inputs_embeds=inputs_embeds(model, prompt), attention_mask=torch.ones(1, 9), max_new_tokens=N_NEW,
            do_sample=False, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        for handle in handles:
            handle.remove()
        hooks = ablate(lens.model, neurons, positions=positions)
        found = generation.generate(lens.model, prompt, max_new_tokens=N_NEW, stop_ids=[], hooks=hooks)
        assert found == ids.tolist()
        assert lens.generate_ids(prompt, max_new_tokens=N_NEW) == plain
        assert found != generation.generate(lens.model, prompt, max_new_tokens=N_NEW, stop_ids=[])


def test_hooks_of_one_generation_are_checked(lens_of):
    for kind in MODEL_CLASSES:
        lens = lens_of("gpt-j", kind)
        prompt = random_prompt(lens, [6, -3], seed=8)
        with pytest.raises(ValueError, match=r"hook_pots'.*blocks\.0\.mlp\.hook_post"):
            lens.generate(prompt, hooks=[("blocks.0.mlp.hook_pots", print)])


def test_recording_is_checked(lens_of):
    lens = lens_of("gpt-j", "bridge")
    with pytest.raises(ValueError, match=r"\b2 \(prompt\.row\(i\)\)"):
        lens.generate_with_activations(random_prompt(lens, [2], [2]), [transformer.mlp_post(0)])
    prompt = random_prompt(lens, [2, -2])
    with pytest.raises(ValueError, match=r"hook_pots'.*blocks\.0\.mlp\.hook_post"):
        lens.generate_with_activations(prompt, ["blocks.0.mlp.hook_pots"])
    with pytest.raises(ValueError, match=r"hook_pattern .*\[1, 2, 4, 4\] .*\[batch, pos"):
        lens.generate_with_activations(prompt, [transformer.attn_pattern(0)])
    heads = random_prompt(lens, [1, -1])
    with pytest.raises(ValueError, match="hook_pattern"):
        lens.generate_with_activations(heads, [transformer.attn_pattern(0)], max_new_tokens=4)
