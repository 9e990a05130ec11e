"""Random neurons to compare with: the paper's control (section 3.3)."""

import pandas as pd
import torch
from torch import nn

from lens_multimodal import transformer
from lens_multimodal.arguments.boundary import ArgumentValueError, public
from lens_multimodal.arguments.units import Neurons, read_neurons


@public
def random_neurons_like(model: nn.Module, neurons: Neurons, generator: torch.Generator) -> pd.DataFrame:
    """The matched control: in each layer as many random neurons as were given, none of them among those given.

    Args: generator: a CPU generator; its state decides the draw.
    Returns: a table with columns `layer` and `neuron`.
    Raises: ValueError if a layer has too few other neurons to draw from; and as `ablate`.
    """
    d_mlp = transformer.shape(model).d_mlp
    rows: list[tuple[int, int]] = []
    for layer, given in read_neurons(model, neurons).items():
        others = torch.ones(d_mlp, dtype=torch.bool)
        others[given.cpu()] = False
        candidates = others.nonzero().flatten()
        if len(candidates) < len(given):
            raise ArgumentValueError(
                f"layer {layer}: {len(given)} of {d_mlp} neurons are given, which leaves only "
                f"{len(candidates)} to draw a control from; give at most half of a layer's neurons",
                "neurons",
            )
        drawn = candidates[torch.randperm(len(candidates), generator=generator)[: len(given)]]
        rows.extend((layer, neuron) for neuron in drawn.tolist())
    return pd.DataFrame(rows, columns=["layer", "neuron"])
