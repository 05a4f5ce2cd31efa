"""A flow as people write it, and as ss(8) prints it. Pure.

`tcp 192.0.2.1:40000 > [2001:db8::7]:443`: the local side first. What ss shows beside the two
addresses (netid, state, queues, users, timers) may stay where it stood.
"""

from __future__ import annotations

import ipaddress

from msgspec import Struct

from arbiter.model import PORT_PROTOS, PROTO_NUMBERS, Flow, address_text, proto_name

EXAMPLE = "'tcp 192.0.2.1:40000 > 192.0.2.7:443'"
MAX_TEXT = 4096
"""Characters of a pasted line that are looked at."""

_ARROWS = frozenset({">", "->", "→"})
_STATES = frozenset(
    {"ESTAB", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "UNCONN", "`-"}
    | {"CLOSE-WAIT", "LAST-ACK", "CLOSING", "LISTEN", "CLOSED", "NEW-SYN-RECV"}
)
_NETIDS = {"u_str": "", "icmp6": "icmpv6", "v_str": "", "nl": "", "p_raw": ""}
"""What ss calls things that have another name here; "" for what is no internet socket."""
_BEHIND = ("users:(", "timer:(", "uid:", "ino:", "sk:", "cgroup:", "skmem:(", "mark:", "fwmark:")


class Named(Struct, frozen=True):
    """A flow that somebody wrote."""

    flow: Flow
    device: str = ""
    """The interface behind `%` of the local address: the socket is bound to it."""


def flow_text(flow: Flow) -> str:
    """`tcp 192.0.2.1:40000 > 192.0.2.7:443`; only where it goes if nobody knows from where."""
    ports = flow.proto in PORT_PROTOS
    there = endpoint(flow.daddr, flow.dport if ports else None)
    if not flow.saddr:
        return f"{proto_name(flow.proto)} {there}"
    here = endpoint(flow.saddr, flow.sport if ports or flow.sport else None)
    return f"{proto_name(flow.proto)} {here} > {there}"


def endpoint(address: bytes, port: int | None) -> str:
    """`192.0.2.7:443`, `[2001:db8::7]:443`; without a port the bare address."""
    text = address_text(address)
    if port is None:
        return text
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def destination(flow: Flow) -> str:
    """`tcp 192.0.2.7 port 443`, or `icmp 192.0.2.7`."""
    port = f" port {flow.dport}" if flow.proto in PORT_PROTOS else ""
    return f"{proto_name(flow.proto)} {address_text(flow.daddr)}{port}"


def read_flow(text: str) -> Named:
    """The flow that a text names, IPv4-mapped addresses as IPv4. Raises ValueError with why."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"it is longer than {MAX_TEXT} characters")
    proto = ""
    ends: list[str] = []
    for word in text.split():
        name = _NETIDS.get(word, word)
        if word in _NETIDS and not name:
            raise ValueError(f"{word} is no internet socket")
        if name in PROTO_NUMBERS and not proto:
            proto = name
        elif _skipped(word, bool(ends)):
            continue
        elif len(ends) < 2 and any(mark in word for mark in ".:[*"):
            ends.append(word)
        else:
            raise ValueError(f"{word!r} is neither a protocol nor an address with its port")
    if len(ends) != 2:
        raise ValueError(f"it has {len(ends)} addresses, and needs two: {EXAMPLE}")
    number = PROTO_NUMBERS[proto or "tcp"]
    local, lport, device = _end(ends[0], number, local=True)
    remote, rport, _ = _end(ends[1], number, local=False)
    if len(local) != len(remote):
        raise ValueError("one address is IPv4, the other IPv6")
    if number not in PORT_PROTOS:
        rport = 0
    return Named(Flow(number, local, lport, remote, rport), device)


def _skipped(word: str, behind: bool) -> bool:
    if word in _ARROWS or word in _STATES or (word.isascii() and word.isdigit()):
        return True
    return behind and word.startswith(_BEHIND)


def _end(text: str, proto: int, *, local: bool) -> tuple[bytes, int, str]:
    """(packed address, port, interface) of one side."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        zone, colon, port = rest.partition(":")
        if not bracket:
            raise ValueError(f"{text!r} lacks its closing bracket")
        host += zone
    elif proto not in PORT_PROTOS and (text.count(":") != 1):
        host, colon, port = text, "", ""
    else:
        host, colon, port = text.rpartition(":")
    host, _, device = host.partition("%")
    if host in ("", "*") or port == "*":
        side = "local address" if local else "peer"
        raise ValueError(f"{text!r}: the socket has no {side} yet, so it is no connection")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        hint = " (an IPv6 address with a port stands in brackets)" if ":" in host else ""
        raise ValueError(f"{host!r} is no address{hint}") from None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    number = 0
    if colon:
        if not (port.isascii() and port.isdigit() and int(port) <= 0xFFFF):
            raise ValueError(f"{port!r} is no port, 0 to 65535: have ss show numbers, with -n")
        number = int(port)
    elif proto in PORT_PROTOS:
        raise ValueError(f"{text!r} lacks its port")
    return address.packed, number, device
