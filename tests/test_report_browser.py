"""The HTML report in a real, headless Chromium: hostile names, paper, small screens, contrast."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from auditscene import record
from reportscene import links, store_fortnight
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from webpage import CONTRAST

from arbiter.records import json_list

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
EVIL = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>'\">"
LONG = "/home/" + "a" * 280


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a database in which everything that somebody else chooses is hostile."""
    folder = tmp_path_factory.mktemp("report")
    hostile = [
        record(
            -1_000_000 + n, decision, reason, app=EVIL, exe=EVIL, names=json_list([EVIL]),
            by=EVIL, frontend=EVIL, link=EVIL, rule_id=-1, note=EVIL, no_owner=EVIL,
        )
        for n, (decision, reason) in enumerate(
            [("deny", "rule"), ("allow", "answer"), (EVIL, EVIL), ("deny", EVIL)]
        )
    ]  # fmt: skip
    long = record(-1_000_000, "deny", "rule", app=LONG, names=json_list(["x" * 250]), by=LONG)
    other = record(-999_000, "deny", "rule", app=EVIL, exe=LONG, by="file:" + EVIL, rule_id=-1)
    store_fortnight(folder / "a.db", *hostile, long, other)
    links(folder / "etc")
    made = folder / "report.html"
    argv = [sys.executable, "-P", "-m", "arbiter", "audit", "report", "--since", "2026-11-01"]
    argv += ["--until", "2026-11-15", "--html", str(made), "--db", str(folder / "a.db")]
    argv += ["--config", str(folder / "etc"), "--state", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, env=os.environ | {"TZ": "UTC"})
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
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
    yield driver
    driver.quit()


@pytest.fixture
def shown(browser: webdriver.Chrome, page: Path) -> Iterator[webdriver.Chrome]:
    log(browser, "browser"), log(browser, "performance")
    browser.get(page.as_uri())
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def log(browser: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = browser.get_log(kind)  # type: ignore[no-untyped-call]
    return found


def js(browser: webdriver.Chrome, code: str, *arguments: object) -> Any:
    return browser.execute_script(f"return {code}", *arguments)


def test_hostile_names_are_shown_and_do_nothing(shown: webdriver.Chrome, page: Path) -> None:
    assert js(shown, "document.title") == "What this machine connected to"
    assert js(shown, "document.querySelectorAll('img, script, a[href^=javascript]').length") == 0
    text = js(shown, "document.body.innerText")
    assert text.count(EVIL) > 8, "they are there, as text"
    assert [entry["message"] for entry in log(shown, "browser")] == []
    sent = re.findall(r'"url":"([^"]+)"', " ".join(e["message"] for e in log(shown, "performance")))
    assert {url for url in sent if not url.startswith(("about:", "data:"))} == {page.as_uri()}


def test_the_policy_stops_what_an_escape_would_have_missed(shown: webdriver.Chrome) -> None:
    js(shown, "document.body.insertAdjacentHTML('beforeend', arguments[0])",
       "<img src='https://192.0.2.1/x' onerror=\"document.title='pwned'\">")  # fmt: skip
    said = " ".join(entry["message"] for entry in log(shown, "browser"))
    assert "Content Security Policy" in said
    assert js(shown, "document.title") != "pwned"


@pytest.mark.parametrize("width", [375, 1200])
def test_no_name_makes_it_wider_than_the_screen(shown: webdriver.Chrome, width: int) -> None:
    shown.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    assert js(shown, "document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark(shown: webdriver.Chrome, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    ratios = js(shown, CONTRAST, "h1, h2, p, dt, dd, th, td, caption, nav a, summary, footer")
    assert len(ratios) > 100
    assert [(name, ratio) for name, ratio in ratios if ratio < 4.5] == []
    dark = js(shown, "getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
    assert dark is (scheme == "dark")


def test_on_paper_it_is_a4_in_black_on_white(shown: webdriver.Chrome) -> None:
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", **dark})
    assert js(shown, "getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert js(shown, "getComputedStyle(document.querySelector('nav')).display") == "none"
    made = shown.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    pdf = base64.b64decode(made["data"])
    boxes = re.findall(rb"/MediaBox \[0 0 ([0-9.]+) ([0-9.]+)\]", pdf)
    assert {(round(float(w)), round(float(h))) for w, h in boxes} == {(595, 842)}
    assert 3 <= len(boxes) <= 8
