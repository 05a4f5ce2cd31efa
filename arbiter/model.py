"""The frozen values every room speaks of. Floor 0: imports nothing of arbiter.

Addresses are packed network-order bytes (4 or 16 long), because that is what the kernel speaks;
`address_text` is the one place where they become words. Times are seconds as float; `Now` carries
both clocks. None of these can be in a reference cycle: no collector need look (`gc=False`).
"""

from __future__ import annotations

import enum
import socket

from msgspec import Struct

# --- marks (docs/architecture.md, "Marks") --------------------------------------------------

MARK_MASK = 0x7F000000
"""The only bits of a packet or conntrack mark that arbiter ever reads or writes."""
MARK_DECIDED = 0x20000000
MARK_DENIED = 0x40000000
MARK_LINK = 0x1F000000
MARK_LINK_SHIFT = 24

TABLE = 7000
"""Default base of routing tables: link n has table 7000+n."""
PREFERENCE = 900
"""Default base of `ip rule`s: before Mullvad (5199), Tailscale (5210), l3mdev (1000) and wg-quick
(32764)."""


class Now(Struct, frozen=True, gc=False):
    """The time of an event, read once at the edge.

    Deadlines count on `mono` (CLOCK_MONOTONIC: no jumps, stands still in suspend); rules and
    records speak of `wall` (epoch).
    """

    mono: float
    wall: float


# --- packets --------------------------------------------------------------------------------


class Hook(enum.StrEnum):
    """The way a packet goes, in the words of a rule: netfilter's LOCAL_OUT, LOCAL_IN, FORWARD."""

    OUT = "out"
    IN = "in"
    FORWARD = "forward"


PROTO_NAMES = {
    1: "icmp",
    2: "igmp",
    6: "tcp",
    17: "udp",
    33: "dccp",
    41: "ipv6",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "icmpv6",
    132: "sctp",
    136: "udplite",
}
"""IANA protocol numbers that rules can name; every other one is written as its number."""
PROTO_NUMBERS = {name: number for number, name in PROTO_NAMES.items()}
PORT_PROTOS = frozenset({6, 17, 33, 132, 136})
"""Protocols whose flows have ports."""


def proto_name(number: int) -> str:
    """The name of an IP protocol number (0-255), or the number in digits."""
    return PROTO_NAMES.get(number) or str(number)


def address_text(packed: bytes) -> str:
    """`1.2.3.4` or `2001:db8::1` (RFC 5952) from a packed address."""
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


class Flow(Struct, frozen=True, gc=False):
    """The 5-tuple, as conntrack keys it.

    For ICMP and ICMPv6 echo `sport` is the echo identifier (a ping socket's local "port") and
    `dport` is 0; protocols without ports, and fragments after the first, have both 0.
    """

    proto: int
    saddr: bytes
    sport: int
    daddr: bytes
    dport: int

    @property
    def family(self) -> int:
        """4 or 6."""
        return 4 if len(self.daddr) == 4 else 6


class Packet(Struct, frozen=True, gc=False):
    """A queued packet, decoded. `id` is the queue's packet id; `mark` its whole 32-bit mark."""

    id: int
    flow: Flow
    hook: Hook = Hook.OUT
    mark: int = 0
    indev: int = 0
    outdev: int = 0
    """Interface indexes; 0 where the hook has none."""
    length: int = 0
    """Bytes of the whole IP packet, as its header says."""
    tcp_flags: int = 0
    """The TCP flag byte (RFC 9293 3.1: FIN 1, SYN 2, RST 4, ACK 16); 0 for other protocols."""
    icmp_type: int = -1
    """ICMP/ICMPv6 type; -1 for other protocols."""
    fragment: bool = False
    """A fragment after the first: no ports can be known."""

    @property
    def opens(self) -> bool:
        """False for TCP that is not a connection's first packet (no SYN, or SYN+ACK)."""
        return self.flow.proto != 6 or self.tcp_flags & 0x12 == 0x02


class Undecodable(Struct, frozen=True, gc=False):
    """A queued packet that is not what its headers claim. It gets the fallback, and a record."""

    id: int
    reason: str
    """What is wrong with which header, in one clause; never copied from packet bytes."""
    hook: Hook = Hook.OUT
    mark: int = 0
    outdev: int = 0


# --- owners ---------------------------------------------------------------------------------


class AppKind(enum.StrEnum):
    """How an app was identified."""

    PATH = "path"
    SCRIPT = "script"
    UNIT = "unit"
    FLATPAK = "flatpak"
    SNAP = "snap"
    APPIMAGE = "appimage"
    FOREIGN = "foreign"


