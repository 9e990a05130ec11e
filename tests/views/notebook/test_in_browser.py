"""In a real browser: pointing at an image patch shows it, pages fetch nothing, text is legible in dark and light."""

from pathlib import Path

import pytest

from lens_multimodal.views.notebook import save_html
from tests.browser import chromium, needs_browser, webdriver
from tests.lenses import picture
from tests.views.plots.contrast import contrast

pytestmark = needs_browser


@pytest.fixture(scope="module", params=["light", "dark"])
def browser(request):
    with chromium(size="1100,900") as driver:
        driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": request.param}]}
        )
        yield driver


def opened(browser, thing, path: Path) -> None:
    browser.get(save_html(thing, path).as_uri())
    assert browser.get_log("browser") == []
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []


def shown(browser, selector: str) -> list:
    return [e for e in browser.find_elements("css selector", selector) if e.is_displayed()]


def test_pointing_at_a_patch_shows_it(browser, lens, tmp_path):
    prompt = lens.prompt(picture(), " dog")
    opened(browser, prompt, tmp_path / "prompt.html")
    assert shown(browser, ".detail") == []
    assert len(shown(browser, ".hint")) == 1
    pos = int(prompt.image_pos[0, 3])
    for target in (f".cell.p{pos}", f".strip .p{pos}"):
        webdriver.ActionChains(browser).move_to_element(browser.find_element("css selector", target)).perform()
        (detail,) = shown(browser, ".detail")
        assert f"row 1, column 0 (position {pos})" in detail.text
        assert shown(browser, ".hint") == []
        outline = browser.find_element("css selector", f".cell.p{pos}").value_of_css_property("outline-color")
        assert "224, 90, 12" in outline


def test_text_stands_out_from_the_page(browser, lens, tmp_path):
    card = lens.show((1, 17), pictures=[picture(0), picture(1)])
    opened(browser, card, tmp_path / "card.html")
    page = browser.find_element("tag name", "body").value_of_css_property("background-color")
    for element in shown(browser, ".lens-multimodal h3, .lens-multimodal td, .lens-multimodal .tok"):
        assert contrast(page, element.value_of_css_property("color")) > 7, element.text
