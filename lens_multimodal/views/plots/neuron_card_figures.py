"""The parts of a neuron card as figures."""

import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from lens_multimodal.neuron_card import NeuronCard
from lens_multimodal.views.plots.over_picture import receptive_field_over_picture, values_over_picture


def activation_figure(card: NeuronCard) -> go.Figure:
    """The neuron's activation at each image patch, over the picture."""
    return _over_picture(card, card.activations, label="activation")


def attribution_figure(card: NeuronCard) -> go.Figure:
    """The neuron's attribution at each image patch, over the picture."""
    return _over_picture(card, card.attribution, label="attribution (logits)", signed=True)


def receptive_field_figure(card: NeuronCard) -> go.Figure:
    """The upsampled activation with the receptive field outlined."""
    return receptive_field_over_picture(card.picture, card.field.heat, card.field.threshold)


def _over_picture(
    card: NeuronCard, values: Float[Tensor, " image_pos"], *, label: str, signed: bool = False
) -> go.Figure:
    """Values at the finest of the image's grids."""
    grid = card.layout.grids[0]
    assert grid.geometry is not None
    on_grid = values[list(grid.indices)].reshape(grid.grid_h, grid.grid_w)
    return values_over_picture(card.picture, on_grid, grid.geometry, label=label, signed=signed)
