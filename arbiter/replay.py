"""Records, or what a capture has, asked again of other rules: what would be otherwise. Pure.

A case is what was decided, by whom, and the question that was asked then, with the context of then.
Cases that are all the same to the rules are asked once (`Replay.feed` has a memo of them), so that
a million records cost as much as reading them. What cannot be told is counted with the reason.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import tzinfo
from typing import Final

from msgspec import Struct, structs

from arbiter.cases import ASK, Case, decision_of
from arbiter.judge import join
from arbiter.model import Action, Decision
from arbiter.rules import (
    FOREVER,
    Entry,
    Index,
    LifetimeKind,
    format_decision,
    format_lifetime,
)
from arbiter.rules.rule import Domain, Name
from arbiter.rules.week import holds, minute_of_week

MEMO: Final = 65_536
"""Cases that are remembered at once: some 60 MB. Beyond them they are added up and asked anew."""
MAX_DIFFERENCES: Final = 100_000
"""Groups of differences that are kept; what comes beyond is counted (`Result.untold`)."""
MAX_DOUBTS: Final = 1000
"""Reasons that are told apart."""
EXAMPLES: Final = 10
"""Records that a difference names."""
_TEMPORARY = (LifetimeKind.SPAN, LifetimeKind.SESSION, LifetimeKind.BOOT)


class Kind(enum.StrEnum):
    """How a case compares."""

    SAME = "same"
    ALLOWED = "now allowed"
    DENIED = "now denied"
    ASKED = "now asked"
    LINK = "now another link"
    CLASS = "now another class"
    UNDECIDABLE = "not decidable"


CHANGES: Final = tuple(k for k in Kind if k not in (Kind.SAME, Kind.UNDECIDABLE))


class Difference(Struct, frozen=True):
    """Cases with one change: the same app, destination, and rules then and now."""

    kind: Kind
    app: str
    user: str
    host: str
    dport: int
    proto: str
    was: str
    was_by: str
    would: str
    rule: Entry | None
    """The rule that would decide; None: no rule does."""
    count: int
    first: float
    """Epoch seconds."""
    last: float
    examples: tuple[int, ...]
    """The first few: numbers of records, or of packets."""


class Doubt(Struct, frozen=True):
    """Cases of which it cannot be told, and why."""

    why: str
    count: int
    examples: tuple[int, ...]


class Result(Struct, frozen=True):
    """What came of it all."""

    count: int
    totals: Mapping[Kind, int]
    unasked: int
    """Of the same: those that a person was asked about then, and would not be now."""
    differences: tuple[Difference, ...]
    """The most cases first."""
    doubts: tuple[Doubt, ...]
    untold: int
    """Cases that differ, and for whose difference there was no room."""
    nameless: int
    """Cases without a name, where some rule goes by names: it matched none of them."""
    idle: tuple[Entry, ...]
    """Rules that decided none of the cases."""


class Outcome(Struct, frozen=True):
    """What the rules say of a case, and how that compares."""

    kind: Kind
    would: str
    rule: Entry | None = None
    why: str = ""
    """Why it cannot be told."""
    unasked: bool = False


class _Cell(Struct):
    """A case and its outcome, with those that were the same."""

    case: Case
    outcome: Outcome
    count: int
    first: float
    last: float
    examples: list[int]


class Replay:
    """The rules that are asked again, and what came of it.

    `undecided` is what happens where no rule decides: ASK, `allow` or `deny`.
    """

    def __init__(
        self, entries: Iterable[Entry], zone: tzinfo, undecided: str = ASK, *, memo: int = MEMO
    ) -> None:
        self.entries = tuple(entries)
        self._index = Index(map(_lasting, self.entries), zone)
        self._by_id = {entry.id: entry for entry in self.entries}
        self._zone, self._undecided, self._memo = zone, undecided, memo
        self._times = [entry.rule.times for entry in self.entries if entry.rule.times]
        self._phases: dict[int, tuple[bool, ...]] = {}
        self._cells: dict[Hashable, _Cell] = {}
        self._differences: dict[Hashable, _Cell] = {}
        self._doubts: dict[str, _Cell] = {}
        self._totals: Counter[Kind] = Counter()
        self._used: set[int] = set()
        self._unasked = self._untold = self._nameless = 0
        self.by_process = any(entry.process is not None for entry in self.entries)
        """Some rule is for one process: `feed` wants pid and start in its keys."""
        self._by_holder = self.by_process or any(entry.rule.parent for entry in self.entries)
        """Some rule tells processes of one app apart."""
        self._by_name = any(isinstance(e.rule.host, Name | Domain) for e in self.entries)

    def feed(self, id: int, at: float, key: Hashable, make: Callable[[], Case]) -> Outcome:
        """One case of epoch second `at`. `make` gives it; cases with the same `key` are the same
        but for their id and time."""
        if self._times:
            key = (key, self._phase(at))
        cell = self._cells.get(key)
        if cell is None:
            if len(self._cells) >= self._memo:
                self._add_up()
            case = make()
            cell = self._cells[key] = _Cell(case, self.outcome(case, at), 0, at, at, [])
        cell.count += 1
        if at < cell.first:
            cell.first = at
        if at > cell.last:
            cell.last = at
        if len(cell.examples) < EXAMPLES:
            cell.examples.append(id)
        return cell.outcome

    def case(self, key: Hashable, at: float) -> Case:
        """The case that was fed last with this key and time."""
        return self._cells[(key, self._phase(at)) if self._times else key].case

    def outcome(self, case: Case, at: float) -> Outcome:
        """What the rules say of it at `at` (epoch seconds)."""
        question = case.question
        if isinstance(question, str):
            return Outcome(Kind.UNDECIDABLE, "", why=question)
        found = [self._index.lookup(query, at) for query in question.queries]
        judgement = join(found, question.older)
        entry = judgement.entry if judgement is not None else None
        rule = self._by_id[entry.id] if entry is not None else None
        denied = judgement is not None and judgement.decision.action is Action.DENY
        if (case.shared or (case.several and self._by_holder)) and not denied:
            why = "others held its socket, too, and the record does not know enough of them"
            return Outcome(Kind.UNDECIDABLE, "", rule, why)
        if rule is not None and rule.rule.lifetime.kind in _TEMPORARY:
            word = format_lifetime(rule.rule.lifetime)
            why = f"{rule.called} holds for a while only (for={word}): nobody knows for which"
            return Outcome(Kind.UNDECIDABLE, "", rule, why)
        if judgement is None:
            same = not case.ruled
            kind = Kind.SAME if same else _without_rule(case.was, self._undecided)
            return Outcome(kind, self._undecided)
        kind = _compared(case, judgement.decision)
        unasked = case.asked and kind is Kind.SAME
        return Outcome(kind, format_decision(judgement.decision), rule, unasked=unasked)

    def result(self) -> Result:
        """All that was fed."""
        self._add_up()
        found = [_difference(cell) for cell in self._differences.values()]
        found.sort(key=lambda one: (-one.count, one.app, one.host, one.dport, one.first))
        doubts = [
            Doubt(why, cell.count, tuple(cell.examples)) for why, cell in self._doubts.items()
        ]
        return Result(
            sum(self._totals.values()),
            {kind: self._totals[kind] for kind in Kind},
            self._unasked,
            tuple(found),
            tuple(sorted(doubts, key=lambda doubt: (-doubt.count, doubt.why))),
            self._untold,
            self._nameless,
            tuple(entry for entry in self.entries if entry.id not in self._used),
        )

    def _phase(self, at: float) -> tuple[bool, ...]:
        """Which of the rules with `time=` hold."""
        minute = minute_of_week(at, self._zone)
        phase = self._phases.get(minute)
        if phase is None:
            phase = self._phases[minute] = tuple(holds(times, minute) for times in self._times)
        return phase

    def _add_up(self) -> None:
        for cell in self._cells.values():
            case, outcome = cell.case, cell.outcome
            self._totals[outcome.kind] += cell.count
            self._unasked += cell.count * outcome.unasked
            self._nameless += cell.count * (case.nameless and self._by_name)
            if outcome.rule is not None:
                self._used.add(outcome.rule.id)
            if outcome.kind is Kind.UNDECIDABLE:
                room = outcome.why in self._doubts or len(self._doubts) < MAX_DOUBTS
                _put(self._doubts, outcome.why if room else "for other reasons", cell)
            elif outcome.kind is not Kind.SAME:
                rule = outcome.rule.id if outcome.rule is not None else None
                place = (case.app, case.user, case.host, case.dport, case.proto)
                key = (*place, case.was, case.by, outcome.kind, outcome.would, rule)
                if key in self._differences or len(self._differences) < MAX_DIFFERENCES:
                    _put(self._differences, key, cell)
                else:
                    self._untold += cell.count
        self._cells.clear()


def _put(cells: dict[Hashable, _Cell] | dict[str, _Cell], key: str | Hashable, new: _Cell) -> None:
    old = cells.get(key)  # type: ignore[arg-type]  # a key of the one or of the other
    if old is None:
        cells[key] = new  # type: ignore[index]  # same
        return
    old.count += new.count
    old.first, old.last = min(old.first, new.first), max(old.last, new.last)
    old.examples = sorted({*old.examples, *new.examples})[:EXAMPLES]


def _difference(cell: _Cell) -> Difference:
    case, outcome = cell.case, cell.outcome
    place = (case.app, case.user, case.host, case.dport, case.proto)
    decided = (case.was, case.by, outcome.would, outcome.rule)
    times = (cell.count, cell.first, cell.last, tuple(cell.examples))
    return Difference(outcome.kind, *place, *decided, *times)


def _lasting(entry: Entry) -> Entry:
    """The same without its end: it is asked about times when it was not made yet."""
    if entry.rule.lifetime.kind is LifetimeKind.PROCESS:
        return entry
    return structs.replace(entry, rule=entry.rule.replace(lifetime=FOREVER), expires=None)


# --- comparing ------------------------------------------------------------------------------


def _without_rule(was: str, undecided: str) -> Kind:
    """A rule decided it then, and none does now."""
    if undecided == ASK:
        return Kind.ASKED
    denied = undecided == "deny"
    if denied == (was == "deny"):
        return Kind.SAME if denied or was == "allow" else Kind.LINK
    return Kind.DENIED if denied else Kind.ALLOWED


def _compared(case: Case, now: Decision) -> Kind:
    if case.was == ASK:
        return Kind.DENIED if now.action is Action.DENY else Kind.ALLOWED
    then = decision_of(case.was)
    if then is None:
        return Kind.UNDECIDABLE
    if then.action is Action.DENY or now.action is Action.DENY:
        if then.action is now.action:
            return Kind.SAME
        return Kind.DENIED if now.action is Action.DENY else Kind.ALLOWED
    if then.via != now.via and not (now.via and now.via[0] == case.link):
        return Kind.LINK
    return Kind.SAME if then.traffic == now.traffic else Kind.CLASS
