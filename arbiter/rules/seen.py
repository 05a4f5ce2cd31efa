"""What was seen and nobody decided, program by program: what rules are proposed from. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from msgspec import Struct

from arbiter.model import PORT_PROTOS, Hook
from arbiter.rules.choose import user_word
from arbiter.rules.explain import host_matches
from arbiter.rules.names import name_fault
from arbiter.rules.rule import Address, Host, Name, Query, Rule, plain

PERSONS = range(1000, 65534)
"""Uids that people have (login.defs(5), UID_MIN); from 65534 on they are nobody's."""


class Sighting(Struct, frozen=True, gc=False):
    """Connections that were all the same to the rules, as the records have them."""

    query: Query
    """What the rules were asked; without the processes."""
    count: int
    refused: int
    """How many of them did not pass."""
    first: float
    """Epoch seconds."""
    last: float


class Seen(Struct, frozen=True, gc=False):
    """Connections of one program to one destination. `daddr` is packed, and never IPv4-mapped."""

    daddr: bytes
    dport: int
    proto: int
    hook: Hook
    names: tuple[str, ...]
    """By which it had been looked up, the newest first."""
    count: int = 1
    refused: int = 0
    first: float = 0.0
    last: float = 0.0

    @property
    def host(self) -> Name | Address:
        """What the program meant, as far as anybody knows: the newest name, else the address."""
        name = next((name for name in self.names if not name_fault(name)), "")
        return Name(name) if name else Address(self.daddr)

    @property
    def port(self) -> int | None:
        """None for a protocol without ports."""
        return self.dport if self.proto in PORT_PROTOS else None


class Program(Struct, frozen=True):
    """One app, and what of it nobody decided: one card of a review."""

    app: str
    """"" where nobody knew it."""
    user: str
    """As `user=` names whose processes these were; "" where rules are to be for everybody."""
    users: tuple[str, ...]
    parents: tuple[tuple[str, int], ...]
    """The apps that started it, with the number of connections, the most first."""
    seen: tuple[Seen, ...]


class Tally(Struct, frozen=True):
    """Some of what was seen, counted."""

    count: int
    refused: int
    first: float
    last: float
    destinations: tuple[Host, ...]
    """Each once, the most connections first."""


def tally(seen: Iterable[Seen]) -> Tally:
    """`first` and `last` are 0 for nothing."""
    found = tuple(seen)
    hosts: Counter[Host] = Counter()
    for one in found:
        hosts[one.host] += one.count
    return Tally(
        sum(one.count for one in found),
        sum(one.refused for one in found),
        min((one.first for one in found), default=0.0),
        max((one.last for one in found), default=0.0),
        tuple(sorted(hosts, key=lambda host: (-hosts[host], str(host)))),
    )


def matches(rule: Rule, seen: Seen) -> bool:
    """Whether a rule about this program matches; its app, parent, user and context are not asked.

    The same as `why_not`, which is the definition, and quicker: it is asked for every destination.
    """
    return (
        (rule.proto is None or rule.proto == seen.proto)
        and (rule.hook is None or rule.hook is seen.hook)
        and (not rule.ports or _in(rule.ports, seen.port))
        and (rule.host is None or host_matches(rule.host, seen.daddr, seen.names))
    )


def _in(ports: tuple[tuple[int, int], ...], port: int | None) -> bool:
    return port is not None and any(low <= port <= high for low, high in ports)


_Key = tuple[bytes, int, int, Hook, tuple[str, ...]]
_Counts = dict[_Key, tuple[int, int, float, float]]


class _Pile:
    """What gathers of one app and user."""

    def __init__(self) -> None:
        self.counts: _Counts = {}
        self.parents: Counter[str] = Counter()
        self.users: set[str] = set()

    def put(self, key: _Key, count: int, refused: int, first: float, last: float) -> None:
        old = self.counts.get(key)
        if old is not None:
            count, refused = count + old[0], refused + old[1]
            first, last = min(first, old[2]), max(last, old[3])
        self.counts[key] = (count, refused, first, last)

    def add(self, other: _Pile) -> None:
        for key, counts in other.counts.items():
            self.put(key, *counts)
        self.parents += other.parents
        self.users |= other.users


def programs(
    sightings: Iterable[Sighting],
    decided: Callable[[Query, float], bool],
    people: Iterable[int] = (),
) -> list[Program]:
    """The programs whose connections no rule decides, the busiest first.

    `decided(query, at)` says whether rules in force decide such a connection, epoch second `at`.
    `people` are the uids of this machine's persons. Where there are several, or several were seen,
    each one's processes are a program of their own: a rule that one of them needs must not hold
    for another.
    """
    piles: dict[tuple[str, str], _Pile] = {}
    persons = {uid for uid in people if uid in PERSONS}
    for one in sightings:
        query = one.query
        if query.uid is not None and query.uid in PERSONS:
            persons.add(query.uid)
        if decided(query, one.last):
            continue
        user = user_word(query.user, query.uid)
        pile = piles.setdefault((query.app, user), _Pile())
        key = (plain(query.daddr), query.dport, query.proto, query.hook, query.names)
        pile.put(key, one.count, one.refused, one.first, one.last)
        pile.users.add(user)
        pile.parents[query.parents[0] if query.parents else ""] += one.count
    if len(persons) < 2:
        together: dict[tuple[str, str], _Pile] = {}
        for (app, _), pile in piles.items():
            together.setdefault((app, ""), _Pile()).add(pile)
        piles = together
    found = [_program(app, user, pile) for (app, user), pile in piles.items()]
    return sorted(found, key=lambda p: (-sum(s.count for s in p.seen), p.app, p.user))


def _program(app: str, user: str, pile: _Pile) -> Program:
    parents = [(parent, count) for parent, count in pile.parents.items() if parent]
    return Program(
        app,
        user,
        tuple(sorted(filter(None, pile.users))),
        tuple(sorted(parents, key=lambda each: (-each[1], each[0]))),
        tuple(Seen(*key, *counts) for key, counts in sorted(pile.counts.items())),
    )
