"""What rtnetlink's events mean to the link watch: whether to look, and how soon. Pure.

Nothing else is taken from an event; what is now is read anew (`rtnldump`). What cannot be read
counts as a change.
"""

from __future__ import annotations

import enum
import struct
import sys
from collections.abc import Container, Iterable

from arbiter.kernel.neighbours import RTM_DELNEIGH, RTM_NEWNEIGH, Gateways, parse
from arbiter.kernel.netlink import Message, attributes, messages
from arbiter.kernel.rtnldump import RT_TABLE_LOCAL
from arbiter.kernel.rtnlmessages import IFA_ADDRESS, IFA_LOCAL, IFADDR, IFINFO, RTA_TABLE, RTMSG
from arbiter.links import Interface
from arbiter.routeplan import PROTOCOL

GROUPS = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 19 - 1
"""RTMGRP_LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, and the bit of
RTNLGRP_IPV6_RULE, which has no name (linux/rtnetlink.h)."""

_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE = 16, 17, 20, 21, 24, 25
_NEWRULE, _DELRULE = 32, 33
_RUNNING = 0x1 | 0x10000  # IFF_UP, IFF_LOWER_UP
_AF_BRIDGE = 7
_FRA_PRIORITY, _FRA_L3MDEV, _FRA_PROTOCOL = 6, 19, 21
_MAIN = 32766
"""The preference of the rule that looks up table main: nothing from there on is before ours."""
_RTM_F_CLONED = 0x200
_LONGEST_DEFAULT = 1
"""Prefix length: two halves are a default route, too (`links.default_routes`)."""


class Told(enum.IntFlag):
    """What one or more events said."""

    NOTHING = 0
    CHANGE = 1
    """Something may be different: look, once things are quiet."""
    LOSS = 2
    """Something that was told is gone: look now."""
    RULES = 4
    """Somebody else touched arbiter's rules or tables, or may have put rules in front of them: the
    plan may be in force no more."""


_LOST = Told.CHANGE | Told.LOSS
EVERYTHING = Told.CHANGE | Told.LOSS | Told.RULES
"""What an overrun may have said: events were lost."""


class Judge:
    """Judges events by the state that was told last. `own_tables` are arbiter's routing tables, and
    `own_ports` the netlink ports of this process's sockets."""

    def __init__(
        self, own_tables: Container[int], own_ports: Container[int], gateways: Gateways
    ) -> None:
        self._own_tables = own_tables
        self._own_ports = own_ports
        self._gateways = gateways
        self._up: frozenset[int] = frozenset()
        self._addresses: frozenset[tuple[int, bytes]] = frozenset()

    def told(self, interfaces: Iterable[Interface]) -> None:
        """What is a loss from now on: that one of these goes, or an address of theirs."""
        up = [interface for interface in interfaces if interface.up]
        self._up = frozenset(interface.index for interface in up)
        self._addresses = frozenset((i.index, a.packed) for i in up for a in i.addresses)

    def judge(self, data: bytes) -> Told:
        """What a datagram of events says. Never raises."""
        told = Told.NOTHING
        try:
            for message in messages(data):
                told |= self._message(message)
        except (ValueError, struct.error):
            return told | Told.CHANGE
        return told

    def _message(self, message: Message) -> Told:
        kind, payload = message.type, message.payload
        if kind in (_NEWLINK, _DELLINK):
            return self._link(kind, payload)
        if kind in (_NEWADDR, _DELADDR):
            return self._address(kind, payload)
        if kind in (_NEWROUTE, _DELROUTE):
            return self._route(message)
        if kind in (_NEWRULE, _DELRULE):
            return self._rule(message)
        if kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
            return self._neighbour(kind, payload)
        return Told.NOTHING

    def _link(self, kind: int, payload: bytes) -> Told:
        family, _, _, index, flags, _ = IFINFO.unpack_from(payload)
        if family == _AF_BRIDGE:
            return Told.CHANGE  # RTM_DELLINK here: it left its bridge
        gone = kind == _DELLINK or flags & _RUNNING != _RUNNING
        return _LOST if gone and index in self._up else Told.CHANGE

    def _address(self, kind: int, payload: bytes) -> Told:
        *_, index = IFADDR.unpack_from(payload)
        found = dict(attributes(payload[IFADDR.size :]))
        address = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS, b"")
        lost = kind == _DELADDR and (index, address) in self._addresses
        return _LOST if lost else Told.CHANGE

    def _route(self, message: Message) -> Told:
        """Routes of table local follow addresses; cloned ones are cache entries."""
        _, length, _, _, small, _, _, _, flags = RTMSG.unpack_from(message.payload)
        attribute = dict(attributes(message.payload[RTMSG.size :])).get(RTA_TABLE)
        table = int.from_bytes(attribute, sys.byteorder) if attribute else small
        if table == RT_TABLE_LOCAL or flags & _RTM_F_CLONED:
            return Told.NOTHING
        if table in self._own_tables:
            # What the kernel itself removes (port 0) went with an interface or an address.
            own = message.port == 0 or message.port in self._own_ports
            return Told.NOTHING if own else Told.RULES
        lost = message.type == _DELROUTE and length <= _LONGEST_DEFAULT
        return _LOST if lost else Told.CHANGE

    def _rule(self, message: Message) -> Told:
        """Until a lost rule is back, and before one in front of it, what was decided for a link can
        leave by another: at once. A VRF's rule (l3mdev) is for packets of that VRF only."""
        found = dict(attributes(message.payload[RTMSG.size :]))
        ours = found.get(_FRA_PROTOCOL) == bytes([PROTOCOL])
        if message.type == _NEWRULE:
            preference = int.from_bytes(found.get(_FRA_PRIORITY, b""), sys.byteorder)
            told = not ours and preference < _MAIN and _FRA_L3MDEV not in found
        else:
            told = ours and message.port not in self._own_ports
        return Told.RULES | Told.LOSS if told else Told.NOTHING

    def _neighbour(self, kind: int, payload: bytes) -> Told:
        """Only a gateway's, and only if its address is another one than was told: entries go from
        REACHABLE to STALE and back all the time, and a LAN has many neighbours."""
        found = parse(payload)
        if found is None:
            return Told.NOTHING
        key, address = found
        news = self._gateways.changed(key, "" if kind == RTM_DELNEIGH else address)
        return Told.CHANGE if news else Told.NOTHING
