"""Bare modules and the TransformerLens model give the same numbers, and what could make them differ is noticed."""

import copy
import gc
import weakref
from contextlib import ExitStack, contextmanager

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.llama.modeling_llama import LlamaMLP

from lens_multimodal import transformer
from lens_multimodal.analysis import (
    ablation_effects,
    act_patch_heads,
    effect_of,
    head_attribution,
    logit_lens,
    neuron_attribution,
    neuron_attribution_by_row,
    position_attribution,
)
from lens_multimodal.hooks import ablate, add_vector, scale
from lens_multimodal.transformer.sampling import Sampling
from lens_multimodal.transformer.which_model import running_on, why_hooked
from tests.decoders.cases import TOKEN, Case, case, difference, each_family, image_vectors, layers
from tests.lenses import make_lens, random_prompt
from tests.module_state import assert_as_before, state_of

HOOKED_FAMILIES = {
    "Phi 3", "GLM", "GLM-4", "GPT-2", "GPT-BigCode", "MPT", "BLOOM", "CodeGen", "GPT-NeoX", "GPT-NeoX, sequential",
    "Falcon", "Falcon, all heads", "Falcon, alibi",
}  # fmt: skip
"""TransformerLens computes with copies of these families' weights, or gives their blocks another forward method."""

DIRECT = ("direct_effect", "local_direct_effect", "activation_x_decoded")

EXACT = 3e-6


def everything(case: Case, n_new: int = 3) -> dict[str, torch.Tensor]:
    """What the library computes on a lens: logits, attribution, effects and generated tokens."""
    lens, model, tokens = case.lens, case.lens.model, case.prompt.tokens
    (image,) = (span.image for span in case.prompt.spans[0])
    padded = lens.interleave([[image, "a red dog"], [image, "a red"]], prepend_bos=False)
    batch = lens.prompt_from_vectors(image_vectors(case.name, count=3), "a red dog", prepend_bos=False)
    neurons = [(layer, neuron) for layer in layers for neuron in case.active_neurons(layer, 3)]
    shift = torch.linspace(-3.0, 3.0, lens.shape.d_model)
    effect = effect_of(model, tokens, ablate(model, neurons, positions=[-1, 0, 1]), TOKEN)

    def written(sampling: Sampling | None, hooks=()) -> torch.Tensor:
        torch.manual_seed(7)
        rows = lens.generate_ids(batch, sampling=sampling, max_new_tokens=n_new, hooks=hooks)
        return torch.tensor([[*ids, *[-1] * (n_new - len(ids))] for ids in rows])

    return {
        "logits": lens.logits(case.prompt),
        "last logits": transformer.logits_of(model, tokens, first=tokens.shape[1] - 1),
        "padded": lens.logits(padded).nan_to_num(),
        "attribution": neuron_attribution(model, tokens, [TOKEN, TOKEN + 1], score="activation_x_gradient"),
        "attribution by row": neuron_attribution_by_row(model, batch.tokens, [TOKEN, TOKEN + 1, TOKEN + 2]),
        "integrated gradients": neuron_attribution(model, tokens, TOKEN, score="integrated_gradients", layers=1),
        "direct effects": torch.stack([neuron_attribution(model, tokens, TOKEN, score=score) for score in DIRECT]),
        "heads": head_attribution(model, tokens, TOKEN),
        "places": position_attribution(model, tokens, [TOKEN, TOKEN + 1]),
        "logit lens": logit_lens(model, tokens, TOKEN).logit,
        "sweep": act_patch_heads(model, batch.tokens[:1], batch.tokens[1:2], TOKEN).patched,
        "effect": torch.stack([effect.logit_after, effect.probability_change, effect.kl]),
        "ablations": torch.tensor(ablation_effects(model, tokens, TOKEN, neurons)["effect"].to_numpy()),
        "greedy": transformer.generate(model, batch.tokens, max_new_tokens=n_new, stop_ids=[])[:, -n_new:],
        "captions": written(None),
        "captions without neurons": written(None, ablate(model, neurons)),
        "captions without neurons of the prompt": written(None, ablate(model, neurons, positions=[0, 1, -1])),
        "captions from a new token on": written(None, add_vector(model, shift, layer=1, positions=slice(-1, None))),
        "sampled": written(Sampling(do_sample=True, top_k=20, temperature=0.8)),
        "penalised": written(Sampling(repetition_penalty=1.3, frequency_penalty=0.5)),
        "sampled and penalised": written(Sampling(do_sample=True, top_p=0.9, frequency_penalty=0.5)),
        "beams": written(Sampling(num_beams=3)),
    }


