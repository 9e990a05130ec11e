"""The explorer served and opened in a browser."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from fastapi import FastAPI
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from lens_multimodal.explorer.server import address, listen, make_server
from tests.browser import TOO_WIDE

PATIENCE_S = 600


class Tab:
    """A user's actions on the page."""

    def __init__(self, driver, url: str) -> None:
        self.driver, self.url = driver, url

    def open(self) -> None:
        self.driver.get(self.url)
        self.until(lambda: self.all("#look-caption .word"))

    def all(self, selector: str):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.one(selector).text

    def until(self, condition):
        return WebDriverWait(self.driver, PATIENCE_S).until(lambda _: condition())

    def click(self, selector: str, index: int = 0) -> None:
        element = self.all(selector)[index]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def ask_about_the_first_word(self) -> None:
        """Choose the caption's first word and wait for its neurons."""
        self.click("#look-caption .word")
        self.until(lambda: self.all("#neurons-table tbody tr"))

    def resize(self, width: int) -> None:
        self.driver.set_window_size(width, 1000)
        self.until(lambda: self.driver.execute_script("return innerWidth") == width)

    def check_that_text_is_readable(self, *, widths: Sequence[int]) -> None:
        """Nothing is wider than the window, and every text stands out from what is behind it, in both themes."""
        for width, theme in product(widths, ("light", "dark")):
            self.resize(width)
            self.driver.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
            assert self.driver.execute_script(TOO_WIDE) <= 0, (width, theme)
            assert self.driver.execute_script(CONTRAST) == [], (width, theme)

    def patch_between(self, first: int, second: int) -> None:
        """Choose two pictures of the gallery to patch from one into the other."""
        self.click("#tab-between")
        self.click("#gallery button", first)
        self.until(lambda: self.all("#slot-a .word"))
        self.click("#gallery button", second)
        self.until(lambda: self.all("#patch-bars .after"))

    def drop(self, file: Path) -> None:
        """Choose a file, which is also what happens when one is dropped."""
        self.one("#file").send_keys(str(file))

    def share(self, selector: str) -> float:
        return float(self.one(selector).get_attribute("data-share"))

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Serve an application on a free port of this machine; yields its address."""
    listening = listen("127.0.0.1", 0)
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield address(listening)
    finally:
        server.should_exit = True
        thread.join(60)
        listening.close()


CONTRAST = """
const colour = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const found = colour(getComputedStyle(at).backgroundColor);
    if (found.length === 3 && getComputedStyle(at).backgroundColor.startsWith("rgb(")) return found;
  }
  return colour(getComputedStyle(document.body).backgroundColor);
};
const poor = [];
for (const node of document.querySelectorAll("body *")) {
  const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  if (!own || !node.offsetParent || node.closest("noscript, option")) continue;
  const [a, b] = [light(colour(getComputedStyle(node).color)), light(behind(node))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const name = `${node.tagName}.${node.className} ${node.textContent.trim().slice(0, 20)}`;
  if (ratio < 4.5) poor.push(`${name}: ${ratio.toFixed(2)}`);
}
return poor;
"""
"""Every text whose contrast with what is behind it is below 4.5 to 1 (WCAG AA)."""
