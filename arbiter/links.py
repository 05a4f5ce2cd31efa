"""The ways out: from what the kernel shows of interfaces, and files, to numbered links. Pure.

An interface that can carry traffic away from this machine is a link by itself; a file in links.d
only adds facts (a name, a price). A link's number is its place in the mark and names its routing
table: it stays the same for as long as the link's identity is known.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from arbiter.linkfiles import LinkFile
from arbiter.linknumbers import Numbers, link_names, valid_name
from arbiter.model import OverBudget
from arbiter.netfacts import NetFacts
from arbiter.tariff import Budget, Price

UNKNOWN = NetFacts()
"""Nobody has said anything of an interface."""


class LinkKind(enum.StrEnum):
    """What a link is made of, as far as the kernel shows it."""

    ETHERNET = "ethernet"
    WIFI = "wifi"
    CELLULAR = "cellular"
    BLUETOOTH = "bluetooth"
    USB = "usb"
    VPN = "vpn"
    DIALUP = "dialup"


class Address(Struct, frozen=True):
    """An address of an interface, packed, with its prefix length."""

    packed: bytes
    prefixlen: int


class Route(Struct, frozen=True):
    """A unicast route of table main over an interface. `dst` b"" with prefixlen 0 is a default;
    `gateway` b"" is on-link. An IPv4 route may have an IPv6 gateway of 16 bytes (RFC 5549)."""

    family: int
    """4 or 6."""
    dst: bytes
    prefixlen: int
    gateway: bytes = b""
    metric: int = 0
    source: bytes = b""
    """Preferred source address; b"" for none."""


class Interface(Struct, frozen=True):
    """One interface as rtnetlink shows it (linux/if_link.h, rtnetlink(7))."""

    index: int
    name: str
    kind: LinkKind
    up: bool
    """Administratively up, and carrier (IFF_UP and IFF_LOWER_UP)."""
    mtu: int
    addresses: tuple[Address, ...] = ()
    """Global ones only: no link-local, tentative or deprecated address."""
    routes: tuple[Route, ...] = ()
    """Of table main; of other tables a default route only, of a family that has none in main (where
    wg-quick, NetworkManager and mwan3 put theirs)."""
    mac: str = ""
    """The permanent hardware address, lower case (IFLA_PERM_ADDRESS); "" for what is no hardware,
    and for hardware that invents an address each time it is plugged in."""
    driver: str = ""
    """IFLA_INFO_KIND: tun, wireguard, bridge, ...; "" for hardware."""
    gateways: tuple[tuple[bytes, str], ...] = ()
    """(gateway of a default route, its hardware address, lower case), the route preferred first;
    none that is not resolved. What its network can be known by: everybody on it can forge that."""


class FoundLink(Struct, frozen=True):
    """A link as it is now: what the kernel shows, and what a file adds."""

    name: str
    """As rules say it: [A-Za-z0-9_.-]{1,15}, unlike every other link's."""
    number: int
    """1-31: its place in the mark."""
    interface: str
    index: int
    kind: LinkKind
    up4: bool
    """Whether it can carry IPv4 now, somewhere at least: see `carries`."""
    up6: bool
    mtu: int
    """Bytes."""
    gateway4: bytes
    """Of the default route with the lowest metric; b"" if that is on-link, or there is none."""
    gateway6: bytes
    routes: tuple[Route, ...]
    addresses: tuple[bytes, ...] = ()
    """Its own, packed; not its link-local ones."""
    reach4: tuple[tuple[int, int], ...] | None = None
    """Where it leads without a default route; None with one."""
    reach6: tuple[tuple[int, int], ...] | None = None
    metric: int = 0
    """Of its most preferred default route: which link the machine uses first."""
    metered: bool = False
    """Whether its bytes are billed."""
    metered_by: str = ""
    """Who says so: `file`, `NetworkManager`, `NetworkManager's guess`, or `guess` (by its kind)."""
    roaming: bool | None = None
    """None where nobody knows."""
    sim: str = ""
    operator: str = ""
    apn: str = ""
    networks: tuple[str, ...] = ()
    """What it is connected to, as a rule's `network=` says it."""
    finding: bool = False
    """Whether a gateway has no hardware address yet, or does not answer just now."""
    dns: tuple[bytes, ...] = ()
    price: Price | None = None
    budget: Budget | None = None
    over_budget: OverBudget = OverBudget.ASK
    file: str = ""
    """The file that speaks of it; "" for none."""
    driver: str = ""
    """As the interface's."""
    identity: str = ""
    """What its number is kept under: see `assemble` and `remember`."""


# --- what is a link -------------------------------------------------------------------------