@each_family
def test_both_ways_give_the_same_numbers(name):
    lens = case(name).lens
    if name in HOOKED_FAMILIES:
        assert why_hooked(lens.model) is not None
        with running_on(lens.model, "bare"), pytest.raises(RuntimeError):
            lens.logits(case(name).prompt)
        return
    with running_on(lens.model, "hooked"):
        expected = everything(case(name))
    with running_on(lens.model, "bare") if name != "OPT" else ExitStack():  # without hook points of neurons
        found = everything(case(name))
    assert why_hooked(lens.model) is None
    for quantity, value in expected.items():
        if value.is_floating_point():
            assert difference(found[quantity], value) < EXACT, quantity
        else:
            assert torch.equal(found[quantity], value), quantity


def hook_points(model) -> list[str]:
    """Those that bare modules may have as well."""
    by_layer = ("resid_pre", "resid_post", "mlp_post", "mlp_out", "attn_out", "head_z", "written_scale")
    found = [getattr(transformer, name) for name in by_layer]
    named = [f(model, n) if f is transformer.written_scale else f(n) for f in found for n in layers]
    return [transformer.FINAL_NORM_SCALE, *filter(None, named)]


WITHOUT_HOOK_POINTS = {
    "OPT": ("mlp.hook_post", "hook_mlp_out"),  # the modules have them in another shape
    "Granite": ("hook_attn_out", "hook_mlp_out"),  # multiplied, which no module shows
}
NORMS_WITHOUT_WEIGHTS = ("OLMo", "NanoChat")
"""TransformerLens fails if a hook edits their scale, both ways."""


@each_family
@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
def test_hooks_see_and_change_the_same_both_ways(name):
    if name in HOOKED_FAMILIES:
        pytest.skip("always runs through the TransformerLens model")
    lens, tokens = case(name).lens, case(name).prompt.tokens
    for point in hook_points(lens.model):
        if point.endswith(WITHOUT_HOOK_POINTS.get(name, ("none",))):
            assert why_hooked(lens.model, [point]) is not None, point
            continue
        assert why_hooked(lens.model, [point]) is None, point
        if point.endswith("hook_scale") and name in NORMS_WITHOUT_WEIGHTS:
            for how in ("hooked", "bare"):
                with running_on(lens.model, how), pytest.raises(AttributeError, match="weight"):
                    transformer.logits_of(lens.model, tokens, hooks=[(point, lambda scale, hook: scale * 2)])
            continue
        seen: dict[tuple[str, str], torch.Tensor] = {}
        logits = {}
        for how in ("hooked", "bare"):

            def change(activation, hook, how=how, seen=seen):
                seen[how, hook.name] = activation
                ramp = torch.linspace(0.5, 1.5, activation.shape[1])
                return activation * ramp.view(-1, *[1] * (activation.ndim - 2))

            with running_on(lens.model, how), torch.no_grad():
                logits[how] = transformer.logits_of(lens.model, tokens, hooks=[(point, change)])
        ((_, named), hooked), ((_, named_bare), bare) = seen.items()
        assert named == named_bare
        assert difference(bare, hooked) < EXACT, point
        assert difference(logits["bare"], logits["hooked"]) < EXACT, point


# --- what is noticed ---------------------------------------------------------------------------------------


@pytest.fixture
def lens():
    return make_lens("llama")


def agree(lens) -> None:
    """The library's logits are those of the TransformerLens model as it is now, hooks and all."""
    prompt = random_prompt(lens, [6, -4])
    with torch.no_grad():
        expected = lens.model(prompt.tokens, return_type="logits")
    found = transformer.logits_of(lens.model, prompt.tokens)
    assert torch.allclose(found, expected, atol=1e-5), float((found - expected).abs().max())


def runs_bare(lens) -> bool:
    return why_hooked(lens.model) is None


