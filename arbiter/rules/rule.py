"""A rule and what surrounds it: lifetime, host, layer, the entry in force, the question to it.

Every value here is valid by construction and has one form only: equal meaning is equal value,
so that a rule can be compared, hashed and written back exactly. Constructors raise ValueError.
"""

from __future__ import annotations

import enum
import re
from typing import Any

import msgspec
from msgspec import Struct

from arbiter.model import ALLOW, ANY_LINK, DENY, PORT_PROTOS, Action, Decision, Hook, proto_name
from arbiter.rules.names import name_fault
from arbiter.rules.places import network_fault, profile_fault, sim_fault
from arbiter.rules.week import Times, times_fault

MAX_PORT = 65535
MAX_SPAN = 100 * 365 * 86400
"""Seconds; a longer span is "forever", and would leave the calendar."""
MAX_UID = 0xFFFFFFFE
"""The kernel keeps 0xffffffff for "no user" and "no group" (linux/uidgid.h, INVALID_UID)."""
LINK_NAME = re.compile(r"[A-Za-z0-9_.-]{1,15}\Z")
"""Link names fit interface names (IFNAMSIZ is 16 with the final NUL, linux/if.h)."""
MAPPED = bytes(10) + b"\xff\xff"
"""The first 12 bytes of an IPv4-mapped IPv6 address (RFC 4291 2.5.5.2)."""


def plain(packed: bytes) -> bytes:
    """The address itself: an IPv4-mapped IPv6 address becomes its IPv4 address."""
    return packed[12:] if len(packed) == 16 and packed.startswith(MAPPED) else packed


# --- lifetimes ------------------------------------------------------------------------------


class LifetimeKind(enum.StrEnum):
    """When a rule ends."""

    ONCE = "once"
    PROCESS = "process"
    SPAN = "span"
    SESSION = "session"
    BOOT = "boot"
    FOREVER = "forever"


class Lifetime(Struct, frozen=True, gc=False):
    """How long a rule holds; `seconds` (1 to MAX_SPAN) for a span only."""

    kind: LifetimeKind
    seconds: int = 0

    def __post_init__(self) -> None:
        if self.kind is LifetimeKind.SPAN:
            if not 0 < self.seconds <= MAX_SPAN:
                raise ValueError(f"a span has 1 to {MAX_SPAN} seconds, not {self.seconds}")
        elif self.seconds:
            raise ValueError(f"lifetime {self.kind.value} has no seconds")


FOREVER = Lifetime(LifetimeKind.FOREVER)
ONCE = Lifetime(LifetimeKind.ONCE)


# --- hosts ----------------------------------------------------------------------------------


class Address(Struct, frozen=True, tag=True, gc=False):
    """One address, packed; never an IPv4-mapped IPv6 one."""

    packed: bytes

    def __post_init__(self) -> None:
        if len(self.packed) not in (4, 16):
            raise ValueError(f"an address has 4 or 16 bytes, not {len(self.packed)}")
        if plain(self.packed) is not self.packed:
            raise ValueError("an IPv4-mapped address is written as its IPv4 address")


class Network(Struct, frozen=True, tag=True, gc=False):
    """All addresses that share a prefix. A full-length prefix is an Address, not a Network."""

    packed: bytes
    prefixlen: int

    def __post_init__(self) -> None:
        width = 8 * len(self.packed)
        if width not in (32, 128):
            raise ValueError(f"an address has 4 or 16 bytes, not {len(self.packed)}")
        if not 0 <= self.prefixlen < width:
            raise ValueError(f"a network's prefix has 0 to {width - 1} bits: {self.prefixlen}")
        if int.from_bytes(self.packed) & ((1 << (width - self.prefixlen)) - 1):
            raise ValueError(f"host bits are set beyond /{self.prefixlen}")
        if plain(self.packed) is not self.packed:
            raise ValueError("an IPv4-mapped network is written as its IPv4 network")


class ScopeName(enum.StrEnum):
    """A named part of the address space; `scopes.scope_of` says which address is where."""

    LAN = "lan"
    INTERNET = "internet"
    MULTICAST = "multicast"
    LOOPBACK = "loopback"


