"""Encoders: patches in their order, their grid, and LiMBeR's preprocessing."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models.volo import VOLO
from torch import nn
from torchvision import transforms
from transformers import BeitImageProcessorPil, CLIPImageProcessorPil

from lens_multimodal import Preprocessing, VisionEncoder
from lens_multimodal.presets.encoders import BEIT, CLIP, NF_RESNET, PooledGrid
from tests.lenses import encoder, picture


def small(name: str, **settings) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, num_classes=0, **settings).eval()


# --- features ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "grid", "n_prefix"),
    [
        ("vit_tiny_patch16_224", {"img_size": (32, 64), "depth": 1}, (2, 4), 1),
        ("deit3_small_patch16_224", {"img_size": 48, "depth": 1}, (3, 3), 1),
        ("deit_tiny_distilled_patch16_224", {"img_size": 48, "depth": 1}, (3, 3), 2),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 42, "depth": 1}, (3, 3), 5),
        ("beit_base_patch16_224", {"img_size": (32, 48), "depth": 1, "embed_dim": 24, "num_heads": 2}, (2, 3), 1),
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "depths": (1, 1, 1, 1), "window_size": 2}, (2, 2), 0),
    ],
)
@torch.no_grad()
def test_any_timm_transformer(name, settings, grid, n_prefix):
    module = small(name, **settings)
    found = VisionEncoder(module)
    assert (found.grid_h, found.grid_w) == grid
    assert found.d_vision == module.num_features
    pixels = torch.randn(2, 3, found.preprocessing.height, found.preprocessing.width)
    raw = module.forward_features(pixels)
    patches = raw.flatten(1, 2) if raw.ndim == 4 else raw[:, n_prefix:]
    assert torch.equal(found(pixels), patches)
    assert found(pixels).shape == (2, found.n_patches, found.d_vision)


@torch.no_grad()
def test_a_class_token_that_timm_does_not_count():
    module = VOLO(
        layers=[1, 1, 1, 1], img_size=(32, 64), num_classes=0, embed_dims=(24, 48, 48, 48), num_heads=(2, 2, 2, 2),
        post_layers=("ca", "ca"),
    ).eval()  # fmt: skip
    found = VisionEncoder(module, preprocessing=Preprocessing(height=32, width=64))
    assert (found.grid_h, found.grid_w, found.d_vision) == (2, 4, 48)
    pixels = torch.randn(1, 3, 32, 64)
    assert torch.equal(found(pixels), module.forward_features(pixels)[:, 1:])


@torch.no_grad()
def test_convolutions_of_any_shape():
    module = small("resnet10t")
    found = VisionEncoder(module, preprocessing=Preprocessing(height=33, width=320))
    grid = module.forward_features(torch.zeros(1, 3, 33, 320)).shape[2:]
    assert (found.grid_h, found.grid_w) == tuple(grid) == (2, 10)
    pixels = torch.randn(1, 3, 33, 320)
    raw = module.forward_features(pixels)
    assert torch.equal(found(pixels)[0, 13], raw[0, :, 1, 3])


@torch.no_grad()
def test_patches_go_row_by_row_from_the_top_left():
    """Changing one square of pixels changes its own patch embedding."""
    found = encoder()
    found.module.blocks = nn.Sequential()
    blank = torch.zeros(1, 3, 16, 24)
    for row in range(2):
        for col in range(3):
            pixels = blank.clone()
            pixels[..., 8 * row : 8 * row + 8, 8 * col : 8 * col + 8] = 1
            changed = (found(pixels) - found(blank)).abs().sum(-1)[0] > 1e-6
            assert changed.nonzero().tolist() == [[3 * row + col]]


@torch.no_grad()
def test_clip_resnet_of_limber():
    """The true layout of CLIP's RN50x16: 12 x 12 patches of 3072."""
    found = VisionEncoder(timm.create_model("resnet50x16_clip", pretrained=False), preprocessing=CLIP)
    assert (found.n_patches, found.d_vision, found.grid_h, found.grid_w) == (144, 3072, 12, 12)


@torch.no_grad()
def test_pooled_resnet_of_limber():
    module = timm.create_model("nf_resnet50", pretrained=False).eval()
    found = VisionEncoder(PooledGrid(module), preprocessing=Preprocessing(height=64, width=64))
    assert (found.n_patches, found.d_vision, found.grid_h, found.grid_w) == (1, 2048, 1, 1)
    pixels = torch.randn(2, 3, 64, 64)
    pooled = module.forward_head(module.forward_features(pixels), pre_logits=True)
    torch.testing.assert_close(found(pixels)[:, 0], pooled)
    assert (NF_RESNET.mean, NF_RESNET.std) == ((0, 0, 0), (1, 1, 1))


