"""What is odd about rules beside each other: those that never decide, or need not be there. Pure.

A finding is certain; what cannot be said surely or cheaply is not said. Rules are grouped as in the
index, and each asks every group for what would cover it, so that 100,000 rules take seconds: the
cost is rules times groups, and at most LOOKED entries of a group are held against one rule. Those
that only meet are in ties.py.
"""

from __future__ import annotations

import bisect
import enum
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter

from msgspec import Struct

from arbiter.model import ALLOW
from arbiter.rules.line import format_rule
from arbiter.rules.lint import never_decided, never_matches, over_broad
from arbiter.rules.rank import Rank, rank
from arbiter.rules.relate import ancestor, apart, covers, host_kind, host_value, outlasts
from arbiter.rules.rule import Entry, Rule
from arbiter.rules.ties import Ties

LOOKED = 64
"""Entries with the same exact conditions that are held against one rule, the widest first."""


class FindingKind(enum.StrEnum):
    """What is odd."""

    NEVER_MATCHES = "never-matches"
    EXPIRED = "expired"
    CONTRADICTING = "contradicting"
    """As specific as a rule that decides otherwise, and wins where both match."""
    SHADOWED = "shadowed"
    """A rule that comes first, mostly of an earlier layer, decides all that it matches."""
    REDUNDANT = "redundant"
    """Without it, the same would be decided."""
    OVER_BROAD = "over-broad"
    UNUSED = "unused"
    """It decided nothing for long; see stale.py."""
    DEAD = "dead"
    """It names what the machine does not have; see stale.py."""
    OTHER_NAME = "other-name"
    """It names a program by a path that this is not known by here; see stale.py."""
    NO_PROFILE = "no-profile"
    """It is of a profile that is not there."""


class Finding(Struct, frozen=True):
    """`entry` is odd, because of `other` if that is given; `text` is one sentence to print."""

    kind: FindingKind
    entry: Entry
    other: Entry | None
    text: str
    removable: bool = False
    """Without `entry`, the same would surely be decided."""


def check(
    entries: Iterable[Entry],
    now: float | None = None,
    looked: Callable[[], object] = lambda: None,
) -> list[Finding]:
    """What is odd, by id of the entry; at most one finding about others for each.

    `now` (epoch seconds) is needed to find what has expired: nothing is covered by such an entry.
    Each finding holds by itself: where two rules are redundant, one may be so because of the other.
    `looked` is called after each entry that was held against the others.
    """
    findings = []
    alive = []
    for entry in entries:
        if now is not None and entry.expires is not None and entry.expires <= now:
            text = f"{_name(entry)} expired {now - entry.expires:.0f} s ago"
            findings.append(Finding(FindingKind.EXPIRED, entry, None, text, removable=True))
            continue
        alive.append(entry)
        for kind, fault in (
            (FindingKind.NEVER_MATCHES, never_matches(entry.rule) or never_decided(entry.rule)),
            (FindingKind.OVER_BROAD, over_broad(entry.rule)),
        ):
            if fault:
                useless = kind is FindingKind.NEVER_MATCHES
                text = f"{_name(entry)}: {fault}"
                findings.append(Finding(kind, entry, None, text, removable=useless))
    rules = _Rules(alive)
    for entry in alive:
        if (finding := rules.about(entry)) is not None:
            findings.append(finding)
        looked()
    order = list(FindingKind)
    return sorted(findings, key=lambda finding: (finding.entry.id, order.index(finding.kind)))


_GroupId = tuple[int, tuple[object, ...]]
"""Which exact conditions are set, as bits; and the kind of host."""


class _Group:
    """Entries with the same set of exact conditions, by the values of these."""

    def __init__(self, id: _GroupId) -> None:
        bits, self.host = id
        self.bits = bits
        self.places = tuple(place for place in range(bits.bit_length()) if bits >> place & 1)
        self.table: dict[tuple[object, ...], list[Entry]] = {}

    def key(self, values: tuple[object, ...], host: object) -> tuple[object, ...]:
        return (*(values[place] for place in self.places), host)


