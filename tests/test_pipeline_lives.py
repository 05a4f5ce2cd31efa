"""Scenes of the lives of asks, packets and rules, and the promise that rules decide.

Each scene is here because a change of the core that breaks its promise went unseen before. It is
longer than most files: one scene a promise, and the state machine that ends it shares their people.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from msgspec.structs import replace
from playbook import (
    ALICE,
    ROOT,
    SERVER,
    SERVER6,
    START,
    Playbook,
    app,
    owner,
    packet,
    process,
    verdict,
)

from arbiter.asks import OpenAsk, State
from arbiter.events import (
    Announce,
    FindOwner,
    OwnerFound,
    PacketQueued,
    Reason,
    Remember,
    Remembered,
    Report,
    Retire,
    RulesChanged,
    SetVerdict,
    ShowAsk,
    Tick,
    WatchProcess,
    WithdrawAsk,
)
from arbiter.model import (
    ACCEPTED,
    ALLOW,
    DENIED,
    DENY,
    DROPPED,
    MARK_DECIDED,
    Action,
    Ancestor,
    Decision,
    Link,
    NoOwner,
    NoOwnerReason,
    Now,
    Owner,
    Packet,
    Undecodable,
    Verdict,
    VerdictKind,
)
from arbiter.rules import Entry, Query, rank, why_not
from arbiter.settings import Fallback, WhenUnattended

WGET = "/usr/bin/wget"
BOTH = owner(process(pid=1), process(WGET, 2))
AS_ROOT = owner(process(uid=0, pid=900), uid=1000)
"""A set-uid curl: alice's socket, held by a process with root's rights."""
DEPLOY = Ancestor(300, app("/srv/deploy.sh"))
LTE = Verdict(VerdictKind.ACCEPT, MARK_DECIDED | 2 << 24)


def deployed(pid: int) -> Owner:
    """curl of alice, started by deploy.sh and not by her shell."""
    return owner(replace(process(pid=pid), ancestors=(DEPLOY,)))


def only_ask(play: Playbook) -> OpenAsk:
    """The one open ask."""
    (ask,) = play.pipeline.asks
    return ask


def said(play: Playbook) -> dict[int, Report]:
    """Every report so far, by packet."""
    return {report.packet.id: report for report in play.all(Report)}


# --- how long an ask lives ------------------------------------------------------------------


def test_each_new_packet_puts_off_the_end_of_its_ask() -> None:
    play = Playbook(deadline=10.0, ask_ttl=100.0)
    play.queue(1).wait(90)
    play.queue(2, sport=2).skip()
    play.wait(99)
    assert not play.all(WithdrawAsk)
    play.wait(1)
    assert [effect.ask for effect in play.all(WithdrawAsk)] == [1]


def test_an_ask_that_a_packet_waits_for_does_not_expire() -> None:
    play = Playbook(deadline=100.0, ask_ttl=10.0)
    play.queue(1).skip()
    play.send(Tick(Now(START.mono + 50, START.wall + 50))).end()
    assert only_ask(play).waiting == {1: None}
    assert play.pipeline.next_wake(play.now) == START.mono + 100


def test_an_ask_whose_rule_is_being_stored_does_not_expire() -> None:
    play = Playbook(deadline=10.0, ask_ttl=20.0)
    play.store = False
    play.queue(1).answer(1, "allow", lifetime="forever").wait(11).skip()
    play.send(Tick(Now(START.mono + 99, START.wall + 99))).end()
    play.stored()
    assert play.take(Announce).message.rule_id == 1


def test_an_ask_whose_rule_is_being_stored_wakes_nobody() -> None:
    """A tick would find nothing to do, and be due again at once, for as long as the disk takes."""
    play = Playbook(deadline=10.0, ask_ttl=20.0)
    play.store = False
    play.queue(1).answer(1, "allow", lifetime="forever").wait(11)
    assert only_ask(play).stale
    assert play.pipeline.next_wake(play.now) is None


def test_a_stale_ask_and_the_end_of_a_rule_wake_exactly_when_they_are_due() -> None:
    play = Playbook(deadline=10.0, ask_ttl=20.0)
    play.rules(f"allow app={WGET} for=15s")
    play.queue(1)
    assert play.pipeline.next_wake(play.now) == START.mono + 10
    play.wait(10)
    assert play.pipeline.next_wake(play.now) == START.mono + 15
    play.wait(5)
    assert play.pipeline.next_wake(play.now) == START.mono + 20


# --- what an ask shows ----------------------------------------------------------------------


def test_an_ask_that_is_joined_again_forgets_who_had_exited() -> None:
    play = Playbook()
    play.queue(1).exits(4242)
    assert only_ask(play).note == "curl has exited"
    play.queue(2, owner(process(pid=5000)), sport=2)
    assert only_ask(play).note == ""


def test_an_ask_that_is_joined_again_shows_who_waits_now_and_until_when() -> None:
    play = Playbook(deadline=10.0)
    play.queue(1, owner(process(pid=1))).wait(25)
    play.queue(2, owner(process(pid=2)), sport=2)
    ask = only_ask(play)
    assert (ask.example.packet.id, ask.example.owner) == (2, owner(process(pid=2)))
    assert ask.example.subject == process(pid=2)
    assert ask.deadline == START.wall + 35


def test_a_joining_packet_leaves_the_example_and_the_deadline_of_the_first() -> None:
    play = Playbook(deadline=10.0)
    play.queue(1).wait(5)
    play.queue(2, sport=2)
    assert (only_ask(play).example.packet.id, only_ask(play).deadline) == (1, START.wall + 10)


def test_after_a_deadline_the_ask_shows_the_deadline_of_who_still_waits() -> None:
    play = Playbook(deadline=10.0)
    play.queue(1).wait(5)
    play.queue(2, sport=2).wait(5).skip()
    assert only_ask(play).waiting == {2: None}
    assert only_ask(play).deadline == START.wall + 15


def test_another_deadline_is_told_even_where_the_count_alone_would_not_be() -> None:
    play = Playbook(deadline=10.0)
    play.queue(1).wait(5)
    for id in range(2, 10):
        play.queue(id, sport=id)
    play.skip().wait(5)  # 8 were told last, and 8 wait now
    assert [effect.ask for effect in play.all(ShowAsk)] == [1]


def test_when_the_shown_packet_is_decided_the_ask_shows_one_that_waits() -> None:
    play = Playbook()
    play.queue(1)
    play.queue(2, deployed(2), sport=2).skip()
    play.rules("allow parent=/usr/bin/bash") >> verdict(1, ACCEPTED) >> Report >> ShowAsk(1)
    play.end()
    assert only_ask(play).example.packet.id == 2


def test_when_the_shown_program_exits_the_ask_shows_one_that_waits() -> None:
    play = Playbook()
    play.queue(1, owner(process(pid=1)))
    play.queue(2, owner(process(pid=2)), sport=2).skip()
    play.exits(1) >> verdict(1, DROPPED) >> Report >> ShowAsk(1)
    assert only_ask(play).example.packet.id == 2
    assert only_ask(play).note == "", "the program that it shows runs"


def test_when_a_rule_decides_one_app_of_a_shared_socket_the_ask_is_about_the_other() -> None:
    play = Playbook()
    play.queue(1, BOTH).skip()
    assert only_ask(play).example.subject == process(pid=1)
    play.rules("allow app=/usr/bin/curl") >> ShowAsk(1)
    play.end()
    assert only_ask(play).example.subject == process(WGET, 2)


def test_a_change_of_links_tries_again_what_waits() -> None:
    play = Playbook()
    play.rules("allow app=/usr/bin/curl for=5s").queue(1, BOTH).wait(6).skip()
    play.links(Link("lte", 2, "wwan0")) >> ShowAsk(1)
    assert only_ask(play).example.subject == process(pid=1), "curl's rule is over"


# --- while a rule is being stored -----------------------------------------------------------


def test_a_change_of_rules_leaves_an_answered_ask_to_its_answer() -> None:
    play = Playbook()
    play.store = False
    play.queue(1).answer(1, "allow", lifetime="forever").skip()
    play.rules("allow app=/usr/bin/curl").end()
    play.stored() >> verdict(1, ACCEPTED) >> Report
    assert play.take(Announce).message.released == 1


def test_an_answered_handshake_goes_though_its_program_exits_meanwhile() -> None:
    """Whether it had exited before the answer is not known: the answer was first."""
    play = Playbook()
    play.store = False
    play.queue(1).answer(1, "allow", lifetime="forever").skip()
    play.exits(4242)
    assert not play.all(SetVerdict)
    play.stored() >> verdict(1, ACCEPTED) >> Report >> Announce


def test_a_deny_made_while_an_answer_is_stored_holds_at_the_deadline_too() -> None:
    """`_retry` leaves an ask that is being stored alone, so the deadline must ask the rules."""
    play = Playbook(deadline=10.0, fallback=Fallback.ALLOW)
    play.store = False
    play.queue(1).answer(1, "allow", scope="app", lifetime="forever").skip()
    play.rules("deny app=/usr/bin/curl host=198.51.100.10").wait(10)
    assert play.all(SetVerdict) == [verdict(1, DENIED)]


@pytest.mark.parametrize("how", ["decided", "exited"])
def test_when_the_first_packet_goes_the_ask_shows_the_deadline_of_the_next(how: str) -> None:
    play = Playbook(deadline=10.0)
    play.queue(1).wait(5)
    play.queue(2, deployed(2), sport=2)
    if how == "decided":
        play.rules("allow parent=/usr/bin/bash")
    else:
        play.exits(4242)
    assert only_ask(play).waiting == {2: None}
    assert only_ask(play).deadline == START.wall + 15


# --- processes ------------------------------------------------------------------------------


def test_a_shared_handshake_waits_on_while_one_of_its_processes_lives() -> None:
    play = Playbook()
    play.queue(1, BOTH).skip()
    play.exits(1).end()
    assert only_ask(play).note == ""
    play.exits(2) >> verdict(1, DROPPED) >> Report >> ShowAsk(1)


def test_a_loaded_rule_for_a_process_is_watched_and_ends_with_it() -> None:
    play = Playbook()
    entry = play.entry("allow app=/usr/bin/curl for=process", process=(4242, 42420))
    play.send(RulesChanged(play.now, (entry,), ())) >> WatchProcess(4242, 42420)
    play.end()
    play.exits(4242) >> Retire((entry.id,), "its program has exited")
    play.end()
    play.queue(1, owner(process(pid=4242))) >> FindOwner >> WatchProcess >> ShowAsk(1)


def test_with_nobody_who_may_answer_there_the_setting_decides() -> None:
    """The socket is alice's, but its process has root's rights: only admins may answer."""
    play = Playbook(when_unattended=WhenUnattended.FALLBACK)
    play.prompts(ALICE)
    play.queue(1, AS_ROOT)
    assert said(play)[1].reason is Reason.UNATTENDED
    play.prompts(ROOT)
    play.queue(2, AS_ROOT, sport=2)
    assert not play.all(SetVerdict)


def test_with_nobody_there_it_may_be_observed_and_the_question_stays() -> None:
    play = Playbook(when_unattended="observe", fallback="deny").prompts()
    play.queue(1)
    report = said(play)[1]
    assert (report.reason, report.verdict) == (Reason.UNATTENDED, ACCEPTED)
    assert len(play.pipeline.asks) == 1


# --- what is said, and counted --------------------------------------------------------------


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


@pytest.mark.parametrize("gone", CLOSED)
@pytest.mark.parametrize("daddr", [SERVER, SERVER6])
def test_nobody_is_asked_about_a_handshake_whose_socket_is_closed(
    gone: NoOwner, daddr: bytes
) -> None:
    play = Playbook()
    play.prompts(ROOT).queue(1, gone, daddr=daddr)
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


def test_what_a_closed_socket_left_behind_is_asked_about_if_it_is_no_handshake() -> None:
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


# --- bounds ---------------------------------------------------------------------------------


def test_one_user_cannot_flood_the_person_with_questions_of_many_programs() -> None:
    play = Playbook(asks_per_user=2)
    for id in range(1, 4):
        play.queue(id, owner(process(f"/usr/bin/app{id}", id)))
    report = said(play)[3]
    assert report.reason is Reason.OVERFLOW
    assert report.note == "not asked: this user has 2 open asks already"
    play.queue(4, owner(process(uid=1001, pid=9), uid=1001))
    assert play.all(ShowAsk), "another user is asked"


def test_all_users_together_have_a_bound_of_asks() -> None:
    play = Playbook(asks_per_app=1, asks_per_user=1, asks_total=2)
    for id, uid in enumerate((1000, 1001, 0), start=1):
        play.queue(id, owner(process(uid=uid, pid=id), uid=uid))
    assert said(play)[3].note == "not asked: 2 asks are open already"


def test_nobodys_ask_gives_way_to_another_users() -> None:
    play = Playbook(asks_total=1, deadline=10.0)
    play.queue(1).wait(11).skip()
    play.queue(2, owner(process(uid=1001, pid=2), uid=1001))
    assert not play.all(WithdrawAsk)
    assert only_ask(play).id == 1


def test_an_ask_whose_rule_is_being_stored_does_not_give_way() -> None:
    play = Playbook(asks_per_app=1, deadline=10.0)
    play.store = False
    play.queue(1).answer(1, "allow", lifetime="forever").wait(11).skip()
    play.queue(2, dport=80)
    assert not play.all(WithdrawAsk)
    play.stored()
    assert [effect.message.ask for effect in play.all(Announce)] == [1]


def test_an_answered_ask_makes_room_for_the_next_of_its_user() -> None:
    play = Playbook(asks_per_app=1, asks_per_user=1, asks_total=1)
    for id in range(1, 5):
        play.queue(id, dport=id).answer(id, "allow")
    assert [report.reason for report in said(play).values()] == [Reason.ANSWER] * 4


def test_a_packet_that_went_makes_room_for_the_next_of_its_user() -> None:
    play = Playbook(packets_held=2)
    for id in range(1, 5):
        play.queue(id, dport=id).answer(id, "allow")
    assert [report.reason for report in said(play).values()] == [Reason.ANSWER] * 4


# --- the promise: a rule that is in force decides -------------------------------------------

WHO = (
    owner(),
    deployed(4242),
    owner(process(WGET, 4300)),
    owner(process(uid=1001, pid=31), uid=1001),
    BOTH,
    owner(process(pid=1), replace(process(pid=2), ancestors=(DEPLOY,))),
    AS_ROOT,
    owner(established=True),
    NoOwner(NoOwnerReason.EXITED, uid=1000, user="alice"),
    NoOwner(NoOwnerReason.EXITED, established=True),
    NoOwner(NoOwnerReason.CLOSED),
)
LINES = (
    "allow app=/usr/bin/curl",
    "allow host=198.51.100.10 user=alice",
    "allow parent=/srv/deploy.sh",
    "allow app=/usr/bin/curl user=1001 for=5s",
    "deny app=/usr/bin/curl port=443",
    "deny app=/usr/bin/curl host=198.51.100.10 port=443 proto=tcp",
    "deny app=/usr/bin/wget for=5s",
    "deny host=internet proto=udp",
    "route via=lte app=/usr/bin/wget",
    "route via=lte,any host=198.51.100.0/24",
)
NOT_FOUND = NoOwner(NoOwnerReason.NO_SOCKET)
SOMEBODY = st.one_of(st.sampled_from(WHO[:2]), st.sampled_from(WHO))
"""curl more often than others: what is asked together is what races."""


def naive(entries: Iterable[Entry], held: Packet, who: Owner | NoOwner, wall: float) -> Any:
    """What the rules say, by asking every one of them about every process; None if nothing."""
    holders = who.processes if isinstance(who, Owner) else (None,)
    uids = {who.uid} | {one.uid for one in holders if one is not None}
    decisions: list[Decision | None] = []
    for one in holders:
        like = [
            (other.pid, other.start)
            for other in holders
            if one is not None
            and other is not None
            and (other.app, other.ancestors) == (one.app, one.ancestors)
        ]
        query = Query(
            app=one.app.id if one else "",
            parents=tuple(each.app.id for each in one.ancestors) if one else (),
            uid=who.uid if len(uids) == 1 else None,
            user=who.user if len(uids) == 1 and who.uid is not None else "",
            daddr=held.flow.daddr,
            dport=held.flow.dport,
            proto=held.flow.proto,
            processes=tuple(like),
        )
        matching = [entry for entry in entries if why_not(entry, query, wall) is None]
        best = min(matching, key=rank, default=None)
        decisions.append(best.rule.decision if best else None)
    if DENY in decisions:
        return DENY
    if None in decisions:
        return ALLOW if who.established and not held.opens else None
    routes = [each for each in decisions if each is not None and each.action is Action.ROUTE]
    return routes[0] if routes else ALLOW


def left_behind(held: Packet, who: Owner | NoOwner) -> bool:
    """Whether nobody waits for the handshake."""
    gone = who.reason in ("socket closed", "exited") if isinstance(who, NoOwner) else False
    return gone and held.flow.proto == 6 and held.opens


def carried(decision: Decision, links: Mapping[str, Link]) -> Verdict:
    """The verdict that a decision is, with one link `lte` at most."""
    if decision.action is not Action.ROUTE:
        return DENIED if decision == DENY else ACCEPTED
    if "lte" in links and links["lte"].up:
        return LTE
    return ACCEPTED if "any" in decision.via else DENIED


WHERE = st.fixed_dictionaries(
    {
        "dport": st.sampled_from([53, 443]),
        "proto": st.sampled_from([6, 17]),
        "daddr": st.sampled_from([SERVER, SERVER6]),
        "flags": st.sampled_from([0x02, 0x10]),
    }
)
RULES = st.lists(st.sampled_from(LINES), max_size=4, unique=True)


@given(RULES, st.booleans(), st.sampled_from(WHO), WHERE)
def test_a_packet_goes_at_once_as_the_rules_say_or_waits_where_they_say_nothing(
    lines: list[str], up: bool, who: Owner | NoOwner, where: dict[str, Any]
) -> None:
    play = Playbook(*lines).links(Link("lte", 2, "wwan0", up)).queue(1, who, **where)
    decision = naive(play.pipeline.rules.index, packet(1, **where), who, play.now.wall)
    due = [] if decision is None else [verdict(1, carried(decision, play.pipeline.links))]
    if decision is None and left_behind(packet(1, **where), who):
        due = [verdict(1, DROPPED)]
    assert play.all(SetVerdict) == due


@given(
    RULES,
    st.sampled_from(WHO),
    WHERE,
    st.sampled_from([ALLOW, DENY]),
    st.sampled_from(["connection", "host", "port", "app", "destination"]),
    st.booleans(),
)
def test_rules_that_come_while_an_answer_is_stored_decide_before_it(
    lines: list[str],
    who: Owner | NoOwner,
    where: dict[str, Any],
    answer: Decision,
    scope: str,
    works: bool,
) -> None:
    play = Playbook()
    play.store = False
    play.queue(1, who, **where).answer(
        1, answer.action.value, ROOT, scope=scope, lifetime="forever"
    )
    assume(play.pending)  # it is asked at all, and this scope is offered
    play.skip().rules(*lines)
    assert not play.all(SetVerdict)
    if works:
        play.stored()
    else:
        play.store_fails()
    decision = naive(play.pipeline.rules.index, packet(1, **where), who, play.now.wall)
    assert play.all(SetVerdict) == [verdict(1, carried(decision or answer, {}))]


class RulesDecide(RuleBasedStateMachine):
    """At every verdict, the rules that are in force are asked again, in the slowest way.

    If they decide, that is the verdict: so a deny in force is never followed by NF_ACCEPT
    without the denied bit. If they do not, no record claims a rule. And nothing waits that a
    rule decides. Out of it are what was dropped as lost, and the end of the daemon.
    """

    @initialize(fallback=st.sampled_from(Fallback))
    def start(self, fallback: Fallback) -> None:
        self.play = Playbook(deadline=10.0, ask_ttl=30.0, asks_per_app=2, fallback=fallback)
        self.play.store = False
        self.packets: dict[int, Packet] = {}
        self.owners: dict[int, Owner | NoOwner] = {}
        self.looking: list[int] = []
        self.entries: dict[int, Entry] = {}
        self.links: dict[str, Link] = {}

    def say(self, id: int, wall: float) -> Any:
        who = self.owners.get(id, NOT_FOUND)
        return naive(self.entries.values(), self.packets[id], who, wall)

    def check(self) -> None:
        """Compare what came out with the naive decision."""
        given: dict[int, Verdict] = {}
        while self.play.effects:
            match self.play.effects.popleft():
                case SetVerdict(id, value):
                    given[id] = value
                case FindOwner(about):
                    self.looking.append(about.id)
                case Report() as report:
                    self.check_one(report, given[report.packet.id])

    def check_one(self, report: Report, value: Verdict) -> None:
        id = report.packet.id
        if id in self.looking:
            self.looking.remove(id)
        if report.reason in (Reason.OVERFLOW, Reason.EXITED) and value == DROPPED:
            return
        decision = self.say(id, report.wall)
        if decision is None:
            assert report.reason not in (Reason.RULE, Reason.OLDER)
            assert report.rule is None, "a rule that does not match is named"
        else:
            assert value == carried(decision, self.links)

    def put(self, added: tuple[Entry, ...], removed: Iterable[int]) -> None:
        """Other rules are in force from now on; what came out before is judged by the old ones."""
        self.check()
        for id in removed:
            self.entries.pop(id, None)
        self.entries |= {entry.id: entry for entry in added}

    @rule(
        dport=st.sampled_from([53, 443]),
        proto=st.sampled_from([6, 17]),
        daddr=st.sampled_from([SERVER, SERVER6]),
        sport=st.integers(1, 3),
        flags=st.sampled_from([0x02, 0x10]),
        who=SOMEBODY,
        at_once=st.booleans(),
    )
    def packet_comes(self, who: Owner | NoOwner, at_once: bool, **where: Any) -> None:
        """Its owner is found at once, or by and by."""
        id = len(self.packets) + 1
        self.packets[id] = packet(id, **where)
        self.play.send(PacketQueued(self.play.now, self.packets[id]))
        self.check()
        if at_once and id in self.looking:
            self.found(id, who)

    @precondition(lambda self: self.looking)
    @rule(data=st.data(), who=SOMEBODY)
    def owner_is_found(self, data: st.DataObject, who: Owner | NoOwner) -> None:
        self.found(data.draw(st.sampled_from(self.looking)), who)

    def found(self, id: int, who: Owner | NoOwner) -> None:
        self.looking.remove(id)
        self.owners[id] = who
        decided = self.say(id, self.play.now.wall) is not None
        self.play.send(OwnerFound(self.play.now, id, who))
        if decided:
            assert self.play.effects and isinstance(self.play.effects[0], SetVerdict)
        self.check()

    @rule(
        place=st.integers(0, 3),
        peer=st.sampled_from([ALICE, ROOT, ROOT]),
        decision=st.sampled_from(["allow", "deny"]),
        scope=st.sampled_from(["connection", "host", "app", "parent", "destination"]),
        lifetime=st.sampled_from(["once", "process", "5s", "forever"]),
        at_once=st.booleans(),
    )
    def somebody_answers(
        self, place: int, decision: str, peer: Any, at_once: bool, **how: Any
    ) -> None:
        """The rule that it makes is on disk at once, or by and by."""
        ids = [ask.id for ask in self.play.pipeline.asks]
        if ids:
            self.play.answer(ids[place % len(ids)], decision, peer, **how)
        if at_once and self.play.pending:
            self.the_oldest_is_stored(())

    @precondition(lambda self: self.play.pending)
    @rule(works=st.booleans(), replaced=st.lists(st.integers(1, 12), max_size=2))
    def the_disk_answers(self, works: bool, replaced: list[int]) -> None:
        if not works:
            self.play.store_fails()
            return
        self.the_oldest_is_stored(tuple(replaced))

    def the_oldest_is_stored(self, replaced: tuple[int, ...]) -> None:
        effect: Remember = self.play.pending.popleft()
        entry = self.play.entry(effect.rule, effect.peer.user, effect.process)
        self.put((entry,), replaced)
        self.play.send(Remembered(self.play.now, effect.ask, entry, replaced))

    @rule(line=st.sampled_from(LINES), removed=st.lists(st.integers(1, 8), max_size=4))
    def rules_change(self, line: str, removed: list[int]) -> None:
        entry = self.play.entry(line)
        self.put((entry,), removed)
        self.play.send(RulesChanged(self.play.now, (entry,), tuple(removed)))

    @rule(pid=st.sampled_from([1, 4242, 4300]), line=st.sampled_from(["allow", "deny"]))
    def a_rule_for_a_process_is_loaded(self, pid: int, line: str) -> None:
        entry = self.play.entry(f"{line} proto=tcp for=process", process=(pid, pid * 10))
        self.put((entry,), ())
        self.play.send(RulesChanged(self.play.now, (entry,), ()))

    @rule(pid=st.sampled_from([1, 2, 31, 900, 4242, 4300]))
    def process_exits(self, pid: int) -> None:
        gone = (pid, pid * 10)
        self.put((), [id for id, entry in self.entries.items() if entry.process == gone])
        self.play.exits(pid)

    @rule(up=st.booleans(), there=st.booleans())
    def links_change(self, up: bool, there: bool) -> None:
        self.links = {"lte": Link("lte", 2, "wwan0", up)} if there else {}
        self.play.links(*self.links.values())

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.play.wait(seconds)

    @invariant()
    def what_came_out_is_what_the_rules_say(self) -> None:
        self.check()

    @invariant()
    def nothing_waits_that_a_rule_decides(self) -> None:
        pipeline, wall = self.play.pipeline, self.play.now.wall
        for ask in pipeline.asks:
            if ask.state is State.OPEN:
                waiting = [id for id in ask.waiting if self.say(id, wall) is not None]
                assert not waiting, f"a rule decides {waiting}"


RulesDecide.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestRulesDecide = RulesDecide.TestCase
