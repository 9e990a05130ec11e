"""A headless Chromium for tests of pages; they are skipped where it or its driver is not installed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")

needs_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="NO BROWSER: PAGES WERE NOT TRIED IN ONE (install chromium and chromedriver)"
    ),
]


TOO_WIDE = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
"""By how many pixels a page is wider than its window."""


@contextmanager
def chromium(*, size: str, logs: str = "browser") -> Iterator[Any]:
    """A browser with an empty profile.

    Args:
        size: of the window, `width,height`.
        logs: the log to keep, "browser" (what the console says) or "performance" (every request).
    """
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    arguments = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", f"--window-size={size}"]
    # Chromium cannot use its sandbox as root, the user in most containers.
    for argument in [*arguments, *(["--no-sandbox"] if os.geteuid() == 0 else [])]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {logs: "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()
