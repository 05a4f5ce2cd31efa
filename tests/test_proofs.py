"""With `audit.sync` the record comes first; what happens where it cannot be written."""

from __future__ import annotations

from typing import Any

import pytest
from playbook import ALICE, START, Playbook, owner, process

from arbiter.auditsettings import WhenUnwritten
from arbiter.events import Announce, Effect, Reason, Report, SetVerdict, ShowAsk
from arbiter.model import ACCEPTED, DENIED, Now
from arbiter.proofs import Given, Proofs

LATER = Now(START.mono + 5.0, START.wall + 5.0)
CURL, WGET = owner(), owner(process("/usr/bin/wget", 4300))


def decided(*ids: int, who: Any = CURL) -> list[Effect]:
    """What the pipeline gives for these packets: curl may go, wget may not."""
    play = Playbook("allow app=/usr/bin/curl", "deny app=/usr/bin/wget")
    for id in ids:
        play.queue(id, who, sport=id)
    return [each for each in play.effects if isinstance(each, SetVerdict | Report)]


def proofs(when: WhenUnwritten = WhenUnwritten.DENY) -> Proofs:
    return Proofs(when)


def numbered(made: Proofs, first: int = 1) -> list[int]:
    batch = made.batch()
    for id, proof in enumerate(batch, first):
        proof.id = id
    return [proof.report.packet.id for proof in batch]


def told(given: list[Given]) -> list[tuple[Any, ...]]:
    return [(one.verdict.packet_id, one.verdict.verdict, one.id) for one in given]


def test_a_verdict_waits_for_its_record_and_what_comes_meanwhile_is_one_batch() -> None:
    made = proofs()
    assert made.next_due() is None
    assert made.hold([ShowAsk(1), *decided(1)], START, 5.0) == [ShowAsk(1)]
    assert numbered(made) == [1]
    made.hold(decided(2, 3), START, 5.0)
    assert made.batch() == [], "one batch at a time"
    assert made.next_due() == START.mono + 5.0
    assert told(made.written()) == [(1, ACCEPTED, 1)]
    assert numbered(made, 2) == [2, 3]
    assert told(made.written()) == [(2, ACCEPTED, 2), (3, ACCEPTED, 3)]
    assert made.next_due() is None


def again(*ids: int, rules: tuple[str, ...] = ("allow app=/usr/bin/curl",)) -> list[Effect]:
    """Packets of one flow, one after the other."""
    play = Playbook(*rules)
    for id in ids:
        play.queue(id, CURL, sport=1)
    return [each for each in play.effects if isinstance(each, SetVerdict | Report)]


def test_packets_of_one_connection_wait_for_one_record_and_go_together() -> None:
    made = proofs()
    made.hold(again(1), START, 5.0)
    assert numbered(made) == [1]
    made.hold(again(2, 3), Now(START.mono + 1, START.wall + 1), 5.0)
    made.hold(again(4, rules=("deny port=443",)), START, 5.0)
    assert made.next_due() == START.mono + 5.0
    given = made.written()
    assert told(given) == [(1, ACCEPTED, 1), (2, ACCEPTED, 1), (3, ACCEPTED, 1)]
    assert [one.joined for one in given] == [False, True, True]
    assert numbered(made, 2) == [4], "another decision is another record"
    made.written()
    made.hold(again(5), START, 5.0)
    assert numbered(made, 3) == [5], "nothing of its connection waits any more"


def test_packets_of_one_connection_are_refused_together_where_the_disk_fails() -> None:
    for fails in ("failed", "overdue"):
        made = proofs()
        made.hold(again(1, 2), START, 5.0)
        numbered(made)
        given = made.failed("no space") if fails == "failed" else made.overdue(LATER.mono)
        assert told(given) == [(1, DENIED, 0), (2, DENIED, 0)]
        assert not any(one.joined for one in given)
        assert made.next_due() is None


def test_a_packet_of_a_connection_that_has_its_record_waits_for_nothing() -> None:
    made = proofs()
    effects = [*again(1), *decided(2)]
    assert made.hold(effects, START, 5.0, lambda report: report.packet.id == 1) == effects[:2]
    assert numbered(made) == [2]


def test_without_its_record_nothing_goes_and_the_record_says_so() -> None:
    made = proofs()
    made.hold([*decided(1), *decided(2, who=WGET)], START, 5.0)
    numbered(made)
    went, denied = made.failed("disk full")
    assert told([went, denied]) == [(1, DENIED, 0), (2, DENIED, 0)]
    assert (went.report.reason, went.report.rule) == (Reason.UNRECORDED, None)
    assert went.report.note == "rule says allow; disk full"
    assert went.report.verdict == DENIED
    assert denied.report.reason is Reason.RULE, "it is refused for its own reason"
    assert denied.report.note == "recorded after its verdict: disk full"


def test_what_a_person_answered_is_kept_whatever_the_disk_does() -> None:
    play = Playbook()
    play.queue(1).answer(1, "allow")
    made = proofs()
    made.hold([each for each in play.effects if isinstance(each, SetVerdict | Report)], START, 5.0)
    numbered(made)
    (one,) = made.failed("disk full")
    assert (one.report.by, one.report.note) == (ALICE, "answer says allow; disk full")


def test_where_it_may_it_goes_and_its_record_follows() -> None:
    made = proofs(WhenUnwritten.PASS)
    made.hold(decided(1), START, 5.0)
    numbered(made)
    (one,) = made.failed("disk full")
    assert told([one]) == [(1, ACCEPTED, 0)]
    assert one.report.reason is Reason.RULE
    assert one.report.note == "recorded after its verdict: disk full"


@pytest.mark.parametrize("works", [True, False])
def test_a_slow_disk_costs_the_connection_but_not_its_deadline(works: bool) -> None:
    made = proofs()
    made.hold(decided(1), START, 5.0)
    numbered(made)
    made.hold(decided(2), START, 5.0)
    assert made.overdue(START.mono + 4.9) == []
    given = made.overdue(LATER.mono)
    assert told(given) == [(1, DENIED, 0), (2, DENIED, 0)]
    assert "record 1 may be there all the same" in given[0].report.note
    assert made.overdue(LATER.mono + 9) == []
    assert made.next_due() is None
    assert (made.written() if works else made.failed("x")) == []
    assert made.batch() == []


def test_who_went_without_waiting_longer_is_recorded_after_it() -> None:
    for works in (True, False):
        made = proofs(WhenUnwritten.PASS)
        made.hold(decided(1), START, 5.0)
        numbered(made, 7)
        (one,) = made.overdue(LATER.mono)
        assert told([one]) == [(1, ACCEPTED, 0)]
        assert "record 7 may be there all the same" in one.report.note
        assert (made.written() if works else made.failed("disk full")) == []


@pytest.mark.parametrize("works", [True, False])
def test_nobody_is_told_of_an_answer_before_it_is_carried_out(works: bool) -> None:
    play = Playbook()
    play.queue(1).queue(2)
    play.effects.clear()
    play.answer(1, "allow")
    made = proofs()
    rest = made.hold(list(play.effects), START, 5.0)
    assert not [effect for effect in rest if isinstance(effect, Announce)]
    made.batch()
    given = made.written() if works else made.failed("disk full")
    (last,) = [one for one in given if one.then]
    assert last is given[-1]
    assert isinstance(last.then[0], Announce)
    assert made.hold(list(last.then), START, 5.0) == list(last.then), (
        "with nothing to wait for it goes"
    )
