"""Which connections run: verdicts joined with counters, in any order in which the kernel tells."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from playbook import SERVER6, START, owner, packet

from arbiter import livebook
from arbiter.events import Reason, Report
from arbiter.livebook import Live
from arbiter.livebook import LiveBook as Book
from arbiter.model import ACCEPTED, ALLOW, DENIED, DENY, DROPPED, Undecodable, Verdict
from arbiter.usage import UNSEEN, Counted


def report(sport: int = 1, verdict: Verdict = ACCEPTED, **where: Any) -> Report:
    decision = ALLOW if verdict == ACCEPTED else DENY
    held = packet(1, sport=sport, **where)
    return Report(START.wall, held, owner(), decision, Reason.RULE, waited=2.0, verdict=verdict)


def counted(sport: int = 1, sent: int = 100, received: int = 200, started: int = 0) -> Counted:
    return Counted(packet(1, sport=sport).flow, 7, 0, sent, received, 1, 1, started)


class LiveBook(Book):
    """As the daemon has it: each record has the next id."""

    made = 0

    def decided(self, report: Report, link: str) -> tuple[Live, Live | None]:  # type: ignore[override]
        self.made += 1
        return super().decided(self.made, report, link)


def ids(found: list[Live]) -> list[int]:
    return [live.id for live in found]


def test_a_connection_runs_from_its_verdict_to_its_end() -> None:
    book = LiveBook()
    live, before = book.decided(report(), "lte")
    assert (live.id, live.link, live.uid, before) == (1, "lte", 1000, None)
    assert book.read([counted(sent=1000, received=1200)]) == ([live], [])
    assert (live.sent, live.received) == (1000, 1200)
    assert book.read([counted(sent=1000, received=1200)]) == ([], []), "nothing moved"
    assert book.ended(counted(sent=1400, received=1200)) is live
    assert (live.sent, len(book)) == (1400, 0)
    assert book.ended(counted()) is None


@pytest.mark.parametrize("verdict", [DENIED, DROPPED])
def test_what_is_refused_has_no_end_and_the_last_are_kept(verdict: Verdict) -> None:
    book = LiveBook()
    for sport in range(livebook.MAX_REFUSED + 5):
        book.decided(report(sport, verdict), "")
    assert len(book) == 0
    assert ids(book.all()) == list(range(6, livebook.MAX_REFUSED + 6))
    assert book.ended(counted(6)) is None
    bad = Report(START.wall, Undecodable(1, "short"), None, ALLOW, Reason.UNDECODABLE)
    assert book.decided(bad, "")[0].uid is None


def test_the_same_ports_again_are_another_connection() -> None:
    book = LiveBook()
    first, _ = book.decided(report(), "")
    second, before = book.decided(report(), "")
    assert (before, ids(book.all())) == (first, [second.id])


def test_an_end_that_is_told_late_is_not_the_next_ones() -> None:
    book = LiveBook()
    live, _ = book.decided(report(), "")
    began = START.wall - 2.0
    assert book.ended(counted(started=int((began - 60) * 1e9))) is None
    assert book.ended(counted(started=int(began * 1e9))) is live


def test_one_that_is_in_no_dump_is_gone_after_a_while_and_not_at_once() -> None:
    book = LiveBook()
    live, _ = book.decided(report(), "")
    for _ in range(UNSEEN - 1):
        assert book.read([]) == ([], [])
    book.read([counted()])
    for _ in range(UNSEEN - 1):
        assert book.read([]) == ([], [])
    assert book.read([]) == ([], [live])
    assert len(book) == 0


def test_the_oldest_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livebook, "MAX_LIVE", 3)
    book = LiveBook()
    for sport in range(5):
        book.decided(report(sport), "")
    assert ids(book.all()) == [3, 4, 5]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["decided", "refused", "read", "ended"]),
        st.integers(1, 3),
        st.integers(0, 5000),
    ),
    max_size=30,
)


@given(EVENTS)
def test_every_connection_that_passes_ends_once_and_counters_are_the_kernels(
    events: list[tuple[str, int, int]],
) -> None:
    book = LiveBook()
    running: dict[int, Live] = {}
    over: list[int] = []
    for kind, sport, size in events:
        if kind in ("decided", "refused"):
            live, before = book.decided(
                report(sport, ACCEPTED if kind == "decided" else DENIED), ""
            )
            if before is not None:
                over.append(before.id)
            if kind == "decided":
                running[sport] = live
        elif kind == "read":
            entries = [counted(each, size, size) for each in running]
            moved, gone = book.read(entries)
            assert not gone and all(live.sent >= size for live in moved)
        elif (ended := book.ended(counted(sport, size, size))) is not None:
            over.append(ended.id)
            assert running.pop(sport) is ended
    assert len(over) == len(set(over))
    assert sorted(live.id for live in running.values()) == sorted(
        live.id for live in book.all() if live.report.verdict == ACCEPTED
    )


def test_the_message_says_who_where_and_why() -> None:
    from arbiter import views
    from arbiter.judge import Context

    live, _ = LiveBook().decided(
        msgspec.structs.replace(report(daddr=SERVER6), context=Context(names=("deb.example",))),
        "lte",
    )
    message = views.connection_message(live)
    assert message.app is not None
    assert (message.app.name, message.pid, message.user) == ("curl", 4242, "alice")
    assert (message.destination.address, message.destination.name) == (
        "2001:db8:100::a",
        "deb.example",
    )
    assert (message.decision, message.reason, message.link, message.passes) == (
        "allow",
        "rule",
        "lte",
        True,
    )
    bad = Report(START.wall, Undecodable(1, "short"), None, DENY, Reason.UNDECODABLE)
    unread = views.connection_message(LiveBook().decided(bad, "")[0])
    assert (unread.app, unread.source, unread.destination.address) == (None, "", "")
