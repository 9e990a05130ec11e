"""The parts of a neuron card as figures."""

import plotly.graph_objects as go

from lens_multimodal.neuron_card import NeuronCard
from lens_multimodal.views.plots.over_picture import values_over_picture
from lens_multimodal.views.plots.receptive_field_outline import receptive_field_over_picture


def activation_figure(card: NeuronCard) -> go.Figure:
    """The neuron's activation at each image patch, over the picture; each patch grid has a panel."""
    return values_over_picture(card.picture, card.activations, card.layout, label="activation")


def attribution_figure(card: NeuronCard) -> go.Figure:
    """The neuron's attribution at each image patch, over the picture; each patch grid has a panel."""
    return values_over_picture(card.picture, card.attribution, card.layout, label="attribution (logits)", signed=True)


def receptive_field_figure(card: NeuronCard) -> go.Figure:
    """The upsampled activation with the receptive field outlined."""
    return receptive_field_over_picture(card.picture, card.field.heat, card.field.threshold)
