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
from arbiter.events import Announce, Effect, Reason, Report, SetVerdict
from arbiter.model import DENIED, DENY, Now
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


class Given(Struct, frozen=True):
    """A verdict to be given."""

    verdict: SetVerdict
    report: Report
    then: tuple[Effect, ...] = ()
    id: int = 0
    """That of its record, which is on disk; 0 where it is still to be recorded."""


class Proofs:
    """What waits for the disk."""

    def __init__(self, when_unwritten: WhenUnwritten) -> None:
        self._denies = when_unwritten is WhenUnwritten.DENY
        self._waiting: list[Proof] = []
        self._writing: list[Proof] = []

    def hold(self, effects: list[Effect], now: Now, seconds: float) -> list[Effect]:
        """Keep verdicts and their reports back, `seconds` at most; gives the other effects."""
        rest: list[Effect] = []
        verdict: SetVerdict | None = None
        for effect in effects:
            if isinstance(effect, SetVerdict):
                verdict = effect
            elif isinstance(effect, Report):
                assert verdict is not None, "each report follows its verdict"
                self._waiting.append(Proof(verdict, effect, now.mono + seconds, []))
                verdict = None
            elif isinstance(effect, Announce) and self._waiting:
                self._waiting[-1].then.append(effect)  # nobody is told of what is not done
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
            Given(proof.verdict, proof.report, tuple(proof.then), proof.id)
            for proof in done
            if not proof.given
        ]

    def failed(self, problem: str) -> list[Given]:
        """Nothing of the batch is on disk."""
        done, self._writing = self._writing, []
        return [self._unwritten(proof, problem) for proof in done if not proof.given]

    def overdue(self, mono: float) -> list[Given]:
        """What cannot wait longer, at this monotonic second."""
        found: list[Given] = []
        for proof in self._writing:
            if proof.due <= mono and not proof.given:
                proof.given = True
                problem = f"the disk was too slow; record {proof.id} may be there all the same"
                found.append(self._unwritten(proof, problem))
        late = [proof for proof in self._waiting if proof.due <= mono]
        self._waiting = [proof for proof in self._waiting if proof.due > mono]
        return [*found, *(self._unwritten(proof, "the disk was too slow") for proof in late)]

    def next_due(self) -> float | None:
        """Monotonic seconds when `overdue` will have something; None while nothing waits."""
        waiting = [proof.due for proof in self._writing if not proof.given]
        return min([*waiting, *(proof.due for proof in self._waiting)], default=None)

    def _unwritten(self, proof: Proof, problem: str) -> Given:
        """What becomes of it, with its record still to be written. What is refused anyhow needs
        none first."""
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
