"""The console in a real, headless Chromium: what a person sees and can press.

Pictures go to the folder that ARTIFACTS names, or to the run's temporary one.
"""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from live_examples import connection, links, traffic
from scripted_daemon import ask_to, example_ask
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from webconsole import Daemon, eventually
from webpage import CONTRAST, EVIL, Page, browser, opened, pictures_in

from arbiter.protocol import (
    Answer,
    AppView,
    Ask,
    Away,
    Choice,
    Notice,
    Snooze,
    Undo,
    Withdraw,
    WithdrawReason,
)
from arbiter.store import Store

ARM = 0.5
"""Seconds before a button works."""
SLACK = 60
"""Milliseconds between what the page sees and what the test does."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    with browser() as driver:
        yield driver


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures_in(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path / "s")
    yield made
    made.close()


@pytest.fixture
def page(
    daemon: Daemon, chromium: webdriver.Chrome, tmp_path: Path, pictures: Path
) -> Iterator[Page]:
    with opened(chromium, tmp_path, pictures) as made:
        yield made


def waiting(id: int, **changes: Any) -> Ask:
    now = time.time()
    return ask_to(id, created=now, deadline=now + 90, **changes)


# --- questions and answers ------------------------------------------------------------------


def test_a_question_appears_by_itself_and_its_answer_reaches_the_daemon(
    page: Page, daemon: Daemon
) -> None:
    assert page.text("#none") == "Nothing waits for an answer."
    eventually(lambda: page.js("!document.querySelector('#none').hidden"))
    daemon.tell(waiting(1))
    page.until("#question", "curl, from deploy.sh, wants to connect to")
    assert "192.0.2.1, port 443" in page.text("#question")
    assert "deny for 2 packets in" in page.text("#ask .clock")
    assert page.js("document.title") == "(1) Arbiter"
    assert page.text(".rules dd.deny code") == (
        "deny app=/usr/bin/curl host=192.0.2.1 port=443 proto=tcp"
    )
    page.picture("question")
    page.press("deny")
    (answer,) = eventually(lambda: daemon.received(Answer))
    shown = "app=/usr/bin/curl host=192.0.2.1 port=443 proto=tcp"
    assert answer == Answer(1, Choice.DENY, "connection", "forever", (), shown)
    page.until("#log", "denied curl; rule 12")
    assert page.js("document.title") == "Arbiter"


def test_what_is_chosen_is_shown_as_the_exact_rule_before_a_button_works(
    page: Page, daemon: Daemon
) -> None:
    daemon.tell(waiting(1))
    page.click('input[value="app"]')
    page.click('input[value="15m"]')
    for link in ("any", "lte"):
        page.click(f'.via input[value="{link}"]')
        page.until(".rules dd.route code", link)
    rule = "route via=lte,any app=/usr/bin/curl for=15m"
    page.until(".rules dd.route code", rule)
    assert page.text(".rules dd.allow code") == "allow app=/usr/bin/curl for=15m"
    assert "over lte, else the default route" in page.text(".rules dd.route span")
    page.press("route")
    (answer,) = eventually(lambda: daemon.received(Answer))
    assert (answer.decision, answer.via) == (Choice.ROUTE, ("lte", "any"))
    assert (answer.scope, answer.lifetime) == ("app", "15m")


def test_buttons_work_only_once_the_question_was_to_be_seen(page: Page, daemon: Daemon) -> None:
    watch = """
    window.pressed = [];
    new MutationObserver(() => {
      for (const button of document.querySelectorAll(".answer")) {
        const shown = document.querySelector("#question");
        if (shown !== window.last) { window.last = shown; window.since = performance.now(); }
        if (!button.disabled) window.pressed.push(performance.now() - window.since);
      }
    }).observe(document.querySelector("#ask"), {subtree: true, childList: true, attributes: true});
    """
    page.driver.execute_script(watch)
    daemon.tell(waiting(1))
    eventually(lambda: page.armed("allow"))
    assert min(page.js("window.pressed")) >= ARM * 1000 - SLACK
    page.driver.execute_script("window.pressed = []")
    to_wget = tuple(
        msgspec.structs.replace(scope, conditions="app=/usr/bin/wget")
        for scope in waiting(1).scopes
    )
    daemon.tell(msgspec.structs.replace(waiting(1), scopes=to_wget))
    page.until("#ask .notice", "this question has changed: read it again")
    assert page.text(".rules dd.allow code") == "allow app=/usr/bin/wget"
    eventually(lambda: page.armed("allow"))
    assert min(page.js("window.pressed")) >= ARM * 1000 - SLACK, "another question is read again"
    assert daemon.received(Answer) == []


def test_the_time_before_a_question_is_painted_does_not_count(page: Page, daemon: Daemon) -> None:
    page.driver.execute_script("""
    window.pressed = [];
    new MutationObserver(() => {
      if (document.querySelector("#question") !== window.last) {
        window.last = document.querySelector("#question");
        const from = performance.now();
        while (performance.now() - from < 350);  // as on a machine with much to do
        window.since = performance.now();
      }
      for (const button of document.querySelectorAll(".answer"))
        if (!button.disabled) window.pressed.push(performance.now() - window.since);
    }).observe(document.querySelector("#ask"), {subtree: true, childList: true, attributes: true});
    """)
    daemon.tell(waiting(1))
    eventually(lambda: page.armed("allow"))
    assert min(page.js("window.pressed")) >= ARM * 1000 - SLACK


def test_a_question_beneath_the_edge_of_the_window_is_not_armed(page: Page, daemon: Daemon) -> None:
    page.cdp("Emulation.setDeviceMetricsOverride", width=400, height=300, deviceScaleFactor=1,
             mobile=True)  # fmt: skip
    daemon.tell(*map(waiting, range(1, 6)))
    eventually(lambda: len(page.rows()) == 5)
    page.driver.execute_script("scrollTo(0, 0)")
    assert page.js("document.querySelector('#question').getBoundingClientRect().top > innerHeight")
    time.sleep(ARM + 0.4)
    assert not page.armed("allow")
    page.driver.execute_script("document.querySelector('#question').scrollIntoView()")
    eventually(lambda: page.armed("allow"))


def test_a_question_in_a_tab_behind_another_is_not_armed(page: Page, daemon: Daemon) -> None:
    first = page.driver.current_window_handle
    page.driver.execute_script("""
      document.addEventListener("visibilitychange", () => { window.shown = performance.now(); });
      new MutationObserver(() => {
        if (document.querySelector(".answer:enabled") && !window.armed)
          window.armed = [performance.now(), document.hidden];
      }).observe(document.querySelector("#ask"),
        {subtree: true, childList: true, attributes: true});
    """)
    page.driver.switch_to.new_window("tab")
    try:
        daemon.tell(waiting(1))
        time.sleep(ARM * 2)
    finally:
        page.driver.close()
        page.driver.switch_to.window(first)
    eventually(lambda: page.armed("allow"))
    at, hidden = page.js("window.armed")
    assert not hidden
    assert at - page.js("window.shown") >= ARM * 1000 - SLACK


def test_by_keyboard_alone_and_return_by_accident_decides_nothing(
    page: Page, daemon: Daemon
) -> None:
    daemon.tell(waiting(1), waiting(2), waiting(3))
    eventually(lambda: len(page.rows()) == 3)
    eventually(lambda: page.armed("allow"))
    page.keys("a", "d", Keys.RETURN, " ")
    assert page.focus() == "BODY", "a question that comes takes no focus"
    page.keys("n")
    assert page.focus() == "question"
    page.until("#question", "192.0.2.2")
    page.keys("a", Keys.RETURN)
    assert not page.armed("allow"), "those keys came before it could be read"
    eventually(lambda: page.armed("allow"))
    page.keys(Keys.RETURN, Keys.RETURN, " ")
    page.keys("x")
    page.until("#question", "192.0.2.3")
    assert "later" in str(page.all("#asks li")[1].get_attribute("class"))
    assert daemon.received(Answer) == []
    eventually(lambda: page.armed("allow"))
    page.keys("a")
    (answer,) = eventually(lambda: daemon.received(Answer))
    assert (answer.ask, answer.decision) == (3, Choice.ALLOW)
    page.until("#question", "192.0.2.1")
    assert page.focus() == "question", "the next question's heading, never a button"
    eventually(lambda: page.armed("deny"))
    for _ in range(30):
        if page.js("document.activeElement.value") == "deny":
            break
        page.keys(Keys.TAB)
    held = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
    for _ in range(3):
        page.cdp("Input.dispatchKeyEvent", type="keyDown", autoRepeat=True, **held)
    page.cdp("Input.dispatchKeyEvent", type="keyUp", **held)
    time.sleep(0.2)
    assert len(daemon.received(Answer)) == 1, "a Return that was held down since before"
    page.keys(Keys.RETURN)
    eventually(lambda: len(daemon.received(Answer)) == 2)
    assert daemon.received(Answer)[1].decision is Choice.DENY


def test_rows_do_not_move_when_others_end(page: Page, daemon: Daemon) -> None:
    daemon.tell(*map(waiting, range(1, 5)))
    eventually(lambda: len(page.rows()) == 4)
    tops = "[...document.querySelectorAll('#asks .row')].map(x=>x.getBoundingClientRect().top)"
    before = page.js(tops)
    daemon.tell(Withdraw(2, WithdrawReason.EXITED), Withdraw(1, WithdrawReason.EXITED), waiting(5))
    page.until("#question", "192.0.2.3")
    eventually(lambda: len(page.rows()) == 5)
    assert page.js(tops)[:4] == before
    assert [("over" in row) for row in page.rows()] == [True, True, False, False, False]
    page.until("#log", "withdrawn: the program has exited")


def test_a_question_that_waits_is_shown_before_those_for_which_nothing_waits(
    page: Page, daemon: Daemon
) -> None:
    for id in range(1, 20):
        daemon.tell(waiting(id, stale=True, waiting=0))
    page.until("#question", "192.0.2.1,")
    daemon.tell(waiting(30))
    page.until("#question", "192.0.2.30,")
    place = "document.querySelector('#asks [aria-current]').getBoundingClientRect()"
    edge = "document.querySelector('#list').getBoundingClientRect()"
    assert page.js(f"{place}.top >= {edge}.top && {place}.bottom <= {edge}.bottom"), "and its row"
    assert page.js("scrollY") == 0
    page.click("#asks li:nth-child(2) button")  # a person's own choice stays
    page.until("#question", "192.0.2.2,")
    daemon.tell(waiting(31))
    page.until("#asks li:last-child", "192.0.2.31")
    assert "192.0.2.2," in page.text("#question")
    page.click("#asks li:nth-child(20) button")
    page.press("deny")
    eventually(lambda: daemon.received(Answer))
    page.until("#question", "192.0.2.31,")  # not one of those that wait for nothing


def test_fifty_questions_at_once_stay_usable(page: Page, daemon: Daemon) -> None:
    daemon.tell(*map(waiting, range(1, 51)))
    eventually(lambda: page.text("#count") == "50")
    began = time.monotonic()
    page.find("#asks li:nth-child(40) .row").click()
    page.until("#question", "192.0.2.40")
    page.press("allow")
    (answer,) = eventually(lambda: daemon.received(Answer))
    assert answer.ask == 40
    page.until("#question", "192.0.2.41")
    assert page.text("#count") == "49"
    assert time.monotonic() - began < 8


def test_undo_snooze_and_do_not_disturb_reach_the_daemon(page: Page, daemon: Daemon) -> None:
    daemon.tell(waiting(1))
    page.press("allow")
    page.click("#log button")
    assert eventually(lambda: daemon.received(Undo)) == [Undo(12)]
    page.until("#log", "taken back")
    page.until("#toast", "taken back")
    page.click("#toast")
    assert not page.find("#toast").is_displayed(), "what is in the way goes by a click"
    page.click('#snooze option[value="1"]')
    page.click("#doze")
    page.until("#alerts", "what is new of alice is denied unasked for")
    assert eventually(lambda: daemon.received(Snooze)) == [Snooze(Choice.DENY, 300)]
    page.click("#wake")
    eventually(lambda: page.text("#alerts").count("unasked") == 0)
    page.click("#quiet")
    page.until("#alerts", "do not disturb")
    eventually(lambda: daemon.received(Away)[-1] == Away(True))


def test_a_snooze_that_is_looked_at_by_keyboard_begins_only_by_its_button(
    page: Page, daemon: Daemon
) -> None:
    eventually(lambda: len(page.all("#snooze option")) > 4)
    page.driver.execute_script("document.querySelector('#snooze').focus()")
    page.keys(*[Keys.DOWN] * 4)
    assert page.js("document.querySelector('#snooze').selectedOptions[0].text").startswith("allow")
    time.sleep(0.3)
    assert daemon.received(Snooze) == [], "a key to look at what there is allows nothing"
    page.keys(Keys.TAB, Keys.RETURN)
    page.until("#alerts", "what is new of alice is allowed unasked for")
    assert page.js("document.querySelector('#snooze').value") == ""
    assert page.js("document.querySelector('#doze').disabled")


# --- hostile strings ------------------------------------------------------------------------


def evil_ask() -> Ask:
    ask = example_ask(7, created=time.time(), deadline=time.time() + 90)
    app = AppView(f"/tmp/{EVIL}", "path", EVIL)
    process = msgspec.structs.replace(ask.processes[0], app=app, argv=(EVIL,), note=EVIL, cwd=EVIL)
    assert ask.advice is not None
    return msgspec.structs.replace(
        ask, processes=(process,), why=EVIL, user=EVIL,
        destination=msgspec.structs.replace(ask.destination, name=EVIL, names=(EVIL,)),
        advice=msgspec.structs.replace(ask.advice, application=EVIL, purpose=EVIL, if_denied=EVIL),
        links=tuple(msgspec.structs.replace(link, name=EVIL, price=EVIL) for link in ask.links[:1]),
        scopes=tuple(msgspec.structs.replace(s, conditions=f"app={EVIL}") for s in ask.scopes),
    )  # fmt: skip


def test_what_programs_and_dns_say_stays_text(page: Page, daemon: Daemon, tmp_path: Path) -> None:
    with Store.open(tmp_path / "arbiter.db"):
        pass
    before = page.js("document.querySelectorAll('script').length")
    now = time.time()
    daemon.tell(
        evil_ask(),
        connection(1, app=EVIL, host=EVIL, link=EVIL, rule=EVIL, by=EVIL, time=now),
        links({"name": EVIL, "interface": EVIL, "price": EVIL, "budget": EVIL}),
        traffic(now, (1, 1000, 5000)),
        Notice(now, EVIL),
    )
    page.until("#question", "<img src=x onerror")
    page.until("#toast", "<script>")
    page.click("#ask details summary")
    page.press("allow")
    page.until("#log", "<script>window.pwned")
    page.go("connections")
    page.until("#flows", "<img src=x")
    page.click("#flows summary")
    page.click("#flows a")
    page.until("#app h2", "<img src=x")
    page.go("apps")
    page.until("#applist", "<img src=x")
    page.go("links")
    page.until("#linklist", "<script>")
    eventually(lambda: page.all("#linklist canvas"))
    page.picture("hostile")
    assert page.js("window.pwned === undefined")
    assert page.js("document.querySelectorAll('img, iframe, object, embed, svg').length") == 0
    assert page.js("document.querySelectorAll('script').length") == before
    assert "49" not in page.text("#linklist h3"), "no template, either"


# --- who comes in ---------------------------------------------------------------------------


def test_a_wrong_token_and_a_new_tab_without_one_see_nothing(page: Page, daemon: Daemon) -> None:
    daemon.tell(waiting(1))
    page.until("#question", "curl")
    assert page.console.token not in page.js("location.href + document.documentElement.outerHTML")
    assert page.js("document.cookie") == "", "no script sees the cookie"
    page.driver.execute_script("sessionStorage.clear()")
    page.open(page.console.origin)
    page.until("#state", "not logged in: open the whole address that `arbiter prompt web` printed")
    assert page.rows() == []
    page.open(f"{page.console.origin}/#{'x' * 43}")
    page.until("#state", "this is not the token")
    page.open()
    page.until("#question", "curl")


def test_two_tabs_show_the_same_and_an_answer_in_one_ends_it_in_the_other(
    page: Page, daemon: Daemon
) -> None:
    daemon.tell(waiting(1), waiting(2))
    first = page.driver.current_window_handle
    eventually(lambda: page.armed("allow"))
    page.driver.switch_to.new_window("tab")
    try:
        page.driver.get(page.console.url)
        page.until("#question", "192.0.2.1")
        assert len(page.rows()) == 2
        page.press("deny")
        page.until("#log", "denied curl")
    finally:
        page.driver.close()
        page.driver.switch_to.window(first)
    eventually(lambda: page.all("#asks .ended"))
    page.until("#question", "192.0.2.2")
    page.until("#log", "denied curl")
    assert page.js("document.title") == "(1) Arbiter"
    page.press("allow")
    eventually(lambda: len(daemon.received(Answer)) == 2)


class _Other(http.server.BaseHTTPRequestHandler):
    """Another site; it is even on this machine, so that cookies come along."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>other</title>")

    def log_message(self, format: str, *args: object) -> None:
        pass


