"""The page in a real browser: a picture, a word, neurons, ablation, patching; every answer is taken from the page."""

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from lens_multimodal.atlas import Atlas
from lens_multimodal.explorer import create_app
from tests.browser import chromium, needs_browser
from tests.explorer.browsing import Tab, served
from tests.explorer.conftest import atlas_with_site, fingerprint
from tests.lenses import picture

pytestmark = [*needs_browser, pytest.mark.newest]


@pytest.fixture(scope="module")
def atlas(lens, tmp_path_factory) -> Atlas:
    return atlas_with_site(lens, tmp_path_factory.mktemp("atlas"), n_neurons=60)


@pytest.fixture(scope="module")
def url(lens, atlas):
    with served(create_app(lens, atlas=atlas)) as where:
        yield where


@pytest.fixture(scope="module")
def driver():
    with chromium(size="1360,1000") as browser:
        yield browser


@pytest.fixture
def tab(driver, url) -> Tab:
    tab = Tab(driver, url)
    tab.open()
    return tab


def test_from_a_dropped_picture_to_an_ablated_neuron(tab, lens, tmp_path):
    before = fingerprint(lens)
    picture(5).save(tmp_path / "mine.png")
    tab.drop(tmp_path / "mine.png")
    caption = lens.caption(picture(5))
    shown = "A picture of " + caption
    tab.until(lambda: "".join(tab.text("#look-caption").split()) == "".join(shown.split()))
    tab.ask_about_the_first_word()
    prompt = lens.prompt(picture(5))
    expected = lens.neurons(prompt, int(lens.logits(prompt)[0, -1].argmax()), top_k=20)
    rows = [row.get_attribute("data-neuron") for row in tab.all("#neurons-table tbody tr")]
    assert rows == [f"{layer}.{neuron}" for layer, neuron in zip(expected["layer"], expected["neuron"], strict=True)]
    fields = tab.all("#neurons-table .thumb")
    assert all(field.get_property("naturalWidth") > 0 for field in fields)
    whole = tab.share("#why-bars .before")

    tab.click("#neurons-table input[type=checkbox]")
    tab.until(lambda: tab.all("#why-bars .after"))
    assert "1 neuron changed" in tab.text("#why-bars")
    assert tab.share("#why-bars .before") == pytest.approx(whole)
    assert tab.share("#why-bars .after") != pytest.approx(whole, rel=1e-6)
    tab.click("#ablate-all")
    tab.until(lambda: "20 neurons changed" in tab.text("#why-bars"))
    assert all(box.is_selected() for box in tab.all("#neurons-table input[type=checkbox]"))
    tab.click("#reset")
    tab.until(lambda: not tab.all("#why-bars .after"))
    assert fingerprint(lens) == before
    assert tab.complaints() == []


def test_what_the_atlas_says_and_its_pages(tab, atlas):
    tab.ask_about_the_first_word()
    linked = 0
    for row in tab.all("#neurons-table tbody tr"):
        layer, neuron = map(int, row.get_attribute("data-neuron").split("."))
        cells = row.find_elements(By.CSS_SELECTOR, ".in-atlas")
        assert len(cells) == (layer != 1)
        if layer == 1:
            continue
        [cell] = cells
        entry = atlas.neuron(layer, neuron)
        assert f"{entry.facts['category']}, IoU {entry.facts['iou']:.3f}" in cell.text
        linked += len(cell.find_elements(By.TAG_NAME, "a"))
        assert (entry.page is not None) == bool(cell.find_elements(By.TAG_NAME, "a"))
    assert linked > 0
    shown = tab.all(".in-atlas img")
    tab.driver.execute_script("for (const image of document.querySelectorAll('.in-atlas img')) image.loading = 'eager'")
    tab.until(lambda: all(image.get_property("complete") for image in shown))
    assert all(image.get_property("naturalWidth") > 0 for image in shown)
    first = tab.driver.current_window_handle
    tab.click(".in-atlas a")
    [page] = set(tab.driver.window_handles) - {first}
    tab.driver.switch_to.window(page)
    tab.until(lambda: tab.all("h1"))
    assert tab.driver.title.startswith("Layer ")
    tab.until(lambda: all(image.get_property("naturalWidth") > 0 for image in tab.all("img")))
    assert tab.one(".cell").value_of_css_property("position") == "absolute"
    tab.click("a")
    tab.until(lambda: tab.all("#found a"))
    assert [line for line in tab.complaints() if "favicon" not in line] == []
    tab.driver.close()
    tab.driver.switch_to.window(first)


