"""What `import lens_multimodal` imports beyond torch and transformer_lens."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

HEAVY = {"plotly", "timm", "torchvision", "accelerate", "pyarrow", "pycocotools", "typer", "fastapi", "jinja2"}

ALLOWED = {"lens_multimodal", "transformers", "PIL"}
"""Packages of which the library may import further parts; transformer_lens imports them in any case."""

LATER = """
import json, sys
import torch, transformer_lens, transformer_lens.model_bridge
before = set(sys.modules)
import lens_multimodal
for name in lens_multimodal.__all__:
    getattr(lens_multimodal, name)
from lens_multimodal import analysis, data, hooks, train
new = {name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(json.dumps(sorted(new)))
"""


def test_the_public_names_come_with_nothing_heavy():
    packages = set(_output(LATER))
    assert not HEAVY & packages
    assert packages <= ALLOWED


def test_the_guard_can_fail():
    packages = _output(LATER.replace("import lens_multimodal\n", "import lens_multimodal, plotly\n", 1))
    assert "plotly" in packages


def test_bare_import_waits_with_torch():
    code = "import json, sys, lens_multimodal; print(json.dumps(sorted(sys.modules)))"
    assert not {"torch", "transformer_lens", "numpy", "pandas"} & set(_output(code))


def test_rooms_are_reached_from_the_top():
    rooms = ("analysis", "arguments", "data", "hooks", "image", "prompt", "train", "transformer")
    code = f"import json, lens_multimodal as l; print(json.dumps([getattr(l, name).__name__ for name in {rooms}]))"
    assert _output(code) == [f"lens_multimodal.{name}" for name in rooms]


def _output(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
