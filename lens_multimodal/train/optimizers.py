"""What moves a projection's weights."""

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from lens_multimodal.train.fit import FitSettings


def optimizers_of(linear: nn.Linear, settings: "FitSettings") -> list[torch.optim.Optimizer]:
    """AdamW for weight and bias; with a `muon_rate`, Muon (Jordan et al. 2024) for the weight and AdamW for the bias.

    Raises: ImportError if this torch has no Muon.
    """
    decay = settings.weight_decay
    if settings.muon_rate is None:
        return [torch.optim.AdamW(linear.parameters(), lr=settings.learning_rate, weight_decay=decay)]
    if not hasattr(torch.optim, "Muon"):
        raise ImportError(f"muon_rate needs torch 2.9 or later, this is {torch.__version__}; leave it None for AdamW")
    muon = torch.optim.Muon([linear.weight], lr=settings.muon_rate, weight_decay=decay, adjust_lr_fn="original")
    if linear.bias is None:
        return [muon]
    return [muon, torch.optim.AdamW([linear.bias], lr=settings.learning_rate, weight_decay=decay)]