def test_weights_that_are_edited_replaced_moved_or_cast_are_the_twins_too(lens):
    agree(lens)
    mlp = lens.model.blocks[1].mlp
    before = transformer.logits_of(lens.model, random_prompt(lens, [6, -4]).tokens)
    edits = [
        lambda: mlp.W_out.mul_(2.0),
        lambda: setattr(mlp.out.original_component.weight, "data", mlp.out.original_component.weight.data * 0.5 + 0.1),
        lambda: setattr(
            mlp.out.original_component, "weight", nn.Parameter(mlp.out.original_component.weight.detach() - 0.2)
        ),
        lambda: lens.model.embed.original_component.weight.mul_(1.5),
        lambda: lens.model.ln_final.original_component.weight.add_(0.3),
        lambda: lens.model.load_state_dict({k: v * 1.1 for k, v in lens.model.state_dict().items()}),
    ]
    for edit in edits:
        with torch.no_grad():
            edit()
        after = transformer.logits_of(lens.model, random_prompt(lens, [6, -4]).tokens)
        assert not torch.allclose(after, before, atol=1e-3)
        assert runs_bare(lens)
        agree(lens)
        before = after


def test_other_precisions_are_compared_anew(lens):
    agree(lens)
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        transformer.move(lens.model, dtype=dtype)
        prompt = random_prompt(lens, [-10])
        found = transformer.logits_of(lens.model, prompt.tokens)
        with running_on(lens.model, "hooked"):
            expected = transformer.logits_of(lens.model, prompt.tokens)
        assert found.dtype == dtype
        assert difference(found, expected) < 16 * torch.finfo(dtype).eps
        assert runs_bare(lens)


@contextmanager
def removed(handle):
    try:
        yield
    finally:
        handle.remove()


def half(_module, _args, output):
    return output * 0.5


def half_the_logits(_module, _args, output):
    output.logits = output.logits * 0.5
    return output


def half_of_linear(module, _args, output):
    return output * 0.5 if isinstance(module, nn.Linear) else None


def only_look(_activation, hook):
    return None


class Halved(nn.Module):
    def forward(self, weight):
        return weight * 0.5


class Doubled(LlamaMLP):
    def forward(self, x):
        return 2 * super().forward(x)


@contextmanager
def forward_replaced(module):
    own = module.forward
    vars(module)["forward"] = lambda *args, **kwargs: own(*args, **kwargs) * 0.5
    try:
        yield
    finally:
        del vars(module)["forward"]


class Half(ModelHook):
    def post_forward(self, _module, output):
        return output * 0.5


@contextmanager
def accelerated(module):
    add_hook_to_module(module, Half())
    try:
        yield
    finally:
        remove_hook_from_module(module)
        vars(module).pop("forward", None)  # accelerate leaves the class's own method there


@contextmanager
def hooks_exchanged(module):
    """What code that clears hooks does: it replaces the dictionary itself."""
    own = module._forward_hooks
    module._forward_hooks = type(own)({0: half})
    try:
        yield
    finally:
        module._forward_hooks = own


@contextmanager
def permanent(model):
    model.add_perma_hook("blocks.1.mlp.hook_post", lambda activation, hook: activation * 0.5)
    try:
        yield
    finally:
        model.reset_hooks(including_permanent=True)


OTHER_CODE = {
    "a hook": lambda m: m.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", lambda activation, hook: activation * 0.5)]),
    "a hook on attention": lambda m: m.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda z, hook: z * 0.5)]),
    "a hook on the embeddings": lambda m: m.hooks(fwd_hooks=[("hook_embed", lambda resid, hook: resid * 0.5)]),
    "a backward hook": lambda m: m.hooks(bwd_hooks=[("blocks.1.mlp.hook_post", only_look)]),
    "a permanent hook": permanent,
    "a PyTorch hook on a wrapper": lambda m: removed(m.blocks[1].mlp.register_forward_hook(half)),
    "a PyTorch hook on a hook point": lambda m: removed(m.blocks[2].mlp.out.hook_out.register_forward_hook(half)),
    "a PyTorch hook on a Hugging Face module": lambda m: removed(
        m.original_model.model.layers[1].mlp.original_component.register_forward_hook(half)
    ),
    "a PyTorch hook on a linear layer": lambda m: removed(
        m.blocks[0].mlp.out.original_component.register_forward_hook(half)
    ),
    "a PyTorch pre-hook": lambda m: removed(
        m.blocks[1].ln2.register_forward_pre_hook(lambda _module, args: (args[0] * 0.5, *args[1:]))
    ),
    "a hook on the inner model": lambda m: removed(m.original_model.register_forward_hook(half_the_logits)),
    "a hook on all modules": lambda _: removed(torch.nn.modules.module.register_module_forward_hook(half_of_linear)),
    "another forward": lambda m: forward_replaced(m.blocks[1].mlp.original_component),
    "another forward of a wrapper": lambda m: forward_replaced(m.blocks[0].mlp),
    "another forward of a linear layer": lambda m: forward_replaced(m.blocks[1].mlp.out.original_component),
    "another forward of the model": lambda m: forward_replaced(m),
    "a hook of accelerate": lambda m: accelerated(m.blocks[1].mlp.out.original_component),
    "exchanged hooks": lambda m: hooks_exchanged(m.blocks[0].mlp),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHER_CODE)
