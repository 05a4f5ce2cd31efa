"""The audit and the apps' pages of the web console, in a real Chromium, over a real database."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from auditscene import CURL, DAY, FIREFOX, record
from click.testing import CliRunner
from live_examples import connection, links, traffic
from msgspec.structs import replace
from scripted_daemon import ask_to
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from webconsole import Daemon, eventually
from webpage import CONTRAST, EVIL, Page, browser, opened, pictures_in

from arbiter import cli
from arbiter.records import Record, json_list
from arbiter.store import Store
from arbiter.tariff import Price

MOZILLA, TRACKER = "www.mozilla.org", "a.tracker.example"


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    with browser() as driver:
        yield driver


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures_in(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def db(tmp_path: Path) -> Path:
    with Store.open(tmp_path / "arbiter.db") as store:
        store.record(DAY)
    return tmp_path / "arbiter.db"


@pytest.fixture
def daemon(tmp_path: Path, db: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path / "s")
    made.scripted.database = db
    made.scripted.prices = {"lte": Price(Decimal("0.02"), "EUR", "MB")}
    yield made
    made.close()


@pytest.fixture
def page(
    daemon: Daemon, chromium: webdriver.Chrome, tmp_path: Path, pictures: Path
) -> Iterator[Page]:
    with opened(chromium, tmp_path, pictures) as made:
        yield made


def keep(db: Path, *records: Record) -> None:
    with Store.open(db) as store:
        store.record(list(records))


def ids(page: Page) -> list[int]:
    keys = page.js("[...document.querySelectorAll('#records > li')].map((x) => x.dataset.key)")
    return [int(key) for key in keys]


def go(page: Page, place: str) -> None:
    """As by a link, or by what somebody kept."""
    page.driver.execute_script("location.hash = arguments[0]", place)


def shows(page: Page, *wanted: int) -> None:
    eventually(lambda: ids(page) == list(wanted))


def hash_of(page: Page) -> str:
    return str(page.js("location.hash"))


# --- filters and pages ----------------------------------------------------------------------


def test_filters_are_in_the_address_and_hold_over_a_reload_and_the_way_back(page: Page) -> None:
    page.go("audit")
    shows(page, 6, 2, 1)  # those of alice's processes only
    page.until("#audit-count", "3 records, live")
    page.find('#filters [name="decision"]').send_keys("deny")
    shows(page, 6, 2)
    assert hash_of(page) == "#audit?decision=deny"
    page.find('#filters [name="host"]').send_keys("*.tracker.example", Keys.RETURN)
    shows(page, 2)
    assert hash_of(page) == "#audit?host=*.tracker.example&decision=deny"
    assert page.text("#filter-words") == "host *.tracker.example, decision deny"
    page.driver.refresh()
    shows(page, 2)
    assert page.js("document.querySelector('#filters').elements.host.value") == "*.tracker.example"
    page.driver.back()
    shows(page, 6, 2)
    page.click('#filters [type="reset"]')
    shows(page, 6, 2, 1)
    assert hash_of(page) == "#audit"


def test_times_are_chosen_or_written(page: Page, db: Path) -> None:
    keep(
        db,
        replace(record(0), time=time.time() - 3000),
        replace(record(0), time=time.time() - 90000),
    )
    go(page, "#audit")
    shows(page, 7, 8, 6, 2, 1)
    select = "document.querySelector('#filters').elements.preset"
    page.driver.execute_script(
        f"{select}.value = '1h'; {select}.dispatchEvent(new Event('change', {{bubbles: true}}))"
    )
    shows(page, 7)
    assert hash_of(page) == "#audit?since=1h"
    go(page, "#audit?since=2d&until=10h")
    shows(page, 8)
    assert page.find('#filters [name="since"]').is_displayed()
    assert page.text("#audit-count") == "1 records", "what is over is not live"


def test_what_is_no_filter_is_said_in_the_daemons_words(page: Page) -> None:
    go(page, "#audit?port=http")
    page.until("#audit-problem", "port: ")
    assert ids(page) == []
    assert page.js("document.querySelector('#filters').elements.port.value") == "http"
    go(page, "#audit?user=bob")
    page.until("#audit-problem", "you see records of alice's processes; root and group arbiter")
    go(page, "#audit?nonsense=1&app=curl")
    shows(page, 1)
    assert not page.find("#audit-problem").is_displayed()


def test_older_records_come_page_by_page_and_the_focus_goes_to_the_first(
    page: Page, db: Path
) -> None:
    keep(db, *(record(1000.0 + n) for n in range(230)))
    go(page, "#audit")
    eventually(lambda: len(ids(page)) == 100)
    assert ids(page)[0] == 236
    page.click("#audit-older")
    eventually(lambda: len(ids(page)) == 200)
    page.until("#audit-count", "200 records")
    focused = "document.activeElement.closest('li')?.dataset.key"
    assert page.js(focused) == str(236 - 100)
    page.click("#audit-older")
    eventually(lambda: len(ids(page)) == 233)
    assert not page.find("#audit-older").is_displayed()
    assert ids(page) == [*range(236, 6, -1), 6, 2, 1]


def test_a_record_opens_to_all_that_is_known_and_leads_on(page: Page) -> None:
    go(page, "#audit?rule=3")
    shows(page, 2)
    page.driver.execute_script("document.querySelector('#records summary').focus()")
    page.keys(Keys.RETURN)
    page.until("#records .about", "a.tracker.example")
    told = page.text("#records .about")
    for fact in ("2001:db8::7 port 443", FIREFOX, "curl x", "/usr/bin/bash", "alice (1000)",
                 "rule 3 of root", "10.1.0.2 port 40000"):  # fmt: skip
        assert fact in told
    page.picture("audit-record")
    page.keys(Keys.TAB)
    assert page.js("document.activeElement.textContent") == "This app's page"
    page.click('#records a[href^="#audit?app"]')
    shows(page, 2)
    assert "app=%2Fusr%2Flib%2Ffirefox%2Ffirefox" in hash_of(page)
    page.click('#records a[href^="#app/"]')
    page.until("#app-name", "firefox")
    assert page.js("scrollY") == 0
    assert page.focus() == "content", "the focus is where the new page begins"


# --- as it comes ----------------------------------------------------------------------------


def test_new_records_appear_but_never_under_the_hand_of_a_reader(page: Page, db: Path) -> None:
    go(page, "#audit")
    shows(page, 6, 2, 1)
    keep(db, record(400, app="/usr/bin/one"))
    shows(page, 7, 6, 2, 1)
    # On the page: a driver scrolls to what it clicks.
    place = "document.querySelector('[data-key=\"6\"]').getBoundingClientRect().top + scrollY"
    before = page.js(place)
    page.click("#records li:nth-child(2) summary")
    keep(db, record(401, app="/usr/bin/two"), record(402, app="/usr/bin/three"))
    page.until("#audit-newer", "Show 2 newer")
    time.sleep(1.5)
    assert ids(page) == [7, 6, 2, 1]
    assert page.js(place) == before
    page.click("#audit-newer")
    shows(page, 9, 8, 7, 6, 2, 1)
    assert page.all('#records [data-key="6"] details[open]'), "what was open is open"
    page.until("#audit-newer", "Newer ones")


def test_new_records_are_filtered_like_those_before(page: Page, db: Path) -> None:
    go(page, "#audit?decision=deny&app=wget")
    page.until("#audit-count", "no record is as asked, live")
    keep(db, record(400), record(401, "deny", app="/usr/bin/wget"))
    shows(page, 8)
    keep(db, record(402), record(403, "deny", app="/usr/bin/wget"))
    shows(page, 10, 8)


def test_a_daemon_that_is_gone_is_said_and_found_again(
    page: Page, daemon: Daemon, db: Path
) -> None:
    go(page, "#audit")
    shows(page, 6, 2, 1)
    daemon.stop()
    page.until("#audit-problem", "not connected to arbiter")
    assert ids(page) == [6, 2, 1], "what is known stays"
    daemon.start()
    keep(db, record(400))
    shows(page, 7, 6, 2, 1)
    eventually(lambda: not page.find("#audit-problem").is_displayed())


# --- as files -------------------------------------------------------------------------------


def command(db: Path, *argv: str) -> str:
    done = CliRunner().invoke(cli.cli, ["audit", *argv, "--user", "alice", "--db", str(db)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_what_is_shown_is_downloaded_as_the_command_prints_it(
    page: Page, db: Path, tmp_path: Path
) -> None:
    keep(db, record(400, app="=1+2", note='a "b", c', argv=json_list(["x\ny", "-1"])))
    page.cdp("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "got"))
    go(page, "#audit")
    shows(page, 7, 6, 2, 1)
    page.click("#audit-json")
    path = tmp_path / "got" / "arbiter-audit.json"
    eventually(path.exists)
    got: list[dict[str, Any]] = eventually(lambda: json.loads(path.read_text() or "null"))
    assert got == json.loads(command(db, "--json"))[::-1]
    page.click("#audit-csv")
    path = tmp_path / "got" / "arbiter-audit.csv"
    eventually(path.exists)
    text = eventually(lambda: path.read_bytes().decode())
    head, *lines = csv.reader(text.splitlines(keepends=True))
    wanted_head, *wanted = csv.reader(command(db, "--csv").splitlines(keepends=True))
    assert head == wanted_head
    assert lines == _plain_lists(head, wanted[::-1])
    assert dict(zip(head, lines[0], strict=True))["app"] == "'=1+2"


def _plain_lists(head: list[str], lines: list[list[str]]) -> list[list[str]]:
    """Lists and numbers as JavaScript writes them: without blanks, 30.0 as 30."""

    def plain(name: str, cell: str) -> str:
        if name in ("argv", "parents", "names", "sims", "networks"):
            return json.dumps(json.loads(cell), separators=(",", ":"), ensure_ascii=False)
        return cell.removesuffix(".0") if name in ("time", "waited", "replied", "closed") else cell

    return [[plain(*pair) for pair in zip(head, line, strict=True)] for line in lines]


# --- an app ---------------------------------------------------------------------------------


def test_an_apps_page_tells_what_it_did_by_which_rules_and_what_it_cost(
    page: Page, daemon: Daemon, db: Path, tmp_path: Path
) -> None:
    now = time.time()
    env = {"ARBITER_DB": str(db), "ARBITER_SOCKET": str(tmp_path / "s"), "PATH": "/usr/bin"}
    for line in ("deny app=/usr/lib/firefox/firefox port=25", "deny app=/usr/bin/wget"):
        argv = [sys.executable, "-P", "-m", "arbiter", "rules", "add", line]
        subprocess.run(argv, env=env, check=True, capture_output=True)
    big = {"app": FIREFOX, "names": json_list([MOZILLA]), "daddr": "198.51.100.7"}
    keep(
        db,
        replace(record(0, link="lte", out_bytes=10**6, in_bytes=24 * 10**6, **big), time=now - 9),
        replace(
            record(0, "deny", "rule", rule_id=1, layer=2, by="root", link="", **big), time=now - 8
        ),
        replace(record(0, names=json_list(["curl.example"])), time=now - 7),
    )
    daemon.tell(connection(3, app="curl", time=now))
    go(page, "#app/%2Fusr%2Flib%2Ffirefox%2Ffirefox?since=1h")
    page.until("#app-sum", "allow: 1, deny: 1")
    assert page.text("#app-name") == "firefox"
    assert page.text("#app-id") == FIREFOX
    (place,) = page.all("#app-places tr")
    assert place.text.split("\n")[0].startswith("www.mozilla.org:443 198.51.100.7 2 1 1.0 MB 24 MB")
    assert "lte 1 0 1.0 MB 24 MB 0.50 EUR" in page.text("#app-links").replace("\t", " ")
    assert "deny app=/usr/lib/firefox/firefox port=25 decided once" in page.text("#app-rules")
    assert "wget" not in page.text("#app") and "curl.example" not in page.text("#app")
    assert len(page.all("#app-records > li")) == 2
    page.picture("app")
    page.find("#app-since").send_keys("the")
    page.until("#app-sum", "deny: 2, allow: 1")
    assert hash_of(page) == "#app/%2Fusr%2Flib%2Ffirefox%2Ffirefox?since="
    assert "rule 3 decided once" in page.text("#app-rules"), "which is not in force any more"
    page.click('#app-places a[href*="mozilla"]')
    shows(page, 8, 7)
    page.driver.back()
    page.until("#app-sum", "deny: 2")
    page.click('#app-rules a[href*="rule=3"]')
    shows(page, 2)


def test_an_app_without_records_shows_what_was_seen_of_it(
    page: Page, daemon: Daemon, db: Path
) -> None:
    daemon.tell(connection(1, host="seen.example", time=time.time()))
    daemon.scripted.database = db.with_name("none.db")
    go(page, "#app/%2Fusr%2Fbin%2Fcurl")
    page.until("#app-problem", "there is no such file")
    page.until("#app-places", "seen.example:443")


def test_the_focus_stays_where_it_is_while_an_apps_connections_carry_more(
    page: Page, daemon: Daemon
) -> None:
    daemon.tell(connection(1, host="seen.example", time=time.time()))
    go(page, "#app/%2Fusr%2Fbin%2Fcurl")
    eventually(lambda: page.all("#app-flows summary"))
    page.driver.execute_script("document.querySelector('#app-flows summary').focus()")
    daemon.tell(traffic(time.time(), (1, 70_000, 5_000_000)))
    page.until("#app-flows", "5.0 MB")
    assert page.js("document.activeElement === document.querySelector('#app-flows summary')")


# --- hostile, narrow, dark ------------------------------------------------------------------


def test_what_records_say_stays_text(page: Page, daemon: Daemon, db: Path) -> None:
    keep(
        db,
        replace(
            record(500, app=EVIL, exe=EVIL, argv=json_list([EVIL]), parents=json_list([EVIL]),
                   names=json_list([EVIL]), link=EVIL, by=EVIL, frontend=EVIL, note=EVIL,
                   no_owner=EVIL, profile=EVIL, sims=json_list([EVIL]), networks=json_list([EVIL]),
                   app_kind=EVIL, daddr=EVIL, saddr=EVIL, proto=EVIL, state=EVIL, rule_id=-1),
            decision=EVIL, reason=EVIL, hook=EVIL,
        ),
        record(501, app="\u202e\x1b]0;x\x07evil\u200b", note="\u2066\x00"),
    )  # fmt: skip
    daemon.tell(links({"name": EVIL}))
    before = page.js("document.querySelectorAll('script').length")
    go(page, "#audit")
    shows(page, 8, 7, 6, 2, 1)
    page.click('#records [data-key="7"] summary')
    page.until('#records [data-key="7"] .about', "<script>window.pwned")
    shown = page.text("#records")
    assert not set("\u202e\x1b\x07\u200b\u2066\x00") & set(shown)
    page.picture("audit-hostile")
    page.click('#records [data-key="7"] a[href^="#app/"]')
    page.until("#app-id", "<img src=x")
    page.until("#app-places", "<img src=x")
    page.until("#app-links", "<script>")
    page.until("#app-records", "<img src=x")
    go(page, f"#audit?app={EVIL}&host=<img src=x onerror=window.pwned=1>")
    page.until("#audit-problem", "host: ")
    assert page.js("window.pwned === undefined")
    assert page.js("document.querySelectorAll('img, iframe, object, embed, svg').length") == 0
    assert page.js("document.querySelectorAll('script').length") == before


def many(db: Path) -> None:
    hosts = [MOZILLA, TRACKER, "a-rather-long-name-of-a-host.in.some-domain.example"]
    keep(
        db,
        *(
            record(1000.0 + n, ("allow", "deny", "route via=lte,wifi,any")[n % 3],
                   ("answer", "rule", "deadline")[n % 3], rule_id=3, layer=2, by="alice",
                   frontend="web", app=(CURL, FIREFOX, "flatpak:org.telegram.desktop")[n % 3],
                   names=json_list([hosts[n % 3]]), state="closed", out_bytes=n * 9999,
                   in_bytes=n * 99999)
            for n in range(40)
        ),
    )  # fmt: skip


def test_on_a_phones_screen_records_come_first_and_fit(
    page: Page, daemon: Daemon, db: Path
) -> None:
    many(db)
    now = time.time()
    daemon.tell(*(ask_to(id, created=now, deadline=now + 600) for id in range(1, 13)))
    page.cdp("Emulation.setDeviceMetricsOverride", width=375, height=667, deviceScaleFactor=2,
             mobile=True)  # fmt: skip
    page.open()
    page.until("#state", "connected as alice")
    for name, place in (("audit", "#audit"), ("app", "#app/%2Fusr%2Fbin%2Fcurl?since=")):
        go(page, place)
        page.find(f"#{name} .records li")
        page.picture(f"phone-{name}")
        assert page.js("document.documentElement.scrollWidth") <= 375, name
    go(page, "#audit")
    shows(page, *range(46, 6, -1), 6, 2, 1)
    top = page.js("document.querySelector('#records summary').getBoundingClientRect().top")
    assert top < 667, "the first record is to be seen without scrolling"
    page.click("#filter-box summary")
    assert page.find('#filters [name="host"]').is_displayed()
    assert page.js("document.documentElement.scrollWidth") <= 375
    nav = page.js("[...document.querySelectorAll('nav a')].at(-1).getBoundingClientRect().right")
    assert nav <= 375, "every page of the console is in the bar"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_records_can_be_read_in_light_and_dark(page: Page, db: Path, scheme: str) -> None:
    many(db)
    page.cdp("Emulation.setEmulatedMedia",
             features=[{"name": "prefers-color-scheme", "value": scheme}])  # fmt: skip
    go(page, "#audit?since=2020-01-01")
    eventually(lambda: len(ids(page)) == 43)
    page.click("#records li:nth-child(2) summary")
    page.driver.execute_script("scrollTo(0, 0)")
    page.picture(f"{scheme}-audit")
    ratios = page.js(CONTRAST, "label, summary, .record span, .record b, .record time, dt, dd, a")
    assert len(ratios) > 300
    assert [(name, ratio) for name, ratio in ratios if ratio < 4.5] == [], "WCAG 2.1, 1.4.3"
