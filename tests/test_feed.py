"""What frontends know: messages folded, bounded, and in harmless words."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from live_examples import connection, links, traffic
from scripted_daemon import example_ask, example_status

from arbiter.protocol import (
    AppView,
    Closed,
    Decided,
    Destination,
    Moved,
    Notice,
    Refused,
    RefusedReason,
    Snoozed,
    SnoozeView,
    Traffic,
    Undone,
    Welcome,
    Withdraw,
    WithdrawReason,
)
from prompts import feed as feed_module
from prompts import livewords
from prompts.client import Lost, Unread
from prompts.feed import MAX_LOG, Feed
from prompts.uses import HISTORY_SECONDS, MAX_APPS, MAX_PLACES, Flow

NOW = 1700000000.0
WELCOME = Welcome(1, "0.1.0", "alice", False, "ask", "deny", 0)
EVIL = "\x1b[31m[red]\u202etxt\n<b>%s{0}\u200b"


def fed(*events: Any, now: float = NOW) -> Feed:
    feed = Feed()
    for event in (WELCOME, *events):
        feed.event(event, now)
    return feed


# --- connections ----------------------------------------------------------------------------


def test_a_connection_carries_what_traffic_says_and_ends() -> None:
    feed = fed(connection(12, time=NOW))
    live = feed.connections[12]
    feed.event(traffic(NOW + 2, (12, 2000, 10_000)), NOW + 2)
    assert (live.sent, live.received) == (2000, 10_000)
    assert live.rate(NOW + 2) == (1000, 5000)
    assert live.rate(NOW + 60) == (0, 0), "what says nothing carries nothing"
    feed.event(Closed(12, NOW + 3, 2100, 12_000), NOW + 3)
    assert (live.sent, live.received, live.closed, live.runs) == (2100, 12_000, NOW + 3, False)
    assert live.rate(NOW + 3) == (0, 0)
    feed.event(traffic(NOW + 4, (12, 9999, 99_999)), NOW + 4)
    assert live.sent == 2100, "what has ended carries nothing more"


def test_what_was_refused_does_not_run() -> None:
    live = fed(connection(1, passes=False, decision="deny")).connections[1]
    assert not live.runs


def test_a_connection_that_is_told_twice_keeps_its_bytes() -> None:
    feed = fed(connection(1), traffic(NOW, (1, 500, 600)), connection(1))
    assert feed.connections[1].sent == 500
    assert feed.apps.known["/usr/bin/curl"].connections == 1


def test_too_many_connections_lose_the_ended_first_then_the_oldest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed_module, "MAX_CONNECTIONS", 3)
    feed = fed(*(connection(id) for id in (1, 2, 3)), Closed(2, NOW, 0, 0), connection(4))
    assert list(feed.connections) == [1, 3, 4]
    feed.event(connection(5), NOW)
    assert list(feed.connections) == [3, 4, 5]
    assert feed.apps.known["/usr/bin/curl"].running == 3


def test_traffic_of_a_forgotten_connection_is_ignored() -> None:
    feed = fed(traffic(NOW, (99, 1, 1)), Closed(99, NOW, 1, 1))
    assert not feed.connections
    assert not feed.flows


def test_another_run_of_the_daemon_begins_anew_and_the_log_stays() -> None:
    feed = fed(connection(1), links(), Notice(NOW, "hello"), example_ask())
    feed.event(Lost("arbiter ended the connection"), NOW)
    assert not feed.connected
    assert feed.problem == "arbiter ended the connection"
    assert not feed.asks
    assert feed.connections, "what was known is shown until it is known anew"
    feed.event(WELCOME, NOW)
    assert feed.connected
    assert not (feed.connections or feed.apps.known or feed.links or feed.problem)
    assert [entry.text for entry in feed.log] == [
        "hello",
        "arbiter ended the connection; trying again",
    ]
    feed.event(connection(1, app="wget"), NOW)
    assert feed.connections[1].told.app is not None
    assert feed.connections[1].told.app.name == "wget"


# --- apps and links -------------------------------------------------------------------------


def test_an_apps_page_adds_up_by_destination_and_link() -> None:
    feed = fed(
        connection(1, link="lte", sent=10, received=20),
        connection(2, link="wifi"),
        connection(3, link="wifi"),
        connection(4, link="wifi", passes=False, decision="deny"),
        traffic(NOW, (2, 100, 200), (3, 1, 2)),
        Closed(3, NOW, 5, 6),
    )
    use = feed.apps.known["/usr/bin/curl"]
    assert (use.connections, use.refused, use.running) == (4, 1, 2)
    assert (use.sent, use.received) == (115, 226)
    places = {place.link: place for place in use.places.values()}
    assert (places["lte"].sent, places["lte"].received) == (10, 20)
    assert (places["wifi"].sent, places["wifi"].received) == (105, 206)
    assert (places["wifi"].connections, places["wifi"].refused) == (3, 1)


def test_apps_and_places_are_bounded() -> None:
    feed = fed(*(connection(id, app=f"app{id}") for id in range(MAX_APPS + 10)))
    assert len(feed.apps.known) == MAX_APPS
    assert f"/usr/bin/app{MAX_APPS + 9}" in feed.apps.known
    feed = fed(*(connection(id, host=f"h{id}.example") for id in range(MAX_PLACES + 10)))
    assert len(feed.apps.known["/usr/bin/curl"].places) == MAX_PLACES


def test_a_links_traffic_is_drawn_by_the_second() -> None:
    feed = fed(connection(1, link="lte", time=NOW))
    for second in range(1, 5):
        feed.event(traffic(NOW + second, (1, 1000 * second, 4000 * second)), NOW + second)
    sent, received = feed.flows["lte"].series(NOW + 5, points=4, step=2)
    assert sent == [0, 0, 500, 1000]
    assert received == [0, 0, 2000, 4000]


def test_a_flow_forgets_what_is_old_and_stands_a_clock_that_is_set_back() -> None:
    flow = Flow()
    for second in range(HISTORY_SECONDS * 2):
        flow.add(NOW + second, 1, 1)
    sent, _ = flow.series(NOW + HISTORY_SECONDS * 2, HISTORY_SECONDS * 2, 1)
    assert sum(sent) == HISTORY_SECONDS
    flow.add(NOW, 5, 5)
    sent, _ = flow.series(NOW + HISTORY_SECONDS * 2, 1, 1)
    assert sent == [6], "late bytes count for the last second there is"


COUNTS = st.integers(0, 10**12)
EVENTS = st.lists(
    st.one_of(
        st.builds(
            connection,
            st.integers(1, 8),
            app=st.sampled_from(["curl", "wget", "ssh"]),
            link=st.sampled_from(["", "lte", "wifi"]),
            passes=st.booleans(),
            sent=COUNTS,
        ),
        st.builds(
            lambda moved: Traffic(NOW, tuple(moved)),
            st.lists(st.builds(Moved, st.integers(1, 8), COUNTS, COUNTS), max_size=5),
        ),
        st.builds(Closed, st.integers(1, 8), st.just(NOW), COUNTS, COUNTS),
        st.just(WELCOME),
        st.just(Lost("gone")),
    ),
    max_size=40,
)


@settings(max_examples=examples(200))
@given(EVENTS, st.integers(1, 5))
def test_whatever_comes_it_stays_bounded_and_apps_run_what_runs(
    events: list[Any], most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed_module, "MAX_CONNECTIONS", most)
        feed = fed(*events)
    assert len(feed.connections) <= most
    for id, use in feed.apps.known.items():
        runs = [
            c for c in feed.connections.values() if c.runs and c.told.app and c.told.app.id == id
        ]
        assert use.running == len(runs)
        assert use.sent == sum(place.sent for place in use.places.values())
        assert use.received == sum(place.received for place in use.places.values())


def test_a_busy_machine_costs_a_fraction_of_a_second() -> None:
    """8,192 connections and 100 traffic messages of 500 each are a second's work on a busy one."""
    feed = fed(*(connection(id, link="lte") for id in range(1, 8193)))
    messages = [
        traffic(NOW + n / 100, *((1 + (n * 500 + i) % 8192, n * 99, n * 999) for i in range(500)))
        for n in range(1, 101)
    ]
    start = time.process_time()
    for message in messages:
        feed.event(message, message.time)
    assert time.process_time() - start < 1.0
    assert feed.connections[1].sent > 0


