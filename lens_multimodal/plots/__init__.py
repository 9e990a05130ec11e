"""Numbers in, figure out: nothing here runs a model, shows or saves anything."""

from lens_multimodal.plots.ablation import ablation_bands, ablation_curve
from lens_multimodal.plots.agreement import estimate_scatter
from lens_multimodal.plots.heat_map import depth_map, head_map, sweep_map
from lens_multimodal.plots.layers import attribution_scatter, layer_histogram
from lens_multimodal.plots.over_picture import (
    attention_over_picture,
    layers_over_picture,
    receptive_field_over_picture,
    values_over_picture,
)
from lens_multimodal.plots.overlay import heat_over_picture

__all__ = [
    "ablation_bands",
    "ablation_curve",
    "attention_over_picture",
    "attribution_scatter",
    "depth_map",
    "estimate_scatter",
    "head_map",
    "heat_over_picture",
    "layer_histogram",
    "layers_over_picture",
    "receptive_field_over_picture",
    "sweep_map",
    "values_over_picture",
]
