"""Features wider than the encoder: the hidden layer of the head that self-supervised training puts on top.

The head is usually discarded. Chen et al. 2020 ("Big Self-Supervised Models", section 2) keep its first layer. So does
the tiny trio, for another reason: its encoder is so narrow that one linear map cannot separate the drawings of one noun
from all others, although the features contain what is needed.
"""

from typing import Any

from torch import nn


def build_beit(*, features: int | None = None, **options: Any) -> nn.Module:
    """timm's `Beit(**options)`; its `forward_features` ends in `features` GELU units on its normalised stream.

    With None it ends in the stream, as timm's own does.
    """
    from timm.models.beit import Beit

    beit: Any = Beit(**options)
    if features is not None:
        beit.norm = nn.Sequential(beit.norm, nn.Linear(beit.embed_dim, features), nn.GELU())
        beit.num_features = features
    return beit


def wide_features(beit: Any) -> int | None:
    """The number of units that `build_beit` put on top; None if it did not."""
    on_top = list(beit.norm) if isinstance(beit.norm, nn.Sequential) else []
    return on_top[1].out_features if len(on_top) == 3 and isinstance(on_top[1], nn.Linear) else None
