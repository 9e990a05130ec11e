"""All experiments, in the order of the report."""

from lens_multimodal.experiments.causal import Causal
from lens_multimodal.experiments.controls import Controls
from lens_multimodal.experiments.depth import Depth
from lens_multimodal.experiments.discovery import Discovery
from lens_multimodal.experiments.experiment import Experiment
from lens_multimodal.experiments.faithfulness import Faithfulness
from lens_multimodal.experiments.follow_ups import FollowUps
from lens_multimodal.experiments.projection import Projection
from lens_multimodal.experiments.selectivity import Selectivity

_ALL: tuple[Experiment, ...] = (
    Projection(),
    Discovery(),
    Selectivity(),
    Causal(),
    Depth(),
    Faithfulness(),
    Controls(),
    FollowUps(),
)

EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in _ALL}
"""By name, as in `--only NAME`."""
