"""The packets that wait: by id, by flow, by deadline. Pure state, no clock."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator

from arbiter.judge import NOWHERE, Context
from arbiter.model import Flow, NoOwner, Owner, Packet


class Held:
    """One packet without a verdict yet. `owner` is None while it is looked up."""

    __slots__ = ("ask", "context", "deadline", "names", "owner", "packet", "since", "uid", "waits")

    def __init__(self, packet: Packet, since: float, deadline: float) -> None:
        self.packet = packet
        self.since = since
        self.deadline = deadline
        """Both monotonic seconds."""
        self.owner: Owner | NoOwner | None = None
        self.names: tuple[str, ...] = ()
        """By which its destination was looked up, when its owner was found."""
        self.context: Context = NOWHERE
        """What the rules were held against the last time."""
        self.ask: int | None = None
        """The ask it waits for; None while its owner is looked up, or it waits for a link."""
        self.waits = False
        """Its owner is known, and it waits for an answer or a link."""
        self.uid: int | None = None
        """Whose room it takes while it waits."""


class HeldPackets:
    """Every held packet. A flow's retransmits share the deadline of its first packet, so that
    none of them outlives the socket that the fallback has reset."""

    def __init__(self) -> None:
        self._by_id: dict[int, Held] = {}
        self._flows: dict[Flow, dict[int, None]] = {}
        self._heap: list[tuple[float, int]] = []
        self._waiting: Counter[int | None] = Counter()

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Held]:
        return iter(tuple(self._by_id.values()))

    def get(self, packet_id: int) -> Held | None:
        """The held packet with this id."""
        return self._by_id.get(packet_id)

    def of_flow(self, flow: Flow) -> int:
        """How many packets of this flow are held."""
        return len(self._flows.get(flow, ()))

    def add(self, packet: Packet, since: float, deadline: float) -> Held:
        """Hold a packet until `deadline`, or until that of its flow's first packet."""
        siblings = self._flows.setdefault(packet.flow, {})
        for first in siblings:
            deadline = self._by_id[first].deadline
            break
        siblings[packet.id] = None
        held = self._by_id[packet.id] = Held(packet, since, deadline)
        heapq.heappush(self._heap, (deadline, packet.id))
        return held

    def wait(self, held: Held, ask: int | None, uid: int | None) -> None:
        """It waits for an answer (None: for a link) from now on, at the expense of `uid`."""
        held.ask, held.uid, held.waits = ask, uid, True
        self._waiting[uid] += 1

    def wait_no_more(self, held: Held) -> None:
        """It is to be decided anew."""
        held.waits = False
        self._waiting[held.uid] -= 1
        if not self._waiting[held.uid]:
            del self._waiting[held.uid]

    @property
    def waiting_in_all(self) -> int:
        """How many packets wait for an answer or a link."""
        return self._waiting.total()

    def crowd(self, uid: int | None, room: int) -> str:
        """Why one more of `uid` may not wait, where `room` packets may in all; "" if it may.

        Nobody may take more than half of the room: one user's flood is not everybody's.
        """
        if self.waiting_in_all >= room:
            return f"{room} packets wait for an answer already"
        if self._waiting[uid] >= max(1, room // 2):
            return f"{room // 2} packets of this user wait for an answer already"
        return ""

    def pop(self, packet_id: int) -> Held:
        """Let a packet go, for its verdict."""
        held = self._by_id.pop(packet_id)
        if held.waits:
            self.wait_no_more(held)
        siblings = self._flows[held.packet.flow]
        del siblings[packet_id]
        if not siblings:
            del self._flows[held.packet.flow]
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self._by_id):
            self._heap = [(h.deadline, id) for id, h in self._by_id.items()]
            heapq.heapify(self._heap)
        return held

    def next_deadline(self) -> float | None:
        """Monotonic seconds of the first deadline; None while nothing is held."""
        while self._heap:
            deadline, packet_id = self._heap[0]
            held = self._by_id.get(packet_id)
            if held is not None and held.deadline == deadline:
                return deadline
            heapq.heappop(self._heap)
        return None

    def due(self, now: float) -> list[Held]:
        """The held packets whose deadline has come, the earliest first."""
        out: list[Held] = []
        seen: set[int] = set()
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            _, packet_id = heapq.heappop(self._heap)
            if packet_id not in seen:
                seen.add(packet_id)
                out.append(self._by_id[packet_id])
        return out