ATTACK = """
const [origin, body, done] = arguments;
const frame = document.createElement("iframe");
frame.src = origin;
document.body.append(frame);
const tries = [];
for (const mode of ["no-cors", "cors"])
  for (const type of ["text/plain", "application/json"])
    tries.push(fetch(origin + "/api/answer", {method: "POST", mode, credentials: "include", body,
      headers: {"content-type": type}}).then((r) => [r.type, r.status], () => ["failed", 0]));
Promise.all(tries).then((all) => setTimeout(() => {
  let inside = "blocked";
  try { inside = frame.contentDocument ? "open" : "blocked"; } catch { /* another origin */ }
  done({all, inside, frames: frames.length});
}, 300));
"""


def test_another_site_in_the_same_browser_can_neither_answer_nor_read(
    page: Page, daemon: Daemon
) -> None:
    daemon.tell(waiting(1))
    eventually(lambda: page.armed("allow"))
    rule = page.text(".rules dd.allow code")
    body = {"ask": 1, "decision": "allow", "scope": "connection", "lifetime": "forever",
            "via": [], "rule": rule}  # fmt: skip
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Other) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            page.driver.get(f"http://127.0.0.1:{server.server_address[1]}/")
            found = page.driver.execute_async_script(ATTACK, page.console.origin, json.dumps(body))
        finally:
            server.shutdown()
            thread.join()
    assert {tuple(each) for each in found["all"]} <= {("failed", 0), ("opaque", 0)}
    assert found["inside"] == "blocked"
    assert daemon.received(Answer) == []
    page.log("browser")  # what the browser refused the other site


