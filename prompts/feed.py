"""What a frontend knows of the daemon: its messages, folded into asks, connections, links, a log.

Pure: no clock, no I/O; `now` is passed in, in epoch seconds. Bounded, whatever is sent. Strings
stay as the daemon sent them: who shows them cleans them (`render.tidy`), but for the log, which
is ready to show. `uses.py` adds up what was carried by app and by link.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from arbiter.protocol import (
    Ask,
    Closed,
    Connection,
    Decided,
    Links,
    LinkState,
    Moved,
    Notice,
    Refused,
    Snoozed,
    SnoozeView,
    Status,
    Traffic,
    Undone,
    Welcome,
    Withdraw,
)
from prompts import livewords, render
from prompts.client import Event, Lost, Unread
from prompts.uses import Apps, Flow

MAX_CONNECTIONS = 8192
"""As many as the daemon keeps; those that ended go first, then the oldest."""
MAX_LOG = 500
MAX_FLOWS = 64
"""Links whose traffic is kept; the longest unused goes first."""
QUIET_SECONDS = 3.0
"""After so long without news a connection's rate is 0: traffic is told about every second."""


@dataclass(slots=True, eq=False)
class Live:
    """A connection, as it was decided and with what it has carried: bytes, and bytes a second."""

    told: Connection
    sent: int
    received: int
    moved: float
    """Epoch seconds of the last news of it."""
    sent_rate: float = 0.0
    received_rate: float = 0.0
    closed: float | None = None
    """Epoch seconds of its end."""
    words: str = ""
    """What a filter looks at, in lower case."""

    @property
    def runs(self) -> bool:
        """It may still carry something."""
        return self.told.passes and self.closed is None

    def rate(self, now: float) -> tuple[float, float]:
        """Bytes a second now: sent and received."""
        if not self.runs or now - self.moved > QUIET_SECONDS:
            return 0.0, 0.0
        return self.sent_rate, self.received_rate


@dataclass(slots=True, eq=False)
class Entry:
    """A line of the log: something was decided, or is to be known. Ready to show."""

    id: int
    time: float
    kind: str
    """`decided`, `withdrawn`, `undone`, `refused`, `notice`."""
    text: str
    by: str = ""
    mine: bool = False
    """This user's own answer."""
    rule_id: int | None = None
    undone: bool = False


