"""The paper's experiments: rows for each picture, streamed to disk, resumable, summarised over pictures.

`lens_multimodal.reproduction.reproduce` runs them; `lens_multimodal.views.report.write_report` writes the report.
"""

from lens_multimodal.experiments.experiment import Experiment
from lens_multimodal.experiments.registry import EXPERIMENTS
from lens_multimodal.experiments.run_results import Results
from lens_multimodal.experiments.shared.context import Context
from lens_multimodal.experiments.shared.summaries import Drawing, Summary, SummaryTable
from lens_multimodal.experiments.stream import Batching, DiskFull, SettingsChanged
from lens_multimodal.seeds import generator_for

__all__ = [
    "EXPERIMENTS",
    "Batching",
    "Context",
    "DiskFull",
    "Drawing",
    "Experiment",
    "Results",
    "SettingsChanged",
    "Summary",
    "SummaryTable",
    "generator_for",
]
