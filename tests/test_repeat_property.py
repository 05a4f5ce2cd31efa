"""The promise of the fast path: what is repeated would have been decided the same.

At any moment, of whatever may be repeated, the pipeline itself is asked about one more packet.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from examples import examples
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec import structs
from playbook import ALICE, ROOT, SERVER, SERVER6, Playbook, owner, packet, process
from repeaterscene import inside

from arbiter.dnswire import Answers
from arbiter.events import (
    Event,
    FindOwner,
    NamesLearned,
    OwnerFound,
    PacketQueued,
    ProfilesRead,
    Repeated,
    Report,
    RunVia,
    SetVerdict,
)
from arbiter.model import Action, Link, Now, OverBudget, Owner, Packet, Spent
from arbiter.profiles import Book, Profile, Standing
from arbiter.repeater import SECONDS, STEADY, repeatable
from arbiter.rules import Index

WHO = (
    owner(),
    owner(process("/usr/bin/wget", 4300)),
    owner(process(uid=0, pid=900), uid=0),
    owner(process("/usr/bin/curl", 1), process("/usr/bin/wget", 2)),
)
EVEN = "time=" + ",".join(f"22:{one:02}-22:{one + 1:02}" for one in range(14, 40, 2))
"""Each other minute; the play begins at 22:13:20."""
LINES = (
    "allow app=/usr/bin/curl",
    "deny app=/usr/bin/wget port=443",
    "allow host=internet user=alice",
    "route via=lte host=198.51.100.0/24",
    "route via=lte,any app=/usr/bin/curl port=53",
    "route via=lte,any app=/usr/bin/curl port=443",
    "deny proto=udp",
    "allow app=/usr/bin/curl for=5s",
    "deny host=internet port=443 for=50s",
    f"deny app=/usr/bin/curl {EVEN}",
    f"route via=lte,any port=443 {EVEN}",
    "deny app=/usr/bin/curl profile=home",
    "allow host=www.example.org port=443",
    "deny host=other.example.org",
)
OTHERS = {
    4: (SERVER, bytes((192, 168, 1, 5)), bytes((203, 0, 113, 9))),
    16: (SERVER6, bytes.fromhex("fd00" + 28 * "0")),
}
"""Where else something leads."""
NEAR = ((int.from_bytes(SERVER) >> 8, 8),)
"""A link that leads to the server's network only."""
NIGHTLY = f"deny port=53 {EVEN}"
WALL = 1_700_000_000.0
LTE = Link("lte", 2, "wwan0", index=3)


def _leads(report: Report) -> bytes:
    assert isinstance(report.packet, Packet)
    return report.packet.flow.daddr


class Repeating(Playbook):
    """Remembers what the fast path would know."""

    def __init__(self) -> None:
        self.known: list[tuple[Report, float, bool]] = []
        """What was decided, until when that holds, and whether wherever it leads to."""
        super().__init__()

    def send(self, event: Event) -> Playbook:
        if isinstance(event, NamesLearned):
            answers = event.answers
            names = self.pipeline.names
            if not names.told(answers.name, answers.addresses, event.now.mono):
                there = answers.addresses
                self.known = [one for one in self.known if one[2] or _leads(one[0]) not in there]
        elif type(event) not in STEADY:
            self.known.clear()
        return super().send(event)


