"""A notebook's figures and cards stay in its HTML export, as `nbconvert` makes it.

`nbconvert` is not a dependency: the test runs where it is installed.
"""

import os
import re
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium.webdriver.support.ui import WebDriverWait

from tests.browser import chromium, needs_browser

nbformat = pytest.importorskip("nbformat")
nbconvert = pytest.importorskip("nbconvert", reason="nbconvert is not installed: no HTML export was tried")
client = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

pytestmark = needs_browser

DEMOS = Path(__file__).parents[2] / "demos"
FIGURE = """
from lens_multimodal import attach_vision
from lens_multimodal.views.plots import attribution_scatter
import pandas as pd
found = pd.DataFrame({"layer": [0, 1, 2], "neuron": [3, 1, 2], "attribution": [0.5, -0.1, 0.2], "tokens": [["a"]] * 3})
attribution_scatter(found, n_layers=3, d_mlp=4)
"""
CARD = """
from pathlib import Path
from lens_multimodal.data import read_coco
from lens_multimodal.tiny import scenes_folder
attach_vision().show((0, 3), pictures=[scene.open() for scene in read_coco(scenes_folder())[:2]])
"""


def renderer_of_the_demos() -> str:
    """The line that every demo with figures has."""
    lines = set()
    for path in sorted(DEMOS.glob("*.ipynb")):
        source = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
        lines |= set(re.findall(r"^pio\.renderers\.default = .*$", source, re.M))
    [line] = lines
    return line


def exported(folder: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "p"}})
    resources = {"metadata": {"path": os.fspath(folder)}}
    client.NotebookClient(notebook, timeout=None, startup_timeout=3600, resources=resources).execute()
    text, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    path = folder / "exported.html"
    path.write_text(text, encoding="utf-8")
    return path


def test_figures_and_cards_stay_in_the_export(tmp_path, monkeypatch):
    paths = [os.fspath(DEMOS.parent), os.environ.get("PYTHONPATH", "")]
    for name, value in {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}.items():
        monkeypatch.setenv(name, value)
    page = exported(tmp_path, f"import plotly.io as pio\n{renderer_of_the_demos()}", FIGURE, CARD)
    with chromium(size="1100,900") as browser:
        browser.get(page.as_uri())
        drawn = ".js-plotly-plot .scatterlayer .point, .js-plotly-plot canvas"
        assert WebDriverWait(browser, 600).until(lambda at: at.find_elements("css selector", drawn))
        card = browser.find_element("css selector", ".lens-multimodal")
        assert "Layer 0, neuron 3" in card.text
        pictures = card.find_elements("tag name", "img")
        assert pictures
        assert all(picture.get_property("naturalWidth") > 0 for picture in pictures)
