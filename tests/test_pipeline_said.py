"""Scenes of what is said of each decision: its reason, who gave it, how long it took, the counts.

Each scene is here because a change of the core that breaks its promise went unseen before.
"""

from __future__ import annotations

import pytest
from playbook import (
    ALICE,
    ROOT,
    SERVER,
    SERVER6,
    WGET,
    Playbook,
    owner,
    packet,
    process,
    said,
    verdict,
)

from arbiter.events import FindOwner, PacketQueued, Reason, Report, SetVerdict, ShowAsk
from arbiter.model import ACCEPTED, DENIED, DENY, DROPPED, NoOwner, NoOwnerReason, Undecodable


def test_a_packet_whose_owner_came_too_late_says_so() -> None:
    play = Playbook(deadline=10.0)
    play.send(PacketQueued(play.now, packet(1))).wait(10)
    late = NoOwner(NoOwnerReason.NO_SOCKET, detail="not found in time")
    assert said(play)[1].owner == late


CLOSED = [
    NoOwner(NoOwnerReason.CLOSED),
    NoOwner(NoOwnerReason.EXITED, uid=1000, user="alice"),
]
"""What is found of a program that opened a connection and did not wait for it."""


@pytest.mark.parametrize("flags", [0x02, 0x10, 0x11], ids=["SYN", "ACK", "FIN"])
@pytest.mark.parametrize("gone", CLOSED)
@pytest.mark.parametrize("daddr", [SERVER, SERVER6])
def test_nobody_is_asked_about_a_connection_whose_socket_is_closed(
    gone: NoOwner, daddr: bytes, flags: int
) -> None:
    """A later packet of it comes here once conntrack has forgotten it, or was told to."""
    play = Playbook()
    play.prompts(ROOT).queue(1, gone, daddr=daddr, flags=flags)
    play >> FindOwner >> verdict(1, DROPPED)
    report = play.take(Report)
    assert (report.reason, report.owner) == (Reason.EXITED, gone)
    assert "closed" in report.note
    play.end()


def test_rules_decide_about_a_closed_socket_too_and_observe_lets_it_go() -> None:
    denied = Playbook("deny proto=tcp").queue(1, CLOSED[0])
    assert denied.all(SetVerdict) == [verdict(1, DENIED)]
    watched = Playbook(mode="observe").queue(1, CLOSED[0])
    assert watched.all(SetVerdict) == [verdict(1, ACCEPTED)]


def test_what_a_closed_socket_left_behind_is_asked_about_if_it_is_not_tcps() -> None:
    """A datagram needs no socket to arrive; a raw socket may have made the SYN."""
    play = Playbook().prompts(ROOT)
    play.queue(1, CLOSED[0], proto=17)
    play.queue(2, NoOwner(NoOwnerReason.NO_SOCKET), sport=2)
    assert {type(effect) for effect in play.effects} == {FindOwner, ShowAsk}


def test_a_decision_that_was_not_remembered_says_why() -> None:
    play = Playbook()
    play.store = False
    play.queue(1).answer(1, "allow", lifetime="forever")
    play.store_fails("the disk is full")
    report = said(play)[1]
    assert (report.note, report.rule, report.by) == (
        "not remembered: the disk is full",
        None,
        ALICE,
    )


def test_the_record_of_a_late_answer_names_who_gave_it() -> None:
    play = Playbook(deadline=10.0)
    play.queue(1).wait(11).answer(1, "deny", ROOT).skip()
    play.queue(2, sport=2)
    report = said(play)[2]
    assert (report.decision, report.reason, report.by) == (DENY, Reason.ANSWER, ROOT)


def test_once_serves_each_flow_that_waited_and_no_other() -> None:
    play = Playbook()
    play.queue(1, proto=17, sport=1)
    play.queue(2, proto=17, sport=2)
    play.answer(1, "deny").skip()
    play.queue(3, proto=17, sport=1)
    play.queue(4, proto=17, sport=2)
    assert play.all(SetVerdict) == [verdict(3, DENIED), verdict(4, DENIED)]
    play.queue(5, proto=17, sport=3) >> FindOwner >> ShowAsk(2)


def test_a_record_says_how_long_its_packet_waited() -> None:
    play = Playbook()
    play.queue(1).wait(3)
    play.queue(2, dport=80).wait(2).answer(1, "allow")
    assert said(play)[1].waited == pytest.approx(5.0)
    play.exits(4242)
    assert said(play)[2].waited == pytest.approx(2.0)


def test_what_never_waited_has_waited_no_time() -> None:
    play = Playbook()
    play.queue(1, dport=1).wait(3)
    play.send(PacketQueued(play.now, Undecodable(2, "short header")))
    assert said(play)[2].waited == 0.0


def test_every_decision_answer_and_reason_is_counted() -> None:
    play = Playbook(f"deny app={WGET}", deadline=10.0, packets_per_flow=1)
    play.queue(1).answer(1, "allow")  # by answer
    play.queue(2, owner(process(WGET, 2)))  # by rule
    play.queue(3, dport=3)
    play.queue(4, dport=3).wait(10)  # 4 is one too many of its flow, 3 by deadline
    play.queue(5, dport=5).exits(4242)
    play.answer(2, "deny")  # late: nothing waits
    assert play.pipeline.counters == {
        "packets": 5,
        "asks": 3,
        "answers": 2,
        "allow": 1,
        "deny": 4,
        "by_answer": 1,
        "by_rule": 1,
        "by_overflow": 1,
        "by_deadline": 1,
        "by_exited": 1,
    }


def test_what_found_no_room_to_wait_is_counted_as_overflow() -> None:
    play = Playbook(packets_held=2)
    play.queue(1)
    play.queue(2, sport=2)
    assert play.all(SetVerdict) == [verdict(2, DROPPED)]
    assert play.pipeline.counters["by_overflow"] == 1