class App(Struct, frozen=True, gc=False):
    """The identity a rule speaks of.

    `id` is what `app=` compares, exactly: `/usr/bin/curl`, `script:/usr/bin/python3:/srv/x.py`,
    `unit:cups-browsed.service`, `flatpak:org.telegram.desktop`, `snap:firefox`,
    `appimage:/home/u/Foo.AppImage`, `foreign:CONTAINER:/usr/bin/curl` (another mount namespace,
    where the path means another file). `name` is the short form people read.
    """

    id: str
    kind: AppKind
    name: str


class Ancestor(Struct, frozen=True, gc=False):
    """A process up the tree, nearest first."""

    pid: int
    app: App


class Process(Struct, frozen=True, gc=False):
    """A process that holds the flow's socket, as /proc showed it at the look-up.

    (pid, start) names it for as long as the machine runs. Every string was chosen by the
    process or its parent: hostile until cleaned (`protocol.clean`).
    """

    pid: int
    start: int
    """Start time in clock ticks since boot (proc(5), stat field 22)."""
    uid: int
    """Effective uid."""
    app: App
    exe: str
    """Path of the executable, without the kernel's " (deleted)"; "" if it has none."""
    exe_id: tuple[int, int] = (0, 0)
    """(st_dev, st_ino) of the running executable."""
    argv: tuple[str, ...] = ()
    ancestors: tuple[Ancestor, ...] = ()
    cgroup: str = ""
    note: str = ""
    """What a person must know of its identity: "its executable was replaced or deleted"."""


class Owner(Struct, frozen=True, gc=False):
    """Who owns the flow's socket: every process found to hold it, the likeliest first."""

    uid: int
    user: str
    """The socket's uid, from sock_diag, and its user name, or the number in digits."""
    processes: tuple[Process, ...]
    """At least one. Several share the socket (inherited over fork, passed over a Unix socket)."""
    inode: int = 0
    established: bool = False
    """TCP only: the kernel already holds this connection as open (past SYN_SENT)."""
    groups: tuple[str, ...] = ()
    gids: tuple[int, ...] = ()
    """Of the groups that the user is in: names, and the numbers of the same."""
    tunnels: tuple[int, ...] = ()
    """Interfaces, by index, whose outer packets the processes send: a VPN program's."""
    came_in: bool = False
    """It is open, and another socket listens on its local port: the other side began it."""

    @property
    def apps(self) -> tuple[App, ...]:
        """Each different app among the processes, in their order."""
        return tuple(dict.fromkeys(process.app for process in self.processes))


class NoOwnerReason(enum.StrEnum):
    """Why there is no owner. A value, never a guess."""

    KERNEL = "kernel socket"
    NO_SOCKET = "no socket"
    CLOSED = "socket closed"
    EXITED = "exited"
    OTHER_NAMESPACE = "other network namespace"
    FORWARDED = "forwarded"
    AMBIGUOUS = "ambiguous"
    UNSUPPORTED = "protocol without owner look-up"
    HIDDEN = "not permitted to look"


class NoOwner(Struct, frozen=True, gc=False):
    """There is no owner, and why; the socket's uid where the kernel still knew it."""

    reason: NoOwnerReason
    uid: int | None = None
    user: str = ""
    detail: str = ""
    established: bool = False
    tunnels: tuple[int, ...] = ()
    """Indexes of the interfaces whose own outer packet this is, as the kernel says."""


# --- decisions ------------------------------------------------------------------------------


class Action(enum.StrEnum):
    """The user's word."""

    ALLOW = "allow"
    DENY = "deny"
    ROUTE = "route"


ANY_LINK = "any"
"""In `via`: the default route, whatever it is."""
METERED, UNMETERED = "metered", "unmetered"
"""In `via`: every link that is (not) billed by what it carries."""
RESERVED_LINKS = frozenset({ANY_LINK, METERED, UNMETERED})
"""Words of `via` that mean something else than one link."""


class TrafficClass(enum.StrEnum):
    """How a connection's packets are marked for queueing disciplines (tc(8))."""

    INTERACTIVE = "interactive"
    BULK = "bulk"
    BACKGROUND = "background"


class Decision(Struct, frozen=True, gc=False):
    """allow, deny, or route: allow over the first link of `via` that is up."""

    action: Action
    via: tuple[str, ...] = ()
    """For route: link names or classes in order of preference; last may be "any"."""
    traffic: TrafficClass | None = None
    """Not for deny."""


