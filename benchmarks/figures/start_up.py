"""Where `attach_vision()` spends its time in a new process: on importing its dependencies, and on the rest.

Every contender runs in a process of its own and reports its processor time. A first run of ours, which is not counted,
reads the files of all of them into memory.
"""

import statistics
import subprocess
import sys

from benchmarks.figure import OURS, Figure
from benchmarks.timing import Timing
from benchmarks.workbench import Workbench

GPT_J = "import torch; from transformers import GPTJForCausalLM"
BRIDGE = f"{GPT_J}; from transformer_lens.model_bridge import TransformerBridge"
BEIT = f"{BRIDGE}; from timm.models.beit import Beit"

CONTENDERS = {
    OURS: "from lens_multimodal import attach_vision; attach_vision()",
    "lens_multimodal, the import alone": "import lens_multimodal",
    "import of torch": "import torch",
    "and transformers' GPT-J": GPT_J,
    "and TransformerLens' bridge": BRIDGE,
    "and timm's BEiT: all that it is built on": BEIT,
}


def measure(bench: Workbench) -> list[Figure]:
    """Of the embedded trio only: other models take as long as their weights take to read."""
    if bench.shape != "tiny":
        return []
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    _in_a_new_process(CONTENDERS[OURS])
    for _ in range(bench.rounds):
        for name, code in CONTENDERS.items():
            seconds[name].append(_in_a_new_process(code))
    return [
        Figure(
            name="start-up",
            work="attach_vision() in a new process, imports included",
            timings={
                name: Timing(median=statistics.median(all_), lowest=min(all_), highest=max(all_), rounds=len(all_))
                for name, all_ in seconds.items()
            },
        )
    ]


def _in_a_new_process(code: str) -> float:
    """Processor time in seconds, from the interpreter's start."""
    measured = f"{code}; import time; print(time.process_time())"
    done = subprocess.run([sys.executable, "-c", measured], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])
