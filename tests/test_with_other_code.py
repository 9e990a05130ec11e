"""Code that does not know about images runs unchanged on an image prompt: TransformerLens, circuitsvis, SAELens."""

import pytest
import torch
from transformer_lens import patching

from lens_multimodal import attach_vision, hooked_gpt_j, transformer
from tests.lenses import (
    CASES,
    D_MODEL,
    GRID,
    N_PATCHES,
    assert_different,
    each_case,
    encoder,
    hugging_face,
    linear,
    picture,
    plain_logits,
)
from tests.models import MODEL_CLASSES


@pytest.fixture(scope="module")
def two_images():
    torch.manual_seed(3)
    return torch.randn(2, N_PATCHES, D_MODEL)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


# --- TransformerLens ---------------------------------------------------------------------------------------


@each_case
def test_run_with_cache_of_a_batch(lens_of, layout, kind):
    lens = lens_of(layout, kind)
    prompt = lens.prompt([picture(0), picture(1)], " a dog")
    logits, cache = lens.model.run_with_cache(prompt.tokens)
    assert cache[transformer.resid_post(1)].shape == (2, prompt.tokens.shape[1], D_MODEL)
    only, some = lens.model.run_with_cache(prompt.tokens, names_filter=lambda name: name == transformer.mlp_post(1))
    assert torch.equal(only, logits)
    assert torch.equal(some[transformer.mlp_post(1)], cache[transformer.mlp_post(1)])
    for row, plain in enumerate(plain_logits(hugging_face(layout), prompt)):
        torch.testing.assert_close(logits[row], plain, rtol=1e-5, atol=5e-5)


@each_case
def test_run_with_hooks_at_image_positions(lens_of, layout, kind):
    lens = lens_of(layout, kind)
    prompt = lens.prompt(picture(0), " a dog")
    plain = lens.model(prompt.tokens)
    positions = prompt.image_pos[0]

    def darken(activation, hook):
        edited = activation.clone()
        edited[:, positions] = 0
        return edited

    edited = lens.model.run_with_hooks(prompt.tokens, fwd_hooks=[("hook_embed", darken)])
    black = lens.prompt_from_vectors(torch.zeros(1, N_PATCHES, D_MODEL), " a dog")
    torch.testing.assert_close(edited, lens.model(black.tokens), rtol=1e-5, atol=5e-5)
    assert_different(edited, plain)
    seen = []
    with lens.model.hooks(fwd_hooks=[(transformer.resid_post(2), lambda value, hook: seen.append(value))]):
        lens.model(prompt.tokens)
    assert torch.equal(seen[0], lens.model.run_with_cache(prompt.tokens)[1][transformer.resid_post(2)])
    assert torch.equal(lens.model(prompt.tokens), plain)


@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_activation_patching_of_one_image_into_another(lens_of, kind, two_images):
    lens = lens_of("gpt-j", kind)
    clean, corrupted = (lens.prompt_from_vectors(image[None], " a dog", grid=GRID) for image in two_images)
    answer = 40

    def metric(logits):
        return logits[0, -1, answer]

    _, cache = lens.model.run_with_cache(clean.tokens)
    start, end = metric(lens.model(corrupted.tokens)), metric(lens.model(clean.tokens))
    found = patching.get_act_patch_resid_pre(lens.model, corrupted.tokens, cache, metric)
    assert found.shape == (3, N_PATCHES + 2)
    for cell in (0, 4):
        mixed = two_images[1].clone()
        mixed[cell] = two_images[0][cell]
        direct = metric(lens.model(lens.prompt_from_vectors(mixed[None], " a dog").tokens))
        torch.testing.assert_close(torch.as_tensor(found[0, cell]), direct, rtol=1e-5, atol=5e-5)
    # Words are the same in both prompts; only the last position feeds the answer after the last block's attention.
    torch.testing.assert_close(torch.as_tensor(found[0, N_PATCHES:]), start.expand(2), rtol=1e-5, atol=5e-5)
    assert (torch.as_tensor(found[1:, 1:4]) - start).abs().max() > 1e-2
    for sweep in (
        patching.get_act_patch_mlp_out,
        patching.get_act_patch_attn_out,
        patching.get_act_patch_attn_head_out_by_pos,
        patching.get_act_patch_attn_head_out_all_pos,
    ):
        cells = torch.as_tensor(sweep(lens.model, corrupted.tokens, cache, metric))
        assert torch.isfinite(cells).all()
        assert (cells - start).abs().max() > 1e-2
    itself = lens.model.run_with_cache(corrupted.tokens)[1]
    unmoved = patching.get_act_patch_mlp_out(lens.model, corrupted.tokens, itself, metric)
    torch.testing.assert_close(torch.as_tensor(unmoved), start.expand(3, N_PATCHES + 2), rtol=1e-5, atol=5e-5)
    assert (start - end).abs() > 1e-2


@pytest.mark.parametrize("layout", ["gpt-j", "gpt-2"])
@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_methods_of_the_activation_cache(lens_of, layout, kind):
    if (layout, kind) not in CASES:
        pytest.skip("HookedTransformer is built for GPT-J only")
    lens = lens_of(layout, kind)
    prompt = lens.prompt(picture(0), " a dog")
    logits, cache = lens.model.run_with_cache(prompt.tokens)
    n = prompt.tokens.shape[1]

    accumulated, labels = cache.accumulated_resid(return_labels=True)
    assert accumulated.shape == (4, 1, n, D_MODEL)
    assert len(labels) == 4
    torch.testing.assert_close(transformer.unembed(lens.model, accumulated[-1]), logits, rtol=1e-5, atol=5e-5)

    parts, names = cache.decompose_resid(return_labels=True)
    assert names[0] == "embed"
    assert torch.equal(parts[0], cache["hook_embed"])
    torch.testing.assert_close(parts.sum(0), cache[transformer.resid_post(2)], rtol=1e-5, atol=5e-5)

    neurons = cache.stack_neuron_results(layer=3)
    assert neurons.shape[:3] == (3 * 40, 1, n)
    layer, neuron = 1, 7
    own = cache[transformer.mlp_post(layer)][..., neuron, None] * transformer.w_out(lens.model, layer)[neuron]
    torch.testing.assert_close(neurons[layer * 40 + neuron], own, rtol=1e-5, atol=1e-5)

    attributed = cache.logit_attrs(parts, tokens=40, pos_slice=-1, has_batch_dim=True)
    assert torch.isfinite(attributed).all()

    if hasattr(cache, "logit_lens"):
        by_layer = cache.logit_lens()
        assert by_layer is not None


