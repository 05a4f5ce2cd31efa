"""What is asked of the rules about a connection, wherever it comes from, and what they say. Pure.

A question is made of a packet and its owner, as the daemon has them, or of a record of one that was
decided. The answer is the daemon's own (`judge.join`), with the reasons.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import tzinfo
from typing import NamedTuple

from msgspec import Struct

from arbiter.judge import NOWHERE, SEVERAL_USERS, Context, Judgement, join, queries, query
from arbiter.model import (
    ALLOW,
    DENY,
    PROTO_NUMBERS,
    Decision,
    Flow,
    Hook,
    NoOwner,
    Owner,
    Packet,
)
from arbiter.records import Record, from_utf8, read_list
from arbiter.rules import Entry, Index, Match, Query, rank, reasons, scope_of
from arbiter.rules.rule import ScopeName, is_number
from arbiter.settings import Fallback, Mode, Settings, WhenUnattended

_ICMPV6 = 58
_SYN = 0x02
_ECHO_REQUEST = {1: 8, _ICMPV6: 128}
_NEIGHBOURS = frozenset({130, 131, 132, 133, 134, 135, 136, 137, 143})
_DHCP = frozenset({(68, 67), (546, 547)})


class Question(Struct, frozen=True):
    """A connection, and a query for each different app that holds its socket: at least one."""

    flow: Flow
    """`saddr` is b"" where nobody knows it."""
    queries: tuple[Query, ...]
    hook: Hook = Hook.OUT
    older: bool = False
    """It was open before arbiter could decide it: without a rule it passes."""
    no_owner: str = ""
    """Why no program is known; "" where one is, or where nobody looked."""
    came_in: bool = False
    """The other side began it, before arbiter: it passes whatever the rules say."""


class Answer(Struct, frozen=True):
    """What the rules say, by their daemon's way of joining them."""

    question: Question
    judgement: Judgement | None
    """None: no rule decides it."""
    query: Query
    """The one that decides, or the first that no rule decides."""
    match: Match | None
    """What wins for that query, and what it beat."""


class Otherwise(NamedTuple):
    """What happens to a new connection that no rule decides."""

    mode: Mode
    decision: Decision
    """At once, or after `deadline` without an answer."""
    deadline: float
    """Seconds that a person has to answer; 0 where nobody is asked."""
    unattended: Decision | None = None
    """At once while no prompt is connected; None: it waits all the same."""


# --- questions ------------------------------------------------------------------------------


def of_packet(packet: Packet, owner: Owner | NoOwner, context: Context = NOWHERE) -> Question:
    """What the daemon would ask about a packet with this owner."""
    no_owner = ""
    if isinstance(owner, NoOwner):
        no_owner = owner.reason.value + (f" ({owner.detail})" if owner.detail else "")
    return Question(
        packet.flow,
        tuple(queries(packet, owner, context)),
        packet.hook,
        owner.established and not packet.opens,
        no_owner,
        isinstance(owner, Owner) and owner.came_in,
    )


def of_record(record: Record, groups: tuple[str, ...] = (), gids: tuple[int, ...] = ()) -> Question:
    """What was asked when a record was made; of several programs that shared the socket, about the
    first only, the others are in the note. `groups` and `gids`: those of its user.

    Raises ValueError, with why: an undecodable packet was never held against rules, and a record
    of another program's making may hold anything.
    """
    flow = _flow(record)
    context = Context(
        sims=read_list(record.sims),
        networks=read_list(record.networks),
        metered=record.metered,
        roaming=record.roaming,
        names=read_list(record.names),
        profile=record.profile,
    )
    app, hook = from_utf8(record.app), Hook(record.hook)
    uid, user = record.uid, from_utf8(record.user)
    if app and SEVERAL_USERS in record.note.split("; "):
        uid, user, groups, gids = None, "", (), ()
    older, no_owner = record.reason == "older", from_utf8(record.no_owner)
    if not app:
        return Question(
            flow, (query(flow, hook, context, uid=uid, user=user),), hook, older, no_owner
        )
    processes: tuple[tuple[int, int], ...] = ()
    if record.pid is not None and record.start is not None:
        processes = ((record.pid, record.start),)
    parents = read_list(record.parents)
    asked = query(flow, hook, context, app, parents, uid, user, processes, groups, gids)
    return Question(flow, (asked,), hook, older)


