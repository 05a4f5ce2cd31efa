"""Where an entry stands and where a query looks: the value of each slot.

A new exact condition is one more slot (shapes.py): a line in `_exact`, a value in `values` (or,
where one query has several, a line in `shapes.MANY`), and its part in `rank.specificity`.
"""

from __future__ import annotations

from collections.abc import Hashable

from arbiter.model import PORT_PROTOS
from arbiter.rules.rank import NO_CONTEXT, ONE_PORT, specificity
from arbiter.rules.rule import MAPPED, Address, Domain, Entry, Name, Network, Query, is_number
from arbiter.rules.scopes import scope_of
from arbiter.rules.shapes import (
    ADDRESS,
    APP,
    DOMAIN,
    GROUP,
    HOOK,
    NAME,
    PARENT,
    PORT,
    PREFIXES,
    PROCESS,
    PROTO,
    SCOPE,
    UID,
    USER,
    Shape,
    ShapeId,
    context_slots,
)

_SEVERAL = (None,) * (PREFIXES - PARENT)
"""In place of the slots that have several values."""


class Family:
    """What differs between IPv4 and IPv6: prefixes, and the shapes that can match."""

    __slots__ = ("prefixes", "shapes", "shifts", "width")

    def __init__(self, width: int) -> None:
        self.width = width
        self.prefixes: dict[int, int] = {}
        """Prefix length to slot. Never forgotten: there are 160 at most."""
        self.shifts: list[int] = []
        self.shapes: list[Shape] = []
        """Sorted by floor."""

    def slot(self, prefixlen: int) -> int:
        """The slot of the networks with a prefix so long."""
        if prefixlen not in self.prefixes:
            self.prefixes[prefixlen] = PREFIXES + len(self.shifts)
            self.shifts.append(self.width - prefixlen)
        return self.prefixes[prefixlen]


class Slots:
    """Both families, with the prefixes that rules have used."""

    def __init__(self) -> None:
        self.families = {4: Family(32), 16: Family(128)}

    def place(self, entry: Entry) -> tuple[ShapeId, Hashable]:
        """The shape of an entry, and its key there."""
        exact = self._exact(entry)
        floor = specificity(entry)
        if floor[7] != NO_CONTEXT:
            exact |= context_slots(entry.rule)
        slots = tuple(exact)
        ranges = floor[3] > ONE_PORT and bool(entry.rule.ports)
        if ranges:
            floor = (*floor[:3], ONE_PORT + 1, *floor[4:])
        host = entry.rule.host
        family = len(host.packed) if isinstance(host, Network) else 0
        values = tuple(exact.values())
        return ShapeId(floor, family, slots, ranges), values[0] if len(values) == 1 else values

    def _exact(self, entry: Entry) -> dict[int, Hashable]:
        """Slot to value, for every condition that can be compared exactly."""
        rule, host = entry.rule, entry.rule.host
        exact: dict[int, Hashable] = {}
        if rule.app:
            exact[APP] = rule.app
        if rule.parent:
            exact[PARENT] = rule.parent
        if isinstance(host, Address):
            exact[ADDRESS] = host.packed
        elif isinstance(host, Network):
            family = self.families[len(host.packed)]
            shift = family.width - host.prefixlen
            exact[family.slot(host.prefixlen)] = int.from_bytes(host.packed) >> shift
        elif isinstance(host, Name):
            exact[NAME] = host.name
        elif isinstance(host, Domain):
            exact[DOMAIN] = host.name
        elif host is not None:
            exact[SCOPE] = host.value  # not the enum: its hash is slow, and not its text's
        if len(rule.ports) == 1 and rule.ports[0][0] == rule.ports[0][1]:
            exact[PORT] = rule.ports[0][0]
        if rule.proto is not None:
            exact[PROTO] = rule.proto
        if rule.user.startswith("@"):
            group = rule.user[1:]
            exact[GROUP] = int(group) if is_number(group) else group
        elif rule.user:
            by_uid = is_number(rule.user)
            exact[UID if by_uid else USER] = int(rule.user) if by_uid else rule.user
        if rule.hook is not None:
            exact[HOOK] = rule.hook.value
        if entry.process is not None:
            exact[PROCESS] = entry.process
        return exact

    def values(self, query: Query) -> tuple[Family, list[Hashable]]:
        """The query's value for each slot; None where nothing may match."""
        daddr = query.daddr
        if len(daddr) == 16 and daddr.startswith(MAPPED):
            daddr = daddr[12:]
        family = self.families.get(len(daddr))
        if family is None:
            raise ValueError(f"an address has 4 or 16 bytes, not {len(daddr)}")
        values: list[Hashable] = [
            query.app,
            query.uid,
            query.user,
            daddr,
            scope_of(daddr)._value_,
            query.dport if query.proto in PORT_PROTOS else None,
            query.proto,
            query.hook._value_,
            query.roaming,
            query.metered,
            query.profile,
            *_SEVERAL,
        ]
        if family.shifts:
            number = int.from_bytes(daddr)
            values += [number >> shift for shift in family.shifts]
        return family, values