# --- circuitsvis -------------------------------------------------------------------------------------------


def test_circuitsvis_shows_image_positions(lens):
    circuitsvis = pytest.importorskip("circuitsvis")
    from circuitsvis.attention import attention_patterns
    from circuitsvis.tokens import colored_tokens

    prompt = lens.prompt(picture(0), " a dog")
    _, cache = lens.model.run_with_cache(prompt.tokens)
    names = lens.to_str_tokens(prompt)
    heads = str(attention_patterns(names, cache[transformer.attn_pattern(1)][0]))
    colours = str(colored_tokens(names, cache[transformer.mlp_post(1)][0, :, 3]))
    for page in (heads, colours):
        assert all(f"image:{row},{col}" in page for row in range(GRID[0]) for col in range(GRID[1]))
    assert circuitsvis.__version__


# --- SAELens -----------------------------------------------------------------------------------------------


@pytest.fixture
def sae_lens():
    return pytest.importorskip("sae_lens", reason="SAELens needs TransformerLens 3")


@pytest.fixture
def sae(sae_lens):
    from sae_lens.saes.sae import SAEMetadata

    torch.manual_seed(0)
    metadata = SAEMetadata(hook_name=transformer.resid_pre(1))
    found = sae_lens.StandardSAE(sae_lens.StandardSAEConfig(d_in=D_MODEL, d_sae=50, metadata=metadata))
    for parameter in found.parameters():
        parameter.copy_(0.3 * torch.randn_like(parameter))
    return found


@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_a_sparse_autoencoder_reads_and_replaces_image_positions(lens_of, sae, kind):
    lens = lens_of("gpt-j", kind)
    prompt = lens.prompt(picture(0), " a dog")
    plain, cache = lens.model.run_with_cache(prompt.tokens)
    at_image = cache[transformer.resid_pre(1)][:, prompt.image_pos[0]]
    features = sae.encode(at_image)
    assert features.shape == (1, N_PATCHES, 50)
    assert 0 < (features > 0).float().mean() < 1
    replaced = lens.model.run_with_hooks(
        prompt.tokens, fwd_hooks=[(transformer.resid_pre(1), lambda value, hook: sae(value))]
    )
    assert_different(replaced, plain)


def test_hooked_sae_transformer(sae_lens, sae, tokenizers):
    """SAELens' own subclass of `HookedTransformer`, with its autoencoder spliced in."""
    weights = hooked_gpt_j(hugging_face("gpt-j"))
    model = sae_lens.HookedSAETransformer(weights.cfg, tokenizer=transformer.as_loaded(tokenizers("gpt-j"))).eval()
    model.load_state_dict(weights.state_dict())
    lens = attach_vision(model, vision=encoder(), projection=linear(), tokenizer=tokenizers("gpt-j"))
    prompt = lens.prompt(picture(0), " a dog")
    plain, cache = model.run_with_cache(prompt.tokens)
    (expected,) = plain_logits(hugging_face("gpt-j"), prompt)
    torch.testing.assert_close(plain[0], expected, rtol=1e-5, atol=5e-5)

    name = transformer.resid_pre(1)
    replaced = model.run_with_saes(prompt.tokens, saes=[sae])
    by_hand = model.run_with_hooks(prompt.tokens, fwd_hooks=[(name, lambda value, hook: sae(value))])
    assert_different(replaced, plain)
    torch.testing.assert_close(replaced, by_hand, rtol=1e-5, atol=5e-5)
    with_error = model.run_with_saes(prompt.tokens, saes=[sae], use_error_term=True)
    torch.testing.assert_close(with_error, plain, rtol=1e-4, atol=1e-3)
    _, features = model.run_with_cache_with_saes(prompt.tokens, saes=[sae])
    (key,) = (key for key in features if key.endswith("hook_sae_acts_post"))
    torch.testing.assert_close(features[key], sae.encode(cache[name]), rtol=1e-5, atol=1e-5)
    assert torch.equal(model(prompt.tokens), plain)


def test_the_bridge_of_sae_lens_is_refused(sae_lens, tokenizers, tmp_path):
    """SAELens' subclass of the bridge (beta) drops TransformerLens' hook names without a word: hooks never run."""
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

    hugging_face("gpt-j").save_pretrained(tmp_path)
    tokenizers("gpt-j").save_pretrained(tmp_path)
    model = SAETransformerBridge.boot_transformers(str(tmp_path), device="cpu").eval()
    ran: list[torch.Tensor] = []
    model.run_with_hooks(
        torch.tensor([[3]]), fwd_hooks=[(transformer.resid_pre(1), lambda value, hook: ran.append(value))]
    )
    assert not ran
    with pytest.raises(ValueError, match=r"SAETransformerBridge .* blocks\.0\.hook_in"):
        attach_vision(model, vision=encoder(), projection=linear(), tokenizer=tokenizers("gpt-j"))
    assert sae_lens.__version__
