"""Conntrack's entries that no verdict marked: those of connections that began here are read, marked
as denied, or deleted.

Never touched: what is forwarded or came in, what has a bit of somebody else's in its mark (the
ruleset leaves such packets alone, too), is in a zone of somebody's, belongs to another connection
(an expected one, which the ruleset lets pass as RELATED), or is offloaded. Never deleted besides:
what somebody translates, what has a helper or a label.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator, Mapping

from msgspec.structs import replace

from arbiter.kernel import untracked
from arbiter.kernel.conntrack import (
    CT_DELETE,
    CT_GET,
    CTA_MARK,
    CTA_TUPLE_ORIG,
    by_mark,
    dump,
    flow_of,
    open_netfilter,
)
from arbiter.kernel.firewall.plan import WORD, Plan
from arbiter.kernel.netlink import NETLINK_NETFILTER, attributes, pack_attribute
from arbiter.kernel.netlinkcalls import NetlinkCalls
from arbiter.kernel.rtnetlink import Rtnetlink
from arbiter.model import Flow, Packet
from arbiter.older import NO_ID, Fate, Here, Older, began_here

_CT_NEW = 1 << 8  # without NLM_F_CREATE: an update
_NESTED = 1 << 15
_CTA_TUPLE_REPLY, _CTA_STATUS, _CTA_PROTOINFO, _CTA_HELP, _CTA_ID = 2, 3, 4, 5, 12
_CTA_TUPLE_MASTER, _CTA_ZONE, _CTA_MARK_MASK, _CTA_LABELS = 14, 18, 21, 22
_PROTOINFO_TCP, _TCP_STATE = 1, 1
_TUPLE_PROTO, _TUPLE_ZONE = 2, 3
_ICMP_TYPE = {1: 5, 58: 8}
"""Protocol → CTA_PROTO_ICMP(V6)_TYPE."""
_ENDED = frozenset({7, 8})  # TCP_CONNTRACK_TIME_WAIT, _CLOSE (linux/netfilter/nf_conntrack_tcp.h)
# linux/netfilter/nf_conntrack_common.h, IPS_*
_TRANSLATED = 1 << 4 | 1 << 5
_EXPECTED, _DYING, _HELPER = 1 << 0, 1 << 9, 1 << 13
_OFFLOADED = 1 << 14 | 1 << 15
_TCP, _ACK = 6, 0x10
_SOURCE_AT = 16
"""Where the source address stands: behind nfgenmsg and the headers of three attributes."""
_SOURCE4, _SOURCE6 = struct.pack("=HH", 8, 1), struct.pack("=HH", 20, 3)
"""The header right before it: CTA_IP_V4_SRC, CTA_IP_V6_SRC."""


def entry(payload: bytes, here: Here, denied: int) -> Older | None:
    """A connection that began here undecided, from a message's payload. Total.

    None for everything else, and for what makes no sense. `denied`: the mark of what is.
    """
    try:
        return _entry(dict(attributes(payload[4:])), here, denied)
    except (ValueError, KeyError):
        return None


def _entry(found: Mapping[int, bytes], here: Here, denied: int) -> Older | None:
    mark = _mark(found)
    status = _number(found[_CTA_STATUS])
    if mark not in (0, denied) or status & (_EXPECTED | _DYING | _OFFLOADED):
        return None
    original = found[CTA_TUPLE_ORIG]
    zones = _CTA_ZONE in found or _TUPLE_ZONE in dict(attributes(original))
    flow = flow_of(original)
    if flow is None or zones or _CTA_TUPLE_MASTER in found:
        return None
    packet = _packet(flow, original)
    if not began_here(packet, here):
        return None
    state = _tcp_state(found) if flow.proto == _TCP else 0
    return Older(
        packet,
        _number(found[_CTA_ID]),
        original,
        mark != 0,
        state in _ENDED,
        status & (_TRANSLATED | _HELPER) != 0
        or _CTA_HELP in found
        or any(found.get(_CTA_LABELS, b""))
        or flow_of(found[_CTA_TUPLE_REPLY]) != _answer(flow),
    )


def _mark(found: Mapping[int, bytes]) -> int:
    return _number(found.get(CTA_MARK, bytes(4)))


def _number(data: bytes) -> int:
    if len(data) != 4:
        raise ValueError(f"a number of {len(data)} bytes, 4 expected")
    return int.from_bytes(data)


def _packet(flow: Flow, original: bytes) -> Packet:
    icmp_type = -1
    if kind := _ICMP_TYPE.get(flow.proto):
        proto = dict(attributes(dict(attributes(original))[_TUPLE_PROTO]))
        icmp_type = proto[kind][0] if proto.get(kind) else -1
    flags = _ACK if flow.proto == _TCP else 0
    return Packet(NO_ID, flow, tcp_flags=flags, icmp_type=icmp_type)


def _answer(flow: Flow) -> Flow:
    """The reply's flow where nobody translates; of an echo it has the same identifier."""
    if flow.proto in _ICMP_TYPE:
        return Flow(flow.proto, flow.daddr, flow.sport, flow.saddr, 0)
    return Flow(flow.proto, flow.daddr, flow.dport, flow.saddr, flow.sport)


