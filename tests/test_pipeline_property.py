"""The promise: every queued packet gets exactly one verdict, by its deadline, whatever happens."""

from __future__ import annotations

from collections import Counter
from typing import Any

from examples import examples
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from playbook import ALICE, BOB, NOBODY, ROOT, SERVER, SERVER6, Playbook, owner, packet, process

from arbiter.events import (
    Announce,
    FindOwner,
    OwnerFound,
    PacketQueued,
    ProfilesRead,
    Report,
    SetVerdict,
    ShowAsk,
    WithdrawAsk,
)
from arbiter.model import Link, Undecodable
from arbiter.profiles import Book, Profile, Standing
from arbiter.settings import Fallback, Mode, Settings, WhenAbsent, WhenUnattended

DEADLINE = 10.0
WHO = (
    owner(),
    owner(process("/usr/bin/wget", 4300)),
    owner(process(uid=0, pid=900), uid=0),
    owner(process("/usr/bin/curl", 1), process("/usr/bin/wget", 2)),
    owner(established=True),
    NOBODY,
)
PEERS = (ALICE, BOB, ROOT)
LINES = (
    "allow app=/usr/bin/curl",
    "deny app=/usr/bin/wget port=443",
    "allow host=internet user=alice",
    "route via=lte host=198.51.100.0/24",
    "deny proto=udp",
    "allow app=/usr/bin/curl for=5s",
    "deny app=/usr/bin/curl profile=home",
    "allow profile=travel port=53",
)


