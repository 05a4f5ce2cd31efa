"""Verdicts that wait until their record is on disk: what `audit.sync` means. Pure, no clock.

    hold ─▶ waiting ─batch─▶ being written ─written─▶ verdict
                 └─────────────────┴─failed, or overdue─▶ as `when_unwritten` says

Many are written at once, while one batch is on its way the next gathers. Verdicts keep their order.
The promise of the pipeline goes on here, kept by tests/test_proofs_property.py: every verdict is
given once and by its time, whatever the disk does.
"""

from __future__ import annotations

from msgspec import Struct, structs

from arbiter.auditsettings import WhenUnwritten
from arbiter.events import Effect, Reason, Report, SetVerdict
from arbiter.model import DENIED, DENY, Now
from arbiter.rules import format_decision


class Proof(Struct, gc=False, eq=False):
    """One verdict, with its record; both are given together."""

    verdict: SetVerdict
    report: Report
    due: float
    """Monotonic seconds by which the verdict must be given."""
    id: int = 0
    """That of its record, once it is being written."""
    given: bool = False


class Given(Struct, frozen=True):
    """A verdict to be given, and what is still to be recorded."""

    verdict: SetVerdict | None
    """None where it was given before."""
    report: Report
    id: int = 0
    """The id that its record has, or is to have; 0 for the next."""
    written: bool = False
    """Whether the record is on disk, or on its way."""


class Proofs:
    """What waits for the disk."""

    def __init__(self, seconds: float, when_unwritten: WhenUnwritten) -> None:
        """`seconds`: how long a verdict may wait here."""
        self._seconds = seconds
        self._denies = when_unwritten is WhenUnwritten.DENY
        self._waiting: list[Proof] = []
        self._writing: list[Proof] = []

    def hold(self, effects: list[Effect], now: Now) -> list[Effect]:
        """Keep verdicts and their reports back; gives the other effects."""
        rest: list[Effect] = []
        verdict: SetVerdict | None = None
        for effect in effects:
            if isinstance(effect, SetVerdict):
                verdict = effect
            elif isinstance(effect, Report):
                assert verdict is not None, "each report follows its verdict"
                self._waiting.append(Proof(verdict, effect, now.mono + self._seconds))
                verdict = None
            else:
                rest.append(effect)
        assert verdict is None, "each verdict has its report"
        return rest

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
            Given(proof.verdict, proof.report, proof.id, written=True)
            for proof in done
            if not proof.given
        ]

    def failed(self, problem: str) -> list[Given]:
        """Nothing of the batch is on disk."""
        done, self._writing = self._writing, []
        found = [self._unwritten(proof, proof.id, problem) for proof in done if not proof.given]
        # Who went without its record, as its time was over, has none yet.
        late = [proof for proof in done if proof.given and not self._refuses(proof)]
        return [*found, *(Given(None, _late(proof, problem), proof.id) for proof in late)]

    def overdue(self, mono: float) -> list[Given]:
        """What cannot wait longer, at this monotonic second."""
        found: list[Given] = []
        for proof in self._writing:
            if proof.due <= mono and not proof.given:
                proof.given = True
                if self._refuses(proof):
                    problem = f"the disk was too slow; record {proof.id} may be there all the same"
                    found.append(self._unwritten(proof, 0, problem))
                else:
                    found.append(Given(proof.verdict, proof.report, proof.id, written=True))
        kept: list[Proof] = []
        for proof in self._waiting:
            if proof.due <= mono:
                found.append(self._unwritten(proof, 0, "the disk was too slow"))
            else:
                kept.append(proof)
        self._waiting = kept
        return found

    def next_due(self) -> float | None:
        """Monotonic seconds when `overdue` will have something; None while nothing waits."""
        waiting = [proof.due for proof in self._writing if not proof.given]
        return min([*waiting, *(proof.due for proof in self._waiting)], default=None)

    def _refuses(self, proof: Proof) -> bool:
        """Whether it goes nowhere without its record. What is refused anyhow needs none first."""
        return self._denies and proof.verdict.verdict.passes

    def _unwritten(self, proof: Proof, id: int, problem: str) -> Given:
        """What becomes of it, with its record still to be written."""
        report = proof.report
        if not self._refuses(proof):
            return Given(proof.verdict, _late(proof, problem), id)
        decided = f"{report.reason.value} says {format_decision(report.decision)}"
        made = structs.replace(
            report,
            decision=DENY,
            reason=Reason.UNRECORDED,
            rule=None,
            note="; ".join(part for part in (decided, problem, report.note) if part),
            link=0,
            verdict=DENIED,
        )
        return Given(SetVerdict(proof.verdict.packet_id, DENIED), made, id)


def _late(proof: Proof, problem: str) -> Report:
    note = f"recorded after its verdict: {problem}"
    return structs.replace(
        proof.report, note="; ".join(part for part in (proof.report.note, note) if part)
    )
