import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPTJConfig, LlamaConfig

from lens_multimodal import transformer
from lens_multimodal.analysis import estimate_attribution, neuron_attribution, top_neurons
from lens_multimodal.analysis.attribution.memory import saved_bytes
from tests.analysis.attribution.live_tensors import live_peak
from tests.analysis.reference import each_case, model_of


@each_case
def test_saved_bytes_are_predicted_for_longer_prompts(layout, kind):
    model = model_of(layout, kind)
    counted = saved_bytes(model, 50, layers=range(3))
    assert estimate_attribution(model, 50).saved == pytest.approx(counted, rel=0.01)


def gpt_j(**sizes):
    return GPTJConfig(n_positions=512, n_embd=64, n_head=4, rotary_dim=8, **sizes)


SHAPES = {
    "wide vocabulary": (gpt_j(vocab_size=5000, n_layer=3, n_inner=256), 100),
    "long prompt": (gpt_j(vocab_size=100, n_layer=4, n_inner=256), 400),
    "wide MLP": (gpt_j(vocab_size=300, n_layer=3, n_inner=1024), 100),
    "gpt-2": (GPT2Config(vocab_size=1000, n_positions=512, n_embd=64, n_layer=3, n_head=4, n_inner=256), 200),
    "llama": (
        LlamaConfig(
            vocab_size=1000, max_position_embeddings=512, hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, intermediate_size=256,
        ),
        200,
    ),
}  # fmt: skip


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trainable"])
@pytest.mark.parametrize("shape", SHAPES)
def test_peak_is_what_torch_allocates(shape, frozen):
    config, n_pos = SHAPES[shape]
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = transformer.wrap(AutoModelForCausalLM.from_config(config)).requires_grad_(not frozen)
    tokens = torch.randint(3, 90, (1, n_pos))
    cases = [
        (lambda: neuron_attribution(model, tokens, 5), {}),
        (lambda: top_neurons(model, tokens, 5, range(20)), {"n_positions": 20, "keeps_all": False}),
        (lambda: neuron_attribution(model, tokens, [5, 6, 7]), {"n_targets": 3}),
        (lambda: neuron_attribution(model, tokens, [(9, 5), 6]), {"n_targets": 2, "n_read": n_pos - 9}),
        (lambda: neuron_attribution(model, tokens, lambda logits: logits.mean()), {"n_read": n_pos}),
    ]
    if frozen and shape.startswith("wide"):  # elsewhere attention takes more in the forward pass
        top = config.num_hidden_layers - 1
        cases.append((lambda: neuron_attribution(model, tokens, 5, layers=[top]), {"layers": [top]}))
    for run, settings in cases:
        estimate = estimate_attribution(model, n_pos, **settings)
        peak = live_peak(run)
        assert estimate.peak == pytest.approx(peak, rel=0.15), (settings, estimate)


def by_hand(language_model, tokens, target):
    """Activation times gradient of all neurons with plain transformers and PyTorch hooks: the largest of each layer."""
    kept = []

    def keep(_module, arguments):
        arguments[0].retain_grad()
        kept.append(arguments[0])

    handles = [block.mlp.fc_out.register_forward_pre_hook(keep) for block in language_model.transformer.h]
    embedded = language_model.transformer.wte(tokens).detach().requires_grad_(True)
    language_model(inputs_embeds=embedded, use_cache=False).logits[0, -1, target].backward()
    for handle in handles:
        handle.remove()
    return [(a * a.grad).detach()[0].amax(0).topk(10).values for a in kept]


@pytest.mark.parametrize("shape", ["wide vocabulary", "long prompt", "wide MLP"])
def test_peak_is_at_most_1_3_of_a_hand_written_backward_pass(shape):
    config, n_pos = SHAPES[shape]
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    language_model = AutoModelForCausalLM.from_config(config).requires_grad_(False).eval()
    tokens = torch.randint(3, 90, (1, n_pos))
    plain = live_peak(lambda: by_hand(language_model, tokens, 5))
    model = transformer.wrap(language_model)
    ours = live_peak(lambda: top_neurons(model, tokens, 5, range(n_pos)))
    assert ours <= 1.3 * plain, f"{ours / plain:.2f} times"


def test_neurons_are_among_what_is_saved():
    model = model_of("gpt-j", "bridge")
    assert saved_bytes(model, 10, layers=range(3)) > 3 * 10 * 40 * 8


def test_later_layers_need_less():
    model = model_of("gpt-j", "bridge")
    whole = estimate_attribution(model, 40)
    top = estimate_attribution(model, 40, layers=[2])
    assert top.saved < 0.5 * whole.saved
    assert top.result == whole.result / 3


def test_parts_by_hand():
    model = model_of("gpt-j", "bridge")
    found = estimate_attribution(model, 40, batch=2, n_targets=5, n_positions=30, n_read=3)
    assert found.result == 5 * 3 * 2 * 30 * 40 * 8
    assert found.logits == 2 * 2 * 3 * 97 * 8
    assert found.weights == sum(p.numel() for p in model.parameters()) * 8
    assert found.peak == found.saved + found.result + max(found.logits, found.gradients)
    one = estimate_attribution(model, 40)
    assert one.peak == one.saved + max(one.logits, one.result + one.gradients)
    assert estimate_attribution(model, 40, keeps_all=False).result == 0


def test_probing_leaves_no_trace():
    model = model_of("gpt-j", "bridge")
    estimate_attribution(model, 40)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_pos": 0}, "n_pos=0,"),
        ({"n_pos": 65}, r"\b65\b.* 64\b"),
        ({"n_pos": 9, "batch": 0}, "batch=0,"),
        ({"n_pos": 9, "n_read": 10}, "n_read=10 .*n_pos=9 "),
        ({"n_pos": 9, "layers": [3]}, "3 layers"),
    ],
)
def test_bad_input(settings, message):
    with pytest.raises(ValueError, match=message):
        estimate_attribution(model_of("gpt-j", "bridge"), **settings)