class Promise(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.play = Repeating()
        self.next_id = 1
        self.probed = 0

    def ask(self, who: Owner, like: Packet | None = None, **where: Any) -> list[Any]:
        """What the pipeline says of a new packet."""
        play, id = self.play, self.next_id
        self.next_id += 1
        one = packet(id, **where) if like is None else structs.replace(like, id=id)
        play.effects.clear()
        play.send(PacketQueued(play.now, one))
        play.send(OwnerFound(play.now, id, who))
        return [effect for effect in play.effects if not isinstance(effect, FindOwner)]

    @initialize(
        lines=st.lists(st.sampled_from(LINES), max_size=4, unique=True),
        asks=st.booleans(),
    )
    def there_are_rules(self, lines: list[str], asks: bool) -> None:
        self.play.links(LTE)
        self.play.rules(NIGHTLY, *lines, *(() if asks else ("allow proto=tcp", "allow proto=udp")))

    @rule(
        dport=st.sampled_from([53, 443]),
        proto=st.sampled_from([6, 17]),
        daddr=st.sampled_from([SERVER, SERVER6]),
        outdev=st.sampled_from([0, 3]),
        who=st.sampled_from(WHO),
        later=st.sampled_from([0.0, 0.0, 5.1, 41.0]),
    )
    def a_packet_comes(self, who: Owner, later: float, **where: Any) -> None:
        """And is repeated for a while without the daemon, which has no part in that."""
        for effect in self.ask(who, **where):
            if isinstance(effect, Report) and repeatable(effect):
                packet = effect.packet
                assert isinstance(packet, Packet)
                mono = self.play.now.mono
                link = self.play.pipeline.ways.used(packet, effect.link)
                if link is None or link.spent is None:
                    until = mono + SECONDS
                    there = self.depends(effect)
                    if there:
                        until = min(until, self.play.pipeline.names.until(_leads(effect), mono))
                    self.play.known.append((effect, until, not there))
        self.play.late(later)

    def depends(self, report: Report) -> bool:
        """Whether it may depend on where it leads to."""
        assert isinstance(report.packet, Packet)
        assert isinstance(report.owner, Owner)
        alike = self.play.pipeline.ways.lead_alike(_leads(report))
        if report.decision.action is Action.ROUTE and not alike:
            return True
        return self.left_out(report, report.packet.flow.daddr)

    def left_out(self, report: Report, daddr: bytes) -> bool:
        """Whether what holds wherever does not there: a rule asks for this place, or its name."""
        assert isinstance(report.packet, Packet)
        assert isinstance(report.owner, Owner)
        app, port = report.owner.processes[0].app.id, report.packet.flow.dport
        depends = self.play.pipeline.rules.index.depends
        areas = depends.on_areas(app, port)
        if areas is None or any(inside(daddr, *area) for area in areas):
            return True
        return depends.on_names(app, port) and self.spoken_of(daddr)

    def spoken_of(self, daddr: bytes) -> bool:
        """Whether a rule speaks of one of its names."""
        pipeline = self.play.pipeline
        names = pipeline.names.names_of(daddr, self.play.now.mono)
        return any(name in pipeline.rules.index.spoken for name in names)

    @rule(line=st.sampled_from(LINES), removed=st.lists(st.integers(1, 12), max_size=3))
    def rules_change(self, line: str, removed: list[int]) -> None:
        self.play.rules(line, removed=tuple(removed))

    @rule(
        decision=st.sampled_from(["allow", "deny"]),
        scope=st.sampled_from(["connection", "host", "app"]),
        lifetime=st.sampled_from(["once", "process", "forever", "5s"]),
        ask=st.integers(1, 5),
    )
    def somebody_answers(self, ask: int, decision: str, **how: Any) -> None:
        self.play.answer(ask, decision, ROOT, **how)

    @rule(
        name=st.sampled_from(["www.example.org", "other.example.org"]),
        to=st.sampled_from([SERVER, SERVER6]),
        ttl=st.sampled_from([0, 5, 3000]),
    )
    def a_name_is_looked_up(self, name: str, to: bytes, ttl: int) -> None:
        self.play.send(NamesLearned(self.play.now, Answers(name, (to,), ttl)))

    @rule(
        up=st.booleans(),
        there=st.booleans(),
        spent=st.sampled_from([None, *OverBudget]),
        reach=st.sampled_from([None, None, NEAR]),
    )
    def links_change(
        self, up: bool, there: bool, spent: OverBudget | None, reach: tuple[tuple[int, int], ...]
    ) -> None:
        used = None if spent is None else Spent(WALL, spent, "all of it")
        networks = ("ssid:Home",) * up
        link = structs.replace(LTE, up=up, spent=used, networks=networks, reach4=reach)
        self.play.links(*([link] if there else []))

    @rule(active=st.sampled_from(["", "home"]))
    def somebody_chooses_a_profile(self, active: str) -> None:
        book = Book((Profile("home", ("ssid:Home",)),), Standing(active, None))
        self.play.send(ProfilesRead(self.play.now, book))

    @rule(pid=st.sampled_from([1, 2, 900, 4242, 4300]))
    def process_exits(self, pid: int) -> None:
        self.play.exits(pid)

    @rule(pid=st.sampled_from([4242, 4300]), via=st.sampled_from(["lte", "wifi"]))
    def somebody_runs_over_a_link(self, pid: int, via: str) -> None:
        start = process(pid=pid).start
        self.play.send(RunVia(self.play.now, 1, ALICE, (pid, start), via))

    @rule(peers=st.lists(st.sampled_from([ALICE, ROOT]), max_size=2))
    def prompts_come_and_go(self, peers: list[Any]) -> None:
        self.play.prompts(*peers)

    @rule(seconds=st.sampled_from([4.9, 41.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        """With the ticks that the daemon has; where none is due, nothing is taken back."""
        self.play.wait(seconds)

    @contextmanager
    def afresh(self) -> Iterator[None]:
        """An index that has not been asked yet: it cannot say again what it said once."""
        rules = self.play.pipeline.rules
        index, rules.index = rules.index, Index(rules.index, rules.index.zone)
        yield
        rules.index = index

    @invariant()
    def what_is_repeated_would_be_decided_the_same(self) -> None:
        with self.afresh():
            self.probe()

    def probe(self) -> None:
        mono = self.play.now.mono
        for report, until, wherever in list(self.play.known):
            if until < mono:
                continue
            there = _leads(report)
            for daddr in OTHERS[len(there)] if wherever else (there,):
                if not wherever or not self.left_out(report, daddr):
                    self.probe_one(report, daddr, wherever)

    def probe_one(self, report: Report, daddr: bytes, wherever: bool) -> None:
        assert isinstance(report.packet, Packet)
        assert isinstance(report.owner, Owner)
        sport = report.packet.flow.sport % 60000 + 1
        flow = structs.replace(report.packet.flow, sport=sport, daddr=daddr)
        like = structs.replace(report.packet, flow=flow)
        given, *rest = self.ask(report.owner, like)
        assert isinstance(given, SetVerdict)
        assert given.verdict == report.verdict
        again = rest[0]
        assert isinstance(again, Report)
        names = report.context.names
        assert wherever or set(again.context.names) == set(names)
        context = again.context._replace(names=names)
        assert (again.rule, again.link, context) == (report.rule, report.link, report.context)
        self.probed += 1

    @invariant()
    def a_repeated_packet_is_counted_and_recorded_once(self) -> None:
        for report, _, _ in self.play.known[:1]:
            if self.spoken_of(_leads(report)):
                continue
            assert isinstance(report.packet, Packet)
            assert isinstance(report.owner, Owner)
            play, before = self.play, self.play.pipeline.counters.copy()
            at = Now(play.now.mono, play.now.wall)
            like = structs.replace(report.packet, id=10**6)
            effects = play.pipeline.handle(Repeated(at, like, report.owner, report, 0.00003))
            (told,) = effects
            assert isinstance(told, Report)
            assert (told.packet, told.rule, told.verdict) == (like, report.rule, report.verdict)
            assert (told.wall, told.waited, told.lasting) == (at.wall, 0.00003, False)
            counts = play.pipeline.counters - before
            action = report.decision.action.value
            assert counts == {"packets": 1, "repeated": 1, action: 1, "by_rule": 1}


Promise.TestCase.settings = settings(
    max_examples=examples(200), stateful_step_count=50, deadline=None
)
TestPromise = Promise.TestCase
