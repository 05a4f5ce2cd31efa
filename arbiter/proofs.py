"""Verdicts that wait until their record is on disk: what `audit.sync` means. Pure, no clock.

    hold ─▶ waiting ─batch─▶ being written ─written─▶ verdict
                 └─────────────────┴─failed, or overdue─▶ as `when_unwritten` says

Many are written at once, while one batch is on its way the next gathers. Verdicts keep their order.
The promise of the pipeline goes on here, kept by tests/test_proofs_property.py: every verdict is
given once and by its time, whatever the disk does.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct, structs

from arbiter.auditsettings import WhenUnwritten
from arbiter.events import Announce, Effect, Reason, Report, SetVerdict
from arbiter.lives import together
from arbiter.model import DENIED, DENY, Flow, Now, Packet
from arbiter.rules import format_decision


class Proof(Struct, gc=False, eq=False):
    """One verdict, with its record; both are given together."""

    verdict: SetVerdict
    report: Report
    due: float
    """Monotonic seconds by which the verdict must be given."""
    then: list[Effect]
    """What is to be told once it is given."""
    id: int = 0
    """That of its record, once it is being written."""
    given: bool = False
    later: list[Proof] = []
    """Of later packets of its connection, that have no record of their own: they go with it."""


class Given(Struct, frozen=True):
    """A verdict to be given."""

    verdict: SetVerdict
    report: Report
    then: tuple[Effect, ...] = ()
    id: int = 0
    """That of its record, which is on disk; 0 where it is still to be recorded."""
    joined: bool = False
    """The record is that of an earlier packet of its connection."""


class Proofs:
    """What waits for the disk."""

    def __init__(self, when_unwritten: WhenUnwritten) -> None:
        self._denies = when_unwritten is WhenUnwritten.DENY
        self._waiting: list[Proof] = []
        self._writing: list[Proof] = []
        self._first: dict[Flow, Proof] = {}
        """Those that wait, by their flow: of several the newest."""

    def hold(
        self,
        effects: list[Effect],
        now: Now,
        seconds: float,
        known: Callable[[Report], bool] = lambda report: False,
    ) -> list[Effect]:
        """Keep verdicts and their reports back, `seconds` at most; gives the other effects, and
        those of packets whose connection has a record already, as far as that is `known`."""
        rest: list[Effect] = []
        verdict: SetVerdict | None = None
        last = self._waiting[-1] if self._waiting else None
        for effect in effects:
            if isinstance(effect, SetVerdict):
                verdict = effect
            elif isinstance(effect, Report):
                assert verdict is not None, "each report follows its verdict"
                if known(effect):
                    rest += (verdict, effect)
                else:
                    last = Proof(verdict, effect, now.mono + seconds, [])
                    self._hold(last)
                verdict = None
            elif isinstance(effect, Announce) and last is not None:
                last.then.append(effect)  # nobody is told of what is not done
            else:
                rest.append(effect)
        assert verdict is None, "each verdict has its report"
        return rest

    def _hold(self, proof: Proof) -> None:
        packet = proof.report.packet
        if not isinstance(packet, Packet):
            self._waiting.append(proof)
            return
        first = self._first.get(packet.flow)
        if first is not None and together(first.report, proof.report):
            first.later.append(proof)
            return
        self._first[packet.flow] = proof
        self._waiting.append(proof)

    def batch(self) -> list[Proof]:
        """What is to be written now; nothing while something is. Each wants an id."""
        if self._writing:
            return []
        self._writing, self._waiting = self._waiting, []
        return self._writing

    def written(self) -> list[Given]:
        """The batch is on disk."""
        done, self._writing = self._writing, []
        return [
            Given(one.verdict, one.report, tuple(one.then), proof.id, one is not proof)
            for proof in done
            if not proof.given
            for one in self._over(proof)
        ]

    def failed(self, problem: str) -> list[Given]:
        """Nothing of the batch is on disk."""
        done, self._writing = self._writing, []
        return [given for one in done if not one.given for given in self._unwritten(one, problem)]

    def overdue(self, mono: float) -> list[Given]:
        """What cannot wait longer, at this monotonic second."""
        found: list[Given] = []
        for proof in self._writing:
            if proof.due <= mono and not proof.given:
                proof.given = True
                problem = f"the disk was too slow; record {proof.id} may be there all the same"
                found += self._unwritten(proof, problem)
        late = [proof for proof in self._waiting if proof.due <= mono]
        self._waiting = [proof for proof in self._waiting if proof.due > mono]
        for proof in late:
            found += self._unwritten(proof, "the disk was too slow")
        return found

    def next_due(self) -> float | None:
        """Monotonic seconds when `overdue` will have something; None while nothing waits."""
        waiting = [proof.due for proof in self._writing if not proof.given]
        return min([*waiting, *(proof.due for proof in self._waiting)], default=None)

    def _over(self, proof: Proof) -> list[Proof]:
        """One that waits no more, and those that go with it."""
        packet = proof.report.packet
        if isinstance(packet, Packet) and self._first.get(packet.flow) is proof:
            del self._first[packet.flow]
        return [proof, *proof.later]

    def _unwritten(self, proof: Proof, problem: str) -> list[Given]:
        """What becomes of it, with its record still to be written."""
        return [self._refused_or_late(one, problem) for one in self._over(proof)]

    def _refused_or_late(self, proof: Proof, problem: str) -> Given:
        """By `when_unwritten`. What is refused anyhow needs no record first."""
        report, verdict = proof.report, proof.verdict
        if self._denies and verdict.verdict.passes:
            decided = f"{report.reason.value} says {format_decision(report.decision)}"
            note = _joined(decided, problem, report.note)
            report = structs.replace(
                report,
                decision=DENY,
                reason=Reason.UNRECORDED,
                rule=None,
                note=note,
                link=0,
                verdict=DENIED,
            )
            verdict = SetVerdict(verdict.packet_id, DENIED)
        else:
            note = _joined(report.note, f"recorded after its verdict: {problem}")
            report = structs.replace(report, note=note)
        return Given(verdict, report, tuple(proof.then))


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
