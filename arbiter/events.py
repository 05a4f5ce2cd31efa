"""What happens to the pipeline, and what it wants done: two unions of frozen values. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from msgspec import Struct

from arbiter import protocol
from arbiter.dnswire import Answers
from arbiter.judge import NOWHERE, Context
from arbiter.model import (
    DROPPED,
    Decision,
    Link,
    NoOwner,
    Now,
    Owner,
    Packet,
    Peer,
    Undecodable,
    Verdict,
)
from arbiter.policyfiles import AdviceBook
from arbiter.profiles import Book, Standing
from arbiter.rules import Entry, Rule
from arbiter.settings import Settings


class Reason(enum.StrEnum):
    """Why a packet got its decision; stored with every decision record."""

    RULE = "rule"
    ANSWER = "answer"
    DEADLINE = "deadline"
    UNATTENDED = "unattended"
    ENFORCE = "enforce"
    OBSERVE = "observe"
    OVERFLOW = "overflow"
    UNDECODABLE = "undecodable"
    OLDER = "older"
    EXITED = "exited"
    SNOOZE = "snooze"
    STOPPING = "stopping"
    UNRECORDED = "unrecorded"


UNDECIDED = (
    Reason.OBSERVE,
    Reason.ENFORCE,
    Reason.DEADLINE,
    Reason.UNATTENDED,
    Reason.OVERFLOW,
    Reason.EXITED,
    Reason.STOPPING,
    Reason.SNOOZE,
)
"""Reasons of what neither a rule nor a person decided: who snoozes does not look at each. Not what
began before arbiter: of those nobody knows who called whom."""


# --- events ---------------------------------------------------------------------------------


class PacketQueued(Struct, frozen=True, gc=False):
    """The kernel waits for a verdict on this packet."""

    now: Now
    packet: Packet | Undecodable


class Repeated(Struct, frozen=True, gc=False):
    """The kernel has been told the verdict on this packet: that of one before, for the same process
    and destination (arbiter/kernel/fastpath.py)."""

    now: Now
    packet: Packet
    owner: Owner
    like: Report  # what was decided before
    waited: float  # seconds that it took


class OwnerFound(Struct, frozen=True, gc=False):
    """The look-up that `FindOwner` asked for has an end."""

    now: Now
    packet_id: int
    owner: Owner | NoOwner


class OlderFound(Struct, frozen=True, gc=False):
    """A connection that began while nobody decided, and who has it. `denied`: it is refused already
    by an earlier word; `Cut` says whether it still is to be."""

    now: Now
    packet: Packet
    owner: Owner | NoOwner
    denied: bool = False


class Answered(Struct, frozen=True, gc=False):
    """A client sent an answer. `client` is only handed back, in `Refuse`."""

    now: Now
    client: int
    peer: Peer
    answer: protocol.Answer


class Remembered(Struct, frozen=True, gc=False):
    """The rule that `Remember` asked for is on disk, instead of the rules `replaced`."""

    now: Now
    ask: int
    entry: Entry
    replaced: tuple[int, ...] = ()


class RememberFailed(Struct, frozen=True, gc=False):
    """It is not, and why. The answer still counts for what waits."""

    now: Now
    ask: int
    problem: str


class RulesChanged(Struct, frozen=True, gc=False):
    """Somebody changed the rules: these are in force now, these ids no more."""

    now: Now
    added: tuple[Entry, ...]
    removed: tuple[int, ...]


class PromptsChanged(Struct, frozen=True, gc=False):
    """Who is connected with a prompt, now."""

    now: Now
    peers: tuple[Peer, ...]


class ProcessExited(Struct, frozen=True, gc=False):
    """A process that `WatchProcess` named is gone."""

    now: Now
    pid: int
    start: int


class LinksChanged(Struct, frozen=True, gc=False):
    """The links there are, now."""

    now: Now
    links: tuple[Link, ...]


class ProfilesRead(Struct, frozen=True, gc=False):
    """The store says this of profiles, and who chose the active one last."""

    now: Now
    book: Book


class NamesLearned(Struct, frozen=True, gc=False):
    """A DNS answer is on its way to whoever asked."""

    now: Now
    answers: Answers


class HostsRead(Struct, frozen=True, gc=False):
    """/etc/hosts says this now: packed address → names."""

    now: Now
    hosts: Mapping[bytes, tuple[str, ...]]


class SettingsChanged(Struct, frozen=True, gc=False):
    """The administrator has changed settings: these are in force from now on."""

    now: Now
    settings: Settings


class AdviceChanged(Struct, frozen=True, gc=False):
    """What packages say of their programs' connections, now."""

    now: Now
    advice: AdviceBook


