"""All experiments, in the order of the report."""

from lens_multimodal.experiments.causal import Causal
from lens_multimodal.experiments.experiment import Experiment

EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in (Causal(),)}
"""By name, as in `--only NAME`."""
