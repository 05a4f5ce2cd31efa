"""What two rules have in common: the rule that matches exactly what both of them match.

For rules without hook and context, as other firewalls' rules become here.
"""

from __future__ import annotations

from arbiter.model import PORT_PROTOS
from arbiter.rules import Address, Host, Network, Rule
from arbiter.rules.explain import host_matches
from arbiter.rules.hosts import format_host


class ApartError(Exception):
    """No connection matches both rules."""


class NotOneRuleError(Exception):
    """Both can match one connection, and no single rule says when."""


def meet(one: Rule, other: Rule) -> Rule:
    """The conditions of both, with the decision and lifetime of `other`.

    Raises ApartError or NotOneRuleError.
    """
    proto = one.proto if other.proto is None else other.proto
    if one.proto not in (None, proto):
        raise ApartError
    ports = _ports(one.ports, other.ports)
    if ports and proto is not None and proto not in PORT_PROTOS:
        raise ApartError
    app, user = _word(one.app, other.app), _word(one.user, other.user)
    host = _host(one.host, other.host)
    if one.parent and other.parent and one.parent != other.parent:
        raise NotOneRuleError("a program can have the parents of both")
    parent = one.parent or other.parent
    return other.replace(app=app, parent=parent, user=user, host=host, ports=ports, proto=proto)


def _word(one: str, other: str) -> str:
    if one and other and one != other:
        raise ApartError
    return one or other


_Ports = tuple[tuple[int, int], ...]


def _ports(one: _Ports, other: _Ports) -> _Ports:
    if not one or not other:
        return one or other
    both = tuple(
        (max(low, low2), min(high, high2))
        for low, high in one
        for low2, high2 in other
        if max(low, low2) <= min(high, high2)
    )
    if not both:
        raise ApartError
    return both


def _host(one: Host | None, other: Host | None) -> Host | None:
    if one is None or other is None or one == other:
        return other if one is None else one
    if isinstance(one, Address | Network) and isinstance(other, Address | Network):
        if host_matches(one, other.packed) and _bits(one) <= _bits(other):
            return other
        if host_matches(other, one.packed) and _bits(other) <= _bits(one):
            return one
        raise ApartError
    return _named(one, other)


def _named(one: Host, other: Host) -> Host:
    """A name is inside its domain, and other names are not; a name and an address may meet."""
    texts = format_host(one), format_host(other)
    if any(isinstance(host, Address | Network) for host in (one, other)):
        raise NotOneRuleError("a name and an address can be one destination")
    for inner, outer, host in ((texts[0], texts[1], one), (texts[1], texts[0], other)):
        if outer.startswith("*.") and inner.removeprefix("*").endswith(outer[1:]):
            return host
    raise ApartError


def _bits(host: Address | Network) -> int:
    return 8 * len(host.packed) if isinstance(host, Address) else host.prefixlen
