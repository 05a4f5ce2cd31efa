"""Shapes: rules with the same set of exact conditions, in one dict, and how a query asks it.

A slot is a place in a query's values. Some conditions have several values in one query (parents,
names ...): every combination is tried. A domain is asked for with as many labels as it has, so that
all domains of one depth cost one probe a name, however many they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from functools import partial
from operator import attrgetter, itemgetter
from typing import NamedTuple

from arbiter.rules.names import suffix
from arbiter.rules.rank import Specificity, domain_depth
from arbiter.rules.rule import Entry, Query, Rule

# Slots of a query's values; the prefixes in use follow, by family, in the order they came.
APP, UID, USER, ADDRESS, SCOPE, PORT, PROTO, HOOK, ROAMING, METERED, PROFILE = range(11)
PARENT, PROCESS, NETWORK, SIM, GROUP, NAME, DOMAIN = range(11, 18)
PREFIXES = 18


def _parents(query: Query) -> tuple[str, ...]:
    """Without an owner nothing is known of parents, whatever the query says of them."""
    return query.parents if query.app else ()


def _groups(query: Query) -> tuple[Hashable, ...]:
    """Numbers as numbers: a group whose name is all digits is not meant by them."""
    return (*query.groups, *query.gids)


MANY: dict[int, Callable[[Query], tuple[Hashable, ...]]] = {
    PARENT: _parents,
    PROCESS: attrgetter("processes"),
    NETWORK: attrgetter("networks"),
    SIM: attrgetter("sims"),
    GROUP: _groups,
    NAME: attrgetter("names"),
}
"""Slots with several values in one query, and where they are: every combination is tried."""


def _domains(depth: int, query: Query) -> tuple[str, ...]:
    """What lies `depth` labels below the root on the way to each of the query's names."""
    if not query.names:
        return ()
    return tuple(filter(None, (suffix(name, depth) for name in query.names)))


Bucket = tuple[Entry] | list[Entry]
"""Entries with the same exact conditions, sorted by rank."""


class ShapeId(NamedTuple):
    """What makes a shape. All its entries have specificity `floor`, but for ports ranges."""

    floor: Specificity
    family: int
    """4 or 16 for networks, whose slots mean different prefixes; 0 for both."""
    slots: tuple[int, ...]
    ranges: bool


class Shape:
    """How to ask for entries of one shape, and those of them that share a key."""

    __slots__ = ("count", "floor", "id", "key", "many", "number", "ranges", "table")

    def __init__(self, id: ShapeId, number: int) -> None:
        self.id = id
        self.number = number
        """No other shape has, or had, it: for hashes."""
        self.count = 0
        """Entries of this shape."""
        self.floor, _, slots, self.ranges = id
        many = dict(MANY)
        if DOMAIN in slots:
            many[DOMAIN] = partial(_domains, domain_depth(self.floor))
        self.many = tuple((slot, many[slot]) for slot in slots if slot in many)
        self.key: Callable[[list[Hashable]], Hashable] = itemgetter(*slots) if slots else _no_key
        """From a query's values to the dict's key: a tuple, or the value itself if it is one."""
        self.table: dict[Hashable, list[Entry]] = {}
        """Most entries are alone with their key, and not here but packed."""

    def hash(self, key: Hashable) -> int:
        """64 bits for this shape and key. Texts and bytes in it are hashed with a secret."""
        return hash((self.number, key))


def _no_key(values: list[Hashable]) -> Hashable:
    return ()


def context_slots(rule: Rule) -> dict[int, Hashable]:
    """Slot to value, for the conditions of context."""
    context = {
        PROFILE: rule.profile or None,
        NETWORK: rule.network or None,
        SIM: rule.sim or None,
        ROAMING: rule.roaming,
        METERED: rule.metered,
    }
    return {slot: value for slot, value in context.items() if value is not None}


def keys(shape: Shape, query: Query, values: list[Hashable]) -> list[Hashable]:
    """The keys of a shape with slots that have several values; uses those slots of `values`."""
    if len(shape.many) == 1:  # nearly always, and twice as fast
        slot, several = shape.many[0]
        found = several(query)
        if len(found) > 1:
            found = tuple(set(found))
        keys = []
        for values[slot] in found:
            keys.append(shape.key(values))
        return keys
    keys = []
    for chosen in itertools.product(*(set(several(query)) for _, several in shape.many)):
        for (slot, _), value in zip(shape.many, chosen, strict=True):
            values[slot] = value
        keys.append(shape.key(values))
    return keys
