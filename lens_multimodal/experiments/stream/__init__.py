"""Pictures in, rows out: written in whole parts, continued after any interruption, merged into the same tables."""

from lens_multimodal.experiments.stream.streaming import Batching, stream
from lens_multimodal.files import SettingsChanged
from lens_multimodal.runs.disk_full import DiskFull

__all__ = ["Batching", "DiskFull", "SettingsChanged", "stream"]