@dataclass
class Feed:
    """Give it every event of the client. `version` counts them: redraw when it has changed."""

    welcome: Welcome | None = None
    """The last one; who we are to the daemon."""
    connected: bool = False
    problem: str = ""
    """Why there is no connection."""
    status: Status | None = None
    snoozes: tuple[SnoozeView, ...] = ()
    asks: dict[int, Ask] = field(default_factory=dict)
    connections: dict[int, Live] = field(default_factory=dict)
    links: dict[str, LinkState] = field(default_factory=dict)
    flows: dict[str, Flow] = field(default_factory=dict)
    """By the link's name: what it carried lately; "" for what leaves over no link of a name."""
    apps: Apps = field(default_factory=Apps)
    log: deque[Entry] = field(default_factory=lambda: deque(maxlen=MAX_LOG))
    version: int = 0
    _entries: int = 0
    _ended: dict[int, None] = field(default_factory=dict)
    """Ids of connections that carry nothing any more, in the order of their ends."""

    @property
    def mode(self) -> str:
        """`ask`, `observe` or `enforce`; "" while nobody knows."""
        if self.status is not None:
            return self.status.mode
        return self.welcome.mode if self.welcome is not None else ""

    @property
    def profile(self) -> str:
        """The active profile; "" for none."""
        return self.status.profile if self.status is not None else ""

    def snoozed(self, now: float) -> list[SnoozeView]:
        """The snoozes that are still on."""
        return [snooze for snooze in self.snoozes if snooze.until > now]

    def may_undo(self, entry: Entry) -> bool:
        """Whether the daemon would take this answer back for us."""
        admin = self.welcome is not None and self.welcome.admin
        return entry.rule_id is not None and not entry.undone and (entry.mine or admin)

    def event(self, event: Event, now: float) -> None:
        """Something came from the client."""
        self.version += 1
        match event:
            case Traffic():
                for moved in event.connections:
                    self._move(moved, event.time)
            case Connection():
                self._connection(event, now)
            case Closed():
                self._close(event)
            case Ask():
                self.asks[event.id] = event
            case Decided():
                self._decided(event, now)
            case Withdraw():
                self._withdrawn(event, now)
            case Links():
                self.links = {link.name: link for link in event.links}
            case Snoozed():
                self.snoozes = event.snoozes
            case Status():
                known = self.status.problems if self.status is not None else ()
                for problem in event.problems:
                    if problem not in known:
                        self._say(now, "notice", render.tidy(problem))
                self.status = event
            case Undone():
                self._undone(event, now)
            case Notice():
                self._say(event.time, "notice", render.tidy(event.text))
            case Refused():
                self._say(now, "refused", self._about(event.ask) + render.tidy(event.text))
            case Welcome():
                self._begin(event)
            case Lost():
                self.connected, self.problem = False, render.tidy(event.text)
                self.asks.clear()
                self._say(now, "notice", f"{self.problem}; trying again")
            case Unread():
                text = f"a message could not be read: {render.tidy(event.text)}"
                self._say(now, "notice", text)
            case _:
                pass  # replies to what only commands send

    def _begin(self, welcome: Welcome) -> None:
        """Everything is told anew, by a daemon that may be another: its numbers begin again."""
        self.welcome, self.connected, self.problem = welcome, True, ""
        self.snoozes, self.status = welcome.snoozes, None
        for known in (self.asks, self.connections, self.links, self._ended):
            known.clear()
        self.apps = Apps()

    # --- connections ------------------------------------------------------------------------

    def _connection(self, told: Connection, now: float) -> None:
        if told.id in self.connections:
            return  # told twice: its numbers are those of `traffic`
        live = Live(told, told.sent, told.received, min(told.time, now))
        live.words = livewords.search(told)
        self.connections[told.id] = live
        if not told.passes:
            self._ended[told.id] = None
        self.apps.opened(told)
        while len(self.connections) > MAX_CONNECTIONS:
            oldest = next(iter(self._ended or self.connections))
            self._ended.pop(oldest, None)
            gone = self.connections.pop(oldest)
            if gone.runs:
                self.apps.ended(gone.told)

    def _move(self, moved: Moved, time: float) -> None:
        live = self.connections.get(moved.id)
        if live is None or not live.runs:
            return
        sent, received = max(0, moved.sent - live.sent), max(0, moved.received - live.received)
        seconds = max(time - live.moved, 0.5)  # two looks right after each other are no rate
        live.sent_rate, live.received_rate = sent / seconds, received / seconds
        live.sent, live.received, live.moved = moved.sent, moved.received, time
        if sent or received:
            self.apps.moved(live.told, sent, received)
            self._flow(live.told.link).add(time, sent, received)

    def _close(self, closed: Closed) -> None:
        live = self.connections.get(closed.id)
        if live is None or not live.runs:
            return
        self._move(Moved(closed.id, closed.sent, closed.received), closed.time)
        live.closed = closed.time
        self._ended[closed.id] = None
        self.apps.ended(live.told)

    def _flow(self, link: str) -> Flow:
        flow = self.flows.pop(link, None) or Flow()
        self.flows[link] = flow
        if len(self.flows) > MAX_FLOWS:
            del self.flows[next(iter(self.flows))]
        return flow

    # --- the log ----------------------------------------------------------------------------

    def _say(self, time: float, kind: str, text: str) -> Entry:
        self._entries += 1
        entry = Entry(self._entries, time, kind, text)
        self.log.append(entry)
        return entry

    def _about(self, id: int | None) -> str:
        ask = self.asks.get(id) if id is not None else None
        return "" if ask is None else f"{render.app_name(ask)} → {render.endpoint(ask)}: "

    def _decided(self, decided: Decided, now: float) -> None:
        ask = self.asks.pop(decided.ask, None)
        text = livewords.decided(ask, decided)
        entry = self._say(now, "decided", text)
        entry.by = render.tidy(decided.user)
        entry.mine = self.welcome is not None and self.welcome.user == decided.user
        entry.rule_id = decided.rule_id

    def _withdrawn(self, message: Withdraw, now: float) -> None:
        about = self._about(message.ask)
        if self.asks.pop(message.ask, None) is not None:
            self._say(now, "withdrawn", about + render.withdrawn(message))

    def _undone(self, undone: Undone, now: float) -> None:
        for entry in self.log:
            entry.undone |= entry.rule_id == undone.rule_id
        self._say(now, "undone", livewords.undone(undone))
