"""The open asks: one per (app, destination), bounded, answered once. Pure state, no clock."""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from arbiter import protocol
from arbiter.events import Announce, Effect, ShowAsk, WithdrawAsk
from arbiter.judge import answerer
from arbiter.model import DENY, Decision, NoOwner, Owner, Packet, Peer, Process
from arbiter.protocol import RefusedReason, WithdrawReason
from arbiter.rules import Entry, format_decision, format_rule

MAX_CLOSED = 256
"""How many ended asks are kept, to tell a late answer who was first."""


class Key(NamedTuple):
    """What makes two packets the same question."""

    apps: tuple[str, ...]
    uid: int | None
    """Who may answer beside admins, see `judge.answerer`."""
    proto: int
    daddr: bytes
    dport: int


def key_of(packet: Packet, owner: Owner | NoOwner) -> Key:
    """The ask that a packet belongs to."""
    apps = tuple(app.id for app in owner.apps) if isinstance(owner, Owner) else ()
    flow = packet.flow
    return Key(apps, answerer(owner), flow.proto, flow.daddr, flow.dport)


class State(enum.Enum):
    """Where an ask is on its way."""

    OPEN = enum.auto()
    STORING = enum.auto()
    """Answered; its rule is on the way to the disk."""


class Example(NamedTuple):
    """The connection that an ask shows, of all that wait for it."""

    packet: Packet
    owner: Owner | NoOwner
    subject: Process | None
    """The process that the offered rules are about; None without an owner."""
    names: tuple[str, ...] = ()
    """By which its destination was looked up, the newest first."""


class OpenAsk:
    """One question."""

    __slots__ = (
        "answer",
        "created",
        "deadline",
        "example",
        "expires",
        "fallback",
        "id",
        "key",
        "note",
        "obstacle",
        "peer",
        "shown",
        "state",
        "via",
        "waiting",
        "why",
    )

    def __init__(
        self,
        id: int,
        key: Key,
        example: Example,
        *,
        created: float,
        expires: float,
        why: str,
        fallback: Decision = DENY,
    ) -> None:
        self.id = id
        self.key = key
        self.example = example
        self.created = created
        """Epoch seconds."""
        self.deadline = created
        """Epoch seconds when the first of the waiting packets gets the fallback."""
        self.expires = expires
        """Monotonic seconds when nobody cares any more; put off by each new packet."""
        self.why = why
        self.fallback = fallback
        """What its packets get where nobody answers in time: allow or deny."""
        self.via: tuple[str, ...] = ()
        """What `allow` means: the links of the rule that is in question, where its budget is."""
        self.obstacle = ""
        """Why what the rules say cannot be done, where that is what it is about."""
        self.note = ""
        """What happened to the program since: "curl has exited"."""
        self.waiting: dict[int, None] = {}
        """Ids of held packets, in the order they came."""
        self.state = State.OPEN
        self.peer: Peer | None = None
        self.answer: Decision | None = None
        self.shown: tuple[int, bool, str, float, Example] | None = None
        """(waiting, stale, note, deadline, example) as last sent to the prompts."""

    @property
    def uid(self) -> int | None:
        """Who may answer beside admins; None for admins only."""
        return self.key.uid

    @property
    def stale(self) -> bool:
        """Nothing waits any more; an answer serves the next try."""
        return not self.waiting


class Closed(NamedTuple):
    """How an ask ended, for whoever answers it after that."""

    reason: protocol.RefusedReason
    text: str