class _Rules:
    """All entries, ready to be asked about one of them."""

    def __init__(self, entries: list[Entry]) -> None:
        groups: dict[_GroupId, _Group] = {}
        self._same: dict[Rule, list[Entry]] = {}
        self._by_app: dict[str, dict[object, list[tuple[Rank, Entry]]]] = {}
        for entry in sorted(entries, key=_width):
            values = _values(entry)
            id = (_bits(values), host_kind(entry.rule.host))
            group = groups.get(id) or groups.setdefault(id, _Group(id))
            key = group.key(values, host_value(entry.rule.host))
            group.table.setdefault(key, []).append(entry)
        for entry in sorted(entries, key=rank):
            self._same.setdefault(_bare(entry.rule), []).append(entry)
            of_app = self._by_app.setdefault(entry.rule.app, {})
            of_app.setdefault(entry.rule.decision, []).append((rank(entry), entry))
        self._kinds: dict[tuple[object, ...], list[_Group]] = {}
        for group in groups.values():
            self._kinds.setdefault(group.host, []).append(group)
        self._ties = Ties(entries)

    def about(self, entry: Entry) -> Finding | None:
        """The first that can be said of an entry beside others."""
        for better in self._same[_bare(entry.rule)][:LOOKED]:
            if better is entry:
                break
            same_process = better.process in (None, entry.process)
            if better.layer is entry.layer and same_process and outlasts(better, entry):
                if better.rule.decision == entry.rule.decision:
                    return _finding(FindingKind.REDUNDANT, entry, better, "says the same")
                return _finding(
                    *(FindingKind.CONTRADICTING, entry, better),
                    "has the same conditions, decides otherwise, and wins",
                )
        redundant = None
        for wide in self._covering(entry):
            same = wide.rule.decision == entry.rule.decision
            if rank(wide) < rank(entry):
                if wide.layer is entry.layer and same:
                    return _finding(FindingKind.REDUNDANT, entry, wide, "says the same, and more")
                why = "comes first, and decides all that it matches"
                return _finding(FindingKind.SHADOWED, entry, wide, why)
            if redundant is not None or wide.layer is not entry.layer or not same:
                continue
            if _bare(wide.rule) == _bare(entry.rule) and outlasts(entry, wide):
                continue  # each would do without the other: it is said of the other
            if not self._between(entry, wide):
                why = "decides the same for all that it matches"
                redundant = _finding(FindingKind.REDUNDANT, entry, wide, why)
        return redundant or self._tie(entry)

    def _tie(self, entry: Entry) -> Finding | None:
        other = self._ties.beaten_by(entry)
        if other is None:
            return None
        text = (
            f"{_name(entry)} loses to {_name(other)} where both match: they are equally specific"
            " and decide otherwise"
        )
        return Finding(FindingKind.CONTRADICTING, entry, other, text)

    def _covering(self, entry: Entry) -> Iterator[Entry]:
        values, host = _values(entry), entry.rule.host
        bits = _bits(values)
        for kind, groups in self._kinds.items():
            value = ancestor(host, kind)
            if value is None:
                continue
            for group in groups:
                if group.bits & ~bits:
                    continue
                for wide in group.table.get(group.key(values, value), ())[:LOOKED]:
                    if wide is not entry and covers(wide, entry):
                        yield wide

    def _between(self, entry: Entry, wide: Entry) -> bool:
        """Whether, without `entry`, one that decides otherwise might come before `wide`."""
        ours, theirs = rank(entry), rank(wide)
        # Only rules with the same app rank between them, and if `wide` has none, with no app.
        for app in {entry.rule.app, wide.rule.app}:
            for decision, ranked in self._by_app.get(app, {}).items():
                if decision == entry.rule.decision:
                    continue
                first = bisect.bisect_right(ranked, ours, key=itemgetter(0))
                last = bisect.bisect_left(ranked, theirs, key=itemgetter(0))
                if last - first > LOOKED:
                    return True
                if not all(apart(each.rule, entry.rule) for _, each in ranked[first:last]):
                    return True
        return False


def _values(entry: Entry) -> tuple[object, ...]:
    """The exact conditions of an entry but for its host; None where there is none."""
    rule = entry.rule
    one_port = len(rule.ports) == 1 and rule.ports[0][0] == rule.ports[0][1]
    return (
        rule.app or None,
        rule.parent or None,
        rule.user or None,
        rule.proto,
        rule.hook,
        rule.profile or None,
        rule.network or None,
        rule.sim or None,
        rule.roaming,
        rule.metered,
        entry.process,
        rule.ports[0][0] if one_port else None,
    )


def _bits(values: tuple[object, ...]) -> int:
    return sum(1 << place for place, value in enumerate(values) if value is not None)


def _width(entry: Entry) -> tuple[int, int, int]:
    """The widest first: what is likeliest to cover others with the same exact conditions."""
    ports = sum(high - low + 1 for low, high in entry.rule.ports) or 1 << 20
    minutes = sum(end - start for start, end in entry.rule.times) or 1 << 20
    return -ports, -minutes, entry.id


def _bare(rule: Rule) -> Rule:
    """The conditions alone."""
    return Rule(
        ALLOW,
        **{field: getattr(rule, field) for field in rule.__struct_fields__[1:-1]},
    )


def _name(entry: Entry) -> str:
    return f"{entry.called} ({format_rule(entry.rule)})"


def _finding(kind: FindingKind, entry: Entry, other: Entry, why: str) -> Finding:
    does = "need not be there" if kind is FindingKind.REDUNDANT else "never decides"
    text = f"{_name(entry)} {does}: {_name(other)} {why}"
    return Finding(kind, entry, other, text, removable=True)
