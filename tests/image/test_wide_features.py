"""Features wider than the encoder: what they are, and that a saved lens gives them back."""

import json
from typing import Any

import pytest
import torch
from timm.models.beit import Beit
from torch import nn

from lens_multimodal.image import encoder_config
from lens_multimodal.image.wide_features import build_beit, wide_features
from tests.lenses import PATCH, SQUARE

SIDE = SQUARE.height
LAYOUT = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": 12, "depth": 2, "num_heads": 2, "num_classes": 0,
          "global_pool": "", "init_values": 0.5}  # fmt: skip


def random_beit(features: int | None = None) -> Any:
    torch.manual_seed(0)
    beit = build_beit(**LAYOUT, features=features).eval()
    for parameter in beit.parameters():
        nn.init.normal_(parameter, std=0.3)
    return beit


def test_they_are_gelu_units_on_the_normalised_stream() -> None:
    wide, pixels = random_beit(30).double(), torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    assert wide_features(wide) == wide.num_features == 30
    plain = Beit(**LAYOUT).double().eval()
    assert wide_features(plain) is None
    plain.load_state_dict(
        {k.replace("norm.0.", "norm."): v for k, v in wide.state_dict().items() if "norm.1." not in k}
    )
    narrow = plain.forward_features(pixels)
    inner = narrow @ wide.norm[1].weight.T + wide.norm[1].bias
    expected = inner * (1 + torch.erf(inner / 2**0.5)) / 2
    torch.testing.assert_close(wide.forward_features(pixels), expected, rtol=1e-12, atol=1e-12)


def test_they_are_written_down_and_built_again() -> None:
    wide = random_beit(30)
    described = json.loads(json.dumps(encoder_config.describe(wide, height=SIDE, width=SIDE)))
    twin = encoder_config.build(described)
    twin.load_state_dict(wide.state_dict())
    pixels = torch.randn(2, 3, SIDE, SIDE)
    assert torch.equal(twin.forward_features(pixels), wide.forward_features(pixels))


@pytest.mark.parametrize("on_top", [[nn.ReLU()], [nn.Linear(12, 30), nn.ReLU()], [nn.Linear(12, 30)]])
def test_anything_else_on_top_is_not_taken_for_them(on_top: list[nn.Module]) -> None:
    changed = random_beit()
    changed.norm = nn.Sequential(changed.norm, *on_top)
    with pytest.raises(ValueError, match=r"Beit .*norm\."):
        encoder_config.describe(changed, height=SIDE, width=SIDE)