def test_nothing_is_asked_of_another_host(page: Page, daemon: Daemon) -> None:
    daemon.tell(waiting(1), links(), connection(1, time=time.time()))
    for name in ("connections", "apps", "links", "rules", "questions"):
        page.go(name)
    asked = set()
    for entry in page.log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(message["params"]["request"]["url"])
    assert any(url.startswith(page.console.origin) for url in asked)
    hosts = {url.split("/")[2] for url in asked if url.startswith("http")}
    assert all(host.split(":")[0] == "127.0.0.1" for host in hosts), hosts


# --- the daemon, and the other pages --------------------------------------------------------


def test_a_daemon_that_is_gone_is_told_and_its_questions_come_back(
    page: Page, daemon: Daemon
) -> None:
    daemon.tell(waiting(1))
    eventually(lambda: page.armed("allow"))
    daemon.stop()
    page.until("#state", "no connection")
    eventually(lambda: not page.armed("allow"))
    daemon.start()
    page.until("#state", "connected as alice")
    page.until("#question", "192.0.2.1")
    page.press("allow")
    assert eventually(lambda: daemon.received(Answer))[0].ask == 1


def test_connections_are_live_and_filtered(page: Page, daemon: Daemon) -> None:
    now = time.time()
    daemon.tell(connection(1, app="curl", host="deb.example", time=now))
    daemon.tell(connection(2, app="wget", host="other.example", time=now))
    page.go("connections")
    page.until("#flows", "deb.example:443")
    daemon.tell(traffic(time.time(), (1, 1_200_000, 3_400_000)))
    page.until("#flows", "3.4 MB")
    page.find("#filter").send_keys("wget")
    eventually(lambda: "deb.example" not in page.text("#flows"))
    assert page.text("#found") == "1 of 2"