def default_routes(interface: Interface, family: int) -> tuple[Route, ...]:
    """Its default routes of `family` (4 or 6), the one that the kernel prefers first.

    Two halves, 0.0.0.0/1 and 128.0.0.0/1, are a default route too: so OpenVPN's `redirect-gateway
    def1` and others go before a default route without touching it.
    """
    routes = [route for route in interface.routes if route.family == family]
    halves = {route.dst[:1] for route in routes if route.prefixlen == 1}
    lengths = (0, 1) if {b"\x00", b"\x80"} <= halves else (0,)
    found = [route for route in routes if route.prefixlen in lengths]
    return tuple(sorted(found, key=lambda route: (-route.prefixlen, route.metric, route.dst)))


def carries(interface: Interface, family: int) -> bool:
    """Whether packets of `family` (4 or 6) can leave over it now, and not be stuck on its subnet.

    Up, with a usable address of that family (masquerading needs one), and a route through a
    gateway, or one that is wider than its own subnets: on a tunnel routes need no gateway.
    """
    length = 4 if family == 4 else 16
    own = [address for address in interface.addresses if len(address.packed) == length]
    away = (
        route
        for route in interface.routes
        if route.family == family
        and (route.gateway or route.prefixlen < min((a.prefixlen for a in own), default=0))
    )
    return interface.up and bool(own) and any(away)


def reach(interface: Interface, family: int) -> tuple[tuple[int, int], ...] | None:
    """Where it leads, as Link.reach4 and reach6; None with a default route: everywhere."""
    if default_routes(interface, family):
        return None
    width = 32 if family == 4 else 128
    found = (route for route in interface.routes if route.family == family)
    shifts = ((route.dst, width - route.prefixlen) for route in found if route.prefixlen)
    return tuple(sorted({(int.from_bytes(dst) >> shift, shift) for dst, shift in shifts}))


def is_link(
    interface: Interface, files: Iterable[LinkFile] = (), facts: NetFacts = UNKNOWN
) -> bool:
    """Whether it is a way out: a default route leads over it, or a file names it.

    That is what it can do, not what it is called: a bridge with the default route is a link;
    docker0, virbr0 and a container's veth have none and are not.
    """
    if interface.name == "lo":
        return False
    if default_routes(interface, 4) or default_routes(interface, 6):
        return True
    return any(_matches(file, interface, facts) for file in files)


# --- numbers kept -----------------------------------------------------------------------------


def remember(known: Mapping[str, int], links: Iterable[FoundLink]) -> dict[str, int]:
    """What to give `assemble` as `known` next time, and to keep over a restart, in this order."""
    present = {link.identity: link.number for link in links}
    taken = set(present.values())
    absent = {
        name: number
        for name, number in known.items()
        if name not in present and number not in taken
    }
    return {**absent, **present}


# --- putting it together --------------------------------------------------------------------


def assemble(
    interfaces: Iterable[Interface],
    files: Sequence[LinkFile] = (),
    known: Mapping[str, int] | None = None,
    facts: Mapping[str, NetFacts] | None = None,
) -> tuple[FoundLink, ...]:
    """The links among `interfaces`, by number. `facts`: what services know, by interface.

    An interface that once was a link stays one while it exists, so that its loss is seen as a
    link that is down. Identity: the name of a file that names it; else kind and hardware address;
    else the interface's name. Of several interfaces that one file matches, all get its facts and
    the first, by index, its name. A 32nd link has no number, and is left out.
    """
    told = facts or {}
    ordered = sorted(interfaces, key=lambda interface: interface.index)
    by_file = {
        interface.index: _file_for(interface, files, told.get(interface.name, UNKNOWN))
        for interface in ordered
    }
    identified, before = _identify(ordered, by_file)
    # A link keeps its number when a file first names it.
    earlier = known or {}
    places = {name: place for place, name in enumerate(earlier)}  # the latest stands last
    moved = {
        old: new
        for old, new in before.items()
        if old in places and places[old] > places.get(new, -1)
    }
    earlier = {name: n for name, n in earlier.items() if name not in moved.values()}
    earlier = {moved.get(name, name): number for name, number in earlier.items()}
    present = {
        identity: interface
        for identity, interface in identified.items()
        if is_link(interface, files, told.get(interface.name, UNKNOWN))
        or (identity in earlier and interface.name != "lo")
    }
    fixed = {_file_identity(file): file.number for file in files if file.name and file.number}
    numbers = Numbers.assign(present, earlier, fixed)
    numbered = {numbers[name]: name for name in present if name in numbers}
    order = [(number, numbered[number]) for number in sorted(numbered)]
    names = link_names(
        [
            (n, identity, present[identity].kind.value, present[identity].name)
            for n, identity in order
        ]
    )
    return tuple(
        _found(
            names[number],
            number,
            identity,
            present[identity],
            by_file[present[identity].index],
            told.get(present[identity].name, UNKNOWN),
        )
        for number, identity in order
    )


