"""What a lab is made of: names, links and addresses. Values only; nothing here has effects.

Public addresses are from the documentation blocks (RFC 5737, RFC 3849), so that a mistake never
reaches anybody. All internets hold the same ones: an answer's `link=` tells the way it took.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

SERVER4 = "198.51.100.10"
SERVER6 = "2001:db8:100::10"
SECOND4 = "198.51.100.20"
SECOND6 = "2001:db8:100::20"
DNS4 = "198.51.100.53"
DNS6 = "2001:db8:100::53"
PUBLIC4 = (SERVER4, SECOND4, DNS4)
PUBLIC6 = (SERVER6, SECOND6, DNS6)
LAN_PEER4 = "10.1.0.50"
LAN_PEER6 = "fd12:3456:789a:1::50"

HTTP_PORTS = (80, 8080)
ECHO_PORT = 7
DNS_PORT = 53

NAMES: dict[str, tuple[str, ...]] = {
    "example.org": (SERVER4, SERVER6),
    "www.example.org": (SERVER4, SERVER6),
    "second.lab.test": (SECOND4, SECOND6),
    "v4.lab.test": (SERVER4,),
    "v6.lab.test": (SERVER6,),
    "dns.lab.test": (DNS4, DNS6),
    "lan.lab.test": (LAN_PEER4, LAN_PEER6),
    "*.lab.test": (SERVER4, SERVER6),
}
"""What the lab's DNS knows. Every other name does not exist."""


class LabError(Exception):
    """A lab that cannot be built, entered or removed; the text says what, why and the next step."""


_NAME = re.compile(r"[a-z][a-z0-9]{0,15}")
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}")


def check_name(name: str, what: str) -> str:
    """`name`, if it can stand in a namespace's and a file's name; else raises LabError."""
    if not _NAME.fullmatch(name):
        text = "use 1 to 16 of a-z and 0-9, a letter first"
        raise LabError(f"{what} {name!r} is not possible: {text}")
    return name


@dataclass(frozen=True)
class LinkConfig:
    """One link of the lab: an interface of `host`, its gateway, and what is near it.

    `mtu` is in bytes. `host4`/`gateway4` share a /24, `host6`/`gateway6` a /64. A link with
    `peer4` is also a LAN: the peer answers there and nowhere else; `host_ula` is this machine's
    address in the peer's IPv6 /64. `dns4` and `dns6` are the operator's own resolver: behind the
    gateway, so that a route is needed to it, and there on no other link. Without `default_route`
    the link is up, and table main leads nowhere over it.
    """

    name: str
    interface: str
    host4: str
    gateway4: str
    host6: str
    gateway6: str
    metric: int
    ipv6: bool = True
    mtu: int = 1500
    peer4: str = ""
    peer6: str = ""
    host_ula: str = ""
    dns4: str = ""
    dns6: str = ""
    default_route: bool = True

    def __post_init__(self) -> None:
        """Refuses, with LabError, what `ip` would misread or the kernel would not take."""
        check_name(self.name, "link name")
        if self.name == "host":
            raise LabError("link name 'host' is taken by this machine's namespace: choose another")
        # IFNAMSIZ is 16 with the final NUL (linux/if.h).
        if not _INTERFACE.fullmatch(self.interface) or self.interface == "lo":
            text = "use 1 to 15 letters, digits, dots and dashes"
            raise LabError(f"interface name {self.interface!r} is not possible: {text}")
        # RFC 8200 5: IPv6 needs 1280; the kernel silently removes IPv6 from a smaller link.
        smallest, family = (1280, "IPv6") if self.ipv6 else (576, "IPv4")
        if not smallest <= self.mtu <= 65535:
            text = f"{family} needs {smallest} to 65535 bytes"
            raise LabError(f"MTU {self.mtu} of link {self.name} is not possible: {text}")
        for address in (self.host4, self.gateway4, self.host6, self.gateway6, *self._optional()):
            try:
                ipaddress.ip_address(address)
            except ValueError as error:
                raise LabError(f"link {self.name}: {error}") from None

    def _optional(self) -> tuple[str, ...]:
        return tuple(a for a in (self.peer4, self.peer6, self.host_ula, *self.resolvers()) if a)

    def near(self) -> tuple[str, ...]:
        """Addresses of the link's far end that only this link reaches: gateway and LAN peer."""
        v6 = (self.gateway6, self.peer6) if self.ipv6 else ()
        return tuple(a for a in (self.gateway4, self.peer4, *v6) if a)

    def resolvers(self) -> tuple[str, ...]:
        """Addresses of the operator's own DNS servers, which no other link has."""
        return tuple(a for a in (self.dns4, self.dns6 if self.ipv6 else "") if a)


