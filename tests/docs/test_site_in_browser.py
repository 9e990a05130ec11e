"""The built site in a real browser, opened as files: nothing is asked of a server, by scripts and styles neither."""

import json
import shutil

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.docs.test_site import site  # noqa: F401  a fixture, built once for each of the two files

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.mark.parametrize("page", ["index.html", "idea.html", "how-to/ablate.html", "reference/hooks.html"])
def test_pages_ask_no_server(browser, site, page):  # noqa: F811
    browser.get((site / page).as_uri())
    assert len(browser.find_element(By.TAG_NAME, "article").text) > 200
    asked = requests_of(browser)
    assert any(address.endswith(".css") for address in asked)
    assert not [address for address in asked if not address.startswith(("file:", "data:", "blob:"))]


def requests_of(browser) -> list[str]:
    """Addresses of everything that the page asked for since the last call."""
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
