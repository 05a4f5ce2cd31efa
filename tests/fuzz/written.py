"""What a rule says as it is written: a second, simple reading of the one-line form, for tests.

`matches` is slow and plain, shares nothing with arbiter.rules but the names of addresses' scopes in
docs/rules.md, and is asked about connections that lie on the edges of a rule (`edges`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import idna
import msgspec

from arbiter.model import Hook
from arbiter.rules import Address, Domain, Name, Network, Query, Rule

KNOWN = frozenset(
    {
        *("app", "parent", "user", "host", "port", "proto", "hook"),
        *("profile", "network", "sim", "roaming", "metered", "time"),
    }
)
"""Conditions that are judged here."""
DECISION = frozenset({"decision", "via", "class", "for", "note"})
_PROTOS = {
    "icmp": 1,
    "igmp": 2,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "ipv6": 41,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "sctp": 132,
    "udplite": 136,
}
_WITH_PORTS = {6, 17, 33, 132, 136}
_SCOPES = {
    "loopback": ("127.0.0.0/8", "0.0.0.0/32", "::1/128", "::/128"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
    "lan": (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
        *("255.255.255.255/32", "fc00::/7", "fe80::/10"),
    ),
}
_WORD = re.compile(r'[ \t]*([^ \t="#]+)(?:=("(?:[^"\\]|\\.)*"|[^ \t]*))?', re.DOTALL)
_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u\{([0-9a-fA-F]+)\}|u(dc[89a-fA-F][0-9a-fA-F])|(.))", re.DOTALL
)
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


# --- reading --------------------------------------------------------------------------------


def words_of(line: str) -> dict[str, str]:
    """The words of a line that is a rule, `decision` among them."""
    out: dict[str, str] = {}
    at = 0
    while found := _WORD.match(line, at):
        key, value = found.groups()
        at = found.end()
        if value is None:
            out["decision"] = key
        else:
            out[key] = _plain(value)
    return out


def words_of_table(table: Mapping[str, Any]) -> dict[str, str]:
    """The same of a table of TOML or JSON."""
    return {key: _text(value) for key, value in table.items()}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(map(_text, value)) if isinstance(value, list) else str(value)


def _plain(value: str) -> str:
    if not value.startswith('"'):
        return value
    letters = {"n": "\n", "r": "\r", "t": "\t"}

    def one(found: re.Match[str]) -> str:
        code = found[1] or found[2] or found[3]
        return chr(int(code, 16)) if code else letters.get(found[4], found[4])

    return _ESCAPE.sub(one, value[1:-1])


# --- matching -------------------------------------------------------------------------------


def matches(words: Mapping[str, str], query: Query, minute: int) -> bool:
    """Whether what is written matches a connection, in that minute of the week."""
    tests: dict[str, Callable[[str], bool]] = {
        "app": lambda text: text == query.app,
        "parent": lambda text: bool(query.app) and text in query.parents,
        "user": lambda text: _user(text, query),
        "host": lambda text: _host(text, query),
        "port": lambda text: query.proto in _WITH_PORTS and _port(text, query.dport),
        "proto": lambda text: (_PROTOS.get(text) or int(text)) == query.proto,
        "hook": lambda text: text == query.hook.value,
        "profile": lambda text: text == query.profile,
        "network": lambda text: _network(text) in query.networks,
        "sim": lambda text: text.rstrip("Ff") in query.sims,
        "roaming": lambda text: {"yes": True, "no": False}[text] is query.roaming,
        "metered": lambda text: {"yes": True, "no": False}[text] is query.metered,
        "time": lambda text: minute in minutes(text),
    }
    return all(tests[key](text) for key, text in words.items() if key in KNOWN)


def _user(text: str, query: Query) -> bool:
    group = text.startswith("@")
    name = text.removeprefix("@") if group else text
    number = re.fullmatch(r"[0-9]+", name) is not None
    if group:
        return int(name) in query.gids if number else name in query.groups
    return int(name) == query.uid if number else name == query.user


def _host(text: str, query: Query) -> bool:
    address = ipaddress.ip_address(query.daddr)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if text in (*_SCOPES, "internet"):
        inside = [scope for scope, nets in _SCOPES.items() if any(_in(address, n) for n in nets)]
        return (inside or ["internet"]) == [text]
    try:
        return _in(address, text)
    except ValueError:
        pass  # a name
    wild = text.startswith("*.")
    name = text.removeprefix("*.").removesuffix(".").lower()
    if not name.isascii():  # label by label: DNS has ASCII ones that IDNA would refuse
        labels = idna.uts46_remap(name, std3_rules=False).split(".")
        name = ".".join(one if one.isascii() else idna.alabel(one).decode() for one in labels)
    if wild:
        return any(each.endswith(f".{name}") for each in query.names)
    return name in query.names


def _in(address: ipaddress.IPv4Address | ipaddress.IPv6Address, text: str) -> bool:
    network = ipaddress.ip_network(text)
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped:
        mapped = network.network_address.ipv4_mapped
        network = ipaddress.ip_network(f"{mapped}/{network.prefixlen - 96}")
    return address.version == network.version and address in network


def _port(text: str, port: int) -> bool:
    for part in text.split(","):
        low, _, high = part.partition("-")
        if int(low) <= port <= int(high or low):
            return True
    return False


def _network(text: str) -> str:
    kind, _, name = text.partition(":")
    if kind == "gateway":
        name = name.lower().replace("-", ":")
    elif kind == "sim":
        name = name.rstrip("Ff")
    else:
        name = name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return f"{kind}:{name}"


def minutes(text: str) -> set[int]:
    """The minutes of the week of a `time=`, as docs/rules.md says it, from Monday 0:00."""
    out: set[int] = set()
    for part in text.lower().split("+"):
        days, at, spans = part.partition("@")
        if not at and ":" in days:
            days, spans = "mon-sun", days
        for day in _days(days):
            for span in (spans or "00:00-24:00").split(","):
                start, end = (_minute(clock) for clock in span.split("-"))
                end += 1440 if end <= start else 0
                out |= {(day * 1440 + minute) % 10080 for minute in range(start, end)}
    return out


def _days(text: str) -> Iterator[int]:
    for part in text.split(","):
        first, _, last = part.partition("-")
        start, end = _DAYS.index(first), _DAYS.index(last or first)
        yield from ((start + step) % 7 for step in range((end - start) % 7 + 1))


def _minute(clock: str) -> int:
    hours, _, minute = clock.partition(":")
    return int(hours) * 60 + int(minute)


# --- connections to ask about ---------------------------------------------------------------


def edges(rule: Rule, ports: str = "") -> Iterator[tuple[Query, int]]:
    """Connections, and minutes of the week, inside the rule and just outside each condition.

    `ports`: as they are written, so that what lies between them is asked for, too.
    """
    minute = rule.times[0][0] if rule.times else 4321
    inside = _inside(rule)
    yield inside, minute
    for number in {int(n) for n in re.findall(r"[0-9]+", ports)[:16]}:
        for near in (number - 1, number, number + 1):
            if 0 <= near <= 65535:
                yield msgspec.structs.replace(inside, dport=near), minute
    for field, values in _around(rule).items():
        for value in values:
            yield msgspec.structs.replace(inside, **{field: value}), minute
    for start, end in rule.times[:8]:
        for other in (start - 1, start, end - 1, end):
            yield inside, other % 10080


def _inside(rule: Rule) -> Query:
    group, name = rule.user.startswith("@"), rule.user.removeprefix("@")
    number = re.fullmatch(r"[0-9]+", name) is not None
    return Query(
        app=rule.app or "/app",
        parents=(rule.parent,) if rule.parent else (),
        uid=int(name) if number and not group else 1,
        user=name if not group and not number else "nobody",
        daddr=_addresses(rule)[0],
        dport=rule.ports[0][0] if rule.ports else 1,
        proto=rule.proto if rule.proto is not None else 6,
        hook=rule.hook or Hook.OUT,
        profile=rule.profile,
        networks=(rule.network,) if rule.network else (),
        sims=(rule.sim,) if rule.sim else (),
        roaming=rule.roaming,
        metered=rule.metered,
        groups=(name,) if group and not number else (),
        gids=(int(name),) if group and number else (),
        names=_names(rule)[0],
    )


def _around(rule: Rule) -> dict[str, list[Any]]:
    ports = {0, 80, 65535}
    for low, high in rule.ports[:8]:
        ports |= {max(0, low - 1), low, high, min(65535, high + 1)}
    return {
        "app": ["", "/", f"{rule.app}x", rule.app[:-1], rule.app.swapcase()],
        "parents": [(), ("/",), (f"{rule.parent}x",), ("/", rule.parent)],
        "uid": [None, 0, 1, 2],
        "user": ["", "root", f"{rule.user}x", rule.user],
        "daddr": _addresses(rule),
        "dport": sorted(ports),
        "proto": [0, 1, 2, 6, 17, 58, 132, 255],
        "hook": list(Hook),
        "profile": ["", "x", f"{rule.profile}x", rule.profile.upper()],
        "networks": [(), ("ssid:x",), (f"{rule.network}x", rule.network)],
        "sims": [(), ("1",), (rule.sim, "1")],
        "roaming": [None, True, False],
        "metered": [None, True, False],
        "groups": [(), ("x",), (rule.user,)],
        "gids": [(), (0, 1)],
        "names": _names(rule),
    }


_EVERYWHERE = tuple(
    ipaddress.ip_address(text).packed
    for text in (
        *("93.184.216.34", "10.0.0.1", "127.0.0.1", "0.0.0.0", "0.0.0.1", "255.255.255.255"),
        *("224.0.0.1", "192.168.1.1", "::", "::1", "::2", "fe80::1", "fd00::1", "ff02::1"),
        *("2001:db8::1", "::ffff:10.0.0.1"),
    )
)
_OF_SCOPES = {"lan": 1, "loopback": 2, "multicast": 6, "internet": 0}


def _addresses(rule: Rule) -> list[bytes]:
    """The first is inside."""
    host = rule.host
    if isinstance(host, Address | Network):
        size = 8 * len(host.packed)
        open_bits = size - host.prefixlen if isinstance(host, Network) else 0
        first = int.from_bytes(host.packed)
        last = first | (1 << open_bits) - 1
        near = [first, last, first - 1, last + 1]
        found = [n.to_bytes(len(host.packed)) for n in near if 0 <= n < 1 << size]
        mapped = [bytes(10) + b"\xff\xff" + each for each in found if len(each) == 4]
        return [*found, *mapped, *_EVERYWHERE]
    if isinstance(host, str):
        return [_EVERYWHERE[_OF_SCOPES[host.value]], *_EVERYWHERE]
    return list(_EVERYWHERE)


def _names(rule: Rule) -> list[tuple[str, ...]]:
    if not isinstance(rule.host, Name | Domain):
        return [(), ("x.example",)]
    name = rule.host.name
    found = [(name,), (f"x.{name}",), (f"x{name}",), (name.partition(".")[2],), ("y", name), ()]
    return found[1:] + found[:1] if isinstance(rule.host, Domain) else found
