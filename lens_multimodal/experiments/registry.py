"""All experiments, in the order of the report. To add one, write a module in this package and enter it here."""

from typing import Any

from lens_multimodal.experiments.causal import Causal
from lens_multimodal.experiments.controls import Controls
from lens_multimodal.experiments.depth import Depth
from lens_multimodal.experiments.discovery import Discovery
from lens_multimodal.experiments.experiment import Experiment
from lens_multimodal.experiments.follow_ups import FollowUps
from lens_multimodal.experiments.image_prompts_as_words import Projection
from lens_multimodal.experiments.score_faithfulness import Faithfulness
from lens_multimodal.experiments.selectivity import Selectivity

_ALL: tuple[Experiment[Any], ...] = (
    Projection(),
    Discovery(),
    Selectivity(),
    Causal(),
    Depth(),
    Faithfulness(),
    Controls(),
    FollowUps(),
)

EXPERIMENTS: dict[str, Experiment[Any]] = {experiment.name: experiment for experiment in _ALL}
"""By name, as in `--only NAME`."""
