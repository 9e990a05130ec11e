"""TransformerLens' own bridge with `pixel_values` gives what the lens gives, and shows encoder and projection."""

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens.factories import architecture_adapter_factory
from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
from transformer_lens.model_bridge.sources import build_bridge_from_module

from lens_multimodal import VisionLens, attach_vision, pixel_values_gpt_j
from lens_multimodal.pixel_values_gpt_j import ARCHITECTURE, image_bridge, image_gpt_j
from tests.lenses import SQUARE, picture, random_lens
from tests.models import MODEL_CLASSES

PICTURES = [picture(seed) for seed in range(3)]
VISION_HOOKS = [
    "vision_encoder.hook_in",
    "vision_encoder.encoder_layers.0.hook_out",
    "vision_encoder.encoder_layers.1.hook_out",
    "vision_encoder.hook_out",
    "vision_projection.hook_in",
    "vision_projection.hook_out",
]


@pytest.fixture(scope="module")
def lens(tmp_path_factory: pytest.TempPathFactory) -> VisionLens:
    return random_lens(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def bridge(lens: VisionLens) -> Any:
    return image_bridge(lens)


@pytest.fixture
def pixels(lens: VisionLens) -> torch.Tensor:
    return lens.vision.preprocessing(PICTURES)


@pytest.fixture
def tokens(lens: VisionLens, bridge: Any) -> torch.Tensor:
    return bridge.original_model.with_images(torch.tensor([lens.text.encode(" big dog")] * 3))


@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_logits_and_tokens_of_the_lens(kind: str, tmp_path: Path) -> None:
    lens = random_lens(tmp_path, kind=kind, seed=2)
    bridge = image_bridge(lens)
    pixels = lens.vision.preprocessing(PICTURES)
    tokens = bridge.original_model.with_images(torch.tensor([lens.text.encode(" big dog")] * 3))
    prompt = lens.prompt(PICTURES, " big dog")
    torch.testing.assert_close(bridge(tokens, pixel_values=pixels), lens.logits(prompt), rtol=1e-4, atol=2e-5)
    out = bridge.generate(
        tokens, pixel_values=pixels, max_new_tokens=10, do_sample=False, stop_at_eos=False, verbose=False,
        return_type="tokens",
    )  # fmt: skip
    expected = lens.model.generate(
        prompt.tokens, max_new_tokens=10, do_sample=False, stop_at_eos=False, verbose=False, return_type="tokens",
        prepend_bos=False,
    )  # fmt: skip
    start = tokens.shape[1]
    assert torch.equal(out[:, start:], expected[:, start:])
    assert len({tuple(row) for row in out[:, start:].tolist()}) == 3


def test_loaded_from_a_saved_folder(lens: VisionLens, tokens: Any, pixels: Any, bridge: Any, tmp_path: Path) -> None:
    lens.save_pretrained(tmp_path / "lens")
    again = image_bridge(attach_vision(tmp_path / "lens"))
    assert torch.equal(again(tokens, pixel_values=pixels), bridge(tokens, pixel_values=pixels))


def test_hugging_faces_own_forward_and_generate(lens: VisionLens, tokens: Any, pixels: Any, bridge: Any) -> None:
    model = image_gpt_j(lens)
    logits = model(tokens, pixel_values=pixels).logits
    torch.testing.assert_close(logits, bridge(tokens, pixel_values=pixels), rtol=1e-4, atol=2e-5)
    out = model.generate(
        tokens, pixel_values=pixels, attention_mask=torch.ones_like(tokens), max_new_tokens=6, do_sample=False,
        pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    ours = bridge.generate(
        tokens, pixel_values=pixels, max_new_tokens=6, do_sample=False, stop_at_eos=False, verbose=False,
        return_type="tokens",
    )  # fmt: skip
    assert torch.equal(out, ours)


def test_hook_points_of_encoder_and_projection(lens: VisionLens, tokens: Any, pixels: Any, bridge: Any) -> None:
    """They fire, hold the lens's values, and edits made there reach the logits."""
    assert set(VISION_HOOKS) <= set(bridge.hook_dict)
    logits, cache = bridge.run_with_cache(tokens, pixel_values=pixels)
    features = lens.vision(pixels)
    assert features.shape == (3, SQUARE.n_patches, SQUARE.d_vision)
    torch.testing.assert_close(cache["vision_encoder.hook_in"], pixels)
    torch.testing.assert_close(cache["vision_encoder.hook_out"], features)
    torch.testing.assert_close(cache["vision_projection.hook_out"], lens.projection(features))
    torch.testing.assert_close(cache["blocks.0.hook_resid_pre"][:, : SQUARE.n_patches], lens.projection(features))
    for name in VISION_HOOKS:
        edited = bridge.run_with_hooks(
            tokens, pixel_values=pixels, fwd_hooks=[(name, lambda activation, hook: activation * 0.5)]
        )
        assert not torch.allclose(edited, logits, atol=1e-3), name


@pytest.mark.usefixtures("bridge")
def test_the_lens_is_left_alone_and_shares_its_weights(lens: VisionLens, tmp_path: Path) -> None:
    prompt = lens.prompt(PICTURES)
    before = lens.logits(prompt)
    other = image_gpt_j(lens)
    assert torch.equal(lens.logits(prompt), before)
    own = {p.data_ptr() for part in (lens.model, lens.vision, lens.projection) for p in part.parameters()}
    assert {p.data_ptr() for p in other.parameters()} <= own
    lens.save_pretrained(tmp_path / "still whole")


def test_text_alone(lens: VisionLens, bridge: Any) -> None:
    tokens = torch.tensor([lens.text.encode(" big red dog")])
    torch.testing.assert_close(bridge(tokens), lens.model(tokens), rtol=1e-4, atol=2e-5)


def test_pictures_and_placeholders_have_to_match(tokens: Any, pixels: Any, bridge: Any) -> None:
    with pytest.raises(ValueError, match=r"pixel_values .*placeholder 97\b"):
        bridge(tokens[:, SQUARE.n_patches :], pixel_values=pixels)
    with pytest.raises(ValueError, match=r"\b27 placeholders.* 2 pictures .* 2 x 9\b"):
        bridge(tokens, pixel_values=pixels[:2])
    with pytest.raises(ValueError, match=r"\b27 placeholders.* 0 pictures"):
        bridge(tokens)


def test_only_gpt_j(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"GPTJForCausalLM.* GPT2LMHeadModel"):
        image_bridge(random_lens(tmp_path, layout="gpt-2"))


def test_found_through_the_entry_point(
    lens: VisionLens, tokens: Any, pixels: Any, bridge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the package is installed: TransformerLens finds the adapter without any call of ours."""
    adapters = {k: v for k, v in ArchitectureAdapterFactory._adapters.items() if k != ARCHITECTURE}
    monkeypatch.setattr(ArchitectureAdapterFactory, "_adapters", adapters)
    monkeypatch.setattr(ArchitectureAdapterFactory, "_entry_points_discovered", False)
    group = "transformer_lens.architectures"
    found = EntryPoint(ARCHITECTURE, "lens_multimodal.pixel_values_gpt_j:ImageGptjArchitectureAdapter", group)
    monkeypatch.setattr(architecture_adapter_factory, "entry_points", lambda **_wanted: [found])
    model = image_gpt_j(lens)
    again = build_bridge_from_module(model, ARCHITECTURE, hf_config=model.config, tokenizer=lens.tokenizer)
    assert adapters[ARCHITECTURE] is pixel_values_gpt_j.ImageGptjArchitectureAdapter
    assert torch.equal(again(tokens, pixel_values=pixels), bridge(tokens, pixel_values=pixels))
