"""DNS answers on their way in, read before the program that asked can see them.

The ruleset (`firewall.Plan.dns_queue`) sends here only what comes from port 53 as the reply of a
connection that conntrack saw this host begin. Whether the one who was asked is a resolver of this
host is judged here; whether the transaction id fits is the program's own library's business.

Every packet is accepted, unchanged, right after it was read. The name is thus known before the
program can open a connection with it, and nothing that goes wrong here loses an answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from netfilterqueue import Packet as QueuedPacket

from arbiter.dnsstream import Reader
from arbiter.dnswire import Answers, answers
from arbiter.kernel import netlink
from arbiter.kernel.queue import BoundQueue

LENGTH: Final = 256
"""Answers that may wait; when there are more, further ones pass unread (fail-open)."""
COPY: Final = 4016
"""Bytes of an answer: what NetfilterQueue can copy. EDNS asks for 1232 by habit, 4096 at most."""
RECEIVE_BUFFER: Final = 1 << 20
"""Bytes; an answer takes up to about 5 kB of it."""
NOT_ASKED: Final = "from a server that is no resolver of this host"


class DnsQueue(BoundQueue):
    """One bound queue. `believes(resolver)` says whether a packed address is a resolver of this
    host; `on_answers` is called for each answer of one, before its packet goes on. Both must be
    quick: DNS waits for them. Raises QueueError."""

    def __init__(
        self,
        number: int,
        believes: Callable[[bytes], bool],
        on_answers: Callable[[Answers], None],
        *,
        length: int = LENGTH,
    ) -> None:
        self._believes = believes
        self._on_answers = on_answers
        self._reader = Reader()
        self.learned = 0
        """Answers handed on."""
        self.unread: Counter[str] = Counter()
        """Why others were not; a fixed set of texts."""
        super().__init__(
            number,
            self._receive,
            length=length,
            copy=COPY,
            buffer=RECEIVE_BUFFER,
            # No GSO flag: segments come as they were sent, each of a size that can be copied. They
            # are answered at once, so their order stays.
            flags=netlink.NFQA_CFG_F_FAIL_OPEN,
        )

    def _receive(self, queued: QueuedPacket) -> None:
        try:
            self._read(queued.get_payload() if queued.get_payload_len() else b"")
        finally:
            queued.accept()

    def _read(self, packet: bytes) -> None:
        messages = self._reader.feed(packet)
        if isinstance(messages, str):
            self.unread[messages] += 1
            return
        for message in messages:
            if not self._believes(message.resolver):
                self.unread[NOT_ASKED] += 1
                continue
            found = answers(message.data, message.cut)
            if isinstance(found, Answers):
                self.learned += 1
                self._on_answers(found)
            else:
                self.unread[found.reason] += 1
