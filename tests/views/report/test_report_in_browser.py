"""The report in a real browser: folded tables and figures open at their full width, on paper, and without scripts."""

from pathlib import Path

import pytest

from lens_multimodal.views.report import page
from tests.browser import TOO_WIDE, chromium, needs_browser
from tests.experiments.test_report import report, summary

pytestmark = needs_browser

OPENED = "return [...document.querySelectorAll('details')].map(details => details.open)"


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(report(summary(), summary(title="Another"), errors=({"file": "a.png", "error": "cut"},))))
    return path


@pytest.fixture
def browser():
    with chromium(size="1200,900") as browser:
        yield browser


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (700, "dark")])
def test_a_folded_figure_opens_at_the_width_of_the_page(browser, path, width, scheme):
    browser.set_window_size(width, 900)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    browser.get(path.as_uri())
    assert not any(browser.execute_script(OPENED))
    assert not browser.find_element("css selector", ".entry table").is_displayed()
    folded = browser.execute_script("return document.documentElement.scrollHeight")
    browser.find_element("css selector", ".entry summary").click()
    figure = browser.find_element("css selector", ".entry .js-plotly-plot .main-svg")
    assert figure.is_displayed()
    there = browser.execute_async_script(
        "const done = arguments[1], figure = arguments[0]; requestAnimationFrame(() => setTimeout(() => "
        "done([figure.getBoundingClientRect().width, figure.closest('.figure').clientWidth]), 300))",
        figure,
    )
    assert there[0] == pytest.approx(there[1], abs=2)
    assert there[1] > 0.8 * min(width, 1100)
    assert browser.find_element("css selector", ".entry table").is_displayed()
    assert browser.execute_script("return document.documentElement.scrollHeight") > folded + 200
    assert browser.execute_script(TOO_WIDE) <= 0
    assert browser.get_log("browser") == []


def test_paper_shows_everything_and_the_page_is_as_before(browser, path):
    browser.get(path.as_uri())
    browser.find_elements("css selector", ".entry summary")[1].click()
    before = browser.execute_script(OPENED)
    assert before.count(True) == 1
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert all(browser.execute_script(OPENED))
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(OPENED) == before


def test_tables_can_be_read_without_scripts(browser, path):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(path.as_uri())
    assert browser.find_element("css selector", "noscript p").is_displayed()
    browser.find_element("css selector", ".entry summary").click()
    assert browser.find_element("css selector", ".entry table").is_displayed()
