"""What `import lens_multimodal` imports beyond torch and transformer_lens."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

HEAVY = {"plotly", "timm", "torchvision", "accelerate", "pyarrow", "pycocotools", "typer", "fastapi", "jinja2"}

ALLOWED = {"lens_multimodal", "transformers", "PIL"}
"""Packages of which the library may import further parts; transformer_lens imports them in any case."""

ROOMS = ("analysis", "arguments", "data", "hooks", "image", "prompt", "train", "transformer")

LATER = """
import json, sys
import torch, transformer_lens, transformer_lens.model_bridge
before = set(sys.modules)
import lens_multimodal
for name in lens_multimodal.__all__:
    getattr(lens_multimodal, name)
from lens_multimodal import analysis, data, hooks, train
new = lambda: sorted({name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))
found = {"library": new()}
found["rooms"] = [getattr(lens_multimodal, name).__name__ for name in ROOMS]
import plotly
found["library and plotly"] = new()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def later():
    return _output(LATER.replace("ROOMS", str(ROOMS)))


def test_the_public_names_come_with_nothing_heavy(later):
    packages = set(later["library"])
    assert not HEAVY & packages
    assert packages <= ALLOWED


def test_the_guard_can_fail(later):
    assert "plotly" in later["library and plotly"]


def test_bare_import_waits_with_torch():
    code = "import json, sys, lens_multimodal; print(json.dumps(sorted(sys.modules)))"
    assert not {"torch", "transformer_lens", "numpy", "pandas"} & set(_output(code))


def test_rooms_are_reached_from_the_top(later):
    assert later["rooms"] == [f"lens_multimodal.{name}" for name in ROOMS]


def _output(code: str) -> Any:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
