"""Where a fit begins: a projection whose vectors look to the language model like its own token embeddings.

`nn.Linear`'s own start gives vectors many times longer than embeddings. The first norm hides the length, but not that
gradients shrink with it, and a learning rate that suits the one start is far off for the other.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lens_multimodal import transformer


@torch.no_grad()
def start_like_embeddings(
    linear: nn.Linear, model: nn.Module, features: Float[Tensor, "feature d_vision"], *, seed: int = 0
) -> nn.Linear:
    """Random weights for which these features become vectors with the mean and spread of `model`'s embeddings, as these
    are where the vectors go in (Gemma scales its table by the root of d_model).

    Args:
        linear: changed in place; it needs a bias.
        model: the TransformerLens language model.
        features: some of the encoder's image patches, as many as wanted; a few hundred will do.

    Returns: the same map.
    Raises: ValueError for a map without a bias, widths that do not fit, or features that do not vary.
    """
    embeddings = transformer.embeddings(model, slice(None)).float()
    widths = (linear.in_features, linear.out_features)
    if widths != (features.shape[1], embeddings.shape[1]):
        raise ValueError(
            f"the map goes from {widths[0]} to {widths[1]}, the features have width {features.shape[1]} and the "
            f"embeddings {embeddings.shape[1]}"
        )
    if linear.bias is None:
        raise ValueError("the map has no bias, so its vectors cannot have the embeddings' mean; use bias=True")
    given = features.detach().float().to(linear.weight.device)
    mean = given.mean(dim=0)
    spread = (given - mean).square().sum(dim=1).mean().sqrt()
    if not float(spread) > 0:
        raise ValueError(f"the {len(given)} features are all alike; give features of several pictures")
    centred = embeddings - embeddings.mean(dim=0)
    wanted = centred.square().sum(dim=1).mean().sqrt().to(spread)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(linear.weight.shape, generator=generator).to(linear.weight)
    linear.weight.copy_(weight * (wanted / (spread * math.sqrt(linear.out_features))))
    linear.bias.copy_(embeddings.mean(dim=0).to(linear.bias) - linear.weight @ mean.to(linear.weight))
    return linear
