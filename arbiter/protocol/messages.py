"""The messages, from clients and from the daemon. Pure."""

from __future__ import annotations

from msgspec import Struct

from arbiter.model import TrafficClass
from arbiter.protocol.audit import ReadRecords, Records, SumRecords, Sums
from arbiter.protocol.live import Closed, Connection, Links, Traffic
from arbiter.protocol.views import AdviceView, Destination, LinkView, ProcessView, Scope, SnoozeView
from arbiter.protocol.words import Choice, RefusedReason, Role, WithdrawReason

VERSION = 1
"""Raised when a message changes so that an older peer would misread it."""

# --- client to daemon -----------------------------------------------------------------------


class Hello(Struct, frozen=True, tag="hello", tag_field="type", forbid_unknown_fields=True):
    """The first message of every client. The daemon replies `welcome` or `refused`."""

    version: int
    role: Role
    name: str
    """What the client calls itself: "terminal", "tui", "arbiter answer"."""


class Answer(Struct, frozen=True, tag="answer", tag_field="type", forbid_unknown_fields=True):
    """A person's decision on an ask: one of the scopes it offered, for one of its lifetimes."""

    ask: int
    decision: Choice
    scope: str = "connection"
    lifetime: str = "once"
    """`once`, `process`, a time span such as `15m`, `session`, `boot`, `forever`."""
    via: tuple[str, ...] = ()
    """For route: link names in order of preference."""
    shown: str = ""
    """The scope's conditions as the person saw them: refused if the ask means others by now."""
    traffic: TrafficClass | None = None
    """Not for deny: how its packets are marked for queueing disciplines."""


class Changed(Struct, frozen=True, tag="changed", tag_field="type", forbid_unknown_fields=True):
    """Rules or profiles in the database were changed by a command: read them now.

    The daemon replies `in_force` or `refused`.
    """


class RunVia(Struct, frozen=True, tag="run_via", tag_field="type", forbid_unknown_fields=True):
    """From now on the sender's process and its children connect over `link` only, until it exits.

    It decides over which link, never whether: rules and asks go on as before. The daemon replies
    `running` or `refused`.
    """

    link: str


class Snooze(Struct, frozen=True, tag="snooze", tag_field="type", forbid_unknown_fields=True):
    """For so long, answer everything about my processes that no rule decides like this, unasked.

    0 seconds ends it. The daemon tells everybody concerned by `snoozed`, or replies `refused`.
    """

    decision: Choice
    """Allow or deny."""
    seconds: float
    everyone: bool = False
    """For all users' processes: for admins only."""


class Undo(Struct, frozen=True, tag="undo", tag_field="type", forbid_unknown_fields=True):
    """Take back the answer that made this rule; what it replaced is in force again.

    One's own answers only, but for admins. The daemon replies `undone` or `refused`.
    """

    rule_id: int


class Away(Struct, frozen=True, tag="away", tag_field="type", forbid_unknown_fields=True):
    """This prompt shows nothing from now on (do not disturb), or does again: whether somebody is
    there to ask. It is sent everything as before."""

    away: bool


class Follow(Struct, frozen=True, tag="follow", tag_field="type", forbid_unknown_fields=True):
    """From now on tell of connections and links, too: of those that are there, then as they change.

    A client hears of the connections that it may answer for.
    """


class Query(Struct, frozen=True, tag="query", tag_field="type", forbid_unknown_fields=True):
    """Asks for a `status` message."""


# --- daemon to client -----------------------------------------------------------------------


class Welcome(Struct, frozen=True, tag="welcome", tag_field="type"):
    """The reply to hello; exactly `asks` ask messages for the open asks follow at once."""

    version: int
    daemon: str
    """The daemon's version, for people."""
    user: str
    admin: bool
    """Whether this peer decides for all users, or for its own processes only."""
    mode: str
    fallback: str
    asks: int
    snoozes: tuple[SnoozeView, ...] = ()
    """Those that are on and concern this peer."""


