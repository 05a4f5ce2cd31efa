"""Labels on running connections: how user space tells the ruleset a connection's traffic class.

A conntrack entry has 128 label bits (connlabel, net/netfilter/nf_conntrack_labels.c) besides its
32-bit mark; ours are one bit a class, and only these are ever changed. Call `Labels.set` right
after the verdict: the kernel carries the packet on, and confirms its connection, inside the
verdict's sendmsg(2) (nfqnl_recv_verdict, net/netfilter/nfnetlink_queue.c), so that the entry can be
found from then on. The packet itself has left by then: the second packet is the first with a class.

Masquerading changes what replies look like only, so that an entry's original direction, by which it
is looked up here, is the flow as the socket has it.
"""

from __future__ import annotations

import errno
import itertools
import socket
import struct
from collections.abc import Iterable

from arbiter.kernel import netlink
from arbiter.model import PORT_PROTOS, Flow, address_text, proto_name

BITS = 128
"""Label bits of an entry (XT_CONNLABEL_MAXBIT + 1, linux/netfilter/xt_connlabel.h)."""

# linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h
_NEW = (1 << 8) | 0  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW: without NLM_F_CREATE, an update
_CTA_TUPLE_ORIG, _CTA_LABELS, _CTA_LABELS_MASK = 1, 22, 23
_CTA_TUPLE_IP, _CTA_TUPLE_PROTO = 1, 2
_CTA_IP_V4_SRC, _CTA_IP_V4_DST, _CTA_IP_V6_SRC, _CTA_IP_V6_DST = 1, 2, 3, 4
_CTA_PROTO_NUM, _CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT = 1, 2, 3
_CTA_PROTO_ICMP_ID, _CTA_PROTO_ICMPV6_ID = 4, 7  # each followed by its TYPE and CODE
_NESTED = 1 << 15
_GRE = 47

_ECHO = {(4, 1): (_CTA_PROTO_ICMP_ID, 8), (6, 58): (_CTA_PROTO_ICMPV6_ID, 128)}
"""(family, protocol) → the attribute of its identifier, and the type of an echo request."""
_LONG = struct.calcsize("@L")
_READ_SIZE = 4096
_MAX_READS = 64


def pack_bits(labels: Iterable[int]) -> bytes:
    """The 128 bits as the kernel keeps them, an array of native longs. ValueError outside 0-127."""
    bits = 0
    for label in labels:
        if not 0 <= label < BITS:
            raise ValueError(f"label {label} is not in 0-{BITS - 1}")
        bits |= 1 << label
    words = [bits >> shift & ((1 << _LONG * 8) - 1) for shift in range(0, BITS, _LONG * 8)]
    return struct.pack(f"@{len(words)}L", *words)


def pack_tuple(flow: Flow) -> bytes:
    """The CTA_TUPLE_ORIG of a flow, packed whole; `flow` goes out from here.

    A protocol that this kernel tracks by addresses only has its ports ignored by the kernel.
    ICMP is an echo request, the only kind whose `Flow` has the identifier that conntrack wants.
    """
    source, target = (
        (_CTA_IP_V4_SRC, _CTA_IP_V4_DST) if flow.family == 4 else (_CTA_IP_V6_SRC, _CTA_IP_V6_DST)
    )
    proto = netlink.pack_attribute(_CTA_PROTO_NUM, bytes([flow.proto]))
    if echo := _ECHO.get((flow.family, flow.proto)):
        first, kind = echo
        proto += netlink.pack_attribute(first, flow.sport.to_bytes(2, "big"))
        proto += netlink.pack_attribute(first + 1, bytes([kind]))
        proto += netlink.pack_attribute(first + 2, b"\0")
    elif flow.proto in PORT_PROTOS or flow.proto == _GRE:
        # GRE's "ports" are the keys of PPTP's calls, 0 for all other GRE; the kernel wants them.
        proto += netlink.pack_attribute(_CTA_PROTO_SRC_PORT, flow.sport.to_bytes(2, "big"))
        proto += netlink.pack_attribute(_CTA_PROTO_DST_PORT, flow.dport.to_bytes(2, "big"))
    addresses = netlink.pack_attribute(source, flow.saddr)
    addresses += netlink.pack_attribute(target, flow.daddr)
    return netlink.pack_attribute(
        _CTA_TUPLE_ORIG | _NESTED,
        netlink.pack_attribute(_CTA_TUPLE_IP | _NESTED, addresses)
        + netlink.pack_attribute(_CTA_TUPLE_PROTO | _NESTED, proto),
    )


class Labels:
    """One netlink socket that sets our labels. `labels`: those that are ours, 0-127 each.

    ValueError for a label that cannot be; OSError where the kernel has no netlink for netfilter.
    """

    def __init__(self, labels: Iterable[int]) -> None:
        ours = frozenset(labels)
        mask = netlink.pack_attribute(_CTA_LABELS_MASK, pack_bits(ours))
        self._values = {
            label: netlink.pack_attribute(_CTA_LABELS, pack_bits(() if label is None else (label,)))
            + mask
            for label in (None, *ours)
        }
        self._seq = itertools.count(1)
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, netlink.NETLINK_NETFILTER
        )
        try:
            self._socket.bind((0, 0))
        except OSError:
            self._socket.close()
            raise

    def set(self, flow: Flow, label: int | None) -> bool:
        """Put one of our labels on the connection of `flow`; None: none of them.

        Of our labels it has this one afterwards; everybody else's stay. False if there is no such
        connection: it ended, it is not tracked, or somebody tracks it in a conntrack zone of his.
        OSError if the kernel refuses: ENOSPC for a connection that is older than every rule about
        labels (its entry has no room for them), EPERM without CAP_NET_ADMIN. ValueError for a label
        that is not ours.
        """
        value = self._values.get(label)
        if value is None:
            raise ValueError(f"label {label} is none of {sorted(filter(None, self._values))}")
        family = socket.AF_INET if flow.family == 4 else socket.AF_INET6
        payload = struct.pack("!BBH", family, 0, 0) + pack_tuple(flow) + value
        error = self._exchange(payload)
        if error == errno.ENOENT:
            return False
        if error:
            raise netlink.os_error(error, f"label {label} on {_shown(flow)}{_HINTS.get(error, '')}")
        return True

    def _exchange(self, payload: bytes) -> int:
        """The errno of the kernel's answer, 0 if it agreed. It is there when send returns."""
        seq = next(self._seq) & 0xFFFFFFFF
        self._socket.send(netlink.pack_message(_NEW, netlink.NLM_F_ACK, seq, payload))
        for _ in range(_MAX_READS):
            try:
                data = self._socket.recv(_READ_SIZE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return errno.ETIMEDOUT
            for message in netlink.messages(data):
                if message.seq == seq and message.type == netlink.NLMSG_ERROR:
                    return message.error
        return errno.EPROTO

    def close(self) -> None:
        """Close the socket; the labels stay as long as their connections."""
        self._socket.close()


_HINTS = {
    errno.ENOSPC: " (the connection is older than the rules about classes; new ones get them)",
    errno.EPERM: " (it needs CAP_NET_ADMIN: run as root)",
}


def _shown(flow: Flow) -> str:
    source, target = address_text(flow.saddr), address_text(flow.daddr)
    return f"{proto_name(flow.proto)} {source} {flow.sport} → {target} {flow.dport}"
