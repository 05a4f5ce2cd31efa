"""The connections that run: each ends once, with what the kernel said of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from playbook import SERVER6, START, owner, packet, process

from arbiter import lives, views
from arbiter.events import Reason, Report
from arbiter.judge import Context
from arbiter.lives import Life, Lives, progress
from arbiter.model import (
    ACCEPTED,
    ALLOW,
    DENIED,
    DENY,
    DROPPED,
    Action,
    Decision,
    NoOwner,
    NoOwnerReason,
    Undecodable,
    Verdict,
)
from arbiter.records import Progress, Running, State
from arbiter.usage import STEP, UNSEEN, Counted

NOW = START.wall + 10


def report(sport: int = 1, verdict: Verdict = ACCEPTED, **where: Any) -> Report:
    decision = ALLOW if verdict == ACCEPTED else DENY
    held = packet(1, sport=sport, **where)
    return Report(START.wall, held, owner(), decision, Reason.RULE, waited=2.0, verdict=verdict)


def counted(sport: int = 1, sent: int = 100, back: int = 200, started: float = 0) -> Counted:
    packets = (1 if sent else 0, 1 if back else 0)
    return Counted(packet(1, sport=sport).flow, 7, 0, sent, back, *packets, int(started * 1e9))


class Book:
    """Lives, in the words of the records that they complete."""

    def __init__(self) -> None:
        self.lives = Lives()

    def __len__(self) -> int:
        return len(self.lives)

    def decided(self, id: int, report: Report) -> Progress | None:
        _, before = self.lives.decided(id, report, "")
        return _progress(before)

    def read(self, counted: list[Counted], wall: float) -> list[Progress]:
        steps = list(self.lives.reading(counted, wall))
        return [progress(life) for step in steps for life in (*step.moved, *step.gone)]

    def ended(self, counted: Counted, wall: float) -> Progress | None:
        return _progress(self.lives.ended(counted, wall))

    def restore(self, running: list[Running]) -> list[Progress]:
        return [progress(life) for life in self.lives.restore(running)]


def _progress(life: Life | None) -> Progress | None:
    return None if life is None else progress(life)


def ids(found: list[Life]) -> list[int]:
    return [life.id for life in found]


def test_a_connection_opens_is_answered_and_ends() -> None:
    book = Book()
    assert book.decided(5, report()) is None
    assert book.read([counted(sent=60, back=0)], NOW) == [
        Progress(5, State.OPEN, None, None, 60, 0, 1, 0)
    ]
    assert book.read([counted(sent=60, back=0)], NOW) == [], "nothing is new"
    assert book.read([counted()], NOW + 10) == [
        Progress(5, State.OPEN, NOW + 10, None, 100, 200, 1, 1)
    ]
    assert book.ended(counted(sent=150), NOW + 30) == (
        Progress(5, State.CLOSED, NOW + 10, NOW + 30, 150, 200, 1, 1)
    )
    assert len(book) == 0
    assert book.ended(counted(sent=150), NOW + 30) is None


def test_one_that_was_short_is_complete_at_its_end() -> None:
    book = Book()
    book.decided(5, report())
    assert book.ended(counted(), NOW) == Progress(5, State.CLOSED, NOW, NOW, 100, 200, 1, 1)


def test_bytes_are_those_that_the_link_carried() -> None:
    book = Book()
    book.decided(5, report())
    [told] = book.read([counted(sent=30_000)], NOW)
    assert (told.out_bytes, told.out_packets) == (30_000 + 19 * 40, 20)


def test_what_did_not_pass_is_not_followed() -> None:
    book = Book()
    book.decided(1, report(verdict=DENIED))
    book.decided(2, Report(START.wall, Undecodable(1, "short"), None, ALLOW, Reason.UNDECODABLE))
    assert len(book) == 0


def test_what_is_only_missing_ended_nobody_knows_when() -> None:
    book = Book()
    book.decided(5, report())
    book.read([counted()], NOW)
    for _ in range(UNSEEN - 1):
        assert book.read([], NOW) == []
    assert book.read([], NOW) == [Progress(5, State.UNKNOWN, NOW, None, 100, 200, 1, 1)]


def test_the_same_ports_again_are_another_connection() -> None:
    book = Book()
    book.decided(5, report())
    assert book.decided(6, report()) == Progress(5, State.UNKNOWN)
    assert book.ended(counted(), NOW) == Progress(6, State.CLOSED, NOW, NOW, 100, 200, 1, 1)


def test_what_is_told_late_of_an_earlier_one_is_not_the_next_ones() -> None:
    book = Book()
    book.decided(5, report())
    began = START.wall - 2.0
    assert book.ended(counted(started=began - 60), NOW) is None
    assert book.read([counted(started=began - 60)], NOW) == []
    assert book.ended(counted(started=began), NOW) is not None


def test_what_an_earlier_run_left_open_is_followed_again() -> None:
    book = Book()
    running = [Running(n, START.wall - 60, packet(1, sport=n).flow) for n in (3, 4)]
    assert book.restore(running) == []
    assert book.read([counted(3)], NOW) == [Progress(3, State.OPEN, NOW, None, 100, 200, 1, 1)]
    book.read([counted(3)], NOW)
    assert book.read([counted(3)], NOW) == [Progress(4, State.UNKNOWN)]
    assert book.decided(7, report(3)) == Progress(3, State.UNKNOWN, NOW, None, 100, 200, 1, 1)


def test_the_oldest_are_given_up_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "MAX_LIVES", 2)
    book = Book()
    given_up = [book.decided(n, report(n)) for n in range(1, 5)]
    assert given_up == [None, None, Progress(1, State.UNKNOWN), Progress(2, State.UNKNOWN)]
    assert len(book) == 2


EVENTS = st.lists(
    st.tuples(st.sampled_from(["decided", "read", "ended", "gone"]), st.integers(1, 3)),
    max_size=40,
)


@given(EVENTS)
def test_every_connection_ends_once_and_is_silent_then(
    events: list[tuple[str, int]],
) -> None:
    book, there, sizes = Book(), set[int](), 0
    told: dict[int, list[Progress]] = {}
    made = 0
    for kind, sport in events:
        out: list[Progress | None] = []
        sizes += 10
        if kind == "decided":
            made += 1
            there.add(sport)
            out.append(book.decided(made, report(sport)))
        elif kind == "read":
            out += book.read([counted(n, sizes, sizes) for n in there], NOW)
        elif kind == "ended":
            out.append(book.ended(counted(sport, sizes, sizes), NOW))
            there.discard(sport)
        else:
            there.discard(sport)  # and nobody said so
        for one in out:
            if one is not None:
                told.setdefault(one.id, []).append(one)
    for _ in range(UNSEEN):
        for one in book.read([], NOW):
            told.setdefault(one.id, []).append(one)
    assert sorted(told) == list(range(1, made + 1))
    for mine in told.values():
        assert [one.state is State.OPEN for one in mine] == [True] * (len(mine) - 1) + [False]
        assert [one.closed is not None for one in mine] == [
            one.state is State.CLOSED for one in mine
        ]
        grown = [one.out_bytes for one in mine if one.out_bytes is not None]
        assert grown == sorted(grown)


# --- what is shown --------------------------------------------------------------------------


def test_those_that_run_are_shown_with_what_they_carry() -> None:
    book = Lives()
    life, before = book.decided(1, report(), "lte")
    assert (life.id, life.link, life.uid, before) == (1, "lte", 1000, None)
    [*_] = book.reading([counted(sent=1000, back=1200)], NOW)
    assert book.shown() == [life]
    assert (life.sent, life.received) == (1000, 1200)
    assert book.ended(counted(sent=1400, back=1200), NOW) is life
    assert (life.sent, book.shown()) == (1400, [])


@pytest.mark.parametrize("verdict", [DENIED, DROPPED])
def test_what_is_refused_has_no_end_and_the_last_are_shown(verdict: Verdict) -> None:
    book = Lives()
    for number in range(lives.MAX_REFUSED + 5):
        book.decided(number, report(number, verdict), "")
    assert len(book) == 0
    assert ids(book.shown()) == list(range(5, lives.MAX_REFUSED + 5))
    assert book.ended(counted(6), NOW) is None
    bad = Report(START.wall, Undecodable(1, "short"), None, ALLOW, Reason.UNDECODABLE)
    assert book.decided(999, bad, "")[0].uid is None


def test_only_the_newest_are_shown_and_all_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "MAX_SHOWN", 3)
    book = Lives()
    for number in range(5):
        book.decided(number, report(number), "")
    assert ids(book.shown()) == [2, 3, 4]
    assert len(book) == 5
    old = book.ended(counted(0), NOW)
    assert old is not None
    assert (old.report, old.received) == (None, 200), "its record wants it still"


def test_one_that_ended_frees_what_is_known_of_it() -> None:
    book = Lives()
    for number in range(lives.MAX_REFUSED):
        book.decided(number, report(), "")
    assert ids(book.shown()) == [lives.MAX_REFUSED - 1]


def test_thousands_are_looked_at_in_steps_and_all_of_them() -> None:
    book = Lives()
    count = 3 * STEP + 1
    for number in range(count):
        book.decided(number, report(number), "")
    steps = list(book.reading([counted(number) for number in range(count)], NOW))
    assert max(len(step.moved) for step in steps) == STEP
    assert sum(len(step.moved) for step in steps) == count
    assert not any(step.gone for step in steps)


def test_what_ends_between_two_steps_is_told_once() -> None:
    book = Lives()
    for number in range(STEP + 1):
        book.decided(number, report(number), "")
    steps = book.reading([counted(number) for number in range(STEP + 1)], NOW)
    next(steps)
    assert book.ended(counted(STEP), NOW) is not None
    rest = list(steps)
    assert all(not step.moved and not step.gone for step in rest)


def test_the_message_says_who_where_and_why() -> None:
    known = replace(report(daddr=SERVER6), context=Context(names=("deb.example",)))
    message = views.connection_message(Lives().decided(1, known, "lte")[0])
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
    unread = views.connection_message(Lives().decided(1, bad, "")[0])
    assert (unread.app, unread.source, unread.destination.address) == (None, "", "")


# --- several packets of one connection ------------------------------------------------------


def later(first: Report, came: float, decided: float, **fields: Any) -> Report:
    """Another packet of its flow: it came and was decided so many seconds after the first was."""
    wall = first.wall + decided
    return replace(first, packet=packet(2, sport=1), wall=wall, waited=decided - came, **fields)


def joins(first: Report, other: Report, link: str = "") -> bool:
    book = Lives()
    life, _ = book.decided(5, first, "")
    found = book.joined(other, link)
    assert found is None or found is life
    return found is not None


@pytest.mark.parametrize("verdict", [ACCEPTED, DENIED, DROPPED])
def test_packets_that_wait_together_and_get_one_verdict_are_one_connection(
    verdict: Verdict,
) -> None:
    first = report(verdict=verdict)
    assert joins(first, later(first, came=-1.5, decided=0.0))
    assert joins(first, later(first, came=0.0, decided=3.0))
    assert not joins(first, replace(later(first, -1.5, 0.0), packet=packet(2, sport=2)))
    assert not joins(first, replace(later(first, -1.5, 0.0), packet=Undecodable(2, "short")))
    assert not joins(first, later(first, -1.5, 0.0), link="lte")
    assert not joins(first, later(first, came=-9.0, decided=-5.0)), "somebody set the clock back"
    other = replace(process(), start=process().start + 1)
    assert not joins(first, later(first, -1.5, 0.0, owner=owner(other))), "another program's"
    assert joins(first, later(first, -1.5, 0.0, owner=NoOwner(NoOwnerReason.CLOSED)))


def test_another_verdict_or_decision_is_another_record() -> None:
    first = report()
    assert not joins(first, later(first, -1.0, 0.0, verdict=DENIED, decision=DENY))
    assert not joins(first, later(first, -1.0, 0.0, verdict=Verdict(ACCEPTED.kind, 1 << 24)))
    assert not joins(first, later(first, -1.0, 0.0, decision=Decision(Action.ROUTE, ("any",))))
    denied = report(verdict=DENIED)
    assert not joins(denied, later(denied, -1.0, 0.0, verdict=ACCEPTED, decision=ALLOW))
    assert not joins(denied, later(denied, -1.0, 0.0, reason=Reason.DEADLINE))


def test_what_was_on_its_way_joins_and_a_later_try_does_not() -> None:
    """The kernel queues packets until it has the verdict; what it refuses it never knows."""
    first = report()
    assert joins(first, later(first, came=0.01, decided=0.02, reason=Reason.ANSWER))
    assert joins(first, later(first, came=lives.ON_ITS_WAY, decided=9.0))
    assert not joins(first, later(first, came=lives.ON_ITS_WAY + 0.1, decided=9.0))
    denied = report(verdict=DENIED)
    assert not joins(denied, later(denied, came=0.01, decided=0.02))


def test_what_finds_no_room_is_one_record_for_a_while() -> None:
    """A flood of one flow is not thousands of records."""
    first = replace(report(verdict=DROPPED), reason=Reason.OVERFLOW, waited=0.0, owner=None)
    assert joins(first, later(first, came=4.9, decided=4.9))
    assert not joins(first, later(first, came=5.1, decided=5.1))
    assert not joins(first, later(first, came=1.0, decided=1.0, reason=Reason.EXITED))
    denied = replace(first, verdict=DENIED)
    assert not joins(denied, later(denied, came=1.0, decided=1.0)), "it got the fallback"


def test_after_its_end_the_same_ports_are_another_connection() -> None:
    book, first = Lives(), report()
    book.decided(5, first, "")
    book.ended(counted(), NOW)
    assert book.joined(later(first, 0.0, 0.1), "") is None
    book.restore([Running(7, NOW, packet(1, sport=1).flow)])
    assert book.joined(later(first, 0.0, 0.1), "") is None, "nobody knows what was decided"


def test_its_count_goes_into_its_record() -> None:
    book = Lives()
    life, _ = book.decided(5, report(), "")
    assert progress(life).count is None, "as it was written"
    life.count = 3
    assert progress(life) == Progress(5, State.OPEN, count=3)
    denied, _ = book.decided(6, report(sport=2, verdict=DENIED), "")
    denied.count = 2
    assert progress(denied) == Progress(6, None, count=2), "it has no state"


def test_the_refused_are_forgotten_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "MAX_REFUSED", 2)
    book = Lives()
    made = [report(sport=sport, verdict=DENIED) for sport in (1, 2, 3)]
    for id, one in enumerate(made):
        book.decided(id, one, "")
    assert [book.joined(one, "") is not None for one in made] == [False, True, True]
