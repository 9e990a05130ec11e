"""The optimizers of a projector's weights."""

import torch
from torch import nn


def optimizers_of(
    projector: nn.Module, *, learning_rate: float, muon_rate: float | None, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """AdamW for all weights; with a `muon_rate`, Muon (Jordan et al. 2024) for matrices and AdamW for the others.

    Raises: ImportError if this torch has no Muon.
    """
    if muon_rate is None:
        return [torch.optim.AdamW(projector.parameters(), lr=learning_rate, weight_decay=weight_decay)]
    if not hasattr(torch.optim, "Muon"):
        raise ImportError(f"muon_rate needs torch 2.9 or later, got {torch.__version__}; use None for AdamW")
    matrices = [weight for weight in projector.parameters() if weight.ndim == 2]
    others = [weight for weight in projector.parameters() if weight.ndim != 2]
    muon = torch.optim.Muon(matrices, lr=muon_rate, weight_decay=weight_decay, adjust_lr_fn="original")
    return [muon, torch.optim.AdamW(others, lr=learning_rate, weight_decay=weight_decay)] if others else [muon]
