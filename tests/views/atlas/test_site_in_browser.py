"""The search of the site in a real browser, from the disk."""

import pytest

from tests.atlas.atlas_world import atlas_of, world_scenes
from tests.browser import chromium, needs_browser
from tests.lenses import random_lens

pytestmark = [*needs_browser, pytest.mark.newest]


def test_the_search_finds_words_categories_layers_and_names(tmp_path):
    from lens_multimodal.views.atlas import write_site

    scenes = world_scenes(tmp_path / "pictures", 9)
    atlas = atlas_of(random_lens(tmp_path), scenes, tmp_path / "out", layers=[0, 2])
    index = write_site(atlas, scenes, tmp_path / "site", progress=False)
    with chromium(size="1000,800") as browser:

        def found(query: str, layer: str = "") -> set[str]:
            browser.get(index.as_uri())
            browser.find_element("id", "layer").send_keys(layer or "all layers")
            browser.find_element("id", "query").send_keys(query)
            return {link.text for link in browser.find_elements("css selector", "#found a")}

        cats = atlas.neurons[atlas.neurons["category"] == "cat"]
        assert found("cat") >= {f"L{row.layer} N{row.neuron}" for row in cats.itertuples()}
        assert found("l2n7") == {"L2 N7"}
        assert found("", layer="2") == {f"L2 N{n}" for n in range(40)}
        browser.get("about:blank")
        browser.get(f"{index.as_uri()}#l2n3")
        browser.get(f"{index.as_uri()}#l0n3")
        browser.find_element("css selector", "#found a").click()
        assert browser.title == "Layer 0, neuron 3"
        pictures = browser.find_elements("css selector", ".pic img")
        assert len(pictures) == 4
        assert all(browser.execute_script("return arguments[0].naturalWidth", picture) for picture in pictures)
        assert browser.get_log("browser") == []