class Ask(Struct, frozen=True, tag="ask", tag_field="type"):
    """One open question. Sent again with the same id when it changes."""

    id: int
    user: str
    uid: int | None
    processes: tuple[ProcessView, ...]
    """Who asks to connect; empty where there is no owner, and `no_owner` says why."""
    destination: Destination
    why: str
    """Why it is asked: no rule yet, a rule that expired, a changed executable."""
    scopes: tuple[Scope, ...]
    created: float
    """Epoch seconds."""
    deadline: float
    """Epoch seconds when the packets that wait get the fallback. The ask lives on."""
    fallback: Choice
    waiting: int
    """Packets held for it now."""
    no_owner: str = ""
    links: tuple[LinkView, ...] = ()
    advice: AdviceView | None = None
    profile: str = ""
    """The active profile; "" for none."""
    obstacle: bool = False
    """A rule decides it, and cannot be carried out: `why` says what is in the way."""
    via: tuple[str, ...] = ()
    """What `allow` means here, if not the default route: over these links, as that rule says."""
    stale: bool = False
    """Nothing waits any more; an answer serves the next try."""


class Withdraw(Struct, frozen=True, tag="withdraw", tag_field="type"):
    """An ask that needs no answer any more."""

    ask: int
    reason: WithdrawReason
    text: str = ""


class Decided(Struct, frozen=True, tag="decided", tag_field="type"):
    """An ask was answered: by whom, how, and what is remembered. Goes to all who saw the ask."""

    ask: int
    decision: str
    """`allow`, `deny`, or `route via=lte`."""
    user: str
    """Who answered."""
    frontend: str
    released: int
    """Packets that waited and went on (or were rejected) by this answer."""
    rule: str = ""
    """The remembered rule's line; "" for a decision that holds once."""
    rule_id: int | None = None
    problem: str = ""
    """Why it could not be remembered, where it should have been."""


class Notice(Struct, frozen=True, tag="notice", tag_field="type"):
    """Something a person should know, and need not answer: a link was lost, its SIM changed."""

    time: float
    """Epoch seconds."""
    text: str


class Snoozed(Struct, frozen=True, tag="snoozed", tag_field="type"):
    """A snooze began or ended: these are on now."""

    snoozes: tuple[SnoozeView, ...]


class Undone(Struct, frozen=True, tag="undone", tag_field="type"):
    """The reply to `undo`."""

    rule_id: int
    restored: tuple[str, ...] = ()
    """Lines of rules that are in force again."""


class Running(Struct, frozen=True, tag="running", tag_field="type"):
    """The reply to `run_via`: it is so from now on."""

    link: str
    up: bool
    """Whether that link can carry anything now."""


class InForce(Struct, frozen=True, tag="in_force", tag_field="type"):
    """The reply to `changed`: the rules of the database decide from now on."""

    rules: int
    """How many rules are in force, those of policy files included."""
    problem: str = ""
    """Why those of the database could not be read: then the rules before them still decide."""


class Refused(Struct, frozen=True, tag="refused", tag_field="type"):
    """A message that was not carried out. Nothing has changed by it."""

    reason: RefusedReason
    text: str
    """What, where, why and the next step, for a person."""
    ask: int | None = None
    request: int | None = None
    """The `read_records` or `sum_records` it is about."""


class Status(Struct, frozen=True, tag="status", tag_field="type"):
    """How the daemon is."""

    mode: str
    fallback: str
    backend: str
    when_absent: str
    queue: int
    uptime: float
    rules: int
    asks: int
    held: int
    prompts: int
    counters: dict[str, int]
    """Since start: packets, allowed, denied, routed, fallback, dropped_by_kernel, ..."""
    profile: str = ""
    """The active one; "" for none."""
    problems: tuple[str, ...] = ()
    """What is wrong now, each with its next step."""


ClientMessage = (
    Hello
    | Answer
    | Changed
    | RunVia
    | Snooze
    | Undo
    | Away
    | Follow
    | ReadRecords
    | SumRecords
    | Query
)
DaemonMessage = (
    Welcome
    | Ask
    | Withdraw
    | Decided
    | Notice
    | Snoozed
    | Undone
    | Running
    | InForce
    | Connection
    | Traffic
    | Closed
    | Links
    | Records
    | Sums
    | Refused
    | Status
)
Message = ClientMessage | DaemonMessage
