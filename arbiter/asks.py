"""The open asks: one per (app, destination), bounded, answered once. Pure state, no clock."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from arbiter.model import Decision, NoOwner, Owner, Packet, Peer


class Key(NamedTuple):
    """What makes two packets the same question."""

    apps: tuple[str, ...]
    uid: int | None
    proto: int
    daddr: bytes
    dport: int


def key_of(packet: Packet, owner: Owner | NoOwner) -> Key:
    """The ask that a packet belongs to."""
    apps = tuple(app.id for app in owner.apps) if isinstance(owner, Owner) else ()
    flow = packet.flow
    return Key(apps, owner.uid, flow.proto, flow.daddr, flow.dport)


def answerer_uid(owner: Owner | NoOwner) -> int | None:
    """Whose processes these are: the one uid that may answer beside admins; None if mixed.

    The socket's uid and the effective uid of every process that holds it must agree, or a
    set-uid program could be allowed by whoever started it.
    """
    if isinstance(owner, NoOwner):
        return owner.uid
    uids = {owner.uid, *(process.uid for process in owner.processes)}
    return owner.uid if len(uids) == 1 else None


class State(enum.Enum):
    """Where an ask is on its way."""

    OPEN = enum.auto()
    STORING = enum.auto()
    """Answered; its rule is on the way to the disk."""


class OpenAsk:
    """One question. `packet` and `owner` are the example that is shown."""

    __slots__ = (
        "answer",
        "created",
        "deadline",
        "expires",
        "id",
        "key",
        "note",
        "owner",
        "packet",
        "peer",
        "shown",
        "state",
        "uid",
        "waiting",
        "why",
    )

    def __init__(
        self,
        id: int,
        packet: Packet,
        owner: Owner | NoOwner,
        *,
        created: float,
        expires: float,
        why: str,
    ) -> None:
        self.id = id
        self.key = key_of(packet, owner)
        self.packet = packet
        self.owner = owner
        self.uid = answerer_uid(owner)
        self.created = created
        """Epoch seconds."""
        self.deadline = created
        """Epoch seconds when the first of the waiting packets gets the fallback."""
        self.expires = expires
        """Monotonic seconds when nobody cares any more; put off by each new packet."""
        self.why = why
        self.note = ""
        """What happened to the program since: "curl has exited"."""
        self.waiting: dict[int, None] = {}
        """Ids of held packets, in the order they came."""
        self.state = State.OPEN
        self.peer: Peer | None = None
        self.answer: Decision | None = None
        self.shown: tuple[int, bool, str] | None = None
        """(waiting, stale, note) as last sent to the prompts."""

    @property
    def stale(self) -> bool:
        """Nothing waits any more; an answer serves the next try."""
        return not self.waiting


class AskBook:
    """Every open ask, by id and by key, with its bounds."""

    def __init__(self, per_app: int, per_user: int, total: int) -> None:
        self._per_app, self._per_user, self._total = per_app, per_user, total
        self._by_id: dict[int, OpenAsk] = {}
        self._by_key: dict[Key, OpenAsk] = {}
        self._apps: Counter[tuple[tuple[str, ...], int | None]] = Counter()
        self._users: Counter[int | None] = Counter()

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[OpenAsk]:
        return iter(tuple(self._by_id.values()))

    def get(self, id: int) -> OpenAsk | None:
        """The open ask with this id."""
        return self._by_id.get(id)

    def find(self, key: Key) -> OpenAsk | None:
        """The open ask that this key belongs to."""
        return self._by_key.get(key)

    def full(self, key: Key) -> str:
        """Why one more ask of this key is too many; "" if it is not."""
        if self._apps[key.apps, key.uid] >= self._per_app:
            return f"this program has {self._per_app} open asks already"
        if self._users[key.uid] >= self._per_user:
            return f"this user has {self._per_user} open asks already"
        if len(self._by_id) >= self._total:
            return f"{self._total} asks are open already"
        return ""

    def add(self, ask: OpenAsk) -> None:
        """Open an ask; its key must be new, and `full` must have said "" for it."""
        self._by_id[ask.id] = ask
        self._by_key[ask.key] = ask
        self._apps[ask.key.apps, ask.key.uid] += 1
        self._users[ask.key.uid] += 1

    def close(self, ask: OpenAsk) -> None:
        """Forget an ask."""
        del self._by_id[ask.id]
        del self._by_key[ask.key]
        for counter, key in ((self._apps, (ask.key.apps, ask.key.uid)), (self._users, ask.key.uid)):
            counter[key] -= 1  # type: ignore[index]  # each counter with its own kind of key
            if not counter[key]:  # type: ignore[index]
                del counter[key]
