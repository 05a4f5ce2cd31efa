"""What nftables has in this network namespace, and what is empty of it taken away: over netlink.

iptables-nft keeps its tables there, too. Messages are those of linux/netfilter/nf_tables.h; all of
them need CAP_NET_ADMIN. No tool is run: that takes some milliseconds each time, and what a tool
showed may not be true any more once the next one deletes. Here the kernel refuses to delete what
is not empty (NLM_F_NONREC), and everything if anything changed since the look (NFNL_BATCH_GENID).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable

from msgspec import Struct

from arbiter.kernel import netlink
from arbiter.kernel.netlink import NETLINK_NETFILTER, attributes, pack_attribute, pack_message
from arbiter.kernel.netlinkcalls import NetlinkCalls

Chains = dict[tuple[str, str], dict[str, str]]
"""{(family, table): {chain: policy}}: `accept` or `drop`, "" for a chain that no hook calls."""

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END, _BATCH_GENID = 0x10, 0x11, 1  # linux/netfilter/nfnetlink.h
_GETTABLE, _DELTABLE, _GETCHAIN, _DELCHAIN, _GETGEN = 1, 2, 4, 5, 16
_TABLE_NAME, _GEN_ID = 1, 1
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_POLICY = 1, 3, 5
_NLM_F_NONREC = 0x100
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_NUMBERS = {name: number for number, name in _FAMILIES.items()}
_POLICIES = {0: "drop", 1: "accept"}
_NO_NFTABLES = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)
"""A kernel without nf_tables, or without nfnetlink at all."""
_STAYS = (errno.EBUSY, errno.ENOENT)
"""Somebody uses it by now; or it is gone."""
_TRIES = 20
_READ_SIZE = 65536


class Item(Struct, frozen=True):
    """A chain, or the table itself where `chain` is ""."""

    family: str
    table: str
    chain: str = ""


def chains() -> Chains:
    """Every table and its chains; {} where the kernel has no nf_tables. Raises OSError."""
    try:
        with NetlinkCalls(NETLINK_NETFILTER) as calls:
            return _chains(calls)
    except OSError as error:
        if error.errno in _NO_NFTABLES:
            return {}
        raise


def generation() -> bytes | None:
    """Which state of this network namespace's nftables this is: another after each transaction.
    None where the kernel has no nf_tables. Raises OSError."""
    try:
        with NetlinkCalls(NETLINK_NETFILTER) as calls:
            return _generation(calls)
    except OSError as error:
        if error.errno in _NO_NFTABLES:
            return None
        raise


def delete_empty(items: Iterable[Item]) -> None:
    """Delete chains with policy accept and no rules, and tables with nothing left in them.

    Anything else stays, without a word. All at once or, if somebody changes the ruleset faster
    than it can be read, nothing: EAGAIN. Raises OSError.
    """
    wanted = list(items)
    if not wanted:
        return
    with NetlinkCalls(NETLINK_NETFILTER) as calls:
        for _ in range(_TRIES):
            seen = _generation(calls)
            doomed = _doomed(wanted, _chains(calls))
            while doomed and (refused := _delete(seen, doomed)):
                if errno.ERESTART in refused.values():  # what was seen is not so any more
                    break
                for number in refused.values():
                    if number not in _STAYS:
                        raise netlink.os_error(number, "deleting empty chains of nftables")
                doomed = [item for n, item in enumerate(doomed) if n not in refused]
            else:
                return
    raise netlink.os_error(errno.EAGAIN, "deleting empty chains: the ruleset changes all the time")


def _doomed(wanted: list[Item], there: Chains) -> list[Item]:
    """Of what is wanted gone what may go, by what was seen; chains in front of their tables."""
    gone = [
        item
        for item in dict.fromkeys(wanted)
        if item.chain and there.get((item.family, item.table), {}).get(item.chain) == "accept"
    ]
    for item in dict.fromkeys(wanted):
        left = there.get((item.family, item.table))
        if not item.chain and left is not None:
            empty = all(Item(item.family, item.table, chain) in gone for chain in left)
            gone += [item] if empty else []
    return gone


def _chains(calls: NetlinkCalls) -> Chains:
    found: Chains = {}
    for message in calls.dump(_type(_GETTABLE), _nfgenmsg(0), "the tables of nftables"):
        has = dict(attributes(message.payload[4:]))
        found[_family(message.payload), _text(has[_TABLE_NAME])] = {}
    for message in calls.dump(_type(_GETCHAIN), _nfgenmsg(0), "the chains of nftables"):
        has = dict(attributes(message.payload[4:]))
        table = found.setdefault((_family(message.payload), _text(has[_CHAIN_TABLE])), {})
        policy = has.get(_CHAIN_POLICY)
        table[_text(has[_CHAIN_NAME])] = (
            "" if policy is None else _POLICIES.get(int.from_bytes(policy, "big"), "")
        )
    return found


def _generation(calls: NetlinkCalls) -> bytes:
    payload = calls.get(_type(_GETGEN), _nfgenmsg(0), "the generation of nftables")
    return dict(attributes(payload[4:]))[_GEN_ID]


def _delete(generation: bytes, items: list[Item]) -> dict[int, int]:
    """One transaction: {which of them: why not, an errno}, -1 the whole; {} if it was done."""
    begin = _nfgenmsg(0, _SUBSYSTEM) + pack_attribute(_BATCH_GENID, generation)
    batch = pack_message(_BATCH_BEGIN, 0, 0, begin)
    for n, item in enumerate(items):
        body = _nfgenmsg(_NUMBERS[item.family]) + pack_attribute(_CHAIN_TABLE, _name(item.table))
        if item.chain:
            body += pack_attribute(_CHAIN_NAME, _name(item.chain))
        kind = _type(_DELCHAIN if item.chain else _DELTABLE)
        batch += pack_message(kind, _NLM_F_NONREC | netlink.NLM_F_ACK, n + 1, body)
    batch += pack_message(_BATCH_END, 0, 0, _nfgenmsg(0, _SUBSYSTEM))
    answers: dict[int, int] = {}
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER) as sock:
        sock.connect((0, 0))  # to and from the kernel only
        sock.send(batch)
        while -1 not in answers and len(answers) < len(items):
            try:
                data = sock.recv(_READ_SIZE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                raise netlink.os_error(
                    errno.ETIMEDOUT, "deleting empty chains: the kernel gave no answer"
                ) from None
            for message in netlink.messages(data):
                answers[message.seq - 1] = message.error
    return {n: number for n, number in answers.items() if number}


def _type(kind: int) -> int:
    return _SUBSYSTEM << 8 | kind


def _nfgenmsg(family: int, subsystem: int = 0) -> bytes:
    return struct.pack("!BBH", family, 0, subsystem)


def _family(payload: bytes) -> str:
    return _FAMILIES.get(payload[0], str(payload[0]))


def _text(value: bytes) -> str:
    return os.fsdecode(value.rstrip(b"\0"))


def _name(value: str) -> bytes:
    return os.fsencode(value) + b"\0"
