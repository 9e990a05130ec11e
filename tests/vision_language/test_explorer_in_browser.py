"""The explorer's page of models that cut tiles, in a real browser; every answer is taken from the page."""

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")
pytest.importorskip("fastapi", reason="the explorer needs fastapi: pip install 'lens-multimodal[explore]'")

from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from lens_multimodal import attach_vision
from lens_multimodal.explorer import create_app
from lens_multimodal.hooks import patch_resid_pre, record
from tests.browser import chromium, needs_browser
from tests.explorer.browsing import Tab, served
from tests.vision_language.models import build
from tests.vision_language.pictures import scenes_of_several_sizes

pytestmark = [*needs_browser, pytest.mark.newest]

GRIDS = {"llava-next": ("6 \N{MULTIPLICATION SIGN} 8", 6), "llama-4": ("4 \N{MULTIPLICATION SIGN} 4", 4)}
"""The finest grid of a picture of 96 x 60 pixels, and how many positions show no part of it: row ends, or padding."""

RECTANGLES = """
const place = document.querySelector(arguments[0]);
return [...place.querySelectorAll(".sheet")].flatMap((sheet) => {
  const whole = sheet.querySelector(".shown").getBoundingClientRect();
  return [...sheet.querySelectorAll(".cell")].map((cell) => {
    const own = cell.getBoundingClientRect();
    return [cell.title, (own.left - whole.left) / whole.width, (own.top - whole.top) / whole.height,
            own.width / whole.width, own.height / whole.height];
  });
});
"""
"""Each cell's title, and its left, top, width and height as shares of the picture that it lies on."""


@pytest.fixture(scope="module")
def driver():
    with chromium(size="1360,1100") as browser:
        yield browser