def _found(
    name: str,
    number: int,
    identity: str,
    interface: Interface,
    file: LinkFile | None,
    facts: NetFacts,
) -> FoundLink:
    defaults = {family: default_routes(interface, family) for family in (4, 6)}
    gateway = {f: next((route.gateway for route in defaults[f]), b"") for f in (4, 6)}
    metrics = [route.metric for routes in defaults.values() for route in routes[:1]]
    metered, metered_by = _metered(interface, file, facts)
    return FoundLink(
        name=name,
        number=number,
        interface=interface.name,
        index=interface.index,
        kind=interface.kind,
        up4=carries(interface, 4),
        up6=carries(interface, 6),
        mtu=interface.mtu,
        addresses=tuple(address.packed for address in interface.addresses),
        gateway4=gateway[4],
        gateway6=gateway[6],
        routes=interface.routes,
        reach4=reach(interface, 4),
        reach6=reach(interface, 6),
        metric=min(metrics, default=_LAST),
        metered=metered,
        metered_by=metered_by,
        roaming=facts.roaming if interface.kind is LinkKind.CELLULAR or facts.sim else False,
        sim=facts.sim,
        operator=facts.operator,
        apn=facts.apn,
        networks=_networks(interface, facts),
        finding=_finding(interface, gateway.values()),
        dns=(file.dns if file else ()) or facts.dns,
        price=file.price if file else None,
        budget=file.budget if file else None,
        over_budget=file.over_budget if file else OverBudget.ASK,
        file=file.origin if file else "",
        driver=interface.driver,
        identity=identity,
    )


_LAST = 1 << 32
"""The metric of what has no default route: after all that have."""
_COSTLY = frozenset({LinkKind.CELLULAR, LinkKind.DIALUP, LinkKind.BLUETOOTH})
"""Kinds that are taken for metered where nobody says: a network PAN is a phone's."""


def _metered(interface: Interface, file: LinkFile | None, facts: NetFacts) -> tuple[bool, str]:
    if file is not None and file.metered is not None:
        return file.metered, "file"
    if file is not None and file.price is not None:
        return True, "file"
    if facts.metered is not None:
        service = "NetworkManager's guess" if facts.metered_guessed else "NetworkManager"
        return facts.metered, service
    return interface.kind in _COSTLY, "guess"


_ADDRESSLESS = frozenset({LinkKind.CELLULAR, LinkKind.VPN, LinkKind.DIALUP})
"""Kinds whose gateways have no hardware address, and never will."""


def _finding(interface: Interface, gateways: Iterable[bytes]) -> bool:
    found = {gateway for gateway, _ in interface.gateways}
    return interface.kind not in _ADDRESSLESS and any(g and g not in found for g in gateways)


def _networks(interface: Interface, facts: NetFacts) -> tuple[str, ...]:
    names = [f"gateway:{mac}" for _, mac in interface.gateways]
    names += [f"ssid:{facts.ssid}"] if facts.ssid else []
    names += [f"sim:{facts.sim}"] if facts.sim else []
    return tuple(dict.fromkeys(names))


def _matches(file: LinkFile, interface: Interface, facts: NetFacts) -> bool:
    return file.match.fits(interface.name, facts.sim, facts.apn)


def _file_for(interface: Interface, files: Sequence[LinkFile], facts: NetFacts) -> LinkFile | None:
    """The file that speaks of it: the one with a SIM or APN first, then the exact name."""
    matching = [file for file in files if _matches(file, interface, facts)]
    return min(
        matching,
        key=lambda file: (
            not file.match.sim,
            not file.match.apn,
            file.match.interface != interface.name,
        ),
        default=None,
    )


def _file_identity(file: LinkFile) -> str:
    return f"file {file.name}"


def _identify(
    ordered: Sequence[Interface], by_file: Mapping[int, LinkFile | None]
) -> tuple[dict[str, Interface], dict[str, str]]:
    """Identity → interface, and for those that a file names: the identity without it → with it.

    A second interface with a hardware address goes by its name: it is a VLAN, or a forgery.
    """
    found: dict[str, Interface] = {}
    before: dict[str, str] = {}
    own_seen: set[str] = set()
    for interface in ordered:
        own = f"{interface.kind.value} {interface.mac}"
        if not interface.mac or own in own_seen:
            # A name may hold any byte; an identity is stored as text.
            own = f"interface {interface.name.encode('unicode_escape').decode()}"
        own_seen.add(own)
        file = by_file[interface.index]
        if file and valid_name(file.name) and _file_identity(file) not in found:
            before[own] = _file_identity(file)
            found[_file_identity(file)] = interface
        else:
            found[own] = interface
    return found, before
