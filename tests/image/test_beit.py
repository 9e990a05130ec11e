"""timm's BEiT against `transformers.BeitModel`, with converted weights."""

import pytest
import torch
from transformers import BeitConfig, BeitForImageClassification, BeitForMaskedImageModeling, BeitModel

from lens_multimodal.image.beit import beit_from_huggingface, timm_beit, to_timm

LAYOUTS = {
    "pt22k": {"use_shared_relative_position_bias": True},
    "pt22k-ft22k": {"use_relative_position_bias": True},
    "both biases": {"use_relative_position_bias": True, "use_shared_relative_position_bias": True},
    "no bias": {},
    "absolute positions": {"use_absolute_position_embeddings": True, "use_relative_position_bias": True},
    "no layer scale": {"use_relative_position_bias": True, "layer_scale_init_value": 0.0},
}


NO_WEIGHTS = ("mask_token", "relative_position_index")
"""What encoding a whole picture does not need."""


def config(**layout) -> BeitConfig:
    return BeitConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=100, image_size=64, patch_size=16,
        vocab_size=10, attn_implementation="eager", **layout,
    )  # fmt: skip


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter random, those that start at zero or one included."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            one = 1.0 if parameter.ndim == 1 and "weight" in name else 0.0
            parameter.copy_(one + 0.15 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("mean_pooling", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_the_same_features_and_every_number_of_every_weight(layout, mean_pooling):
    theirs = randomised(BeitModel(config(use_mean_pooling=mean_pooling, **LAYOUTS[layout])))
    pixels = torch.randn(2, 3, 64, 64)
    expected = theirs(pixels).last_hidden_state
    ours = beit_from_huggingface(theirs)
    found = ours.forward_features(pixels)
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    kept = {name: own for name, own in theirs.state_dict().items() if not name.endswith(NO_WEIGHTS)}
    converted = to_timm(theirs.state_dict())
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in converted.items())
    before, after = (torch.cat([own.flatten() for own in state.values()]) for state in (kept, converted))
    assert torch.equal(before.sort().values, after.sort().values)


def test_every_weight_matters():
    """A converter that drops a weight would pass a comparison in which that weight is zero."""
    theirs = randomised(BeitModel(config(use_relative_position_bias=True, use_mean_pooling=False)))
    pixels = torch.randn(1, 3, 64, 64)
    expected = beit_from_huggingface(theirs).forward_features(pixels).detach()
    unused = ("mask_token", "pooler")
    for name, parameter in theirs.named_parameters():
        if any(part in name for part in unused):
            continue
        with torch.no_grad():
            before = parameter.clone()
            parameter.add_(torch.randn(parameter.shape))
            changed = beit_from_huggingface(theirs).forward_features(pixels)
            parameter.copy_(before)
        assert (changed - expected).abs().max() > 1e-3, name


@pytest.mark.parametrize(("width", "inner"), [(98, 2), (196, 4), (44, 9), (96, 93)])
def test_any_inner_width(width, inner):
    """timm is given a ratio and cuts off the fraction of the product."""
    own = BeitConfig(
        hidden_size=width, num_hidden_layers=1, num_attention_heads=2, intermediate_size=inner, image_size=32
    )
    assert timm_beit(own).blocks[0].mlp.fc1.out_features == inner


def test_other_non_linearities_are_refused():
    with pytest.raises(ValueError, match="'relu'"):
        timm_beit(BeitConfig(hidden_act="relu"))


def test_weights_of_something_else_are_refused():
    with pytest.raises(ValueError, match=r"'encoder\.layers\.0\.weight'"):
        to_timm({"encoder.layers.0.weight": torch.zeros(1)})
    model = BeitModel(config())
    model.layers = model.layers[:2] if hasattr(model, "layers") else model.encoder.layer[:2]
    with pytest.raises(ValueError, match=r"\['blocks\.2\."):
        beit_from_huggingface(model)


@pytest.mark.parametrize("saved_as", [BeitModel, BeitForMaskedImageModeling, BeitForImageClassification])
def test_a_saved_folder(saved_as, tmp_path):
    """LiMBeR's two checkpoints are a masked image model and a classifier; transformers writes older names."""
    from lens_multimodal.presets import load_vision

    whole = randomised(saved_as(config(use_shared_relative_position_bias=True)))
    whole.save_pretrained(tmp_path / "my-beit")
    theirs = whole if saved_as is BeitModel else whole.beit
    encoder = load_vision(str(tmp_path / "my-beit"))
    assert (encoder.name, encoder.d_vision, encoder.grid_h, encoder.grid_w) == ("my-beit", 48, 4, 4)
    assert encoder.preprocessing.height == 64
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(pixels).last_hidden_state[:, 1:]
        torch.testing.assert_close(encoder(pixels), expected, rtol=1e-5, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