def test_what_other_code_puts_on_a_model_acts_and_is_gone_when_it_is_taken_off(lens, what):
    prompt = random_prompt(lens, [6, -4])
    before = transformer.logits_of(lens.model, prompt.tokens)
    assert runs_bare(lens)
    with OTHER_CODE[what](lens.model):
        assert not runs_bare(lens)
        agree(lens)
        during = transformer.logits_of(lens.model, prompt.tokens)
        greedy = transformer.generate(lens.model, prompt.tokens, max_new_tokens=2, stop_ids=[])
        assert greedy[0, -2] == during[0, -1].argmax()
    assert torch.equal(during, before) == (what == "a backward hook")
    assert runs_bare(lens)
    assert torch.equal(transformer.logits_of(lens.model, prompt.tokens), before)


def test_settings_and_modules_that_are_replaced_are_noticed(lens):
    agree(lens)
    layer = lens.model.original_model.model.layers[1].original_component
    layer.self_attn.original_component.scaling *= 3.0
    agree(lens)
    layer.mlp.down_proj = nn.Linear(40, 24)
    agree(lens)
    layer.mlp.act_fn = nn.GELU()
    agree(lens)
    lens.model.blocks[0].mlp.original_component.__class__ = Doubled
    agree(lens)
    parametrize.register_parametrization(lens.model.blocks[2].mlp.out.original_component, "weight", Halved())
    agree(lens)


def test_training_mode_runs_hooked(lens):
    lens.model.train()
    assert not runs_bare(lens)
    agree(lens)
    lens.model.eval()
    assert runs_bare(lens)


