"""Neurons over the picture: which pixels an image patch shows, and where a neuron is active."""

from lens_multimodal.analysis.image.geometry import Box, ImageGeometry
from lens_multimodal.analysis.image.receptive_field import (
    ReceptiveField,
    intersection_over_union,
    neuron_activations,
    receptive_field,
)

__all__ = [
    "Box",
    "ImageGeometry",
    "ReceptiveField",
    "intersection_over_union",
    "neuron_activations",
    "receptive_field",
]
