"""Features wider than the encoder: the hidden layer of the head that self-supervised training puts on top.

The head is usually thrown away. Chen et al. 2020 ("Big Self-Supervised Models", section 2) keep its first layer, and so
does the tiny trio, for another reason: its encoder is so narrow that one linear map cannot tell the drawings of one
noun from those of all others, though the features hold what is needed.
"""

from typing import Any

from torch import nn


def with_wide_features(beit: Any, features: int) -> nn.Module:
    """Let `forward_features` of a timm `Beit` end in `features` GELU units on its normalised stream."""
    beit.norm = nn.Sequential(beit.norm, nn.Linear(beit.embed_dim, features), nn.GELU())
    beit.num_features = features
    return beit


def wide_features(beit: Any) -> int | None:
    """The number of units that `with_wide_features` put on top; None if it did not."""
    on_top = list(beit.norm) if isinstance(beit.norm, nn.Sequential) else []
    return on_top[1].out_features if len(on_top) == 3 and isinstance(on_top[1], nn.Linear) else None
