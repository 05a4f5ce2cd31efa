"""The prompt messages and their codec: newline-delimited JSON over the daemon's Unix socket.

One message is one line of UTF-8 JSON, an object whose "type" names it; docs/protocol.md
describes each, fixtures/messages/ has an example of each. The codec is sans-io: `Decoder.feed`
takes bytes and returns what is complete. Strings that a process, DNS or a peer chose pass
through `clean` before they enter a message.
"""

from __future__ import annotations

import enum
import unicodedata
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from arbiter.model import TrafficClass

VERSION = 1
"""Raised when a message changes so that an older peer would misread it."""
MAX_MESSAGE = 65536
"""Bytes of one line, newline included; a longer one ends the connection."""
MAX_TEXT = 4096
"""Characters kept of one string by `clean`."""


class Role(enum.StrEnum):
    """What a client is: a prompt shows asks to a person; a command asks once and leaves."""

    PROMPT = "prompt"
    COMMAND = "command"


class Choice(enum.StrEnum):
    """The decision in an answer."""

    ALLOW = "allow"
    DENY = "deny"
    ROUTE = "route"


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
    """The rules in the database were changed by a command: read them now.

    The daemon replies `in_force` or `refused`.
    """


class RunVia(Struct, frozen=True, tag="run_via", tag_field="type", forbid_unknown_fields=True):
    """From now on the sender's process and its children connect over `link` only, until it exits.

    It decides over which link, never whether: rules and asks go on as before. The daemon replies
    `running` or `refused`.
    """

    link: str


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


class AppView(Struct, frozen=True):
    """An app, as shown: `id` is what the rule will say, `name` what people call it."""

    id: str
    kind: str
    name: str


class ProcessView(Struct, frozen=True):
    """A process, as shown. `parents` is nearest first."""

    pid: int
    app: AppView
    exe: str
    argv: tuple[str, ...]
    cwd: str = ""
    parents: tuple[AppView, ...] = ()
    note: str = ""
    """A warning on its identity: replaced executable, another mount namespace."""


class Destination(Struct, frozen=True):
    """Where to. `scope` is lan, internet, multicast or loopback; `port` 0 where there is none."""

    address: str
    proto: str
    port: int = 0
    service: str = ""
    """The port's usual service name, as a hint: https."""
    scope: str = "internet"
    name: str = ""
    """By which it was looked up last, a hint; "" where nobody looked."""
    names: tuple[str, ...] = ()
    """Other names that led to the same address."""


class Scope(Struct, frozen=True):
    """One rule that an answer may make: `conditions` is exactly what will be remembered."""

    id: str
    """connection, host, port, app, parent, destination: narrow ones first in an ask."""
    conditions: str
    """The rule's one-line form without decision and lifetime: `app=/usr/bin/curl port=443`."""


class LinkView(Struct, frozen=True):
    """A link that a route answer may name."""

    name: str
    up: bool
    """Whether it can carry this connection (its family) now."""
    default: bool = False
    """The connection leaves over it if it is allowed, and not routed (`arbiter run-via` too)."""
    metered: bool | None = None
    roaming: bool | None = None
    price: str = ""
    """`0.02 EUR/MB`."""
    budget: str = ""
    """`500 MB/month`."""
    left: int | None = None
    """Bytes left of the budget in this period."""
    used: int = 0
    """Bytes that this program used over it this month."""


class AdviceView(Struct, frozen=True):
    """What the program's own package says of a connection. Its words, not arbiter's."""

    application: str
    purpose: str = ""
    if_denied: str = ""
    """What a denial breaks."""
    essential: bool = False
    suggest: str = ""
    """`allow`, `deny` or `route via=…`; "" for no suggestion."""
    file: str = ""
    """Where it says so."""


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
    obstacle: bool = False
    """A rule decides it, and cannot be carried out: `why` says what is in the way."""
    via: tuple[str, ...] = ()
    """What `allow` means here, if not the default route: over these links, as that rule says."""
    stale: bool = False
    """Nothing waits any more; an answer serves the next try."""


class WithdrawReason(enum.StrEnum):
    """Why an ask is gone without an answer."""

    EXITED = "exited"
    RULE = "rule"
    EXPIRED = "expired"
    STOPPING = "stopping"


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


class RefusedReason(enum.StrEnum):
    """What is wrong with a message."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    VERSION = "version"
    ORDER = "order"
    RIGHT = "right"
    GONE = "gone"
    ANSWERED = "answered"
    INVALID = "invalid"
    BUSY = "busy"


class Refused(Struct, frozen=True, tag="refused", tag_field="type"):
    """A message that was not carried out. Nothing has changed by it."""

    reason: RefusedReason
    text: str
    """What, where, why and the next step, for a person."""
    ask: int | None = None


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
    problems: tuple[str, ...] = ()
    """What is wrong now, each with its next step."""


ClientMessage = Hello | Answer | Changed | RunVia | Query
DaemonMessage = Welcome | Ask | Withdraw | Decided | Notice | Running | InForce | Refused | Status
Message = ClientMessage | DaemonMessage


class ProtocolError(Exception):
    """A line that is not a message. `fatal`: the stream cannot be read on."""

    def __init__(self, reason: RefusedReason, text: str, fatal: bool = False) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.fatal = fatal


# --- codec ----------------------------------------------------------------------------------

T = TypeVar("T")
_encoder = msgspec.json.Encoder()
_client: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)
_daemon: msgspec.json.Decoder[DaemonMessage] = msgspec.json.Decoder(DaemonMessage)


def encode(message: Message) -> bytes:
    """One line, newline included."""
    return _encoder.encode(message) + b"\n"


class LineDecoder(Generic[T]):
    """Bytes to messages: `feed` what arrived, get what is complete, good and bad in order.

    Keeps at most MAX_MESSAGE bytes of an unfinished line; past that the error is fatal and
    everything fed later is ignored, because the place of the next line is unknown.
    """

    def __init__(self, decoder: msgspec.json.Decoder[T]) -> None:
        self._decoder = decoder
        self._rest = b""
        self._dead = False

    def feed(self, data: bytes) -> list[T | ProtocolError]:
        """Every message completed by `data`. Never raises."""
        if self._dead:
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        out: list[T | ProtocolError] = []
        for line in lines:
            if len(line) >= MAX_MESSAGE:
                return [*out, self._die()]
            if line.strip():
                out.append(self._decode(line))
        if len(self._rest) >= MAX_MESSAGE:
            out.append(self._die())
        return out

    def _decode(self, line: bytes) -> T | ProtocolError:
        try:
            return self._decoder.decode(line)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            text = f"not a message of this protocol: {clean(str(error))}; see docs/protocol.md"
            return ProtocolError(RefusedReason.MALFORMED, text)

    def _die(self) -> ProtocolError:
        self._dead, self._rest = True, b""
        text = f"a message may have {MAX_MESSAGE} bytes at most; the connection ends here"
        return ProtocolError(RefusedReason.TOO_LARGE, text, fatal=True)


def client_decoder() -> LineDecoder[ClientMessage]:
    """For the daemon: decodes what clients send."""
    return LineDecoder(_client)


def daemon_decoder() -> LineDecoder[DaemonMessage]:
    """For clients: decodes what the daemon sends."""
    return LineDecoder(_daemon)


_BAD_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """`text` fit to be shown: control, bidi and other invisible characters become U+FFFD.

    Lone surrogates (undecodable bytes of a path, PEP 383) do too. Longer text is cut, visibly.
    """
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join("\ufffd" if unicodedata.category(c) in _BAD_CATEGORIES else c for c in text)