ALLOW = Decision(Action.ALLOW)
DENY = Decision(Action.DENY)


class VerdictKind(enum.StrEnum):
    """The kernel's word (linux/netfilter.h)."""

    ACCEPT = "NF_ACCEPT"
    DROP = "NF_DROP"
    REPEAT = "NF_REPEAT"


class Verdict(Struct, frozen=True, gc=False):
    """What the queue answers: `mark` holds arbiter's bits only, to be ORed into the packet's."""

    kind: VerdictKind
    mark: int = 0

    @property
    def passes(self) -> bool:
        """Whether the packet leaves: it is neither dropped nor rejected by its mark."""
        return self.kind is VerdictKind.ACCEPT and not self.mark & MARK_DENIED


ACCEPTED = Verdict(VerdictKind.ACCEPT, MARK_DECIDED)
DENIED = Verdict(VerdictKind.ACCEPT, MARK_DECIDED | MARK_DENIED)
"""Denied packets are accepted with the denied bit, so that the ruleset can reject them aloud."""
DROPPED = Verdict(VerdictKind.DROP)
"""As if lost: the sender may try again. Used where a queue bound overflows."""


class OverBudget(enum.StrEnum):
    """What happens to a new connection over a link whose budget is used up."""

    ASK = "ask"
    DENY = "deny"
    ALLOW = "allow"


class Spent(Struct, frozen=True, gc=False):
    """A link's budget is used up, and what that means for new connections over it."""

    since: float
    """Epoch seconds when it was seen to be. What a person decided later, they decided knowing."""
    then: OverBudget
    text: str
    """The budget and what was used of it, for people: `512 MB of 500 MB/month used`."""


class Link(Struct, frozen=True, gc=False):
    """A way out. `number` (1-31) is its place in the mark; `up` whether it can carry now."""

    name: str
    number: int
    interface: str
    up: bool = True
    up4: bool = True
    """Whether it can carry IPv4, if it is up."""
    up6: bool = True
    reach4: tuple[tuple[int, int], ...] | None = None
    """Without a default route: the networks that it leads to, as (prefix, bits behind it); None
    with one, which leads everywhere."""
    reach6: tuple[tuple[int, int], ...] | None = None
    index: int = 0
    """The interface's; 0 where it is not known."""
    addresses: tuple[bytes, ...] = ()
    """Its own, packed."""
    metered: bool | None = None
    """Whether its bytes are billed; None where nobody knows."""
    roaming: bool | None = None
    sim: str = ""
    """The ICCID of the SIM in it; "" for none, or where nobody knows. "" never matches."""
    networks: tuple[str, ...] = ()
    """What it is connected to, as `network=` says it: gateway:…, ssid:…, sim:…."""
    finding: bool = False
    """A gateway's hardware address is still being found out: more may be known soon."""
    price: str = ""
    """`0.02 EUR/MB`, or ""."""
    budget: str = ""
    """`500 MB/month`, or ""."""
    spent: Spent | None = None
    tunnel: bool = False
    """A VPN: what it carries leaves inside packets of its own, over another link."""
    tun: bool = False  # and a program holds its other end, by /dev/net/tun

    def reaches(self, daddr: bytes) -> bool:
        """Whether it can carry a packet to that packed address now."""
        up, reach = (self.up4, self.reach4) if len(daddr) == 4 else (self.up6, self.reach6)
        return self.up and up and (reach is None or self.near(daddr))

    def near(self, daddr: bytes) -> bool:
        """Whether a route that is no default leads there, of a family that has no default."""
        reach = self.reach4 if len(daddr) == 4 else self.reach6
        number = int.from_bytes(daddr)
        return reach is not None and any(number >> shift == prefix for prefix, shift in reach)


# --- people ---------------------------------------------------------------------------------


class Peer(Struct, frozen=True, gc=False):
    """Who speaks on a connection to the socket, from SO_PEERCRED (unix(7))."""

    uid: int
    user: str
    admin: bool
    """Root, or a member of group `arbiter`."""
    frontend: str = ""
    """What the frontend calls itself, cleaned: terminal, tui, ..."""
    pid: int = 0
    """Of the process that connected; 0 where it is not known."""

    def may_answer(self, uid: int | None) -> bool:
        """Own processes only; admins for all, and for flows whose user nobody knows."""
        return self.admin or (uid is not None and uid == self.uid)
