"""The built site in a real browser, opened as files: no page, script or style contacts a server."""

import json

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium.webdriver.common.by import By

from tests.browser import chromium, needs_browser
from tests.docs.test_site import site  # noqa: F401  a fixture, built once for each of the two files

pytestmark = needs_browser


@pytest.fixture(scope="module")
def browser():
    with chromium(size="1300,900", logs="performance") as driver:
        yield driver


@pytest.mark.parametrize("page", ["index.html", "idea.html", "how-to/ablate.html", "reference/hooks.html"])
def test_pages_contact_no_server(browser, site, page):  # noqa: F811
    browser.get((site / page).as_uri())
    assert len(browser.find_element(By.TAG_NAME, "article").text) > 200
    asked = requests_of(browser)
    assert any(address.endswith(".css") for address in asked)
    assert not [address for address in asked if not address.startswith(("file:", "data:", "blob:"))]


def requests_of(browser) -> list[str]:
    """Addresses of everything that the page requested since the last call."""
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
