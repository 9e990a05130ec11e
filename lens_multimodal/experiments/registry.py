"""All experiments, in the order of the report."""

from lens_multimodal.experiments.experiment import Experiment

EXPERIMENTS: dict[str, Experiment] = {}
"""By name, as in `--only NAME`."""
