"""Hears that somebody changed the ruleset: by the kernel's events, or by looking where it has none.

nftables, and iptables-nft with it, tell every change to the multicast group NFNLGRP_NFTABLES
(nf_tables_api.c). The tables of iptables-legacy tell nobody: `LegacyChanges` compares them twice a
second, which takes some system calls and no process. Both only say that there was a change, of
whatever tool; whether it concerns us, `shown` tells.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Iterator

from arbiter.kernel.firewall import iptables, legacy, nft
from arbiter.kernel.firewall.probe import Backend
from arbiter.kernel.netlink import NETLINK_NETFILTER, attributes, messages
from arbiter.protocol import clean

LOOK_EVERY = 0.5
"""Seconds between two looks at the tables of iptables-legacy."""
_GROUP = 1 << 7 - 1  # NFNLGRP_NFTABLES, linux/netfilter/nfnetlink.h
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_NEWGEN = 15  # NFT_MSG_NEWGEN: the end of a transaction, linux/netfilter/nf_tables.h
_CHAIN_OF = {0: 0, 2: 0, 3: 3, 5: 3, 6: 2, 8: 2}
"""NEWTABLE, DELTABLE, NEWCHAIN, DELCHAIN, NEWRULE, DELRULE: which attribute names the chain."""
_TABLE = 1  # NFTA_TABLE_NAME, NFTA_CHAIN_TABLE and NFTA_RULE_TABLE
_GEN_PROC_NAME = 3  # NFTA_GEN_PROC_NAME
_NFGENMSG = 4  # struct nfgenmsg: its size
_READ_SIZE = 65536
_BATCH = 64
"""Datagrams read at a time, before others on the loop have their turn."""
Changed = Callable[[str], None]
"""Called with the name of the program that made the change, cleaned; "" if that is not known."""


class NftChanges:
    """Calls `changed` after each transaction that touches what `concerns` us (a table and a chain
    in it, "" for the table itself), and where events were lost. `trouble` gets a sentence once
    nothing can be heard any more."""

    def __init__(
        self,
        concerns: Callable[[str, str], bool],
        changed: Changed,
        trouble: Callable[[str], None],
    ) -> None:
        self._concerns, self._changed, self._trouble = concerns, changed, trouble
        self._socket: socket.socket | None = None
        self._touched = False
        self.overruns = 0
        """How often the kernel said that events were lost."""

    def start(self) -> None:
        """Listen from now on, in this event loop. OSError where the kernel refuses."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        try:
            self._socket.bind((0, _GROUP))
        except OSError:
            self.close()
            raise
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable, self._socket)

    def close(self) -> None:
        """Hear no more. May be called twice."""
        sock, self._socket = self._socket, None
        if sock is not None:
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()

    def _readable(self, sock: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                data, sender = sock.recvfrom(_READ_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    self.close()
                    self._trouble(f"changes of the ruleset are not heard any more: {error}")
                    return
                self.overruns += 1
                self._changed("")
                continue
            if sender[0] == 0:  # only the kernel's own words
                for who in self.judge(data):
                    self._changed(who)

    def judge(self, data: bytes) -> Iterator[str]:
        """Of a datagram of events: who made each change that is told in it. Never raises."""
        try:
            for message in messages(data):
                subsystem, kind = message.type >> 8, message.type & 0xFF
                if subsystem != _SUBSYSTEM:
                    continue
                if kind == _NEWGEN and self._touched:
                    self._touched = False
                    found = dict(attributes(message.payload[_NFGENMSG:]))
                    name = found.get(_GEN_PROC_NAME, b"").split(b"\0")[0]
                    yield clean(name.decode("utf-8", "replace"), 40)
                elif kind in _CHAIN_OF:
                    found = dict(attributes(message.payload[_NFGENMSG:]))
                    table, chain = (
                        found.get(key, b"").rstrip(b"\0").decode("utf-8", "replace")
                        for key in (_TABLE, _CHAIN_OF[kind])
                    )
                    self._touched |= self._concerns(table, chain)
        except (ValueError, struct.error):
            yield ""  # what cannot be read may be anything


class LegacyChanges:
    """The same for iptables-legacy, by looks: `changed` after each change of a table."""

    def __init__(self, changed: Changed, trouble: Callable[[str], None]) -> None:
        self._changed, self._trouble = changed, trouble
        self._timer: asyncio.TimerHandle | None = None
        self._seen: object = None

    def start(self) -> None:
        """Look from now on, in this event loop. OSError where the kernel refuses."""
        self._seen = legacy.state()
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)

    def close(self) -> None:
        """Look no more. May be called twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)
        try:
            seen = legacy.state()
        except OSError as error:
            self.close()
            self._trouble(f"changes of the ruleset are not seen any more: {error}")
            return
        if seen != self._seen:
            self._seen = seen
            self._changed("")


def listen(
    backend: Backend, changed: Changed, trouble: Callable[[str], None]
) -> NftChanges | LegacyChanges:
    """What hears of changes of this backend's ruleset."""
    if backend.variant == "legacy":
        return LegacyChanges(changed, trouble)
    concerns = iptables.concerns if backend.variant else nft.concerns
    return NftChanges(concerns, changed, trouble)
