"""A model that is spread over devices by layer gives the same numbers as on one device.

The devices are pretended (`tests.pretend_devices`): weights and activations of the lower and of the upper layers are
on different devices, and anything that mixes them raises. A bridge is spread by accelerate's own hooks, a
`HookedTransformer` by TransformerLens' `n_devices`.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import dispatch_model
from torch import nn

from lens_multimodal import VisionLens, attach_vision, transformer
from lens_multimodal import analysis as an
from lens_multimodal import hooks as hk
from tests.lenses import D_MODEL, encoder, linear, picture
from tests.models import MODEL_CLASSES, random_language_model, wrapped_model
from tests.pretend_devices import DevicesMixed, Elsewhere, pretend_devices

LOWER, UPPER = "fpga:0", "fpga:1"
BRIDGED = {
    "gpt-j": {
        LOWER: ["transformer.wte", "transformer.drop", "transformer.h.0"],
        UPPER: ["transformer.h.1", "transformer.h.2", "transformer.ln_f", "lm_head"],
    },
    "llama": {
        LOWER: ["model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.layers.1"],
        UPPER: ["model.layers.2", "model.norm", "lm_head"],
    },
}
CASES = ["gpt-j", *(["hooked"] if "hooked" in MODEL_CLASSES else [])]
each_case = pytest.mark.parametrize("lenses", CASES, indirect=True)

TOKEN = 11
NEURONS = [(0, 1), (1, 2), (2, 3)]
HEADS = [(0, 1), (2, 0)]
LAYERS = range(3)


@pytest.fixture(scope="module", autouse=True)
def devices():
    with pretend_devices():
        yield


@pytest.fixture(scope="module")
def lenses(request, tokenizers) -> tuple[VisionLens, VisionLens]:
    """The same weights spread over two devices and on one device."""
    layout = "gpt-j" if request.param == "hooked" else request.param
    spread = _spread_hooked(tokenizers(layout)) if request.param == "hooked" else _spread_bridge(layout)
    parts = {"vision": encoder(), "projection": linear(), "tokenizer": tokenizers(layout)}
    kind = "hooked" if request.param == "hooked" else "bridge"
    whole = wrapped_model(kind, random_language_model(layout), tokenizer=tokenizers(layout))
    return attach_vision(spread, **parts), attach_vision(whole, **parts)


def _spread_bridge(layout: str) -> nn.Module:
    places = {part: device for device, parts in BRIDGED[layout].items() for part in parts}
    return dispatch_model(random_language_model(layout), places, force_hooks=True)


def _spread_hooked(tokenizer: object) -> nn.Module:
    """As `HookedTransformer(n_devices=3)`, whose own placing asks real GPUs for their free memory."""
    from transformer_lens.utilities.multi_gpu import get_device_for_block_index

    model = wrapped_model("hooked", random_language_model("gpt-j"), tokenizer=tokenizer)
    model.cfg.device, model.cfg.n_devices = LOWER, 3
    where = [get_device_for_block_index(layer, model.cfg) for layer in LAYERS]
    for block, device in zip(model.blocks, where, strict=True):
        block.to(device)
    model.embed.to(where[0])
    model.ln_final.to(where[-1])
    model.unembed.to(where[-1])
    return model


@each_case
def test_layers_lie_apart(lenses):
    spread, whole = lenses
    places = [str(transformer.w_out(spread.model, layer).device) for layer in LAYERS]
    assert places[0] == LOWER
    assert places[2] != LOWER
    assert str(transformer.device(spread.model)) == LOWER
    assert transformer.w_u(spread.model).device == transformer.w_out(spread.model, 2).device
    assert str(transformer.w_out(whole.model, 2).device) == "cpu"
    prompt = spread.prompt(picture())
    found = hk.record(spread.model, prompt.tokens, [transformer.mlp_out(layer) for layer in LAYERS])
    assert [str(value.device) for value in found.values()] == places
    with pytest.raises(DevicesMixed, match=rf"stack.* {LOWER}"):
        torch.stack(list(found.values()))


def prompts(lens: VisionLens):
    return lens.prompt(picture(), " a dog"), lens.prompt(picture(1), " a dog")


def under(lens: VisionLens, hooks: list[transformer.NamedHook]):
    with torch.no_grad(), transformer.fired_hooks(lens.model, hooks):
        return lens.logits(prompts(lens)[0])


def captions(lens: VisionLens):
    ablated = hk.ablate(lens.model, NEURONS, positions=lens.prompt(picture()).image_pos[0])
    with lens.model.hooks(fwd_hooks=ablated):
        without = lens.caption(picture(), max_new_tokens=4)
    return lens.caption([picture(), picture(1)], max_new_tokens=5), without


def edited(lens: VisionLens):
    with hk.edit_knowledge(lens.model, NEURONS, source=3, target=9):
        return under(lens, [])


def recorded(lens: VisionLens, *names_of):
    [_, other] = prompts(lens)
    return hk.record(lens.model, other.tokens, [name(layer) for name in names_of for layer in LAYERS])


def patched(lens: VisionLens):
    run = recorded(
        lens, transformer.resid_pre, transformer.mlp_out, transformer.attn_out, transformer.mlp_post, transformer.head_z
    )
    model, tokens = lens.model, prompts(lens)[0].tokens
    path = hk.patch_path(model, tokens, to=hk.Zero(), sender_neurons=[(0, 1)], receiver_heads=[(2, 0)])
    return [
        under(lens, hooks)
        for hooks in (
            hk.patch_resid_pre(model, [2], run=run, positions=[1], source_positions=[2]),
            hk.patch_mlp_out(model, [0, 2], run=run),
            hk.patch_attn_out(model, [0, 2], run=run),
            hk.patch_neurons(model, NEURONS, run=run),
            hk.patch_heads(model, HEADS, run=run),
            path,
        )
    ]


def removed(lens: VisionLens):
    model, at = lens.model, prompts(lens)[0].image_pos[0]
    tokens = torch.cat([prompt.tokens for prompt in prompts(lens)])
    names = [transformer.mlp_post(layer) for layer in LAYERS]
    run = hk.shuffled(hk.record(model, tokens, names), names, torch.Generator().manual_seed(0))
    interventions = (
        hk.ablate(model, NEURONS, positions=at),
        hk.ablate(model, NEURONS, to=hk.Mean(hk.mean_activations(model, [tokens], names))),
        hk.ablate(model, NEURONS, to=hk.Resample({name: value[:1] for name, value in run.items()})),
        hk.ablate_heads(model, HEADS, positions=at),
        hk.ablate_mlp(model, [0, 2], positions=at),
        hk.ablate_attention(model, [0, 2], positions=at),
        hk.ablate_positions(model, at, layer=2),
    )
    return [under(lens, hooks) for hooks in interventions]


def pushed(lens: VisionLens):
    model, at = lens.model, prompts(lens)[0].image_pos[0]
    vectors = torch.randn(len(at), D_MODEL, generator=torch.Generator().manual_seed(0))
    interventions = (
        hk.steer(model, NEURONS, amount=2.0),
        hk.scale(model, NEURONS, factor=3.0, positions=at),
        hk.set_to(model, NEURONS, value=1.0),
        hk.add_vector(model, vectors[0], layer=2),
        hk.write_vector(model, vectors, layer=2, positions=at),
    )
    return [under(lens, hooks) for hooks in interventions]


def attended(lens: VisionLens):
    layers = range(transformer.shape(lens.model).n_layers)
    cut = hk.cut_attention(lens.model, queries=slice(6, None), keys=range(6), heads={layer: [1] for layer in layers})
    patterns = recorded(lens, transformer.attn_pattern)
    frozen = hk.freeze_attention(lens.model, run=patterns, heads={layer: [0] for layer in layers})
    return [under(lens, cut), under(lens, frozen)]


def scored(lens: VisionLens):
    prompt = prompts(lens)[0]
    return [
        an.neuron_attribution(lens.model, prompt.tokens, [TOKEN, 12], [0, 5, prompt.last_pos], score=score)
        for score in an.SCORES
    ]


def ranked(lens: VisionLens):
    one, other = prompts(lens)
    at, both = one.image_pos[0], torch.cat([one.tokens, other.tokens])
    return [
        an.top_neurons(lens.model, one.tokens, [TOKEN, 12], at, top_k=20),
        an.top_neurons_by_row(lens.model, both, [TOKEN, 12], at, top_k=20),
        an.neuron_attribution_by_row(lens.model, both, [TOKEN, 12], at),
        lens.neurons(one, TOKEN, top_k=10),
    ]


def parts(lens: VisionLens):
    one, at = prompts(lens)[0], prompts(lens)[0].image_pos[0]
    return [
        an.head_attribution(lens.model, one.tokens, TOKEN),
        an.position_attribution(lens.model, one.tokens, TOKEN),
        an.ablation_effects(lens.model, one.tokens, TOKEN, NEURONS, at),
        an.neuron_activations(lens.model, one.tokens, NEURONS, at),
        an.effect_of(lens.model, one.tokens, hk.ablate(lens.model, NEURONS), TOKEN).table(),
        an.faithfulness(lens.model, one.tokens, TOKEN, at).summary,
    ]


def decoded(lens: VisionLens):
    model = lens.model
    vectors = lens.prompt(picture()).spans[0][0].image.soft_prompt.vectors
    return [
        an.decode_neurons(model, NEURONS),
        an.decode_neurons(model, NEURONS, final_norm=True, probabilities=True),
        [found.values for _, found in an.decode_layers(model)],
        an.driving_tokens(model, NEURONS),
        an.driving_tokens(model, NEURONS, norm=False),
        an.upstream_neurons(model, 2, 3),
        an.logit_lens(model, prompts(lens)[0].tokens, [TOKEN, 12]).logit,
        an.nearest_embeddings(model, vectors).values,
        an.unembed_tokens(model, vectors).values,
    ]


def swept(lens: VisionLens):
    one, other = prompts(lens)
    pair = lens.model, one.tokens, other.tokens, TOKEN
    kinds = an.act_patch_resid_pre, an.act_patch_attn_out, an.act_patch_mlp_out, an.act_patch_heads
    estimates = an.attribution_patch(*pair, [transformer.mlp_post(0), transformer.mlp_post(2)])
    return [
        *(sweep(*pair, positions=[0, 5]).table() for sweep in kinds),
        an.act_patch_neurons(*pair, neurons=NEURONS).table(),
        an.act_patch_neurons_by_position(*pair, neurons=NEURONS, positions=[0, 5]).table(),
        list(estimates.values()),
    ]


@each_case
@pytest.mark.parametrize(
    "what",
    [captions, scored, ranked, parts, decoded, swept, removed, pushed, patched, attended, edited],
    ids=lambda what: what.__name__,
)
def test_the_same_numbers(what, lenses):
    spread, whole = lenses
    if what is captions and not transformer.is_bridge(spread.model):
        pytest.skip("HookedTransformer.generate takes no subclass of Tensor, which pretended tensors are")
    assert_same(what(spread), what(whole))


@pytest.mark.parametrize("lenses", ["llama"], indirect=True)
def test_the_same_numbers_with_gated_mlps_and_other_norms(lenses):
    test_layers_lie_apart(lenses)
    for what in (captions, scored, decoded):
        assert_same(what(lenses[0]), what(lenses[1]))


@each_case
def test_an_encoder_on_a_device(lenses):
    spread, whole = lenses
    vision, projection = encoder(), linear()
    vision.to(UPPER)
    projection.to(UPPER)
    model, tokenizer = spread.model, spread.tokenizer
    spread.detach()
    lens = attach_vision(model, vision=vision, projection=projection, tokenizer=tokenizer)
    assert_same(lens.logits(lens.prompt(picture())), whole.logits(whole.prompt(picture())))


def assert_same(found, expected):
    if isinstance(expected, torch.Tensor):
        found = found.numbers if isinstance(found, Elsewhere) else found
        torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-4, atol=1e-5)
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-4)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


def test_what_a_gpu_lets_pass_passes():
    here, there = torch.arange(4.0), torch.arange(4.0, device=LOWER)
    assert_same(there + torch.tensor(2.0), here + 2)
    assert_same(there[torch.tensor([1, 3])], here[[1, 3]])
    assert_same(there[[1, 3]], here[[1, 3]])
    copy = torch.zeros(4, device=UPPER)
    copy[:2] = there[:2]
    copy.copy_(there)
    assert_same(copy, here)
    assert (str(copy.device), str(copy.view(2, 2).device)) == (UPPER, UPPER)
    assert_same(torch.tensor([1.0, 2.0], device=UPPER).cpu(), torch.tensor([1.0, 2.0]))
    np.testing.assert_array_equal(there.cpu().numpy(), here.numpy())


def test_what_a_gpu_refuses_raises():
    here, there, elsewhere = torch.arange(4.0), torch.arange(4.0, device=LOWER), torch.arange(4.0, device=UPPER)
    refused = [
        lambda: here + there,
        lambda: there + elsewhere,
        lambda: there + elsewhere.sum(),
        lambda: torch.cat([there, elsewhere]),
        lambda: torch.stack([there.sum(), torch.tensor(1.0)]),
        lambda: there[torch.tensor([1], device=UPPER)],
        lambda: here[torch.tensor([1], device=LOWER)],
        lambda: torch.where(here > 1, there, there),
        lambda: there.index_select(0, torch.tensor([1])),
        lambda: nn.functional.embedding(torch.tensor([1]), there[:, None]),
    ]
    for operation in refused:
        with pytest.raises(DevicesMixed):
            operation()
    with pytest.raises((RuntimeError, TypeError)):
        there.numpy()


def test_gradients_cross_devices():
    weights = [torch.randn(3, 3).to(device).requires_grad_() for device in (LOWER, UPPER)]
    hidden = torch.ones(1, 3, device=LOWER) @ weights[0]
    (hidden.tanh().to(UPPER) @ weights[1]).sum().backward()
    plain = [weight.detach().cpu().requires_grad_() for weight in weights]
    ((torch.ones(1, 3) @ plain[0]).tanh() @ plain[1]).sum().backward()
    for weight, expected in zip(weights, plain, strict=True):
        assert weight.grad.device == weight.device
        assert_same(weight.grad, expected.grad)
