"""What may be repeated, and since when it may not: the repeater over a real pipeline."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs
from playbook import ALICE, NOBODY, SERVER, SERVER6, START, owner, packet, process
from repeaterscene import CURL, LTE, OTHER, Scene

from arbiter.daemon import Daemon
from arbiter.dnswire import Answers
from arbiter.events import (
    Event,
    HostsRead,
    LinksChanged,
    NamesLearned,
    OlderFound,
    OwnerFound,
    PacketQueued,
    ProcessExited,
    ProfilesRead,
    PromptsChanged,
    Reason,
    Repeated,
    Report,
    RulesChanged,
    RunVia,
    SettingsChanged,
    SetVerdict,
    Stopping,
    Tick,
    Trouble,
)
from arbiter.kernel.fastpath import Handed
from arbiter.model import (
    ACCEPTED,
    ALLOW,
    DENIED,
    MARK_DECIDED,
    Hook,
    OverBudget,
    Packet,
    Spent,
)
from arbiter.profiles import Book, Standing
from arbiter.repeater import MOST, SECONDS, repeatable
from arbiter.settings import Settings


def test_what_a_rule_decides_is_taught() -> None:
    scene = Scene(CURL)
    report = scene.decide(sport=40000, dport=443)
    ((question, standing, uid, mark, token, until),) = scene.path.taught
    assert isinstance(report.packet, Packet)
    flow = report.packet.flow
    assert question == (6, flow.saddr, bytes(4), 443, report.packet.outdev, report.packet.mark)
    assert (standing.pid, standing.uid, standing.image) == (4242, 1000, "1 2 3 4")
    assert (standing.descriptor, standing.relatives) == (5, (100,))
    assert (uid, mark, token) == (1000, MARK_DECIDED, 1)
    assert SECONDS - 5 < until - time.monotonic() <= SECONDS


def test_a_denial_is_taught_with_its_mark() -> None:
    scene = Scene("deny app=/usr/bin/curl")
    scene.decide()
    assert scene.path.taught[0][3] == DENIED.mark


@pytest.mark.parametrize(
    ("rules", "who", "where"),
    [
        (("allow app=/usr/bin/curl time=22:00-23:00",), None, {}),
        (("allow app=/usr/bin/curl for=5s",), None, {}),
        (("allow app=/usr/bin/curl class=bulk",), None, {}),
        (("allow",), NOBODY, {}),
        (("allow",), owner(process(), process("/usr/bin/wget", 9)), {}),
        (("allow",), owner(established=True), {"flags": 0x10}),
        (("allow",), None, {"flags": 0x10}),
        (("allow",), None, {"proto": 1}),
        (("allow",), structs.replace(owner(), tunnels=(4,)), {}),
        (("allow",), structs.replace(owner(), inode=0), {}),
    ],
)
def test_what_could_be_decided_otherwise_next_time_is_not(
    rules: tuple[str, ...], who: Any, where: dict[str, Any]
) -> None:
    scene = Scene(*rules)
    report = scene.decide(who, **where)
    assert scene.path.taught == []
    assert not repeatable(report)


def test_nor_is_what_comes_from_elsewhere_or_in_parts() -> None:
    report = Scene("allow").decide()
    assert isinstance(report.packet, Packet)
    for other in ({"hook": Hook.IN}, {"hook": Hook.FORWARD}, {"fragment": True}):
        assert not repeatable(
            structs.replace(report, packet=structs.replace(report.packet, **other))
        )
    assert repeatable(report)


def test_nor_what_a_person_said_for_once() -> None:
    scene = Scene()
    scene.play.prompts(ALICE)
    scene.repeater.packet_came(1)
    scene.play.queue(1).answer(1, "allow")
    (report,) = [effect for effect in scene.play.effects if isinstance(effect, Report)]
    scene.repeater.decided(report)
    assert scene.path.taught == []


def test_nor_over_a_link_whose_budget_is_used_up() -> None:
    scene = Scene(CURL)
    scene.play.links(structs.replace(LTE, spent=Spent(1.0, OverBudget.ALLOW, "5 of 5 MB")))
    assert scene.decide(outdev=3).verdict.passes
    assert scene.path.taught == []


def test_nor_while_a_program_holds_the_end_of_a_tunnel() -> None:
    scene = Scene(CURL)
    scene.play.links(structs.replace(LTE, tun=True))
    scene.decide()
    assert scene.path.taught == []


def test_nor_a_process_of_which_too_little_is_known() -> None:
    scene = Scene(CURL)
    scene.processes.stat = ""
    scene.decide()
    scene.processes.stat, scene.owners.found = "1 2 3 4", None
    scene.decide()
    assert scene.path.taught == []


def test_nor_what_was_decided_after_another_packet_came() -> None:
    """Its process may have changed since: the mark is of another look-up."""
    scene = Scene(CURL)
    scene.repeater.packet_came(1)
    scene.play.queue(1)
    (report,) = [effect for effect in scene.play.effects if isinstance(effect, Report)]
    scene.repeater.packet_came(2)
    scene.repeater.decided(report)
    assert scene.path.taught == []


def test_a_refusal_that_is_told_is_told_each_time() -> None:
    scene = Scene("route via=lte app=/usr/bin/curl")
    scene.play.links(structs.replace(LTE, spent=Spent(9e9, OverBudget.DENY, "5 of 5 MB")))
    assert scene.decide(outdev=3).verdict == DENIED
    assert scene.path.taught == []


@pytest.mark.parametrize(
    "event",
    [
        Tick(START),
        RulesChanged(START, (), ()),
        LinksChanged(START, ()),
        HostsRead(START, {}),
        ProfilesRead(START, Book((), Standing("", None))),
        ProcessExited(START, 1, 1),
        RunVia(START, 1, ALICE, (1, 1), "lte"),
        SettingsChanged(START, Settings()),
        NamesLearned(START, Answers("a.example", (SERVER6, SERVER), 5)),
        Stopping(START),
    ],
)
def test_what_may_change_a_decision_takes_all_back_first(event: Event) -> None:
    scene = Scene(CURL, "allow host=198.51.100.0/24")
    scene.decide()
    scene.repeater.before(event)
    assert scene.path.calls == ["forget", "settle"]
    scene.repeater.before(event)
    assert scene.path.calls == ["forget", "settle"], "nothing is taught: nothing to take back"


@pytest.mark.parametrize(
    "event",
    [
        PacketQueued(START, packet(1)),
        OwnerFound(START, 1, NOBODY),
        OlderFound(START, packet(-1), NOBODY),
        PromptsChanged(START, (ALICE,)),
        Trouble(START, "the disk is full"),
        NamesLearned(START, Answers("a.example", (SERVER6,), 5)),
    ],
)
def test_what_changes_none_takes_nothing_back(event: Event) -> None:
    scene = Scene(CURL)
    scene.decide()
    scene.repeater.before(event)
    assert scene.path.calls == []


def test_with_too_many_it_begins_anew() -> None:
    scene = Scene(CURL)
    for port in range(1, MOST + 2):
        scene.decide(dport=port)
    assert scene.path.calls == ["forget", "settle"]
    assert len(scene.path.taught) == MOST + 1


def test_the_pipeline_hears_of_what_was_repeated_with_its_own_facts() -> None:
    scene = Scene(CURL)
    report = scene.decide()
    came, answered = 5_000_000_000, 5_000_040_000
    same = Handed(b"", 1, 77, came, answered, 0, 0, True, None, 0, b"")
    scene.queue.repeated(packet(9, sport=5), same)
    scene.queue.repeated(
        packet(10, sport=6),
        Handed(b"", 1, 78, came, answered, 4300, 100, True, None, 99, b"curl\0-v\0"),
    )
    first, second = scene.events
    assert scene.owners.heard == 2  # while nobody waits
    assert isinstance(first, Repeated)
    assert isinstance(second, Repeated)
    assert (first.packet.id, first.like, first.owner.inode) == (9, report, 77)
    assert first.now.mono == 5.0
    assert first.waited == pytest.approx(40e-6)
    assert first.owner.processes == owner().processes
    (other,) = second.owner.processes
    assert (other.pid, other.start, other.argv) == (4300, 99, ("curl", "-v"))
    assert (other.app, other.ancestors) == (process().app, process().ancestors)


def test_of_a_process_that_goes_on_it_is_taught_once_the_verdict_was_given() -> None:
    scene = Scene("allow app=/usr/bin/curl", "deny host=10.9.9.9")
    scene.answer = False

    def taught(*, pid: int = 4242, daddr: bytes = SERVER) -> list[int]:
        counts = []
        scene.decide(owner(process(pid=pid)), daddr=daddr)
        counts.append(len(scene.path.taught))
        for _ in range(2):
            scene.repeater.answered()
            counts.append(len(scene.path.taught))
        return counts

    assert taught() == [1, 1, 1]
    assert taught(daddr=OTHER) == [1, 2, 2]
    assert taught(pid=4300) == [3, 3, 3]
    assert taught() == [3, 4, 4]
    scene.repeater.before(RulesChanged(START, (), ()))
    assert taught() == [5, 5, 5]


def test_what_changes_before_the_verdict_was_given_is_not_passed_over() -> None:
    scene = Scene("allow app=/usr/bin/curl", "deny host=10.9.9.9")
    scene.decide()
    scene.answer = False
    scene.decide(daddr=OTHER)
    scene.repeater.before(RulesChanged(START, (), ()))
    scene.repeater.answered()
    assert len(scene.path.taught) == 1


def test_a_decision_is_taught_before_its_verdict_lets_its_program_end() -> None:
    """The order alone: that a program which ends at once is learned, `make bench` shows."""
    said: list[str] = []
    daemon: Any = object.__new__(Daemon)
    daemon._repeater = SimpleNamespace(decided=lambda report: said.append("taught"))
    daemon._queue = SimpleNamespace(set_verdict=lambda id, verdict: said.append("verdict"))
    daemon._decided = lambda report: said.append("kept")
    made = Report(1.0, packet(1), owner(), ALLOW, Reason.RULE, verdict=ACCEPTED)
    daemon._carry_out([SetVerdict(1, ACCEPTED), made])
    assert said == ["taught", "verdict", "kept"]