class AskBook:
    """Every open ask by id and by key, its bounds, and what the prompts are told of each."""

    def __init__(self, per_app: int, per_user: int, total: int) -> None:
        self.bound(per_app, per_user, total)
        self._by_id: dict[int, OpenAsk] = {}
        self._by_key: dict[Key, OpenAsk] = {}
        self._apps: Counter[tuple[tuple[str, ...], int | None]] = Counter()
        self._users: Counter[int | None] = Counter()
        self._closed: OrderedDict[int, Closed] = OrderedDict()
        self._next = 1

    def bound(self, per_app: int, per_user: int, total: int) -> None:
        """So many may be open from now on; what is open stays."""
        self._per_app, self._per_user, self._total = per_app, per_user, total

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

    def closed(self, id: int) -> Closed | None:
        """How an ask ended; None if there was none, or long ago."""
        return self._closed.get(id)

    # --- opening ----------------------------------------------------------------------------

    def full(self, key: Key) -> str:
        """Why one more ask of this key is too many; "" if it is not."""
        if self._apps[key.apps, key.uid] >= self._per_app:
            return f"this program has {self._per_app} open asks already"
        if self._users[key.uid] >= self._per_user:
            return f"this user has {self._per_user} open asks already"
        if len(self._by_id) >= self._total:
            return f"{self._total} asks are open already"
        return ""

    def make_room(self, key: Key) -> list[Effect]:
        """If there is no room for this key, give up the oldest ask that nothing waits for and
        whose end makes room. Nobody's ask gives way to another user's."""
        if not self.full(key):
            return []
        own_app = self._apps[key.apps, key.uid] >= self._per_app
        for ask in self:
            same = ask.key.uid == key.uid and (ask.key.apps == key.apps or not own_app)
            if same and ask.stale and ask.state is State.OPEN:
                return self.withdraw(ask, WithdrawReason.EXPIRED, "newer asks wait")
        return []

    def open(
        self,
        key: Key,
        example: Example,
        *,
        created: float,
        expires: float,
        why: str,
        fallback: Decision = DENY,
    ) -> OpenAsk:
        """A new ask; its key must have none, and `full` must have said "" for it."""
        ask = OpenAsk(
            self._next, key, example, created=created, expires=expires, why=why, fallback=fallback
        )
        self._next += 1
        self._by_id[ask.id] = ask
        self._by_key[ask.key] = ask
        self._apps[ask.key.apps, ask.key.uid] += 1
        self._users[ask.key.uid] += 1
        return ask

    # --- telling ----------------------------------------------------------------------------

    def show(self, ask: OpenAsk) -> list[Effect]:
        """Send the ask, unless the prompts know it so already. A changed count alone is sent
        while it is small, and then at each doubling: it must not flood them."""
        count = len(ask.waiting)
        if ask.shown is not None:
            last, *rest = ask.shown
            small_change = count == last or 4 < count < 2 * last
            if small_change and rest == [ask.stale, ask.note, ask.deadline, ask.example]:
                return []
        ask.shown = (count, ask.stale, ask.note, ask.deadline, ask.example)
        return [ShowAsk(ask.id)]

    # --- closing ----------------------------------------------------------------------------

    def withdraw(self, ask: OpenAsk, reason: WithdrawReason, text: str) -> list[Effect]:
        """Close an ask that needs no answer any more."""
        self._close(ask, Closed(RefusedReason.GONE, f"it was withdrawn: {text}"))
        return [WithdrawAsk(ask.id, ask.uid, reason, text)]

    def settle(
        self, ask: OpenAsk, released: int, entry: Entry | None = None, problem: str = ""
    ) -> list[Effect]:
        """Close an ask by its answer, and say so. `entry`: the rule it made; `problem`: why not."""
        assert ask.peer is not None
        assert ask.answer is not None
        decision = format_decision(ask.answer)
        text = f"{ask.peer.user} has answered it already: {decision}"
        self._close(ask, Closed(RefusedReason.ANSWERED, text))
        message = protocol.Decided(
            ask=ask.id,
            decision=decision,
            user=ask.peer.user,
            frontend=ask.peer.frontend,
            released=released,
            rule=format_rule(entry.rule) if entry else "",
            rule_id=entry.id if entry else None,
            problem=problem,
        )
        return [Announce(ask.uid, message)]

    def _close(self, ask: OpenAsk, how: Closed) -> None:
        del self._by_id[ask.id]
        del self._by_key[ask.key]
        _less(self._apps, (ask.key.apps, ask.key.uid))
        _less(self._users, ask.key.uid)
        self._closed[ask.id] = how
        while len(self._closed) > MAX_CLOSED:
            self._closed.popitem(last=False)


K = TypeVar("K")


def _less(counter: Counter[K], key: K) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