def _tcp_state(found: Mapping[int, bytes]) -> int:
    info = dict(
        attributes(dict(attributes(found.get(_CTA_PROTOINFO, b""))).get(_PROTOINFO_TCP, b""))
    )
    state = info.get(_TCP_STATE, b"")
    return state[0] if state else 0


# --- the kernel -----------------------------------------------------------------------------


def read(mask: int, *, only_denied: bool = False) -> list[Older]:
    """All there are, with the interface that each leaves by. Raises OSError.

    Run it in a thread: one walk of conntrack's table or two, and some microseconds an entry.
    """
    denied = Plan(mask=mask).denied
    with Rtnetlink() as routes, open_netfilter() as sock:
        here = routes.here()
        found: list[Older] = []
        for mark in (denied,) if only_denied else (denied, 0):
            found += _ours(dump(sock, by_mark(mark, WORD)), here, denied)
        if not only_denied:
            found += untracked.read(here, {one.packet.flow for one in found})
        return [*_leaving(found, routes)]


def _ours(payloads: Iterable[bytes], here: Here, denied: int) -> Iterator[Older]:
    """A router has a hundred thousand of others: whose one is shows at one place."""
    own = here.own
    for payload in payloads:
        head = payload[_SOURCE_AT - 4 : _SOURCE_AT]
        if head == _SOURCE4 and payload[_SOURCE_AT : _SOURCE_AT + 4] not in own:
            continue
        if head == _SOURCE6 and payload[_SOURCE_AT : _SOURCE_AT + 16] not in own:
            continue
        found = entry(payload, here, denied)
        if found is not None:
            yield found


def _leaving(found: Iterable[Older], routes: Rtnetlink) -> Iterator[Older]:
    devices: dict[tuple[bytes, bytes], int] = {}
    for one in found:
        flow = one.packet.flow
        way = flow.saddr, flow.daddr
        if way not in devices:
            devices[way] = routes.leaves(0, flow.daddr, flow.saddr)
        yield replace(one, packet=replace(one.packet, outdev=devices[way]))


def settle(fates: Iterable[tuple[Older, Fate]], mask: int) -> tuple[list[Older], str]:
    """Carry them out; gives those that are refused from now on, and what hindered others.

    An entry that is another one meanwhile, or was decided, is left alone. About 20 us for each.
    """
    plan = Plan(mask=mask)
    cut: list[Older] = []
    problem = ""
    with NetlinkCalls(NETLINK_NETFILTER) as calls:
        for older, fate in fates:
            try:
                if fate is Fate.DENIED and _deny(calls, older, plan):
                    cut.append(older)
                elif fate is Fate.FORGOTTEN:
                    number = pack_attribute(_CTA_ID, older.id.to_bytes(4))
                    calls.ask(CT_DELETE, 0, _body(older) + number, "forgetting a connection")
            except FileNotFoundError:
                continue  # it is over by itself
            except OSError as error:
                problem = str(error)
    return cut, problem


def _deny(calls: NetlinkCalls, older: Older, plan: Plan) -> bool:
    """Whether it is done. A change, unlike a deletion, is by the flow alone: so look before it."""
    if older.untracked:
        return untracked.end(older)
    payload = calls.get(CT_GET, _body(older), "looking at a connection")
    found = dict(attributes(payload[4:]))
    if _number(found[_CTA_ID]) != older.id or _mark(found) != 0:
        return False
    mark = pack_attribute(CTA_MARK, plan.denied.to_bytes(4))
    mark += pack_attribute(_CTA_MARK_MASK, plan.mask.to_bytes(4))
    calls.ask(_CT_NEW, 0, _body(older) + mark, "marking a connection as denied")
    return True


def _body(older: Older) -> bytes:
    family = socket.AF_INET if older.packet.flow.family == 4 else socket.AF_INET6
    original = pack_attribute(CTA_TUPLE_ORIG | _NESTED, older.original)
    return struct.pack("!BBH", family, 0, 0) + original
