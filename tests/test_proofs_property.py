"""The promise goes on behind `audit.sync`: one verdict each, by its deadline, whatever the disk
does; and nothing passes without its record."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from examples import examples
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from playbook import SERVER, SERVER6, Playbook, owner, packet, process

from arbiter.auditsettings import WhenUnwritten
from arbiter.events import Announce, Event, OwnerFound, PacketQueued, Report, SetVerdict, Tick
from arbiter.model import Undecodable
from arbiter.proofs import Given, Proofs

DEADLINE = 10.0
WHO = (owner(), owner(process("/usr/bin/wget", 4300)))


class Scene(Playbook):
    """A playbook whose verdicts come by the disk."""

    def __init__(self, when: WhenUnwritten) -> None:
        super().__init__(
            deadline=DEADLINE, ask_ttl=60.0, audit={"sync": True, "when_unwritten": when.value}
        )
        self.proofs = Proofs(when)
        self.given: list[Given] = []

    def send(self, event: Event) -> Playbook:
        super().send(event)
        if hasattr(self, "proofs"):
            held = self.proofs.hold(list(self.effects), self.now, self.pipeline.settings.writing)
            self.effects.clear()
            self.effects += held
        return self

    def wait(self, seconds: float) -> Playbook:
        end = self.now.mono + seconds
        while True:
            dues = (self.pipeline.next_wake(self.now), self.proofs.next_due())
            due = min((due for due in dues if due is not None), default=None)
            if due is None or due > end:
                break
            self._clock(max(due, self.now.mono))
            self.given += self.proofs.overdue(self.now.mono)
            self.send(Tick(self.now))
        self._clock(end)
        return self


class Promise(RuleBasedStateMachine):
    when = WhenUnwritten.DENY

    def __init__(self) -> None:
        super().__init__()
        self.play = Scene(self.when)
        self.play.rules("allow app=/usr/bin/curl port=443", "deny app=/usr/bin/wget port=443")
        self.queued: dict[int, float] = {}
        self.verdicts: Counter[int] = Counter()
        self.writing: list[Any] = []
        self.on_disk: set[int] = set()
        self.records: Counter[int] = Counter()
        self.announced = 0
        self.next_id = 1
        self.next_record = 1

    @rule(
        dport=st.sampled_from([53, 443]),
        proto=st.sampled_from([6, 17]),
        daddr=st.sampled_from([SERVER, SERVER6]),
        sport=st.integers(1, 3),
        good=st.integers(0, 9),
        who=st.sampled_from(WHO),
        found=st.booleans(),
    )
    def packet_comes(self, good: int, who: Any, found: bool, **where: Any) -> None:
        id, self.next_id = self.next_id, self.next_id + 1
        self.queued[id] = self.play.now.mono
        what = packet(id, **where) if good else Undecodable(id, "cut short")
        self.play.send(PacketQueued(self.play.now, what))
        if found:
            self.play.send(OwnerFound(self.play.now, id, who))

    @rule(ask=st.integers(1, 4), decision=st.sampled_from(["allow", "deny"]))
    def somebody_answers(self, ask: int, decision: str) -> None:
        self.play.answer(ask, decision)

    @rule()
    def a_batch_is_written(self) -> None:
        batch = self.play.proofs.batch()
        if batch:
            assert not self.writing
            self.writing = list(batch)
            for proof in batch:
                proof.id, self.next_record = self.next_record, self.next_record + 1

    @precondition(lambda self: self.writing)
    @rule(works=st.booleans())
    def the_disk_answers(self, works: bool) -> None:
        if works:
            self.on_disk |= {proof.id for proof in self.writing}
            self.records.update(proof.report.packet.id for proof in self.writing)
            self.take(self.play.proofs.written())
        else:
            self.take(self.play.proofs.failed("no space"))
        self.writing = []

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.9, 5.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.play.wait(seconds)

    def take(self, given: list[Given]) -> None:
        for one in given:
            id = one.report.packet.id
            assert one.verdict.packet_id == id
            self.verdicts[id] += 1
            assert self.verdicts[id] == 1, "a second verdict"
            passes = one.verdict.verdict.passes
            assert one.report.verdict == one.verdict.verdict
            if passes and self.when is WhenUnwritten.DENY:
                assert one.id in self.on_disk, "it passed before its record was there"
            self.announced += len(one.then)
            if one.joined:
                assert one.id in self.on_disk, "there is a record of its connection"
                self.records[id] += 1
            elif not one.id:
                self.records[id] += 1
                assert one.report.note, "a record that came late says so"

    @invariant()
    def exactly_one_verdict_by_the_deadline(self) -> None:
        self.take(self.play.given)
        self.play.given.clear()
        assert not [e for e in self.play.effects if isinstance(e, SetVerdict | Report)]
        self.announced += sum(isinstance(e, Announce) for e in self.play.effects)
        self.play.effects.clear()
        for id, since in self.queued.items():
            if self.play.now.mono >= since + DEADLINE:
                assert self.verdicts[id] == 1, f"packet {id} still waits"

    def teardown(self) -> None:
        self.play.stop()
        self.play.wait(DEADLINE)
        if self.writing:
            self.the_disk_answers(works=False)
        self.exactly_one_verdict_by_the_deadline()
        assert all(self.verdicts[id] == 1 for id in self.queued)
        assert self.announced == self.play.pipeline.counters["answers"]
        assert all(self.records[id] >= 1 for id in self.queued), "a verdict without its record"


class PassingPromise(Promise):
    when = WhenUnwritten.PASS


Promise.TestCase.settings = settings(
    max_examples=examples(100), stateful_step_count=40, deadline=None
)
PassingPromise.TestCase.settings = Promise.TestCase.settings
TestPromise = Promise.TestCase
TestPassingPromise = PassingPromise.TestCase


@pytest.mark.parametrize("works", [True, False])
def test_verdicts_keep_their_order(works: bool) -> None:
    play = Scene(WhenUnwritten.DENY)
    play.rules("allow app=/usr/bin/curl", "deny app=/usr/bin/wget")
    for id in range(1, 9):
        play.queue(id, WHO[id % 2], sport=id)
    play.proofs.batch()
    for id in range(9, 12):
        play.queue(id, WHO[id % 2], sport=id)
    done = play.proofs.written if works else lambda: play.proofs.failed("x")
    given = done()
    play.proofs.batch()
    given += done()
    assert [one.report.packet.id for one in given] == list(range(1, 12))