class Promise(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.play = Playbook(
            deadline=DEADLINE,
            ask_ttl=60.0,
            asks_per_app=2,
            asks_per_user=4,
            asks_total=6,
            packets_per_flow=3,
            packets_held=8,
        )
        self.play.store = False
        self.queued: dict[int, float] = {}
        self.verdicts: Counter[int] = Counter()
        self.reports: Counter[int] = Counter()
        self.looking: list[int] = []
        self.open: set[int] = set()
        self.shown: set[int] = set()
        self.next_id = 1

    def collect(self) -> None:
        """Take what came out, and check it as it comes."""
        while self.play.effects:
            effect = self.play.effects.popleft()
            match effect:
                case SetVerdict(packet_id, _):
                    assert packet_id in self.queued, "a verdict for a packet that never came"
                    self.verdicts[packet_id] += 1
                    assert self.verdicts[packet_id] == 1, "a second verdict"
                case Report(packet=about):
                    self.reports[about.id] += 1
                case FindOwner(about):
                    self.looking.append(about.id)
                case ShowAsk(ask):
                    if ask not in self.shown:
                        self.open.add(ask)
                    assert ask in self.open, "an ask that was closed is shown again"
                    self.shown.add(ask)
                case Announce(message=message):
                    self.open.remove(message.ask)
                case WithdrawAsk(ask=ask):
                    self.open.remove(ask)

    @rule(
        dport=st.sampled_from([53, 443]),
        proto=st.sampled_from([1, 6, 17]),
        daddr=st.sampled_from([SERVER, SERVER6]),
        sport=st.integers(1, 3),
        flags=st.sampled_from([0x02, 0x10]),
        good=st.integers(0, 9),
    )
    def packet_comes(self, good: int, **where: Any) -> None:
        id, self.next_id = self.next_id, self.next_id + 1
        self.queued[id] = self.play.now.mono
        what = packet(id, **where) if good else Undecodable(id, "cut short")
        self.play.send(PacketQueued(self.play.now, what))

    @precondition(lambda self: self.looking)
    @rule(data=st.data(), who=st.sampled_from(WHO))
    def owner_is_found(self, data: st.DataObject, who: Any) -> None:
        id = data.draw(st.sampled_from(self.looking))
        self.looking.remove(id)
        self.play.send(OwnerFound(self.play.now, id, who))

    @rule(
        ask=st.integers(1, 8),
        peer=st.sampled_from(PEERS),
        decision=st.sampled_from(["allow", "deny", "route"]),
        scope=st.sampled_from(["connection", "host", "app", "destination", "nonsense"]),
        lifetime=st.sampled_from(["once", "process", "5s", "forever", "nonsense"]),
        via=st.sampled_from([(), ("any",), ("lte",), ("lte", "any")]),
    )
    def somebody_answers(self, ask: int, decision: str, peer: Any, **how: Any) -> None:
        self.play.answer(ask, decision, peer, **how)

    @precondition(lambda self: self.play.pending)
    @rule(works=st.booleans())
    def the_disk_answers(self, works: bool) -> None:
        if works:
            self.play.stored()
        else:
            self.play.store_fails()

    @rule(line=st.sampled_from(LINES), removed=st.lists(st.integers(1, 12), max_size=3))
    def rules_change(self, line: str, removed: list[int]) -> None:
        self.play.rules(line, removed=tuple(removed))

    @rule(active=st.sampled_from(["", "home", "travel"]))
    def somebody_chooses_a_profile(self, active: str) -> None:
        book = Book((Profile("home", ("ssid:Home",)), Profile("travel")), Standing(active, None))
        self.play.send(ProfilesRead(self.play.now, book))

    @rule(up=st.booleans(), there=st.booleans())
    def links_change(self, up: bool, there: bool) -> None:
        here = ("ssid:Home",) if up else ()
        self.play.links(*([Link("lte", 2, "wwan0", up, networks=here)] if there else []))

    @rule(pid=st.sampled_from([1, 2, 900, 4242, 4300]))
    def process_exits(self, pid: int) -> None:
        self.play.exits(pid)

    @rule(peers=st.lists(st.sampled_from(PEERS), max_size=2))
    def prompts_come_and_go(self, peers: list[Any]) -> None:
        self.play.prompts(*peers)

    @rule(
        mode=st.sampled_from(Mode),
        fallback=st.sampled_from(Fallback),
        unattended=st.sampled_from(WhenUnattended),
    )
    def other_settings(self, mode: Mode, fallback: Fallback, unattended: WhenUnattended) -> None:
        old = self.play.pipeline
        if not old.held and not len(old.asks) and not self.play.pending:
            play = self.play
            play.pipeline = type(old)(
                Settings(
                    mode=mode,
                    fallback=fallback,
                    when_unattended=unattended,
                    when_absent=WhenAbsent.PASS,
                    deadline=DEADLINE,
                    ask_ttl=60.0,
                    asks_per_app=2,
                    asks_per_user=4,
                    asks_total=6,
                    packets_per_flow=3,
                    packets_held=8,
                )
            )
            self.open.clear()
            self.shown.clear()

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.9, 9.9, 10.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.play.wait(seconds)

    @invariant()
    def exactly_one_verdict_by_the_deadline(self) -> None:
        self.collect()
        now = self.play.now.mono
        for id, since in self.queued.items():
            if now >= since + DEADLINE:
                assert self.verdicts[id] == 1, f"packet {id} still waits"
        held = {held.packet.id for held in self.play.pipeline.held}
        assert held == {id for id in self.queued if not self.verdicts[id]}
        assert self.verdicts == self.reports, "a verdict without its record"

    @invariant()
    def bounds_hold(self) -> None:
        pipeline = self.play.pipeline
        assert pipeline.held.waiting_in_all <= 8
        assert len(pipeline.held) <= 16
        assert len(pipeline.asks) <= 6

    @invariant()
    def what_prompts_see_is_what_is_open(self) -> None:
        self.collect()
        assert self.open == {ask.id for ask in self.play.pipeline.asks}

    @invariant()
    def each_held_packet_waits_for_one_open_ask_or_its_owner(self) -> None:
        pipeline = self.play.pipeline
        waiting = Counter(id for ask in pipeline.asks for id in ask.waiting)
        assert all(count == 1 for count in waiting.values())
        owned = {held.packet.id for held in pipeline.held if held.owner is not None}
        assert owned == set(waiting)

    def teardown(self) -> None:
        self.play.stop()
        self.collect()
        assert all(self.verdicts[id] == 1 for id in self.queued)
        assert not self.open


Promise.TestCase.settings = settings(
    max_examples=examples(150), stateful_step_count=40, deadline=None
)
TestPromise = Promise.TestCase