def test_any_module():
    patches = nn.Sequential(nn.Conv2d(3, 5, 4, stride=4), nn.Flatten(2))

    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = patches

        def forward(self, pixels):
            return self.inner(pixels).transpose(1, 2)

    found = VisionEncoder(Transposed(), preprocessing=Preprocessing(height=8, width=16), name="mine")
    assert (found.n_patches, found.d_vision, found.grid_h, found.grid_w) == (8, 5, 2, 4)
    as_grid = VisionEncoder(patches[0], preprocessing=Preprocessing(height=8, width=16))
    pixels = torch.randn(1, 3, 8, 16)
    assert torch.equal(found(pixels), as_grid(pixels))


def test_encoders_that_give_something_else():
    settings = Preprocessing(height=8, width=8)
    with pytest.raises(TypeError, match=r"Flatten .*\[batch, patch, d_vision\].* \[1, 192\]$"):
        VisionEncoder(nn.Flatten(), preprocessing=settings)
    with pytest.raises(TypeError, match="got list"):
        VisionEncoder(small("crossvit_9_240"))
    with pytest.raises(ValueError, match=r"Conv2d .*VisionEncoder\(module, preprocessing="):
        VisionEncoder(nn.Conv2d(3, 4, 1))


def test_precision_of_the_encoder():
    half = encoder(torch.bfloat16)
    assert half.features([picture()]).dtype == torch.bfloat16
    assert torch.equal(encoder().features([picture()]), encoder().features([picture()]))


# --- preprocessing -----------------------------------------------------------------------------------------

SIZES = [(640, 480), (37, 501), (224, 224), (1, 1), (100, 80)]


def photo(width: int, height: int) -> Image.Image:
    """Smooth and patterned parts, so that every resampling leaves a difference."""
    y, x = np.mgrid[:height, :width]
    channels = [np.sin(x / 9) * 127 + 128, np.cos(x * y / 997) * 127 + 128, (x + y) % 256]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


@pytest.mark.parametrize("size", SIZES)
def test_beit_is_squashed_as_limber_does(size):
    theirs = BeitImageProcessorPil(
        size={"height": 224, "width": 224}, resample=Image.Resampling.BILINEAR, do_center_crop=False,
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip
    expected = theirs(photo(*size), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(BEIT([photo(*size)]), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_clip_is_resized_and_cropped(size):
    """As CLIP's own code does; Hugging Face's centre is one pixel off where the margin is odd."""
    clip = transforms.Compose(
        [
            transforms.Resize(384, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(384),
            transforms.ToTensor(),
            transforms.Normalize(CLIP.mean, CLIP.std),
        ]
    )
    torch.testing.assert_close(CLIP([photo(*size)])[0], clip(photo(*size)), rtol=0, atol=1e-6)
    theirs = CLIPImageProcessorPil(size={"shortest_edge": 384}, crop_size={"height": 384, "width": 384})
    if size != (37, 501):
        expected = theirs(photo(*size), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(CLIP([photo(*size)]), expected, rtol=0, atol=1e-5)


def test_squash_differs_from_what_timm_publishes():
    published = Preprocessing.of_timm(small("beit_base_patch16_224", depth=1, embed_dim=24, num_heads=2))
    assert (published.crop_mode, published.interpolation, published.crop_pct) == ("center", "bicubic", 0.9)
    assert (published([photo(640, 480)]) - BEIT([photo(640, 480)])).abs().mean() > 0.1


def test_timm_model_of_another_size_than_published():
    assert Preprocessing.of_timm(small("vit_tiny_patch16_224", img_size=(32, 64), depth=1)).height == 32
    assert Preprocessing.of_timm(small("vit_tiny_patch16_224", img_size=(32, 64), depth=1)).width == 64
    assert Preprocessing.of_timm(small("resnet10t")).height == 176


def test_preprocessing_round_trip_and_changes():
    assert Preprocessing.from_json(CLIP.to_json()) == CLIP
    squashed = encoder().with_preprocessing(interpolation="bicubic")
    assert squashed.preprocessing == Preprocessing(height=16, width=24, interpolation="bicubic")
    with pytest.raises(ValueError, match="colour"):
        Preprocessing.from_json({**CLIP.to_json(), "colour": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 0}, r"\b0 x 8\b"),
        ({"crop_mode": "middle"}, "crop_mode.* squash.* 'middle'$"),
        ({"crop_pct": 0.0}, r"crop_pct.*\(0, 1\].* 0\.0$"),
        ({"crop_pct": 1.5}, r"crop_pct.* 1\.5$"),
    ],
)
def test_preprocessing_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**{"height": 8, "width": 8, **settings})
