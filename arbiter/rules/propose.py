"""From what was seen of a program to the rules that would cover it, the narrowest first. Pure.

One rule for each destination, by the name that it was looked up by last, else by its address, with
the ports and protocols that were used. A person reads these one by one: where there would be too
many, rules for a port of a whole scope take their place, and in the end one for the scope.

Every connection belongs to exactly one proposal, which matches it. Others may match it, too: one
by a name and one by an address that it stood for are both kept, as the address will change.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from msgspec import Struct

from arbiter.model import ALLOW, PORT_PROTOS, Hook
from arbiter.rules.line import format_rule
from arbiter.rules.rule import Host, Rule, ScopeName, merged
from arbiter.rules.scopes import scope_of
from arbiter.rules.seen import Program, Seen
from arbiter.rules.widen import widenings

MANY_HOSTS = 10
"""More destinations for one port are not read one by one: it is a browser, or a crawler."""
FEW_HOSTS = 3
"""A port of so many destinations is summed up only where a card has too many rules."""
MANY_PORTS = 8
"""More ports of one protocol are no list that anybody checks: FTP, calls, peer to peer."""
MANY_RULES = 14
"""Rules of one card that a terminal of 24 lines shows, beside the rest of the card."""

_Service = tuple[int, int | None]
"""Protocol, and port if it has ports."""
_Place = tuple[Hook, ScopeName]
_Crowd = tuple[Hook, ScopeName, _Service]
_Bucket = tuple[Hook, Host, bool]
"""`True`: whatever its ports are."""


class Proposal(Struct, frozen=True):
    """A rule to be accepted or not. `seen` is what it was made from, and matches all of it."""

    rule: Rule
    seen: tuple[Seen, ...]
    summary: bool
    """It stands for more than one destination, or for every port of one."""
    wider: tuple[Rule, ...]
    """Each matches all that the one before does, and more."""


class _Item(NamedTuple):
    """One that was seen, with what is asked of it again and again."""

    seen: Seen
    host: Host
    place: _Place
    crowd: _Crowd


def propose(program: Program, *, each: bool = False) -> tuple[Proposal, ...]:
    """The rules for a program, those of the most connections first; the decision is allow.

    `each`: no sums, however many destinations there are. Nothing is summed up where nobody knew
    the app either: such a rule is for every program, and is to say no more than was seen.
    """
    each = each or not program.app
    items = [_item(one) for one in program.seen]
    crowds: set[_Crowd] = set() if each else _crowds(items)
    wholes: set[_Place] = set()
    while True:
        buckets = _arrange(items, crowds, wholes)
        made = [
            (rule, tuple(seen), bucket)
            for bucket, found in buckets.items()
            for rule, seen in _rules(program, bucket, [item.seen for item in found], each)
        ]
        if each or len(made) <= MANY_RULES or not _sum_up(buckets, crowds, wholes):
            break
    proposals = [
        Proposal(
            rule,
            seen,
            isinstance(bucket[1], ScopeName) or (not rule.ports and _ported(seen)),
            widenings(rule),
        )
        for rule, seen, bucket in made
    ]
    return tuple(sorted(proposals, key=lambda p: (-_count(p.seen), format_rule(p.rule))))


def _item(seen: Seen) -> _Item:
    place = (seen.hook, scope_of(seen.daddr))
    return _Item(seen, seen.host, place, (*place, (seen.proto, seen.port)))


def _count(seen: Iterable[Seen]) -> int:
    return sum(one.count for one in seen)


def _ported(seen: Iterable[Seen]) -> bool:
    return any(one.port is not None for one in seen)


def _crowds(items: Iterable[_Item]) -> set[_Crowd]:
    hosts: dict[_Crowd, set[Host]] = {}
    for item in items:
        hosts.setdefault(item.crowd, set()).add(item.host)
    return {crowd for crowd, found in hosts.items() if len(found) > MANY_HOSTS}


def _arrange(
    items: Iterable[_Item], crowds: set[_Crowd], wholes: set[_Place]
) -> dict[_Bucket, list[_Item]]:
    """What belongs to one destination, to the busy ports of a scope, or to a whole scope."""
    buckets: dict[_Bucket, list[_Item]] = {}
    for item in items:
        hook, scope = item.place
        whole = item.place in wholes
        host = scope if whole or item.crowd in crowds else item.host
        buckets.setdefault((hook, host, whole), []).append(item)
    return buckets


def _sum_up(buckets: dict[_Bucket, list[_Item]], crowds: set[_Crowd], wholes: set[_Place]) -> bool:
    """Sum up one thing more: the port of the most destinations, else the scope with the most.
    False if nothing is left that could be."""
    by_port: dict[_Crowd, set[Host]] = {}
    by_place: dict[_Place, set[Host]] = {}
    for (_, host, _), found in buckets.items():
        for item in found if not isinstance(host, ScopeName) else ():
            by_port.setdefault(item.crowd, set()).add(host)
            by_place.setdefault(item.place, set()).add(host)
    if not by_place:
        return False
    crowd = min(by_port, key=lambda each: (-len(by_port[each]), str(each)))
    of_place = sum(each[:2] == crowd[:2] for each in crowds)
    if len(by_port[crowd]) >= FEW_HOSTS and of_place < MANY_PORTS:
        crowds.add(crowd)
    else:
        wholes.add(min(by_place, key=lambda each: (-len(by_place[each]), str(each))))
    return True


def _rules(
    program: Program, bucket: _Bucket, found: list[Seen], each: bool
) -> list[tuple[Rule, list[Seen]]]:
    """The rules of one bucket, each with what it is made from."""
    hook, host, whole = bucket
    base = Rule(
        ALLOW,
        app=program.app,
        user=program.user,
        host=host,
        hook=None if hook is Hook.OUT else hook,
    )
    ports: dict[int, set[int]] = {}
    for one in found:
        ports.setdefault(one.proto, set()).update(() if one.port is None else (one.port,))
    many = {proto for proto, used in ports.items() if len(used) > MANY_PORTS and not each}
    if whole or len(many) > 1:
        (proto,) = ports if len(ports) == 1 else (None,)
        return [(base.replace(proto=proto), found)]
    by_ports: dict[tuple[int, ...], list[int]] = {}
    out: list[tuple[Rule, list[Seen]]] = []
    for proto, used in ports.items():
        if proto in PORT_PROTOS and proto not in many:
            by_ports.setdefault(tuple(sorted(used)), []).append(proto)
        else:
            out.append((base.replace(proto=proto), [one for one in found if one.proto == proto]))
    for used_ports, protos in by_ports.items():
        spans = merged(tuple((port, port) for port in used_ports))
        only = protos[0] if len(protos) == 1 else None
        mine = [one for one in found if one.proto in protos]
        out.append((base.replace(proto=only, ports=spans), mine))
    return out
