"""How two rules stand to each other: one covers the other, or they cannot both match. Pure.

Both answers are given only where they are sure: two names may always be looked up for one address,
a user's name and a uid may be the same user. For all else it is "no".
"""

from __future__ import annotations

from collections.abc import Sequence

from arbiter.model import PORT_PROTOS
from arbiter.rules.explain import host_matches
from arbiter.rules.names import suffix
from arbiter.rules.rule import (
    Address,
    Domain,
    Entry,
    Host,
    LifetimeKind,
    Name,
    Network,
    Rule,
    ScopeName,
    is_number,
)
from arbiter.rules.scopes import scope_of

_SAME = (
    *("app", "parent", "user", "proto", "hook"),
    *("profile", "network", "sim", "roaming", "metered"),
)
_UNSET = ("", None)
_APART = ("app", "proto", "hook", "profile", "roaming", "metered")
"""A flow has one value of each; of parents, networks and SIMs it has several."""


def covers(wide: Entry, narrow: Entry) -> bool:
    """Whether `wide` surely matches, and as long, whatever `narrow` matches."""
    one, other = wide.rule, narrow.rule
    return (  # what differs most often first: it is asked millions of times
        _spans_cover(one.ports, other.ports)
        and _spans_cover(one.times, other.times)
        and outlasts(wide, narrow)
        and all(getattr(one, f) in (*_UNSET, getattr(other, f)) for f in _SAME)
        and (one.host is None or (other.host is not None and host_covers(one.host, other.host)))
    )


def outlasts(one: Entry, other: Entry) -> bool:
    """Whether `one` surely holds for as long as `other`, and for its process."""
    kind, theirs = one.rule.lifetime.kind, other.rule.lifetime.kind
    if kind is LifetimeKind.FOREVER:
        return True
    if kind is LifetimeKind.SPAN:
        return one.expires is not None and (other.expires or float("inf")) <= one.expires
    if kind is LifetimeKind.PROCESS:
        return one.process == other.process
    if kind is LifetimeKind.BOOT:
        return theirs in (LifetimeKind.BOOT, LifetimeKind.SESSION, LifetimeKind.PROCESS)
    return theirs is kind


def host_covers(wide: Host, narrow: Host) -> bool:
    """Whether every destination of `narrow` is one of `wide`."""
    if wide == narrow:
        return True
    if isinstance(narrow, Name):
        return isinstance(wide, Domain) and narrow.name.endswith(f".{wide.name}")
    if isinstance(narrow, Domain):
        return isinstance(wide, Domain) and narrow.name.endswith(f".{wide.name}")
    if isinstance(wide, Name | Domain | Address) or isinstance(narrow, ScopeName):
        return False
    if isinstance(wide, ScopeName):
        return scope_around(narrow) is wide
    if isinstance(narrow, Network) and narrow.prefixlen < wide.prefixlen:
        return False
    return host_matches(wide, narrow.packed)


def scope_around(host: Address | Network) -> ScopeName | None:
    """The one scope in which all of `host` lies; None if there is none, or that is not sure."""
    first = scope_of(host.packed)
    if isinstance(host, Address):
        return first
    four = len(host.packed) == 4
    if host.packed == bytes(4):
        return None  # it alone is loopback, and what follows is not, up to 127.0.0.0
    open_bits = 8 * len(host.packed) - host.prefixlen
    last = (int.from_bytes(host.packed) | (1 << open_bits) - 1).to_bytes(len(host.packed))
    # Near blocks are prefixes themselves, of 16 (10) bits at most but for single addresses at the
    # ends of the address space: what is narrower lies in one or in none.
    if first is ScopeName.INTERNET and host.prefixlen < (16 if four else 10):
        return None
    if host.packed == bytes(4):
        return None  # 0.0.0.0 alone is loopback, and 0.0.0.0/1 also ends in it
    return first if scope_of(last) is first else None


def ancestor(host: Host | None, kind: tuple[object, ...]) -> object:
    """What a host of `kind` must be in order to cover `host`; None if none can. See `host_kind`."""
    if not kind:
        return ""
    if host is None:
        return None
    if kind == host_kind(host):
        return host_value(host)
    if kind[0] == "scope":
        return scope_around(host) if isinstance(host, Address | Network) else None
    if kind[0] == "domain" and isinstance(kind[1], int):
        return (suffix(host.name, kind[1]) or None) if isinstance(host, Name | Domain) else None
    if kind[0] == "network" and isinstance(host, Address | Network) and isinstance(kind[2], int):
        length = host.prefixlen if isinstance(host, Network) else 8 * len(host.packed)
        if kind[1] == len(host.packed) and kind[2] < length:
            return int.from_bytes(host.packed) >> 8 * len(host.packed) - kind[2]
    return None


def host_kind(host: Host | None) -> tuple[object, ...]:
    """Hosts of one kind are compared by their `host_value` alone; () for none."""
    if host is None:
        return ()
    if isinstance(host, Network):
        return ("network", len(host.packed), host.prefixlen)
    if isinstance(host, Domain):
        return ("domain", host.name.count(".") + 1)
    return ("scope",) if isinstance(host, ScopeName) else (type(host).__name__,)


def host_value(host: Host | None) -> object:
    """See `host_kind`."""
    if isinstance(host, Network):
        return int.from_bytes(host.packed) >> 8 * len(host.packed) - host.prefixlen
    if isinstance(host, Name | Domain):
        return host.name
    return host.packed if isinstance(host, Address) else host or ""


def apart(one: Rule, other: Rule) -> bool:
    """Whether surely no connection matches both."""
    for field in _APART:
        ours, theirs = getattr(one, field), getattr(other, field)
        if ours not in _UNSET and theirs not in _UNSET and ours != theirs:
            return True
    return (
        _users_apart(one.user, other.user)
        or _hosts_apart(one.host, other.host)
        or (bool(one.ports and other.ports) and not spans_meet(one.ports, other.ports, ends_in=1))
        or (bool(one.times and other.times) and not spans_meet(one.times, other.times, ends_in=0))
        or (bool(one.ports) and other.proto not in (None, *PORT_PROTOS))
        or (bool(other.ports) and one.proto not in (None, *PORT_PROTOS))
    )


def _users_apart(one: str, other: str) -> bool:
    if not one or not other or one == other or "@" in (one[:1], other[:1]):
        return False
    return is_number(one) == is_number(other)


def _hosts_apart(one: Host | None, other: Host | None) -> bool:
    if one is None or other is None or isinstance(one, Name | Domain):
        return False
    if isinstance(other, Name | Domain) or host_covers(one, other) or host_covers(other, one):
        return False
    if isinstance(one, ScopeName):
        one, other = other, one
    if isinstance(one, ScopeName):
        return True
    return not isinstance(other, ScopeName) or scope_around(one) is not None


def _spans_cover(wide: Sequence[tuple[int, int]], narrow: Sequence[tuple[int, int]]) -> bool:
    """Spans are merged, so that each narrow one lies in a single wide one, or does not."""
    if not wide:
        return True
    if len(wide) == 1 == len(narrow):
        return wide[0][0] <= narrow[0][0] and narrow[0][1] <= wide[0][1]
    return bool(narrow) and all(
        any(low <= first and last <= high for low, high in wide) for first, last in narrow
    )


def spans_meet(
    one: Sequence[tuple[int, int]], other: Sequence[tuple[int, int]], *, ends_in: int
) -> bool:
    """Whether a span of one and a span of the other share something.

    `ends_in`: 1 if a span's end belongs to it.
    """
    return any(
        first < high + ends_in and low < last + ends_in
        for low, high in one
        for first, last in other
    )