def test_unusual_states_of_torch_run_hooked(lens):
    prompt = random_prompt(lens, [6, -4])
    expected = transformer.logits_of(lens.model, prompt.tokens)
    with torch.inference_mode():
        assert torch.equal(transformer.logits_of(lens.model, prompt.tokens), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not runs_bare(lens)
    with FlopCounterMode(display=False) as counted:
        transformer.logits_of(lens.model, prompt.tokens)
    assert counted.get_total_flops() > 0
    assert runs_bare(lens)


def test_compatibility_mode_and_processed_weights_run_hooked():
    for kind in ("compat",):
        lens = make_lens("llama", kind)
        assert "compatibility" in why_hooked(lens.model)
        agree(lens)
    lens = make_lens("gpt-j")
    assert runs_bare(lens)
    lens.model.enable_compatibility_mode()
    assert not runs_bare(lens)
    agree(lens)


def test_a_model_that_is_gone_leaves_nothing_behind():
    lens = make_lens("llama")
    agree(lens)
    assert runs_bare(lens)
    gone = weakref.ref(lens.model)
    weights = weakref.ref(lens.model.embed.original_component)
    del lens
    gc.collect()
    assert gone() is None
    assert weights() is None


def test_the_choice_is_shown_and_can_be_forced(lens):
    assert lens.runs_on == "bare modules"
    with lens.running_on("hooked"):
        assert lens.runs_on.startswith("TransformerLens model")
        agree(lens)
        with lens.running_on("auto"):
            assert lens.runs_on == "bare modules"
    with lens.running_on("bare"), lens.model.hooks(fwd_hooks=[("hook_embed", only_look)]):
        assert "embed.hook_out" in lens.runs_on
        with pytest.raises(RuntimeError, match=r"embed\.hook_out"):
            agree(lens)
    with lens.running_on("bare"), pytest.raises(RuntimeError, match=r"blocks\.1\.attn\.hook_q"):
        transformer.logits_of(lens.model, random_prompt(lens, [-4]).tokens, hooks=[("blocks.1.attn.hook_q", only_look)])
    with pytest.raises(ValueError, match="'fast'"), lens.running_on("fast"):
        pass
    agree(lens)


def test_a_hook_on_the_neurons_is_seen_by_both_ways_with_the_same_hook_point(lens):
    seen = {}
    prompt = random_prompt(lens, [6, -4])

    def look(activation, hook):
        seen.setdefault(hook.name, []).append(activation)

    for how in ("hooked", "bare"):
        with lens.running_on(how):
            transformer.logits_of(lens.model, prompt.tokens, hooks=[("blocks.1.mlp.hook_post", look)])
    ((_, (hooked, bare)),) = seen.items()
    assert torch.allclose(hooked, bare, atol=1e-6)
    with pytest.raises(ValueError, match=r"blocks\.9"):
        transformer.logits_of(lens.model, prompt.tokens, hooks=[("blocks.9.mlp.hook_post", look)])


@pytest.mark.parametrize("layout", ["gpt-j", "llama", "opt"])
def test_gradients_reach_image_vectors_and_weights_both_ways(layout):
    lens = make_lens(layout)
    found = {}
    for how in ("hooked", "bare"):
        prompt = lens.prompt_from_vectors(torch.ones(1, 6, 24), "", prepend_bos=False).followed_by([5, 9])
        (span,) = prompt.spans[0]
        span.image.soft_prompt.vectors.requires_grad_()
        weights = lens.model.blocks[1].mlp.out.original_component.weight.requires_grad_()
        with lens.running_on(how):
            value = lens.logits(prompt)[0, -1, 7]
        found[how] = torch.autograd.grad(value, [span.image.soft_prompt.vectors, weights])
        weights.requires_grad_(False)
    for bare, hooked in zip(found["bare"], found["hooked"], strict=True):
        assert difference(bare, hooked) < 1e-5


def test_a_bare_pass_leaves_the_model_as_it_was(lens):
    prompt = random_prompt(lens, [6, -4])
    assert lens.runs_on == "bare modules"  # compares; what a pass of a bridge leaves in it is up to TransformerLens
    before = state_of(lens.model), state_of(lens.model.original_model)
    neuron_attribution(lens.model, prompt.tokens, TOKEN)
    transformer.generate(lens.model, prompt.tokens, max_new_tokens=3, stop_ids=[])
    assert lens.runs_on == "bare modules"
    assert_as_before(lens.model, before[0])
    assert_as_before(lens.model.original_model, before[1])


def test_weights_on_the_meta_device_are_not_compared():
    lens = make_lens("llama")
    lens.model.original_model.to("meta")
    assert not runs_bare(lens)


def test_runs_that_are_compared_round_in_the_same_way():
    """TransformerLens' LayerNorm rounds in another way than PyTorch's, so an edit that changes nothing would have an
    effect if it alone ran through the bridge."""
    lens = make_lens("gpt-j")
    tokens = random_prompt(lens, [6, -4]).tokens
    with lens.running_on("hooked"):
        hooked = transformer.logits_of(lens.model, tokens)
    assert not torch.equal(transformer.logits_of(lens.model, tokens), hooked)
    for neutral in (scale(lens.model, [(1, 3)], factor=1.0), scale_heads_by_one(lens.model)):
        effect = effect_of(lens.model, tokens, neutral, TOKEN)
        assert float(effect.value_change) == 0.0
        assert float(effect.kl) == 0.0
    assert runs_bare(lens)


def scale_heads_by_one(_model):
    return [("blocks.1.attn.hook_z", lambda z, hook: z * 1.0)]


def test_a_copied_model_makes_a_twin_of_its_own(lens):
    agree(lens)
    tokens = torch.tensor([[5, 9, 11]])
    copied = copy.deepcopy(lens.model)
    with torch.no_grad():
        copied.blocks[1].mlp.W_out.mul_(3.0)
        assert torch.equal(transformer.logits_of(copied, tokens), copied(tokens, return_type="logits"))
    assert why_hooked(copied) is None
    agree(lens)
    lens.detach()
    assert not [name for name in vars(lens.model) if "twin" in name]


def test_generation_on_bare_modules_unembeds_the_last_position_alone(lens, monkeypatch):
    tokens = random_prompt(lens, [6, -4]).tokens
    d_vocab, forward, unembedded = lens.shape.d_vocab, torch.nn.Linear.forward, []

    def counted(self, values):
        if self.out_features == d_vocab:
            unembedded.append(values.shape[1])
        return forward(self, values)

    def generated():
        return transformer.generate(lens.model, tokens, max_new_tokens=3, stop_ids=[])

    with lens.running_on("hooked"):
        expected = generated()
    with lens.running_on("bare"):
        generated()  # after the comparison of both ways
        monkeypatch.setattr(torch.nn.Linear, "forward", counted)
        assert torch.equal(generated(), expected)
        assert unembedded == [1, 1, 1]
        transformer.logits_of(lens.model, tokens)
    assert unembedded[3:] == [tokens.shape[1]]