def _flow(record: Record) -> Flow:
    if not record.daddr:
        raise ValueError(f"its packet could not be read ({record.note or record.reason})")
    proto = PROTO_NUMBERS.get(record.proto)
    if proto is None:
        if not (is_number(record.proto) and int(record.proto) < 256):
            raise ValueError(f"{record.proto!r} is no protocol")
        proto = int(record.proto)
    saddr, daddr = (ipaddress.ip_address(text).packed for text in (record.saddr, record.daddr))
    if len(saddr) != len(daddr):
        raise ValueError("its addresses are of two families")
    for port in (record.sport, record.dport):
        if not 0 <= port <= 0xFFFF:
            raise ValueError(f"{port} is no port")
    return Flow(proto, saddr, record.sport, daddr, record.dport)


def first_packet(flow: Flow, hook: Hook, outdev: int = 0) -> Packet:
    """The packet that a connection begins with, on the device that it leaves by."""
    flags = _SYN if flow.proto == PROTO_NUMBERS["tcp"] else 0
    kind = _ECHO_REQUEST.get(flow.proto, -1)
    return Packet(0, flow, hook, outdev=outdev, tcp_flags=flags, icmp_type=kind)


def exempt(packet: Packet) -> str:
    """Why the ruleset sends this outgoing packet to nobody, in one clause; "" if it is decided.

    What only the kernel knows (its own addresses, a subnet's broadcast) is not seen here.
    """
    flow = packet.flow
    if scope_of(flow.daddr) is ScopeName.LOOPBACK or flow.saddr == flow.daddr:
        return "it stays on this machine"
    if scope_of(flow.daddr) is ScopeName.MULTICAST or flow.daddr == b"\xff" * 4:
        return "it is for many at once, and goes no further than this network"
    if len(flow.daddr) == 16 and flow.daddr[0] == 0xFE and flow.daddr[1] & 0xC0 == 0x80:
        return "its destination is a link-local address"
    if flow.proto == PROTO_NUMBERS["udp"] and (flow.sport, flow.dport) in _DHCP:
        return "it is DHCP"
    if flow.proto == _ICMPV6 and len(flow.daddr) == 16 and packet.icmp_type in _NEIGHBOURS:
        return "it is IPv6 neighbour discovery or multicast listening"
    return ""


# --- answers --------------------------------------------------------------------------------


def answer(index: Index, question: Question, now: float) -> Answer:
    """What the rules say at `now`, in epoch seconds."""
    found = [(one, index.explain(one, now)) for one in question.queries]
    entries = [match.entry if match is not None else None for _, match in found]
    judgement = Judgement(ALLOW, None) if question.came_in else join(entries, question.older)
    winner = judgement.entry if judgement is not None else None
    place = next((n for n, entry in enumerate(entries) if entry is winner), 0)
    return Answer(question, judgement, *found[place])


def misses(
    entries: Sequence[Entry], asked: Query, now: float, zone: tzinfo
) -> list[tuple[Entry, str]]:
    """The rules for this app, or for every one, that do not match, each with the first reason.

    The nearest first: the fewest conditions that fail, then the rule that would win of them.
    """
    near = (entry for entry in entries if entry.rule.app in ("", asked.app))
    failing = ((entry, [*reasons(entry, asked, now, zone)]) for entry in near)
    found = [(entry, whys) for entry, whys in failing if whys]
    found.sort(key=lambda each: (len(each[1]), rank(each[0])))
    return [(entry, whys[0]) for entry, whys in found]


def otherwise(settings: Settings) -> Otherwise:
    """What these settings do with a connection that no rule decides."""
    fallback = ALLOW if settings.fallback is Fallback.ALLOW else DENY
    if settings.mode is Mode.OBSERVE:
        return Otherwise(settings.mode, ALLOW, 0.0)
    if settings.mode is Mode.ENFORCE:
        return Otherwise(settings.mode, fallback, 0.0)
    unattended = {WhenUnattended.FALLBACK: fallback, WhenUnattended.OBSERVE: ALLOW}
    at_once = unattended.get(settings.when_unattended)
    return Otherwise(settings.mode, fallback, settings.deadline, at_once)


def otherwise_text(other: Otherwise | None) -> str:
    """The same as a clause; None where the settings cannot be read."""
    if other is None:
        return "you are asked, unless the mode says otherwise"
    done = _done(other.decision)
    if other.mode is Mode.OBSERVE:
        return f"it is {done}, as the mode is observe"
    if other.mode is Mode.ENFORCE:
        return f"it is {done}, as the mode is enforce"
    text = f"you are asked; without an answer within {other.deadline:g} s it is {done}"
    if other.unattended is None:
        return text
    return f"{text}, and at once {_done(other.unattended)} while no prompt is there"


def _done(decision: Decision) -> str:
    return "allowed" if decision == ALLOW else "denied"
