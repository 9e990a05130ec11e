"""Numbers in, figures out: nothing here runs a model, shows or saves anything."""

from lens_multimodal.views.plots.ablation_curve import ablation_bands, ablation_curve
from lens_multimodal.views.plots.estimated_effects import estimate_scatter
from lens_multimodal.views.plots.heat_map import depth_map, head_map, sweep_map
from lens_multimodal.views.plots.heated_picture import heat_over_picture
from lens_multimodal.views.plots.layer_bars import attribution_scatter, layer_histogram
from lens_multimodal.views.plots.neuron_card_figures import (
    activation_figure,
    attribution_figure,
    receptive_field_figure,
)
from lens_multimodal.views.plots.over_picture import (
    attention_over_picture,
    layers_over_picture,
    values_over_picture,
)
from lens_multimodal.views.plots.receptive_field_outline import receptive_field_over_picture

__all__ = [
    "ablation_bands",
    "ablation_curve",
    "activation_figure",
    "attention_over_picture",
    "attribution_figure",
    "attribution_scatter",
    "depth_map",
    "estimate_scatter",
    "head_map",
    "heat_over_picture",
    "layer_histogram",
    "layers_over_picture",
    "receptive_field_figure",
    "receptive_field_over_picture",
    "sweep_map",
    "values_over_picture",
]
