"""The web console's state and its views: what pages see, and which answers they may send."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from live_examples import connection, links, traffic
from scripted_daemon import ask_to, example_ask

from arbiter.protocol import (
    Answer,
    AppView,
    Ask,
    Away,
    Choice,
    Decided,
    Follow,
    LinkView,
    Notice,
    Query,
    Refused,
    RefusedReason,
    Snoozed,
    SnoozeView,
    Undo,
    Welcome,
    Withdraw,
    WithdrawReason,
)
from prompts import render
from prompts.client import Lost
from prompts.web import requests, views
from prompts.web.console import STATUS_SECONDS, Console
from prompts.web.requests import Answered, RequestError

NOW = 1700000000.0
WELCOME = Welcome(1, "0.1.0", "alice", False, "ask", "deny", 0)
EVIL = "\x1b[31m\u202etxt\n<img src=x onerror=alert(1)>\u200b"


def opened(*asks: Ask) -> Console:
    """A console with a page, connected, with these asks."""
    console = Console()
    console.event(WELCOME, NOW)
    console.opened()
    for ask in asks:
        console.event(ask, NOW)
    return console


def board(console: Console, now: float = NOW) -> dict[str, Any]:
    console.refresh(now)
    return {key: json.loads(data) for key, (_, data) in console.board.views.items()}


def answered(view: dict[str, Any], decision: str = "allow", **changes: Any) -> Answered:
    """What the page sends when a button is pressed without another choice."""
    first = view["first"]
    body = {key: first[key] for key in ("scope", "lifetime", "via")}
    body |= {"ask": view["id"], "decision": decision}
    body["rule"] = changes.get("rule") or first[decision]["rule"]
    return requests.decode(json.dumps(body | changes).encode(), Answered)


def test_without_a_page_nobody_is_there_to_ask() -> None:
    console = Console()
    assert console.opened() == [], "there is no daemon to tell yet"
    console.closed()
    assert console.event(WELCOME, NOW) == [Follow(), Query(), Away(True)]
    assert console.opened() == [Away(False)]
    assert console.opened() == [] and console.closed() == []
    assert console.disturb(True) == [Away(True)]
    assert console.closed() == [] and console.opened() == []
    assert console.disturb(False) == [Away(False)]
    assert console.closed() == [Away(True)]
    console.event(Lost("gone"), NOW)
    assert console.opened() == []
    assert console.event(WELCOME, NOW) == [Follow(), Query()], "a new daemon thinks we are there"


def test_the_daemon_is_asked_how_it_is_while_a_page_is_open() -> None:
    console = opened()
    assert console.tick(NOW + 1) == []
    assert console.tick(NOW + STATUS_SECONDS) == [Query()]
    assert console.tick(NOW + STATUS_SECONDS + 1) == []
    assert console.tick(NOW - 1000) == [Query()], "the clock was set back"
    console.closed()
    assert console.tick(NOW + 1000) == []


def test_a_question_has_everything_the_other_prompts_show() -> None:
    ask = example_ask(7, obstacle=False)
    view = board(opened(ask))["ask:7"]
    assert view["question"] == list(render.question(ask))
    assert view["facts"] == [list(pair) for pair in render.facts(ask)]
    assert view["suggests"] == "allow" and "curl: Fetches" in str(view["facts"])
    assert [s["conditions"] for s in view["scopes"]] == [s.conditions for s in ask.scopes]
    assert [each["id"] for each in view["lifetimes"]] == list(render.LIFETIMES)
    assert [link["id"] for link in view["links"]] == ["wifi", "lte", "unmetered", "any"]
    first = view["first"]
    assert first["deny"]["rule"] == f"deny {ask.scopes[0].conditions}"
    assert first["allow"]["means"] == render.means(ask, ask.scopes[0], "forever", Choice.ALLOW)
    assert "route" not in first, "no link is chosen"
    assert board(opened(ask), ask.deadline - 12)["clock:7"] == "deny for 2 packets in 12 s"


def test_every_preview_is_the_rule_that_is_then_sent() -> None:
    ask = example_ask(7)
    for place, scope in enumerate(ask.scopes):
        for lifetime in render.lifetimes(ask):
            console = opened(ask)
            via = ("any", "lte") if place % 2 else ("lte",)
            look = requests.Preview(7, scope.id, lifetime, via)
            shown = console.preview(look)["route"]["rule"]
            body = {"scope": scope.id, "lifetime": lifetime, "via": via, "rule": shown}
            view = board(console)["ask:7"] | {"first": {**console.preview(look), "scope": scope.id}}
            made = console.answer(answered(view, "route", **body))
            order = ("lte", "any") if place % 2 else ("lte",)
            assert made == Answer(7, Choice.ROUTE, scope.id, lifetime, order, scope.conditions)
            assert shown == render.rule_line(scope, lifetime, Choice.ROUTE, order)


def test_where_allow_means_a_route_the_preview_and_the_answer_say_that_route() -> None:
    console = opened(example_ask(7, obstacle=True, via=("lte",)))
    view = board(console)["ask:7"]
    assert view["first"]["lifetime"] == "1h"
    assert view["first"]["allow"]["rule"].startswith("route via=lte app=")
    made = console.answer(answered(view))
    assert (made.decision, made.via) == (Choice.ROUTE, ("lte",))
    assert console.lifetime == "forever", "an obstacle's lifetime is no habit"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ask": 9}, "not open any more"),
        ({"scope": "world"}, "does not offer the scope"),
        ({"lifetime": "ever"}, "does not offer the lifetime"),
        ({"via": ["satellite"]}, "does not offer the link"),
        ({"decision": "route", "rule": "x"}, "choose a link first"),
        ({"rule": "allow app=/usr/bin/curl"}, "read it again"),
    ],
)
def test_an_answer_that_was_not_offered_or_not_shown_is_not_sent(
    changes: dict[str, Any], why: str
) -> None:
    console = opened(example_ask(7))
    with pytest.raises(RequestError, match=why):
        console.answer(answered(board(console)["ask:7"], **changes))
    assert console.sent == {}


def test_an_ask_that_changed_since_it_was_shown_is_not_answered() -> None:
    console = opened(example_ask(7))
    pressed = answered(board(console)["ask:7"])
    before = board(console)["ask:7"]["subject"]
    scopes = [
        msgspec.structs.replace(s, conditions="app=/usr/bin/wget") for s in example_ask().scopes
    ]
    console.event(example_ask(7, scopes=tuple(scopes)), NOW)
    assert board(console)["ask:7"]["subject"] != before, "the page must show it anew"
    with pytest.raises(RequestError, match="changed"):
        console.answer(pressed)
    console.event(example_ask(7, waiting=9), NOW)
    assert board(console)["ask:7"]["subject"] == before, "a packet more is the same question"


def test_an_answer_is_sent_once_and_given_back_when_it_did_not_go() -> None:
    console = opened(example_ask(7))
    pressed = answered(board(console)["ask:7"])
    made = console.answer(pressed)
    assert board(console)["ask:7"]["sent"] == "allow"
    with pytest.raises(RequestError, match="on its way"):
        console.answer(pressed)
    console.unsent(made)
    assert board(console)["ask:7"]["sent"] is None
    console.answer(pressed)
    console.event(Refused(RefusedReason.BUSY, "later", 7), NOW)
    assert console.answer(pressed) == made, "refused: the person may try again"
    console.event(Decided(7, "allow", "alice", "web", 2, "allow app=/x", 12), NOW)
    assert "ask:7" not in board(console) and console.sent == {}


def test_an_answer_that_was_on_its_way_when_the_daemon_went_is_named() -> None:
    console = opened(ask_to(7), ask_to(8))
    console.answer(answered(board(console)["ask:7"]))
    console.event(Lost("arbiter at /s ended the connection"), NOW)
    shown = board(console)
    assert not [key for key in shown if key.startswith("ask:")]
    assert shown["me"]["state"].startswith("no connection: arbiter at /s ended the connection")
    (entry,) = (view for key, view in shown.items() if key.startswith("log:"))
    assert "192.0.2.7" in entry["text"] and "look whether it asks again" in entry["text"]
    assert "192.0.2.8" not in entry["text"]
    console.event(WELCOME, NOW)
    console.event(ask_to(7), NOW)
    assert board(console)["ask:7"]["sent"] is None, "it is to be answered again"


def test_the_last_lifetime_is_the_next_default() -> None:
    console = opened(ask_to(7), ask_to(8))
    rule = console.preview(requests.Preview(7, "connection", "15m"))["allow"]["rule"]
    console.answer(answered(board(console)["ask:7"], lifetime="15m", rule=rule))
    assert board(console)["ask:8"]["first"]["lifetime"] == "15m"


def test_only_ones_own_answers_can_be_taken_back() -> None:
    console = opened(ask_to(7), ask_to(8))
    console.event(Decided(7, "allow", "alice", "web", 1, "allow app=/x", 12), NOW)
    console.event(Decided(8, "allow", "bob", "tui", 1, "allow app=/y", 13), NOW)
    logs = [view for key, view in board(console).items() if key.startswith("log:")]
    assert [view["undo"] for view in logs] == [12, None]
    assert console.undo(12) == Undo(12)
    for other in (13, 99):
        with pytest.raises(RequestError, match="may take back"):
            console.undo(other)


def test_alerts_tell_of_snoozes_with_their_clock_learning_and_quiet() -> None:
    console = opened()
    console.event(Snoozed((SnoozeView(1000, "alice", "deny", NOW + 90, "alice"),)), NOW)
    console.disturb(True)
    console.event(
        msgspec.structs.replace(WELCOME, mode="observe", snoozes=console.feed.snoozes), NOW
    )
    me = board(console)["me"]
    assert me["learning"] and me["quiet"] and me["snoozed"]
    assert "learning" in me["alerts"][0] and me["alerts"][1] == views.QUIET
    assert me["alerts"][2] == "what is new of alice is denied unasked for 90 s"
    assert not board(console, NOW + 91)["me"]["snoozed"]


def test_links_show_price_budget_and_what_they_carry_now() -> None:
    console = opened()
    console.event(links(), NOW)
    console.event(connection(12, time=NOW), NOW)
    console.event(traffic(NOW + 1, (12, 1000, 5000)), NOW + 1)
    shown = board(console, NOW + 2)
    facts = dict(map(tuple, shown["link:lte"]["facts"]))
    assert facts["budget"] == "412 MB left of 500 MB/month" and facts["price"] == "0.02 EUR/MB"
    flow = shown["flow:lte"]
    assert flow["received"][-1] == 5000 and flow["sent"][-1] == 1000
    assert flow["end"] == NOW + 1 and len(flow["sent"]) == views.CHART_SECONDS


def test_connections_are_found_by_words_and_by_app_the_newest_first() -> None:
    console = opened()
    for id, name in enumerate(("curl", "wget", "curl"), 1):
        console.event(connection(id, app=name, host=f"h{id}.example"), NOW)
    find = console.connections
    assert [row["id"] for row in find(requests.Filter(), NOW)["rows"]] == [3, 2, 1]
    assert [row["id"] for row in find(requests.Filter("CURL h1"), NOW)["rows"]] == [1]
    assert find(requests.Filter("nothing"), NOW) == {"rows": [], "found": 0, "known": 3}
    only = requests.Filter("", "/usr/bin/curl", any_app=False)
    assert [row["id"] for row in find(only, NOW)["rows"]] == [3, 1]
    assert find(requests.Filter("", "", any_app=False), NOW)["found"] == 0
    assert [row["name"] for row in console.apps()] == ["curl", "wget"]
    app = console.app("/usr/bin/curl")
    assert app is not None and [place["where"] for place in app["places"]] == [
        "h3.example:443",
        "h1.example:443",
    ]
    assert console.app("/usr/bin/unknown") is None


def test_a_page_has_a_bounded_number_of_rows() -> None:
    console = opened()
    for id in range(views.MAX_ROWS + 5):
        console.event(connection(id), NOW)
    found = console.connections(requests.Filter(), NOW)
    assert (len(found["rows"]), found["found"]) == (views.MAX_ROWS, views.MAX_ROWS + 5)


def evil_ask() -> Ask:
    ask = example_ask(7)
    process = msgspec.structs.replace(
        ask.processes[0], app=AppView(EVIL, "path", EVIL), exe=EVIL, argv=(EVIL,), cwd=EVIL,
        note=EVIL, parents=(AppView(EVIL, EVIL, EVIL),),
    )  # fmt: skip
    to = msgspec.structs.replace(ask.destination, name=EVIL, names=(EVIL,), address=EVIL)
    assert ask.advice is not None
    advice = msgspec.structs.replace(ask.advice, application=EVIL, purpose=EVIL, suggest=EVIL)
    return msgspec.structs.replace(
        ask, user=EVIL, processes=(process,), destination=to, why=EVIL, advice=advice,
        links=(LinkView(EVIL, True, price=EVIL, budget=EVIL, left=1),),
        scopes=tuple(msgspec.structs.replace(s, conditions=EVIL) for s in ask.scopes),
    )  # fmt: skip


def texts(view: object) -> list[str]:
    if isinstance(view, str):
        return [view]
    if isinstance(view, dict):
        sent_back = ("app", "id", "via")  # not shown
        return [text for key, each in view.items() if key not in sent_back for text in texts(each)]
    return [text for each in view for text in texts(each)] if isinstance(view, list | tuple) else []


def test_no_text_that_is_shown_has_a_control_or_bidi_character() -> None:
    console = opened(evil_ask())
    console.event(connection(1, app=EVIL, host=EVIL, link=EVIL, rule=EVIL, note=EVIL, by=EVIL), NOW)
    console.event(links({"name": EVIL, "interface": EVIL, "price": EVIL}), NOW)
    console.event(traffic(NOW, (1, 5, 5)), NOW)
    console.event(Notice(NOW, EVIL), NOW)
    console.event(Withdraw(7, WithdrawReason.EXITED, EVIL), NOW)
    console.event(evil_ask(), NOW)
    shown: list[object] = [*board(console).values(), console.connections(requests.Filter(), NOW)]
    shown += [views.rule_view({"id": 1, "rule": EVIL, "by": EVIL, "frontend": EVIL, "created": 0,
                               "expires": None}), views.usage_view({"app": EVIL})]  # fmt: skip
    found = [text for view in shown for text in texts(view)]
    assert len(found) > 100
    for text in found:
        assert text.isprintable(), ascii(text)


def test_a_rules_app_is_read_from_its_line() -> None:
    row = {"id": 1, "by": "a", "frontend": "cli", "created": 0.0, "expires": None}
    assert (
        views.rule_view(row | {"rule": "allow app=/usr/bin/curl port=1"})["app"] == "/usr/bin/curl"
    )
    quoted = views.rule_view(row | {"rule": r'deny app="/opt/a \"b\" c" host=x'})
    assert quoted["app"] == '/opt/a "b" c'
    assert views.rule_view(row | {"rule": "deny host=x"})["app"] == ""
