"""The optimizers of a projection's weight and bias."""

import torch
from torch import nn


def optimizers_of(
    linear: nn.Linear, *, learning_rate: float, muon_rate: float | None, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """AdamW for weight and bias; with a `muon_rate`, Muon (Jordan et al. 2024) for the weight and AdamW for the bias.

    Raises: ImportError if this torch has no Muon.
    """
    if muon_rate is None:
        return [torch.optim.AdamW(linear.parameters(), lr=learning_rate, weight_decay=weight_decay)]
    if not hasattr(torch.optim, "Muon"):
        raise ImportError(f"muon_rate needs torch 2.9 or later, got {torch.__version__}; use None for AdamW")
    muon = torch.optim.Muon([linear.weight], lr=muon_rate, weight_decay=weight_decay, adjust_lr_fn="original")
    if linear.bias is None:
        return [muon]
    return [muon, torch.optim.AdamW([linear.bias], lr=learning_rate, weight_decay=weight_decay)]
