"""Snoozes: questions to come are answered for a while, whose they are, and never anything else."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playbook import ALICE, BOB, ROOT, START, Playbook, owner, process

from arbiter import protocol
from arbiter.events import FindOwner, Reason, Refuse, Report, SetVerdict, SnoozeWanted, TellSnoozes
from arbiter.model import ACCEPTED, DENIED, Link, Now, OverBudget, Peer, Spent
from arbiter.protocol import Choice, RefusedReason
from arbiter.snoozes import MAX_SECONDS, Snoozes

BOBS = owner(process(uid=1001), uid=1001)


def snooze(
    play: Playbook, peer: Peer = ALICE, choice: str = "deny", seconds: float = 60, **more: Any
) -> Playbook:
    wanted = protocol.Snooze(Choice(choice), seconds, **more)
    return play.send(SnoozeWanted(play.now, 9, peer, wanted))


@pytest.mark.parametrize(("choice", "verdict"), [("deny", DENIED), ("allow", ACCEPTED)])
def test_new_connections_of_its_user_are_answered_without_a_question(
    choice: str, verdict: object
) -> None:
    play = snooze(Playbook(), choice=choice)
    play >> TellSnoozes(1000)
    play.queue(1) >> FindOwner
    assert play.take(SetVerdict).verdict == verdict
    report = play.take(Report)
    assert (report.reason, report.by, report.rule) == (Reason.SNOOZE, ALICE, None)
    play.end()
    asked = play.queue(2, BOBS).skip().pipeline
    assert [ask.uid for ask in asked.asks] == [1001], "others are asked as ever"


def test_what_waits_already_still_wants_its_answer_and_rules_go_on() -> None:
    play = Playbook("allow port=22").queue(1).skip()
    snooze(play).skip()
    assert len(play.pipeline.asks) == 1 and len(play.pipeline.held) == 1
    play.queue(2, dport=22)
    assert play.all(Report)[0].reason is Reason.RULE


def test_its_end_is_told_and_questions_come_again() -> None:
    play = snooze(Playbook()).skip()
    assert play.pipeline.next_wake(play.now) == START.mono + 60
    play.wait(60)
    assert play.all(TellSnoozes) == [TellSnoozes(1000)]
    play.queue(1).skip()
    assert len(play.pipeline.asks) == 1


def test_it_is_ended_by_zero_seconds() -> None:
    play = snooze(snooze(Playbook()), seconds=0).skip()
    play.queue(1).skip()
    assert len(play.pipeline.asks) == 1


def test_everybodys_is_for_admins_and_ones_own_comes_first() -> None:
    play = snooze(Playbook(), ALICE, "allow", everyone=True)
    refused = play.take(Refuse)
    assert (refused.client, refused.message.reason) == (9, RefusedReason.RIGHT)
    snooze(play, ROOT, "deny", everyone=True) >> TellSnoozes(None)
    snooze(play, ALICE, "allow").skip()
    play.queue(1).queue(2, BOBS, sport=2)
    decided = {report.packet.id: report.verdict for report in play.all(Report)}
    assert decided == {1: ACCEPTED, 2: DENIED}
    views = play.pipeline.snoozes.views
    assert [(v.uid, v.decision) for v in views(BOB)] == [(None, "deny")]
    assert [(v.uid, v.decision) for v in views(ALICE)] == [(None, "deny"), (1000, "allow")]


@pytest.mark.parametrize(
    ("choice", "seconds"),
    [("route", 60), ("deny", MAX_SECONDS + 1), ("allow", math.inf), ("allow", math.nan)],
)
def test_what_is_no_snooze_is_refused_and_changes_nothing(choice: str, seconds: float) -> None:
    play = snooze(Playbook(), ROOT, choice, seconds)
    assert play.take(Refuse).message.reason is RefusedReason.INVALID
    assert not play.pipeline.snoozes


def test_a_question_about_a_spent_budget_is_still_asked() -> None:
    spent = Spent(START.wall + 1, OverBudget.ASK, "512 MB of 500 MB/month used")
    play = Playbook("route via=lte").links(Link("lte", 2, "wwan0", True, spent=spent))
    snooze(play, choice="allow").skip()
    play.queue(1).skip()
    assert len(play.pipeline.asks) == 1


def test_it_ends_with_the_first_of_both_clocks() -> None:
    snoozes = Snoozes()
    assert snoozes.begin(START, ALICE, protocol.Snooze(Choice.DENY, 60)) == ""
    slept = Now(START.mono + 1, START.wall + 61)
    jumped = Now(START.mono + 61, START.wall + 1)
    assert snoozes.of(1000, START) is not None
    assert snoozes.of(1000, slept) is None and snoozes.of(1000, jumped) is None
    assert snoozes.next_end(slept) == slept.mono - 1
    assert len(snoozes.end(slept)) == 1 and not snoozes


@given(
    st.lists(
        st.tuples(
            st.sampled_from([ALICE, BOB, ROOT]),
            st.sampled_from(["allow", "deny"]),
            st.just(0.0) | st.floats(0.001, 100),
            st.booleans(),
        ),
        max_size=8,
    ),
    st.sampled_from([1000, 1001, 0, None]),
    st.floats(0, 200),
)
def test_only_a_user_and_admins_ever_answer_for_that_user(
    wanted: list[tuple[Peer, str, float, bool]], uid: int | None, later: float
) -> None:
    snoozes = Snoozes()
    last: dict[int | None, tuple[float, str]] = {}
    for peer, choice, seconds, everyone in wanted:
        why = snoozes.begin(START, peer, protocol.Snooze(Choice(choice), seconds, everyone))
        assert bool(why) == (everyone and not peer.admin)
        if not why:
            last[None if everyone else peer.uid] = (seconds, choice)
    then = Now(START.mono + later, START.wall + later)
    live = {whose: choice for whose, (seconds, choice) in last.items() if seconds > later}
    found = snoozes.of(uid, then)
    assert (found.decision.action.value if found else None) == live.get(uid, live.get(None))