def test_scaling_by_the_keyboard_and_pointing_at_a_neuron(tab):
    tab.ask_about_the_first_word()
    slider = tab.one("#neurons-table input[type=range]")
    tab.driver.execute_script("arguments[0].focus()", slider)
    assert not tab.one("#look-picture .field").get_attribute("hidden")
    assert len(tab.all("#look-picture .cell.pointed")) == 1
    slider.send_keys(Keys.ARROW_RIGHT * 5)
    assert tab.text("#neurons-table tbody tr output") == "\N{MULTIPLICATION SIGN} 1.5"
    tab.until(lambda: tab.all("#why-bars .after"))


HELD_RANKING = """
const plain = window.fetch;
window.held = [];
window.fetch = async (path, options) => {
  if (path === "/api/why") await new Promise((go) => window.held.push(go));
  return window.failing ? new Response('{"error": "on purpose"}', {status: 503}) : plain(path, options);
};
"""


def release_ranking(tab) -> None:
    """Let the questions pass that the page has asked; wait for the first."""
    tab.until(lambda: tab.driver.execute_script("return window.held.length"))
    tab.driver.execute_script("window.held.splice(0).forEach((go) => go())")


def ticked(tab) -> list[str]:
    rows = tab.all("#neurons-table tbody tr:has(input:checked)")
    return [row.get_attribute("data-neuron") for row in rows]


def test_what_is_changed_stays_when_more_rows_are_shown_and_no_click_is_lost(tab):
    tab.ask_about_the_first_word()
    tab.driver.execute_script(HELD_RANKING)
    tab.click("#neurons-table input[type=checkbox]", 2)
    tab.until(lambda: "1 neuron changed" in tab.text("#why-bars"))
    (own,) = ticked(tab)
    count = Select(tab.one("#neurons-count"))

    count.select_by_visible_text("50")
    tab.click("#neurons-table input[type=checkbox]", 4)  # of the rows still shown
    assert "50" in tab.text("#neurons-status")
    release_ranking(tab)
    tab.until(lambda: len(tab.all("#neurons-table tbody tr")) == 50)
    assert len(ticked(tab)) == 2
    assert own in ticked(tab)
    tab.until(lambda: "2 neurons changed" in tab.text("#why-bars"))

    count.select_by_visible_text("100")
    tab.click("#ablate-all")
    release_ranking(tab)
    tab.until(lambda: "100 neurons changed" in tab.text("#why-bars"))
    assert len(ticked(tab)) == 100

    count.select_by_visible_text("10")
    release_ranking(tab)
    tab.until(lambda: "90 of the changed" in tab.text("#neurons-status"))
    assert len(ticked(tab)) == 10
    assert "100 neurons changed" in tab.text("#why-bars")

    tab.driver.execute_script("window.failing = true")
    count.select_by_visible_text("20")
    release_ranking(tab)
    tab.until(lambda: tab.one("#error").is_displayed())
    tab.until(lambda: count.first_selected_option.text == "10")
    assert len(tab.all("#neurons-table tbody tr")) == 10