class Name(Struct, frozen=True, tag=True, gc=False):
    """Every address that was looked up by this name, in its one spelling (see names.py)."""

    name: str

    def __post_init__(self) -> None:
        if fault := name_fault(self.name):
            raise ValueError(fault)


class Domain(Struct, frozen=True, tag=True, gc=False):
    """Every address that was looked up by a name below `name`: `*.example.org`, and not itself."""

    name: str

    def __post_init__(self) -> None:
        if fault := name_fault(self.name):
            raise ValueError(fault)


Host = Address | Network | ScopeName | Name | Domain
"""What `host=` can be."""


# --- rules ----------------------------------------------------------------------------------


class Rule(Struct, frozen=True, gc=False):
    """A decision with its conditions and lifetime; a condition left at its default matches all.

    `user` is a user name, or a uid if it is all ASCII digits; with `@` before it, a group. `ports`
    are inclusive ranges, sorted and merged; they imply a protocol that has ports. `parent` is any
    ancestor's app. `profile` is the name of one; `network` is `gateway:MAC`, `ssid:NAME` or
    `sim:ICCID`; `sim` an ICCID.
    """

    decision: Decision
    app: str = ""
    parent: str = ""
    user: str = ""
    host: Host | None = None
    ports: tuple[tuple[int, int], ...] = ()
    proto: int | None = None
    hook: Hook | None = None
    profile: str = ""
    """It is the active one."""
    network: str = ""
    """Some link that is up is on it."""
    sim: str = ""
    """Some link that is up has it."""
    roaming: bool | None = None
    metered: bool | None = None
    """Of the link that the connection would take by default, before any rule."""
    times: Times = ()
    """Minutes of the local week in which it holds; () is always."""
    lifetime: Lifetime = FOREVER

    def __post_init__(self) -> None:
        # 100,000 rules are made at start: what most of them have not is not looked at.
        fault = ""
        decision = self.decision
        if decision is not ALLOW and decision is not DENY:
            fault = via_fault(decision) or class_fault(decision)
        if self.user:
            fault = fault or user_fault(self.user)
        if self.profile:
            fault = fault or profile_fault(self.profile)
        if self.network or self.sim:
            fault = fault or network_fault(self.network) or sim_fault(self.sim)
        if self.times:
            fault = fault or times_fault(self.times)
        if self.proto is not None and not 0 <= self.proto <= 255:
            fault = f"a protocol number is 0 to 255, not {self.proto}"
        elif self.ports and self.proto is not None and self.proto not in PORT_PROTOS:
            fault = f"{proto_name(self.proto)} has no ports"
        if self.ports and merged(self.ports) != self.ports:
            fault = "ports are sorted and merged ranges"
        if fault:
            raise ValueError(fault)

    def replace(self, **changes: Any) -> Rule:  # any field, checked by the constructor
        """The same rule with some fields changed."""
        return msgspec.structs.replace(self, **changes)


def via_fault(decision: Decision) -> str:
    """What is wrong with a decision's links, in one clause; "" if nothing."""
    via = decision.via
    if decision.action is not Action.ROUTE:
        return f"{decision.action.value} takes no via=" if via else ""
    if not via:
        return "route needs via= with at least one link"
    for place, name in enumerate(via):
        if not LINK_NAME.match(name):
            return "a link name has 1 to 15 letters, digits, '_', '.' or '-'"
        if name in via[:place]:
            return "each link is named once"
        if name == ANY_LINK and place != len(via) - 1:
            return '"any" comes last: nothing after it would ever be used'
    return ""


def class_fault(decision: Decision) -> str:
    """What is wrong with a decision's traffic class, in one clause; "" if nothing."""
    if decision.action is Action.DENY and decision.traffic is not None:
        return "deny takes no class=: nothing is sent that could be marked"
    return ""


def user_fault(user: str) -> str:
    """What is wrong with a user, or `@` and a group, in one clause; "" if nothing.

    Names are whatever the machine has; numbers have one spelling.
    """
    group = user.startswith("@")
    name = user[1:] if group else user
    if group and not name:
        return "a group has a name: @netdev, or its number: @1000"
    if not is_number(name):
        return ""
    kind = "gid" if group else "uid"
    if len(name) > 10 or int(name) > MAX_UID:
        return f"a {kind} is 0 to {MAX_UID}"
    return "" if str(int(name)) == name else f"a {kind} has no leading zeros"


