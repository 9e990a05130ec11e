"""The figures, by name, in the order they are run."""

from collections.abc import Callable

from benchmarks.figure import Figure
from benchmarks.figures import (
    ablation,
    attaching,
    attribution,
    caption,
    decoding,
    discovery,
    growth,
    image_prompt,
    patching,
    precision,
    start_up,
    stream,
)
from benchmarks.workbench import Workbench

FIGURES: dict[str, Callable[[Workbench], list[Figure]]] = {
    "attaching": attaching.measure,
    "image_prompt": image_prompt.measure,
    "caption": caption.measure,
    "attribution": attribution.measure,
    "ablation": ablation.measure,
    "decoding": decoding.measure,
    "patching": patching.measure,
    "discovery": discovery.measure,
    "stream": stream.measure,
    "growth": growth.measure,
    "precision": precision.measure,
    "start_up": start_up.measure,
}
