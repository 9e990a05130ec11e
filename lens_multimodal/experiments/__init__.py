"""The paper's experiments, each as rows per picture, streamed, resumed, summarised and reported."""

from lens_multimodal.experiments.experiment import Context, Drawing, Experiment, Summary
from lens_multimodal.experiments.registry import EXPERIMENTS
from lens_multimodal.experiments.results import Results
from lens_multimodal.experiments.stream import DiskFull, Pace, SettingsChanged
from lens_multimodal.reproduction import reproduce
from lens_multimodal.seeds import generator_for
from lens_multimodal.short_report import short_report
from lens_multimodal.views.report import write_report

__all__ = [
    "EXPERIMENTS",
    "Context",
    "DiskFull",
    "Drawing",
    "Experiment",
    "Pace",
    "Results",
    "SettingsChanged",
    "Summary",
    "generator_for",
    "reproduce",
    "short_report",
    "write_report",
]
