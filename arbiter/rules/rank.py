"""Which of two matching rules wins: the one order that look-up, explain and tests share.

Layer first; then the more specific in the order app, host, port, proto, user, hook, context; then
deny over route over allow; then the newer. Smaller wins, in every component:

| component | from the most specific to the least |
|---|---|
| app | app and parent, app, parent, none |
| host | address, longer prefix, shorter prefix, scope, /0 (all of a family), none |
| port | fewer ports (a list counts all its ports), none |
| proto, user, hook | set, none |
| context | more of network, sim, roaming, metered; fewer; none |

A network wins over a scope because somebody wrote that network down; only /0, which is wider
than each scope, comes after. No condition of context is narrower than another: a SIM may be in
use on one network or on many, so that they are counted.
"""

from __future__ import annotations

from arbiter.model import Action
from arbiter.rules.rule import Address, Entry, Host, Network, Rule

Specificity = tuple[int, int, int, int, int, int, int, int]
"""Layer, app, host, port, proto, user, hook, context."""
Rank = tuple[Specificity, int, float, int]
"""Specificity, decision, age, id. Total: ids are unique."""

APP_AND_PARENT, APP, PARENT, NO_APP = range(4)
HOST_ADDRESS = 0
HOST_SCOPE = 200
"""After every network but /0: those have 1 (/127) to 128 (a family's /1 has 31 or 127)."""
HOST_FAMILY = 201
NO_HOST = 202
ONE_PORT = 1
NO_PORT = 65537
"""One more than `0-65535` has."""
SET, NOT_SET = 0, 1
NO_CONTEXT = 4
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
        SET if rule.user else NOT_SET,
        NOT_SET if rule.hook is None else SET,
        _context(rule),
    )


def _context(rule: Rule) -> int:
    named = bool(rule.network) + bool(rule.sim)
    return NO_CONTEXT - named - (rule.roaming is not None) - (rule.metered is not None)


def _app(rule: Rule) -> int:
    if rule.app:
        return APP_AND_PARENT if rule.parent else APP
    return PARENT if rule.parent else NO_APP


def _host(host: Host | None) -> int:
    if host is None:
        return NO_HOST
    if isinstance(host, Address):
        return HOST_ADDRESS
    if isinstance(host, Network):
        return 8 * len(host.packed) - host.prefixlen if host.prefixlen else HOST_FAMILY
    return HOST_SCOPE
