"""The paper's experiments, each as rows per picture, streamed, resumed, summarised and reported."""

from lens_multimodal.experiments.experiment import Context, Drawing, Experiment, Summary
from lens_multimodal.experiments.seeds import generator_for

__all__ = ["Context", "Drawing", "Experiment", "Summary", "generator_for"]
