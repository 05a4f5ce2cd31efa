"""The console in a real, headless Chromium, for tests: a page, what it shows, what is pressed.

Pictures go to the folder that ARTIFACTS names, or to the run's temporary one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from webconsole import Console, eventually

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
EVIL = "<img src=x onerror=\"window.pwned='yes'\"><script>window.pwned='yes'</script>'\"{{7*7}}"
"""What a program or a name may be called, to be read as something else than text."""


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """Chromium, for a module's tests; without it they are skipped aloud, but never in CI."""
    if CHROMIUM is None or DRIVER is None:
        if os.environ.get("CI"):
            pytest.fail("in CI the browser tests must run, but there is no chromium", pytrace=False)
        pytest.skip("BROWSER TEST NOT RUN: no chromium: install chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu",
                     "no-proxy-server", "window-size=1200,1000", "lang=en"):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def pictures_in(folder: Path) -> Path:
    """Where pictures go; `folder` unless ARTIFACTS says otherwise."""
    kept = os.environ.get("ARTIFACTS")
    made = Path(kept) / "web" if kept else folder
    made.mkdir(parents=True, exist_ok=True)
    return made


class Page:
    """The console in the browser."""

    def __init__(self, driver: webdriver.Chrome, console: Console, pictures: Path) -> None:
        self.driver, self.console, self.pictures = driver, console, pictures

    def open(self, url: str = "") -> None:
        self.driver.get("about:blank")
        self.driver.get(url or self.console.url)

    def js(self, code: str, *arguments: object) -> Any:
        return self.driver.execute_script(f"return {code}", *arguments)

    def find(self, css: str) -> WebElement:
        return eventually(lambda: self.all(css) or [])[0]

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        """Its visible text, read in one step: elements may be replaced meanwhile."""
        found = self.js("(document.querySelector(arguments[0]) || {}).innerText", css)
        return str(found or "")

    def until(self, css: str, text: str, timeout: float = 10.0) -> None:
        eventually(lambda: text in self.text(css), timeout)

    def rows(self) -> list[str]:
        found: list[str] = self.js(
            "[...document.querySelectorAll('#asks .row')].map(x=>x.innerText)"
        )
        return found

    def armed(self, name: str) -> bool:
        return bool(self.js("!(document.querySelector(arguments[0])||{disabled:1}).disabled",
                            f".answer.{name}"))  # fmt: skip

    def press(self, name: str) -> None:
        """The button, once it works."""
        eventually(lambda: self.armed(name))
        self.click(f".answer.{name}")

    def click(self, css: str) -> None:
        """In the middle of the window: the answers stay at its lower edge.

        Again, if the page has put another element in its place meanwhile.
        """

        def clicked() -> bool:
            try:
                script = "arguments[0].scrollIntoView({block: 'center'})"
                self.driver.execute_script(script, found := self.find(css))
                found.click()
            except StaleElementReferenceException:
                return False
            return True

        eventually(clicked)

    def keys(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def go(self, name: str) -> None:
        self.click(f'nav a[href="#{name}"]')
        eventually(lambda: self.find(f"#{name}").is_displayed())

    def focus(self) -> str:
        return str(self.js("document.activeElement.id || document.activeElement.tagName"))

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What the browser has logged since the last look."""
        found: list[dict[str, Any]] = self.driver.get_log(kind)  # type: ignore[no-untyped-call]
        return found

    def picture(self, name: str) -> None:
        assert self.driver.save_screenshot(str(self.pictures / f"{name}.png"))

    def cdp(self, command: str, **parameters: object) -> None:
        self.driver.execute_cdp_cmd(command, parameters)


@contextmanager
def opened(driver: webdriver.Chrome, folder: Path, pictures: Path) -> Iterator[Page]:
    """The console in front of the daemon at `folder`/s, open and connected. At the end it must
    have logged no error, and refused nothing by its own policy."""
    env = {"ARBITER_DB": str(folder / "arbiter.db"), "ARBITER_CONFIG": str(folder)}
    console = Console(folder / "s", env=env)
    made = Page(driver, console, pictures)
    made.open()
    made.until("#state", "connected as alice")
    made.log("browser")
    yield made
    logged = [entry["message"] for entry in made.log("browser")]
    made.open("about:blank")
    made.cdp("Emulation.clearDeviceMetricsOverride")
    made.cdp("Emulation.setEmulatedMedia", features=[])
    assert console.end() == (0, "")
    refused = [text for text in logged if "net::ERR" not in text and "status of 4" not in text]
    assert refused == [], "errors, and violations of the policy, in the browser's console"


CONTRAST = """[...document.querySelectorAll(arguments[0])].filter((x) => x.offsetParent).map(
(x) => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) =>
    0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  let back = x;
  while (back && parse(getComputedStyle(back).backgroundColor)[3] === 0) back = back.parentElement;
  const a = light(parse(getComputedStyle(x).color));
  const b = light(back ? parse(getComputedStyle(back).backgroundColor) : [255, 255, 255]);
  return [x.tagName + "." + x.className, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
})"""
"""Of each such element that is shown: its name, and the contrast of its text (WCAG 2.1)."""