# --- asks, snoozes, the log -----------------------------------------------------------------


def test_an_own_answer_can_be_taken_back_once() -> None:
    rule = "allow app=/usr/bin/curl"
    feed = fed(example_ask(), Decided(7, "allow", "alice", "tui", 1, rule, 12))
    [entry] = feed.log
    assert entry.text == f"allowed curl; rule 12: {rule}"
    assert not feed.asks
    assert entry.mine
    assert feed.may_undo(entry)
    feed.event(Undone(12, ("deny app=/usr/bin/curl",)), NOW)
    assert entry.undone
    assert not feed.may_undo(entry)
    assert feed.log[-1].text == (
        "taken back: rule 12 is gone; in force again: deny app=/usr/bin/curl"
    )


def test_anothers_answer_is_taken_back_by_admins_only() -> None:
    told = Decided(7, "deny", "bob", "web", 1, "deny app=/usr/bin/curl", 12)
    feed = fed(example_ask(), told)
    assert not feed.may_undo(feed.log[0])
    assert feed.log[0].by == "bob"
    feed.welcome = Welcome(1, "0.1.0", "root", True, "ask", "deny", 0)
    assert feed.may_undo(feed.log[0])
    once = fed(example_ask(), Decided(7, "deny", "alice", "tui", 1))
    assert not once.may_undo(once.log[0]), "once leaves no rule"