def test_links_have_charts_of_what_they_carry(page: Page, daemon: Daemon) -> None:
    now = time.time()
    daemon.tell(links({"name": "lte"}, {"name": "wifi", "kind": "wifi", "up": False}))
    daemon.tell(connection(1, time=now))
    for second in range(3):
        daemon.tell(traffic(now - 10 + second, (1, second * 10_000, second * 500_000)))
    page.go("links")
    page.until("#linklist", "412 MB left of 500 MB/month")
    assert "down" in page.text(".link.down h3")
    coloured = """[...document.querySelectorAll('.link')].map((card) => {
      const canvas = card.querySelector('canvas');
      const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      let n = 0;
      for (let i = 0; i < data.length; i += 4)
        if (data[i + 3] && Math.abs(data[i] - data[i + 2]) > 60) n++;
      return n;
    })"""
    eventually(lambda: len(page.all(".link canvas")) == 2)
    eventually(lambda: (found := page.js(coloured))[0] > found[1] + 20)  # a curve is drawn
    page.picture("links")


def test_rules_are_changed_by_the_command_and_its_words_are_shown(
    page: Page, tmp_path: Path
) -> None:
    with Store.open(tmp_path / "arbiter.db"):
        pass
    page.go("rules")
    page.find("#line").send_keys("deny app=/usr/bin/curl port=25", Keys.RETURN)
    page.until("#said", "rule 1: deny app=/usr/bin/curl port=25")
    page.until("#rulelist", "deny app=/usr/bin/curl port=25")
    page.click("#rulelist button")
    assert page.js("document.querySelector('#line').value") == "deny app=/usr/bin/curl port=25"
    page.find("#line").send_keys(",587", Keys.RETURN)
    page.until("#said", "rule 2, in place of rule 1: deny app=/usr/bin/curl port=25,587")
    page.until("#rulelist", "port=25,587")
    assert len(page.all("#rulelist tr")) == 1
    assert not page.find("#instead").is_displayed()
    page.find("#line").clear()
    page.find("#line").send_keys("deny colour=red", Keys.RETURN)
    page.until("#said", "this is no rule")
    page.click("#rulelist button + button")
    page.until("#said", "removed rule 2")
    page.until("#norules", "No rules are remembered.")
    page.click("#undo")
    page.until("#rulelist", "deny app=/usr/bin/curl port=25,587")