def merged(ranges: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Inclusive port ranges sorted, with overlapping and adjacent ones joined.

    Raises ValueError for an empty range and for ports outside 0-65535. 0 is a port like others
    here: packets can carry it, so an answer about such a flow must be expressible.
    """
    if len(ranges) == 1 and 0 <= ranges[0][0] <= ranges[0][1] <= MAX_PORT:
        return ranges
    out: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if not 0 <= low <= high <= MAX_PORT:
            raise ValueError(f"not a range of ports: {low}-{high}")
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(high, out[-1][1]))
        else:
            out.append((low, high))
    return tuple(out)


def is_number(text: str) -> bool:
    """True for ASCII digits only: str.isdigit alone takes other scripts' digits too."""
    return text.isascii() and text.isdigit()


# --- rules in force -------------------------------------------------------------------------


class Layer(enum.IntEnum):
    """Where a rule comes from; the first layer that has a match wins."""

    ADMIN = 1
    REMEMBERED = 2
    SHIPPED = 3


class Entry(Struct, frozen=True, gc=False):
    """A rule in force, with its provenance. `id` is unique over all layers.

    A span must have its `expires`, a process rule its `process`, or it would hold forever;
    `once` is an answer to one ask and is never in force. ValueError otherwise.
    """

    id: int
    rule: Rule
    layer: Layer
    created: float
    """Epoch seconds."""
    by: str
    """Who made it: a user name, or "file:/etc/…"."""
    frontend: str = ""
    expires: float | None = None
    """Epoch seconds; from then on it matches nothing. Spans only."""
    process: tuple[int, int] | None = None
    """(pid, start) whose exit ends it. Lifetime process only."""
    boot: str = ""
    session: str = ""
    """Boot id, run id: the store loads entries of this boot and session only."""

    @property
    def called(self) -> str:
        """How people speak of it: `rule 7`, or of a policy file `the rule at FILE:LINE`."""
        if self.id > 0:
            return f"rule {self.id}"
        return f"the rule at {self.by.removeprefix('file:')}"

    def __post_init__(self) -> None:
        kind = self.rule.lifetime.kind
        if kind is LifetimeKind.ONCE:
            raise ValueError(f"rule {self.id} holds once: it answers one ask and is not kept")
        if (kind is LifetimeKind.SPAN) != (self.expires is not None):
            raise ValueError(f"rule {self.id}: a time span, and nothing else, has `expires`")
        if (kind is LifetimeKind.PROCESS) != (self.process is not None):
            raise ValueError(f"rule {self.id}: for=process, and nothing else, has `process`")


class Query(Struct, frozen=True, gc=False):
    """One question to the rules: what is known of a flow and of one app that owns it.

    `app` "" means no owner: only rules without app and parent match. `parents` are the app ids
    of its ancestors, nearest first; `uid` None is unknown. `daddr` is packed; `dport` counts
    for protocols with ports only.
    """

    app: str
    parents: tuple[str, ...]
    uid: int | None
    user: str
    daddr: bytes
    dport: int
    proto: int
    hook: Hook = Hook.OUT
    processes: tuple[tuple[int, int], ...] = ()
    """(pid, start) of those holding the socket."""
    sims: tuple[str, ...] = ()
    """ICCIDs of the SIMs that are in use on links that are up; never ""."""
    networks: tuple[str, ...] = ()
    """The networks that links which are up are on: gateway:MAC, ssid:NAME, sim:ICCID."""
    metered: bool | None = None
    """Whether the link it would leave over by default is metered; None: nobody knows."""
    roaming: bool | None = None
    """Whether that link is roaming."""
    groups: tuple[str, ...] = ()
    """Names of the groups that the user is in."""
    gids: tuple[int, ...] = ()
    """The numbers of the same groups."""
    profile: str = ""
    """The active one; "" for none."""
    names: tuple[str, ...] = ()
    """Every name by which this app looked up `daddr`, in the one spelling (names.py)."""


class Match(Struct, frozen=True):
    """What decides a query: the winner, all other matching entries by rank, and why it won."""

    entry: Entry
    beaten: tuple[Entry, ...]
    why: str
