"""Rules that are equally specific, decide otherwise, and surely meet: the decision settles. Pure.

Equally specific rules of one layer that meet have the same app, parent, user, host, protocol and
hook: only their ports and their context can differ. Rules are grouped by what must be the same, and
within a group found by where their ports begin, so that 100,000 rules take seconds.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from operator import itemgetter

from arbiter.model import Decision
from arbiter.rules.rank import rank, specificity
from arbiter.rules.relate import outlasts, spans_meet
from arbiter.rules.rule import Entry, Rule

LOOKED = 64
"""Entries of one decision that are held against one rule, from where their ports begin."""
_CONTEXT = ("profile", "network", "sim", "roaming", "metered")
_UNSET = ("", None)


class Ties:
    """All entries, ready to be asked who else decides about the connections of one."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._groups: dict[tuple[object, ...], dict[Decision, list[tuple[int, Entry]]]] = {}
        for entry in entries:
            found = self._groups.setdefault(_same(entry), {})
            starts = found.setdefault(entry.rule.decision, [])
            starts += [(low, entry) for low, _ in _ports(entry.rule)]
        for found in self._groups.values():
            for starts in found.values():
                starts.sort(key=itemgetter(0))

    def beaten_by(self, entry: Entry) -> Entry | None:
        """The first by rank that decides otherwise and wins where both match; None if none does."""
        ours = rank(entry)
        better = (
            other
            for other in self._near(entry)
            # What ends first is an exception for a while, and meant so.
            if rank(other) < ours and meet(entry, other) and outlasts(other, entry)
        )
        return min(better, key=rank, default=None)

    def _near(self, entry: Entry) -> Iterator[Entry]:
        # Who is as specific has as many ports: none of its ranges is longer than they all are.
        longest = sum(high - low + 1 for low, high in _ports(entry.rule))
        for decision, starts in self._groups[_same(entry)].items():
            if decision == entry.rule.decision:
                continue
            for low, high in _ports(entry.rule):
                first = bisect.bisect_left(starts, low - longest + 1, key=itemgetter(0))
                last = bisect.bisect_right(starts, high, key=itemgetter(0))
                yield from (other for _, other in starts[first : min(last, first + LOOKED)])


def meet(one: Entry, other: Entry) -> bool:
    """Whether some connection surely matches both, if they have the same of all but ports and
    context. Two networks or SIMs may never be there at once."""
    for field in _CONTEXT:
        ours, theirs = getattr(one.rule, field), getattr(other.rule, field)
        if ours not in _UNSET and theirs not in _UNSET and ours != theirs:
            return False
    return spans_meet(_ports(one.rule), _ports(other.rule), ends_in=1) and (
        not one.rule.times or not other.rule.times or _times_meet(one.rule, other.rule)
    )


def _times_meet(one: Rule, other: Rule) -> bool:
    return spans_meet(one.times, other.times, ends_in=0)


def _same(entry: Entry) -> tuple[object, ...]:
    rule = entry.rule
    return (specificity(entry), rule.app, rule.parent, rule.user, rule.host, rule.proto, rule.hook)


def _ports(rule: Rule) -> tuple[tuple[int, int], ...]:
    """Its ranges; for a rule about every port one range that all such rules share."""
    return rule.ports or ((0, 0),)