def test_asks_are_kept_until_they_end() -> None:
    feed = fed(example_ask(7), example_ask(8), example_ask(7, waiting=5))
    assert {id: ask.waiting for id, ask in feed.asks.items()} == {7: 5, 8: 2}
    feed.event(Withdraw(7, WithdrawReason.EXITED, "curl (pid 4711) has exited"), NOW)
    assert list(feed.asks) == [8]
    assert "the program has exited" in feed.log[-1].text
    feed.event(Withdraw(7, WithdrawReason.EXITED), NOW)
    assert len(feed.log) == 1


def test_the_log_is_bounded_and_tells_refusals_and_lines_that_cannot_be_read() -> None:
    feed = fed(*(Notice(NOW, f"notice {n}") for n in range(MAX_LOG + 5)))
    assert len(feed.log) == MAX_LOG
    feed = fed(example_ask(), Refused(RefusedReason.GONE, "ask 7 is gone", 7), Unread("bad"))
    assert [entry.text for entry in feed.log] == [
        "curl → 192.0.2.7:443 (https): ask 7 is gone",
        "a message could not be read: bad",
    ]
    assert len({entry.id for entry in feed.log}) == 2


def test_snoozes_end_by_themselves_and_the_mode_is_the_newest_told() -> None:
    feed = fed(Snoozed((SnoozeView(1000, "alice", "deny", NOW + 60, "alice"),)))
    assert (feed.mode, feed.profile) == ("ask", "")
    assert len(feed.snoozed(NOW)) == 1
    assert not feed.snoozed(NOW + 60)
    assert livewords.snooze_words(feed.snoozes[0], NOW) == (
        "what is new of alice is denied unasked for 60 s"
    )
    feed.event(msgspec.structs.replace(example_status(), mode="observe"), NOW)
    assert feed.mode == "observe"
    assert feed.profile == example_status().profile == "home"


def test_a_problem_of_the_daemon_is_told_once() -> None:
    feed = fed(example_status(), example_status())
    assert [entry.text for entry in feed.log] == list(example_status().problems)
    healthy = msgspec.structs.replace(example_status(), problems=())
    for status in (healthy, example_status()):
        feed.event(status, NOW)
    assert len(feed.log) == 2, "it is back"


def test_every_event_is_a_new_version() -> None:
    feed = fed()
    before = feed.version
    feed.event(traffic(NOW), NOW)
    assert feed.version == before + 1


# --- words ----------------------------------------------------------------------------------


def test_why_says_what_decided() -> None:
    assert livewords.why(connection()) == "rule 11 of alice: route via=lte app=/usr/bin/curl"
    assert livewords.why(connection(reason="deadline", rule="", rule_id=None, by="")) == (
        "nobody answered in time: the fallback"
    )
    told = connection(reason="answer", rule="", rule_id=None, by="bob", note="link lte is down")
    assert livewords.why(told) == "an answer by bob; link lte is down"
    assert livewords.why(connection(reason="news", rule="", rule_id=None, by="")) == "news"
    assert livewords.brief(connection()) == "rule 11 of alice"
    assert livewords.brief(told) == "an answer"
    assert livewords.done(connection(passes=False)) == "refused (route via=lte)"
    assert livewords.done(connection(passes=False, decision="deny")) == "deny"


@pytest.mark.parametrize(
    ("to", "text"),
    [
        (Destination("192.0.2.7", "tcp", 443, name="deb.example"), "deb.example:443"),
        (Destination("2001:db8::1", "udp", 53), "[2001:db8::1]:53/udp"),
        (Destination("192.0.2.7", "icmp"), "192.0.2.7 icmp"),
        (Destination("", ""), "a packet that cannot be read"),
    ],
)
def test_a_target_is_short(to: Destination, text: str) -> None:
    assert livewords.target(to) == text


def test_hostile_strings_come_out_harmless() -> None:
    app = AppView(EVIL, EVIL, EVIL)
    to = Destination(EVIL, "tcp", 443, EVIL, EVIL, EVIL, (EVIL,))
    told = connection(
        app="x", user=EVIL, source=EVIL, decision=EVIL, reason=EVIL, link=EVIL,
        rule=EVIL, rule_id=1, by=EVIL, note=EVIL, no_owner=EVIL,
    )  # fmt: skip
    told = msgspec.structs.replace(told, app=app, destination=to)
    feed = fed(
        told,
        Decided(99, EVIL, EVIL, EVIL, 1, EVIL, 3),
        Undone(3, (EVIL,)),
        Notice(NOW, EVIL),
        Refused(RefusedReason.GONE, EVIL),
        Unread(EVIL),
        Lost(EVIL),
    )
    texts = [entry.text + entry.by for entry in feed.log]
    texts += [text for _, text in livewords.facts(told, 1, 2)]
    texts += [
        livewords.program(told),
        livewords.target(to),
        livewords.done(told),
        livewords.brief(told),
    ]
    texts += [feed.connections[12].words, livewords.why(told), feed.problem]
    texts += [livewords.program(msgspec.structs.replace(told, app=None))]
    texts += [livewords.snooze_words(SnoozeView(None, EVIL, EVIL, NOW, EVIL), NOW)]
    for text in texts:
        assert not set(text) & set("\x1b\u202e\n\u200b"), text