class RunVia(Struct, frozen=True, gc=False):
    """A process asks that it and its children go over link `via`, until it exits."""

    now: Now
    client: int
    peer: Peer
    process: tuple[int, int]  # (pid, start)
    via: str


class SnoozeWanted(Struct, frozen=True, gc=False):
    """A client wants no questions for a while. `client` is only handed back."""

    now: Now
    client: int
    peer: Peer
    message: protocol.Snooze


class Trouble(Struct, frozen=True, gc=False):
    """Something is wrong with arbiter, or well again: every prompt should know."""

    now: Now
    text: str


class Tick(Struct, frozen=True, gc=False):
    """Time has come to what `Pipeline.next_wake` named."""

    now: Now


class Stopping(Struct, frozen=True, gc=False):
    """The daemon ends: nothing may stay held."""

    now: Now


Event = (
    PacketQueued
    | Repeated
    | OwnerFound
    | OlderFound
    | Answered
    | Remembered
    | RememberFailed
    | RulesChanged
    | PromptsChanged
    | ProcessExited
    | LinksChanged
    | ProfilesRead
    | NamesLearned
    | HostsRead
    | SettingsChanged
    | AdviceChanged
    | RunVia
    | SnoozeWanted
    | Trouble
    | Tick
    | Stopping
)


# --- effects --------------------------------------------------------------------------------


class SetVerdict(Struct, frozen=True, gc=False):
    """Give the kernel its verdict. Exactly one for every packet queued."""

    packet_id: int
    verdict: Verdict


class FindOwner(Struct, frozen=True, gc=False):
    """Look up who owns the packet's socket; `OwnerFound` must follow."""

    packet: Packet


class ShowAsk(Struct, frozen=True, gc=False):
    """An ask is new or has changed: send it to every prompt that may answer it."""

    ask: int


class WithdrawAsk(Struct, frozen=True, gc=False):
    """An ask needs no answer any more."""

    ask: int
    uid: int | None
    reason: protocol.WithdrawReason
    text: str


class Announce(Struct, frozen=True, gc=False):
    """Tell everyone who may see asks of `uid` how one was decided."""

    uid: int | None
    message: protocol.Decided


class Refuse(Struct, frozen=True, gc=False):
    """Tell one client that its message was not carried out, and why."""

    client: int
    message: protocol.Refused


class Notify(Struct, frozen=True, gc=False):
    """Tell every prompt that may see what concerns `uid` (None: every prompt there is) something
    that needs no answer."""

    uid: int | None
    text: str


class TellSnoozes(Struct, frozen=True, gc=False):
    """Tell who is concerned by the snooze of `uid` (None: everybody) which are on now."""

    uid: int | None


class Reply(Struct, frozen=True, gc=False):
    """Tell one client that its message was carried out."""

    client: int
    message: protocol.Running


class Remember(Struct, frozen=True, gc=False):
    """Put a rule on disk; `Remembered` or `RememberFailed` must follow."""

    ask: int
    rule: Rule
    peer: Peer
    process: tuple[int, int] | None


class Retire(Struct, frozen=True, gc=False):
    """Take rules that have ended out of the store."""

    ids: tuple[int, ...]
    reason: str


class KeepProfile(Struct, frozen=True, gc=False):
    """Write down the place and, with a `why`, that the active profile was `before` and is another
    one; of no effect where somebody chose meanwhile: then `ProfilesRead` must follow."""

    before: str
    standing: Standing
    why: str


class UseClasses(Struct, frozen=True, gc=False):
    """For the first time something is decided with a traffic class: let the kernel know them."""


class WatchProcess(Struct, frozen=True, gc=False):
    """Say when this process is gone, by `ProcessExited`."""

    pid: int
    start: int


class Report(Struct, frozen=True, gc=False):
    """A decision was made: keep a record of it. Off the hot path; by references, not by text."""

    wall: float
    packet: Packet | Undecodable
    owner: Owner | NoOwner | None
    decision: Decision
    reason: Reason
    rule: Entry | None = None
    by: Peer | None = None
    waited: float = 0.0
    note: str = ""
    link: int = 0  # the number of the link it leaves over; 0 for the default route
    verdict: Verdict = DROPPED  # what the kernel was told
    context: Context = NOWHERE  # what the rules were held against
    lasting: bool = False
    """The rules say the same, whatever the time is, until something changes."""


class Cut(Struct, frozen=True, gc=False):
    """The connection of `OlderFound` is denied: have it refused from now on, and keep a record."""

    report: Report


Effect = (
    SetVerdict
    | Cut
    | FindOwner
    | ShowAsk
    | WithdrawAsk
    | Announce
    | Refuse
    | Notify
    | TellSnoozes
    | Reply
    | Remember
    | KeepProfile
    | UseClasses
    | Retire
    | WatchProcess
    | Report
)
