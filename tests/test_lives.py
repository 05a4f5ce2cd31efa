"""What becomes of connections: each record is completed once, with what the kernel said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playbook import START, owner, packet

from arbiter import lives
from arbiter.events import Reason, Report
from arbiter.lives import Lives
from arbiter.model import ACCEPTED, ALLOW, DENIED, Undecodable, Verdict
from arbiter.records import Progress, Running, State
from arbiter.usage import UNSEEN, Counted

NOW = START.wall + 10


def report(sport: int = 1, verdict: Verdict = ACCEPTED) -> Report:
    held = packet(1, sport=sport)
    return Report(START.wall, held, owner(), ALLOW, Reason.RULE, waited=2.0, verdict=verdict)


def counted(sport: int = 1, sent: int = 100, back: int = 200, started: float = 0) -> Counted:
    packets = (1 if sent else 0, 1 if back else 0)
    return Counted(packet(1, sport=sport).flow, 7, 0, sent, back, *packets, int(started * 1e9))


def test_a_connection_opens_is_answered_and_ends() -> None:
    book = Lives()
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
    book = Lives()
    book.decided(5, report())
    assert book.ended(counted(), NOW) == Progress(5, State.CLOSED, NOW, NOW, 100, 200, 1, 1)


def test_bytes_are_those_that_the_link_carried() -> None:
    book = Lives()
    book.decided(5, report())
    [told] = book.read([counted(sent=30_000)], NOW)
    assert (told.out_bytes, told.out_packets) == (30_000 + 19 * 40, 20)


def test_what_did_not_pass_is_not_followed() -> None:
    book = Lives()
    book.decided(1, report(verdict=DENIED))
    book.decided(2, Report(START.wall, Undecodable(1, "short"), None, ALLOW, Reason.UNDECODABLE))
    assert len(book) == 0


def test_what_is_only_missing_ended_nobody_knows_when() -> None:
    book = Lives()
    book.decided(5, report())
    book.read([counted()], NOW)
    for _ in range(UNSEEN - 1):
        assert book.read([], NOW) == []
    assert book.read([], NOW) == [Progress(5, State.UNKNOWN, NOW, None, 100, 200, 1, 1)]


def test_the_same_ports_again_are_another_connection() -> None:
    book = Lives()
    book.decided(5, report())
    assert book.decided(6, report()) == Progress(5, State.UNKNOWN)
    assert book.ended(counted(), NOW) == Progress(6, State.CLOSED, NOW, NOW, 100, 200, 1, 1)


def test_what_is_told_late_of_an_earlier_one_is_not_the_next_ones() -> None:
    book = Lives()
    book.decided(5, report())
    began = START.wall - 2.0
    assert book.ended(counted(started=began - 60), NOW) is None
    assert book.read([counted(started=began - 60)], NOW) == []
    assert book.ended(counted(started=began), NOW) is not None


def test_what_an_earlier_run_left_open_is_followed_again() -> None:
    book = Lives()
    running = [Running(n, START.wall - 60, packet(1, sport=n).flow) for n in (3, 4)]
    assert book.restore(running) == []
    assert book.read([counted(3)], NOW) == [Progress(3, State.OPEN, NOW, None, 100, 200, 1, 1)]
    book.read([counted(3)], NOW)
    assert book.read([counted(3)], NOW) == [Progress(4, State.UNKNOWN)]
    assert book.decided(7, report(3)) == Progress(3, State.UNKNOWN, NOW, None, 100, 200, 1, 1)


def test_the_oldest_are_given_up_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "MAX_LIVES", 2)
    book = Lives()
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
    book, there, sizes = Lives(), set[int](), 0
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
