"""Which of two matching rules wins: the one order that look-up, explain and tests share.

Layer first; then the more specific in the order app, host, port, proto, user, hook, context; then
deny over route over allow; then the newer. Smaller wins, in every component:

| component | from the most specific to the least |
|---|---|
| app | app and parent, app, parent, none |
| host | address, name, domain (more labels first), network (longer prefix first), scope, /0, none |
| port | fewer ports (a list counts all its ports), none |
| proto, hook | set, none |
| user | user, group, none |
| context | more of profile, network, sim, roaming, metered, time; fewer; none |

A name may stand for several addresses, and these change: it comes after an address. It wins over
a network, and so does a domain, because it says what somebody wants to reach, a network only where
that lies today. A network wins over a scope because somebody wrote that network down; only /0,
which is wider than each scope, comes after. No condition of context is narrower than another: a
SIM may be in use on one network or on many, so that they are counted.
"""

from __future__ import annotations

from arbiter.model import Action
from arbiter.rules.rule import Address, Domain, Entry, Host, Name, Network, Rule

Specificity = tuple[int, int, int, int, int, int, int, int]
"""Layer, app, host, port, proto, user, hook, context."""
Rank = tuple[Specificity, int, float, int]
"""Specificity, decision, age, id. Total: ids are unique."""

APP_AND_PARENT, APP, PARENT, NO_APP = range(4)
HOST_ADDRESS = 0
HOST_NAME = 1
HOST_DOMAIN = 130
"""Less one for each label: a name has 1 to 127 of them (RFC 1035: 255 bytes)."""
HOST_NETWORK = 130
"""And one for each bit that is open: 1 (/31, /127) to 127 (/1 of IPv6)."""
HOST_SCOPE = 300
HOST_FAMILY = 301
NO_HOST = 302
ONE_PORT = 1
NO_PORT = 65537
"""One more than `0-65535` has."""
SET, NOT_SET = 0, 1
USER, GROUP, NO_USER = range(3)
NO_CONTEXT = 6
"""One less for each condition of context."""

_DECISIONS = {Action.DENY: 0, Action.ROUTE: 1, Action.ALLOW: 2}


def rank(entry: Entry) -> Rank:
    """The place of `entry` among all that match: the smallest wins."""
    decision = _DECISIONS[entry.rule.decision.action]
    return specificity(entry), decision, -entry.created, -entry.id


def specificity(entry: Entry) -> Specificity:
    """How narrow `entry` speaks, layer first: the part of its rank that its conditions make."""
    rule = entry.rule
    return (
        int(entry.layer),
        _app(rule),
        _host(rule.host),
        sum(high - low + 1 for low, high in rule.ports) or NO_PORT,
        NOT_SET if rule.proto is None else SET,
        _user(rule.user),
        NOT_SET if rule.hook is None else SET,
        _context(rule),
    )


def domain_depth(specific: Specificity) -> int:
    """How many labels the domain has that made this specificity."""
    return HOST_DOMAIN - specific[2]


def _context(rule: Rule) -> int:
    named = bool(rule.profile) + bool(rule.network) + bool(rule.sim) + bool(rule.times)
    return NO_CONTEXT - named - (rule.roaming is not None) - (rule.metered is not None)


def _user(user: str) -> int:
    if not user:
        return NO_USER
    return GROUP if user.startswith("@") else USER


def _app(rule: Rule) -> int:
    if rule.app:
        return APP_AND_PARENT if rule.parent else APP
    return PARENT if rule.parent else NO_APP


def _host(host: Host | None) -> int:
    if host is None:
        return NO_HOST
    if isinstance(host, Address):
        return HOST_ADDRESS
    if isinstance(host, Name):
        return HOST_NAME
    if isinstance(host, Domain):
        return HOST_DOMAIN - 1 - host.name.count(".")  # see domain_depth
    if isinstance(host, Network):
        open_bits = 8 * len(host.packed) - host.prefixlen
        return HOST_NETWORK + open_bits if host.prefixlen else HOST_FAMILY
    return HOST_SCOPE
