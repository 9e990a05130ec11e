"""Activations of neurons at every position of a prompt, image patches and words side by side."""

from collections.abc import Sequence

import pandas as pd
from torch import nn

from lens_multimodal.analysis.receptive_fields import neuron_activations
from lens_multimodal.arguments.units import Neurons, read_neuron_pairs
from lens_multimodal.image.layout import NO_PATCH
from lens_multimodal.prompt.image_prompt import ImagePrompt


def activation_table(model: nn.Module, prompt: ImagePrompt, neurons: Neurons, *, names: Sequence[str]) -> pd.DataFrame:
    """One row for each neuron and position of a prompt of one row.

    Args: names: what stands at each position, for people.
    Returns, Raises: as `VisionLens.activations`.
    """
    prompt.check_one_row()
    pairs = read_neuron_pairs(model, neurons)
    activations = neuron_activations(model, prompt.tokens, neurons)[0].cpu()
    image_of = {
        pos: (number, *(span.image.cell(index) or NO_PATCH))
        for number, span in enumerate(prompt.spans[0])
        for index, pos in enumerate(span.positions)
    }
    places = [(pos, names[pos], *image_of.get(pos, (-1, *NO_PATCH))) for pos in range(len(names))]
    rows = [
        (layer, neuron, *place, float(value))
        for (layer, neuron), own in zip(pairs, activations, strict=True)
        for place, value in zip(places, own, strict=True)
    ]
    return pd.DataFrame(rows, columns=["layer", "neuron", "pos", "token", "image", "row", "col", "activation"])