# --- how it looks ---------------------------------------------------------------------------

PAGES = ("questions", "connections", "apps", "links", "rules", "audit")


def filled(daemon: Daemon) -> None:
    now = time.time()
    note = "its executable was replaced, and its package was not"
    process = msgspec.structs.replace(waiting(2).processes[0], note=note)
    daemon.tell(waiting(1), waiting(2, processes=(process,)), links({"name": "lte"}))
    for id in range(1, 9):
        long = f"a-rather-long-name-of-a-host-{id}.in.some-domain.example"
        daemon.tell(connection(id, host=long, time=now))
        daemon.tell(traffic(now - 20 + id, (id, id * 40_000, id * 300_000)))


def test_on_a_phones_screen_everything_fits_and_can_be_tapped(page: Page, daemon: Daemon) -> None:
    page.cdp("Emulation.setDeviceMetricsOverride", width=375, height=667, deviceScaleFactor=2,
             mobile=True)  # fmt: skip
    filled(daemon)
    page.find("#asks li:nth-child(2) .row").click()
    for name in PAGES:
        page.go(name)
        time.sleep(0.3)
        page.picture(f"phone-{name}")
        wide = page.js("document.documentElement.scrollWidth")
        assert wide <= 375, f"{name} is {wide} pixels wide"
        cut = page.js(
            "[...document.querySelectorAll('.wide')].some((x) => x.scrollWidth > x.clientWidth)"
        )
        assert not cut, f"a table of {name} has to be scrolled sideways"
    page.go("questions")
    sizes = page.js(
        "[...document.querySelectorAll('.buttons button, .row')].map(x=>x.offsetHeight)"
    )
    assert min(sizes) >= 40
    page.driver.execute_script("document.querySelector('#question').scrollIntoView()")
    eventually(lambda: page.armed("deny"))
    page.picture("phone-question")
    middle = "(({x, y, width, height}) => [x + width / 2, y + height / 2])"
    box = "document.querySelector('.answer.deny').getBoundingClientRect()"
    top = page.js(f"document.elementFromPoint(...{middle}({box})).value")
    assert top == "deny", "nothing covers the button"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark(page: Page, daemon: Daemon, scheme: str) -> None:
    page.cdp("Emulation.setEmulatedMedia",
             features=[{"name": "prefers-color-scheme", "value": scheme}])  # fmt: skip
    filled(daemon)
    page.press("allow")
    page.until("#log", "allowed curl")
    eventually(lambda: page.armed("deny"))
    page.picture(f"{scheme}-question")
    texts = (
        "h1, h2, #state, dt, dd, code, .clock, .alert, .answer, nav a, nav b, #log li, kbd, .hint"
    )
    ratios = page.js(CONTRAST, texts)
    assert len(ratios) > 30
    pale = [(name, ratio) for name, ratio in ratios if ratio < 4.5 and "ended" not in name]
    assert pale == [], "WCAG 2.1, 1.4.3"
    dark = page.js("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
    assert dark is (scheme == "dark")
    page.go("links")
    eventually(lambda: page.all(".link canvas"))
    page.picture(f"{scheme}-links")
