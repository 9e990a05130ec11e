"""Every demo runs from top to bottom, without a display or a network.

They share a kernel, whose names are cleared before each: a kernel of its own would import everything anew.
"""

import os
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

DEMOS = Path(__file__).parents[2] / "demos"
NOTEBOOKS = sorted(DEMOS.glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


@pytest.fixture(scope="module")
def kernel():
    manager = pytest.importorskip("jupyter_client").KernelManager()
    pytest.importorskip("ipykernel")
    paths = [os.fspath(DEMOS.parent), os.environ.get("PYTHONPATH", "")]
    own = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    manager.start_kernel(env={**os.environ, **own})
    yield manager
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


@pytest.mark.slow
def test_it_runs_and_holds_what_it_asserts(notebook, kernel, tmp_path):
    client = pytest.importorskip("nbclient")
    notebook.cells.insert(0, nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {tmp_path}"))
    run = client.NotebookClient(notebook, km=kernel, timeout=None, startup_timeout=3600)
    run.execute()
    run.kc.stop_channels()


def test_it_is_valid_and_small(notebook):
    nbformat.validate(notebook)
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 2_000_000
    assert len(nbformat.writes(notebook)) < 300_000
    assert notebook.metadata.kernelspec.name == "python3"


def test_it_is_committed_without_outputs(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in code)
    assert all(cell.execution_count is None for cell in code)


def test_it_asserts_something(notebook):
    assert sum("assert " in cell.source for cell in notebook.cells if cell.cell_type == "code") >= 3


def test_it_names_the_line_to_change_for_a_real_model(notebook):
    said = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert any(re.search(r"\*\*.*one line.*(GPT-J|LLaVA)", text, re.S) for text in said)


def test_it_names_no_path_of_a_machine(notebook):
    text = "\n".join(cell.source for cell in notebook.cells)
    assert not re.search(r"(?<![\w.~\"'])/(?:home|work|tmp|root)/", text)


def test_its_figures_stay_in_an_html_export(notebook):
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    draws = re.search(
        r"^(?:import plotly\.(?!io)|from plotly|from lens_multimodal\.views(?:\.plots)? import)", source, re.M
    )
    assert not draws or 'pio.renderers.default = "plotly_mimetype+notebook"' in source


def test_there_are_twelve():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{number:02}" for number in range(1, 13)]
