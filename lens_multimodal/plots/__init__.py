"""Numbers in, figure out: nothing here runs a model, shows or saves anything."""

from lens_multimodal.plots.ablation import ablation_curve
from lens_multimodal.plots.layers import layer_histogram
from lens_multimodal.plots.overlay import heat_over_picture

__all__ = ["ablation_curve", "heat_over_picture", "layer_histogram"]