def test_another_word_or_place_starts_afresh(tab):
    tab.ask_about_the_first_word()
    image = [row.get_attribute("data-neuron") for row in tab.all("#neurons-table tbody tr")]
    tab.driver.execute_script(HELD_RANKING)
    tab.click("#ablate-all")
    tab.until(lambda: "20 neurons changed" in tab.text("#why-bars"))
    note = tab.text("#where-note")
    tab.click("input[name=where][value=last]")
    assert tab.one("#neurons-table tbody").get_property("inert"), "rows of another question cannot be clicked"
    release_ranking(tab)
    tab.until(lambda: tab.text("#where-note") != note)
    assert ticked(tab) == []
    assert not tab.all("#why-bars .after")
    assert {cell.text for cell in tab.all("#neurons-table .place")} == {"last position"}
    assert [row.get_attribute("data-neuron") for row in tab.all("#neurons-table tbody tr")] != image
    tab.click("#ablate-all")
    tab.until(lambda: "20 neurons changed" in tab.text("#why-bars"))


def test_patching_between_two_pictures(tab):
    tab.patch_between(0, 5)
    group = "#patch-bars .group:first-child "
    clean, corrupted = tab.share(group + ".random"), tab.share(group + ".before")
    assert tab.share(group + ".after") == pytest.approx(clean, rel=1e-3), "all image patches, all layers"

    tab.click("#patch-none")
    tab.until(lambda: "Choose image positions" in tab.text("#patch-caption"))
    tab.click("#slot-b button.cell", 4)
    tab.until(lambda: tab.all("#patch-bars .after"))
    assert tab.text("#patch-count").startswith("1 of 9")
    assert len(tab.all("#slot-a .cell.chosen")) == len(tab.all("#slot-b .cell.chosen")) == 1
    one = tab.share(group + ".after")
    assert one != pytest.approx(clean, rel=1e-6)
    assert tab.share(group + ".before") == pytest.approx(corrupted)

    tab.one("#slot-b button.cell:focus").send_keys(Keys.ARROW_RIGHT, Keys.SPACE)
    tab.until(lambda: tab.text("#patch-count").startswith("2 of 9"))
    Select(tab.one("#layer-first")).select_by_visible_text("1")
    tab.click("#sweep")
    tab.until(lambda: len(tab.all("#sweep-maps .map")) == 2)
    assert [m.get_attribute("data-layer") for m in tab.all("#sweep-maps .map")] == ["1", "2"]
    assert len(tab.all("#sweep-maps .heat")) == 18
    assert tab.complaints() == []


def test_what_cannot_be_read_is_one_clean_line(tab, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    tab.drop(tmp_path / "bad.png")
    tab.until(lambda: tab.one("#error").is_displayed())
    assert "PNG, JPEG, WEBP" in tab.text("#error")
    (tmp_path / "notes.txt").write_text("text")
    tab.drop(tmp_path / "notes.txt")
    tab.until(lambda: "notes.txt is not a PNG" in tab.text("#error"))
    tab.click("#gallery button", 1)
    tab.until(lambda: not tab.one("#error").is_displayed())


def test_the_gallery_filters_and_the_theme_stays(tab):
    tab.one("#find").send_keys("zzz")
    assert tab.all("#gallery button") == []
    tab.one("#find").send_keys(Keys.BACKSPACE * 3)
    assert len(tab.all("#gallery button")) == 60
    colours = set()
    for _ in range(2):
        tab.click("#theme")
        colours.add(tab.one("body").value_of_css_property("background-color"))
    assert len(colours) == 2
    tab.open()
    assert tab.text("#theme") == "Theme: dark"
    tab.click("#theme")


def test_text_is_readable_and_nothing_is_wider_than_the_window(tab):
    tab.ask_about_the_first_word()
    tab.check_that_text_is_readable(widths=(1360, 700, 400))
    cut = "const at = arguments[0].getBoundingClientRect(); return at.right <= innerWidth && at.width > 40"
    for width in (400, 700, 1360):
        tab.resize(width)
        assert tab.driver.execute_script(cut, tab.one("#neurons-table input[type=range]")), width