@pytest.fixture(scope="module", params=list(GRIDS))
def opened(request, driver, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model, processor = build(request.param, folder)
    lens = attach_vision(model, processor=processor)
    scenes = scenes_of_several_sizes(folder / "pictures", 5)
    with served(create_app(lens, scenes=scenes)) as url:
        yield request.param, lens, scenes, Tab(driver, url)


def layout_of(lens, scene):
    [image] = lens.embed([scene.path])
    return image.layout


@pytest.fixture(autouse=True)
def wide_window(driver):
    driver.set_window_size(1360, 1100)


def test_each_cell_lies_where_its_position_looks(opened):
    family, lens, scenes, tab = opened
    tab.open()
    layout = layout_of(lens, scenes[0])
    assert tab.text("#look-picture figcaption").startswith(GRIDS[family][0])
    expected = {
        layout.name(index): [
            layout.box(index).left / 96, layout.box(index).top / 60,
            (layout.box(index).right - layout.box(index).left) / 96,
            (layout.box(index).bottom - layout.box(index).top) / 60,
        ]
        for index in range(layout.n_positions) if layout.box(index)
    }  # fmt: skip
    found = {name: box for name, *box in tab.driver.execute_script(RECTANGLES, "#look-picture")}
    assert found.keys() == expected.keys()
    for name, box in found.items():
        assert box == pytest.approx(expected[name], abs=0.01)
    apart = [index for index in range(layout.n_positions) if layout.box(index) is None]
    assert len(apart) == GRIDS[family][1]
    titles = [cell.get_attribute("title") for cell in tab.all("#look-picture .apart .cell")]
    assert titles == [f"position {index}: {layout.name(index)}" for index in apart]
    assert f"{len(apart)} positions show no part of the picture" in tab.text("#look-picture")


def test_the_position_of_each_neuron_is_outlined(opened):
    _, lens, scenes, tab = opened
    tab.open()
    tab.ask_about_the_first_word()
    prompt = lens.prompt(scenes[0].path)
    found = lens.neurons(prompt, int(lens.logits(prompt)[0, -1].argmax()), top_k=20)
    (span,) = prompt.spans[0]
    rows = tab.all("#neurons-table tbody tr")
    assert len(rows) == len(found)
    for row, neuron in zip(rows, found.itertuples(), strict=True):
        name = span.image.layout.name(span.positions.index(neuron.pos))
        assert row.find_element("css selector", ".place").text == name
        tab.driver.execute_script(
            "arguments[0].focus({preventScroll: true})", row.find_element("css selector", "input")
        )
        [pointed] = tab.all("#look-picture .cell.pointed")
        assert pointed.get_attribute("title").endswith(name)
        fields = tab.all("#look-picture .field")
        assert len(fields) == len(span.image.layout.grids)
        assert all(field.is_displayed() for field in fields)
    assert tab.complaints() == []


def test_positions_are_chosen_by_keyboard_in_every_grid_and_outside_of_them(opened):
    _, lens, scenes, tab = opened
    tab.open()
    layout = layout_of(lens, scenes[0])
    fine, coarse = layout.grids
    apart = [index for index in range(layout.n_positions) if layout.box(index) is None]
    tab.patch_between(0, 3)
    group = "#patch-bars .group:first-child "
    assert tab.share(group + ".after") == pytest.approx(tab.share(group + ".random"), rel=1e-3), "all positions"
    assert tab.text("#patch-count") == f"{layout.n_positions} of {layout.n_positions} image positions"

    tab.click("#patch-none")
    tab.until(lambda: "Choose image positions" in tab.text("#patch-caption"))
    starts = tab.all("#slot-b button.cell[tabindex='0']")
    assert len(starts) == 3, "one stop of the tabulator for each grid, and one for what shows no pixels"
    starts[0].send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.SPACE, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.SPACE)
    starts[1].send_keys(Keys.ARROW_DOWN, Keys.SPACE, Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.SPACE)
    starts[2].send_keys(Keys.ARROW_RIGHT, Keys.ARROW_UP, Keys.SPACE)
    second, left_of_it = fine.indices[fine.grid_w + 1], fine.indices[fine.grid_w - 1]
    below, last_row = coarse.indices[coarse.grid_w], coarse.indices[-coarse.grid_w]
    # Of two rows, the second is the last, so the second press takes the choice back.
    expected = {second, left_of_it, apart[1], *({below} ^ {last_row})}
    for slot in ("#slot-a", "#slot-b"):
        chosen = {int(cell.get_attribute("data-position")) for cell in tab.all(f"{slot} .cell.chosen")}
        assert chosen == expected
    pressed = tab.all("#slot-b button.cell[aria-pressed='true']")
    assert len(pressed) == len(expected)

    caption = tab.all("#slot-a .word[aria-pressed='true']")[0].get_attribute("data-index")
    prompt, receiving = (lens.prompt(scenes[number].path) for number in (0, 3))
    (ids,) = lens.generate_ids(prompt, max_new_tokens=int(caption) + 1)
    before, target = ids[: int(caption)], ids[int(caption)]
    prompt, receiving = prompt.followed_by(before), receiving.followed_by(before)
    (span,) = prompt.spans[0]
    run = record(lens.model, prompt.tokens, [f"blocks.{layer}.hook_resid_pre" for layer in (0, 1)])
    hooks = patch_resid_pre(lens.model, [0, 1], run=run, positions=[span.positions[index] for index in expected])
    with lens.model.hooks(fwd_hooks=hooks):
        patched = float(lens.logits(receiving)[0, -1].detach().softmax(-1)[target])
    tab.until(lambda: tab.all(group + ".after"))
    tab.until(lambda: tab.share(group + ".after") == pytest.approx(patched, rel=1e-3))

    Select(tab.one("#layer-first")).select_by_visible_text("1")
    tab.click("#sweep")
    tab.until(lambda: tab.all("#sweep-maps .map"))
    heats = tab.all("#sweep-maps .heat")
    assert len(heats) == layout.n_positions
    assert len(tab.all("#sweep-maps .apart .heat")) == len(apart)
    assert tab.complaints() == []

    tab.click("#slot-b .pick")
    tab.click("#gallery button", 1)
    tab.until(lambda: tab.one("#error").is_displayed())
    assert layout.shapes in tab.text("#error")
    assert not tab.all("#patch-bars .bar"), "nothing of the pair before is left"
    tab.complaints()


def test_text_is_readable_and_nothing_is_wider_than_the_window(opened):
    *_, tab = opened
    tab.open()
    tab.ask_about_the_first_word()
    tab.check_that_text_is_readable(widths=(1360, 400))
    tab.patch_between(0, 3)
    tab.check_that_text_is_readable(widths=(1360, 400))
