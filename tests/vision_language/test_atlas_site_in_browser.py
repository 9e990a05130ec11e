"""The site of an atlas of a model that cuts tiles, opened from the disk: links, pictures, and the outlined patches."""

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium.webdriver.support.ui import WebDriverWait

from lens_multimodal import attach_vision
from lens_multimodal.atlas import AtlasSettings, build_atlas
from lens_multimodal.views.atlas import write_site
from tests.browser import chromium, needs_browser
from tests.vision_language.models import build
from tests.vision_language.pictures import scenes_of_several_sizes

pytestmark = [*needs_browser, pytest.mark.newest]

EAGER = "for (const image of document.images) image.loading = 'eager'"
LOADED = "return [...document.images].every((image) => image.complete)"

OUTLINES = """
return [...document.querySelectorAll(".pic")].map((place) => {
  const [whole, own] = [place.querySelector("img"), place.querySelector(".cell")].map((n) => n.getBoundingClientRect());
  return [place.querySelector("img").naturalWidth, (own.left - whole.left) / whole.width,
          (own.top - whole.top) / whole.height, (own.right - whole.left) / whole.width,
          (own.bottom - whole.top) / whole.height];
});
"""
"""Of each picture: its own width, then left, top, right and bottom of the outline as shares of the picture."""


@pytest.mark.parametrize("family", ["llava-next", "llama-4"])
def test_from_the_index_to_each_neuron(family, tmp_path):
    model, processor = build(family, tmp_path)
    lens = attach_vision(model, processor=processor)
    scenes = scenes_of_several_sizes(tmp_path / "pictures", 9)
    settings = AtlasSettings(quantile=0.9, n_calibration=9, n_top=5)
    atlas = build_atlas(lens, scenes, tmp_path / "out", settings=settings, progress=False)
    index = write_site(atlas, scenes, n_neurons=10, progress=False)
    with chromium(size="1000,800") as browser:

        def links(selector: str) -> list[str]:
            return [link.get_attribute("href") for link in browser.find_elements("css selector", selector)]

        browser.get(index.as_uri())
        assert str(len(atlas.neurons)) in browser.find_element("tag name", "main").text
        neurons = links("#found a")
        assert len(neurons) == 10
        lists = {link for link in links("main a") if "/concept/" in link or "/layer/" in link}
        assert len({link for link in lists if "/concept/" in link}) == 2
        for page in lists:
            browser.get(page)
            assert set(links("table a")) <= set(neurons)
            assert links("table a")
        for page in neurons:
            browser.get(page)
            layer, neuron = map(int, browser.title.removeprefix("Layer ").split(", neuron "))
            rows = atlas.neuron(layer, neuron).patches
            browser.execute_script(EAGER)
            WebDriverWait(browser, 600).until(lambda _: browser.execute_script(LOADED))
            outlines = browser.execute_script(OUTLINES)
            assert len(outlines) == len(rows) == 5
            for (width, *corners), row in zip(outlines, rows.itertuples(), strict=True):
                assert width > 0
                scale = [row.width, row.height] * 2
                box = [
                    edge / size for edge, size in zip((row.left, row.top, row.right, row.bottom), scale, strict=True)
                ]
                # An outline may lie beyond its patch by its line.
                assert corners == pytest.approx(box, abs=0.05)
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