WIFI = LinkConfig(
    name="wifi",
    interface="wlan0",
    host4="10.1.0.2",
    gateway4="10.1.0.1",
    host6="2001:db8:1::2",
    gateway6="2001:db8:1::1",
    metric=100,
    peer4=LAN_PEER4,
    peer6=LAN_PEER6,
    host_ula="fd12:3456:789a:1::2",
    dns4="10.255.1.53",
    dns6="2001:db8:1:ff::53",
)
LTE = LinkConfig(
    name="lte",
    interface="wwan0",
    host4="10.2.0.2",
    gateway4="10.2.0.1",
    host6="2001:db8:2::2",
    gateway6="2001:db8:2::1",
    metric=200,
    dns4="10.255.2.53",
    dns6="2001:db8:2:ff::53",
)
USB = LinkConfig(
    name="usb",
    interface="usb0",
    host4="10.3.0.2",
    gateway4="10.3.0.1",
    host6="2001:db8:3::2",
    gateway6="2001:db8:3::1",
    metric=300,
    dns4="10.255.3.53",
    dns6="2001:db8:3:ff::53",
)
LINKS = (WIFI, LTE, USB)
"""What a lab can have, best route first: a LAN with wifi, a mobile link, a tethered phone."""
DEFAULT_LINKS = (WIFI, LTE)


@dataclass(frozen=True)
class LabConfig:
    """A whole lab: its name, which prefixes every namespace, and its links, best route first."""

    name: str = "arb"
    links: tuple[LinkConfig, ...] = field(default=DEFAULT_LINKS)

    def __post_init__(self) -> None:
        """Refuses, with LabError, names that clash."""
        check_name(self.name, "lab name")
        for kind in ("name", "interface"):
            values = [getattr(link, kind) for link in self.links]
            if len(set(values)) != len(values) or not values:
                raise LabError(f"a lab needs links of different {kind}s; these are {values}")

    def link(self, name: str) -> LinkConfig:
        """The link called `name`; raises LabError naming those there are."""
        for link in self.links:
            if link.name == name:
                return link
        known = ", ".join(link.name for link in self.links)
        raise LabError(f"lab {self.name} has no link {name!r}; its links are {known}")

    def namespace(self, where: str) -> str:
        """The network namespace of `host` or of a link's internet."""
        return f"{self.name}-{where if where == 'host' else self.link(where).name}"

    @property
    def namespaces(self) -> tuple[str, ...]:
        """All of them, `host` first."""
        return tuple(self.namespace(w) for w in ("host", *(link.name for link in self.links)))


@dataclass(frozen=True)
class Seen:
    """One connection, datagram or DNS question that reached an internet; a line of its log."""

    link: str
    proto: str
    """tcp or udp."""
    peer: str
    peer_port: int
    local: str
    local_port: int
    detail: str = ""
    """For DNS the question's type and name: "A www.lab.test"."""
    time: float = 0.0
    """Epoch seconds."""


@dataclass(frozen=True)
class ServerConfig:
    """Which link to serve, in which network namespace, the addresses UDP must answer from, and the
    log's path."""

    link: str
    namespace: str
    addresses: tuple[str, ...]
    log: str
