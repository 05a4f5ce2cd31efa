"""The promise: a rule that is in force decides, whatever else happens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from examples import examples
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace
from playbook import (
    ALICE,
    AS_ROOT,
    BOTH,
    DEPLOY,
    ROOT,
    SERVER,
    SERVER6,
    WGET,
    Playbook,
    deployed,
    owner,
    packet,
    process,
    verdict,
)

from arbiter.asks import State
from arbiter.events import (
    FindOwner,
    OwnerFound,
    PacketQueued,
    Reason,
    Remember,
    Remembered,
    Report,
    RulesChanged,
    SetVerdict,
)
from arbiter.model import (
    ACCEPTED,
    ALLOW,
    DENIED,
    DENY,
    DROPPED,
    MARK_DECIDED,
    Action,
    Decision,
    Link,
    NoOwner,
    NoOwnerReason,
    Owner,
    Packet,
    Verdict,
    VerdictKind,
)
from arbiter.rules import Entry, Query, rank, why_not
from arbiter.settings import Fallback

LTE = Verdict(VerdictKind.ACCEPT, MARK_DECIDED | 2 << 24)

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
    """Whether nobody waits for the connection."""
    gone = who.reason in ("socket closed", "exited") if isinstance(who, NoOwner) else False
    return gone and held.flow.proto == 6


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


RulesDecide.TestCase.settings = settings(
    max_examples=examples(300), stateful_step_count=40, deadline=None
)
TestRulesDecide = RulesDecide.TestCase
