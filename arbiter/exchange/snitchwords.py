"""One rule of OpenSnitch as rules of ours: the same connections, or not at all.

Several, where it lists alternatives. What differs between the two, and why each is safe:

- OpenSnitch compares without case unless `sensitive` is set. Paths here are exact, which allows
  less; what a *deny* loses by that is said by opensnitch.py.
- Its protocols name a family: `tcp` is IPv4, `tcp6` IPv6.
- It compares addresses and numbers as text: what is not written as Go writes it never matches.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Callable, Iterable

from arbiter.exchange.items import clipped
from arbiter.exchange.regexps import NoEqualError, texts_of
from arbiter.exchange.snitchfile import Operator, SnitchError, SnitchRule
from arbiter.exchange.words import WordsError, read_item
from arbiter.identity import appimage_mount, interpreter_name, stable_path
from arbiter.rules import FOREVER, Lifetime, LifetimeKind, Rule, ScopeName
from arbiter.rules.words import read_span

MOST = 256
"""Rules that one rule may become."""
_PROTOCOLS = {
    "tcp": ("tcp", 4),
    "udp": ("udp", 4),
    "udplite": ("udplite", 4),
    "sctp": ("sctp", 4),
    "icmp": ("icmp", 4),
    "tcp6": ("tcp", 6),
    "udp6": ("udp", 6),
    "udplite6": ("udplite", 6),
    "sctp6": ("sctp", 6),
    "icmp6": ("icmpv6", 6),
}
_EVERYTHING = {4: "0.0.0.0/0", 6: "::/0"}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*", re.ASCII)
_SPAN = re.compile(r"(?:[0-9]+h)?(?:[0-9]+m)?(?:[0-9]+s)?")
_ELSEWHERE = {
    "/snap/": "snap:NAME",
    "/var/lib/snapd/snap/": "snap:NAME",
    "/app/": "flatpak:ID",
}
"""Paths of programs that arbiter knows by another name."""
_NEXT = "`arbiter pending --json` shows how arbiter calls a program that runs"
_NO_EQUAL = {
    "process.command": "what a program was told on its command line is not compared here",
    "iface.out": "a rule here chooses the link (route via=…), it does not depend on it",
    "iface.in": "only outgoing connections are decided",
    "source.ip": "the source address is not compared here",
    "source.network": "the source address is not compared here",
    "source.port": "the source port is not compared here",
    "process.id": "a process id means nothing after the process has ended",
    "lists.domains": "its files are not read; write a rule for each name",
    "lists.domains_regexp": "its files are not read; write a rule for each name",
    "lists.ips": "its files are not read; write a rule for each address",
    "lists.nets": "its files are not read; write a rule for each network",
}


def lifetime_of(duration: str) -> Lifetime | None:
    """How long a rule holds; None for `once`, which is no rule. Raises SnitchError."""
    if duration == "once":
        return None
    if duration == "always":
        return FOREVER
    if duration == "until restart":
        return Lifetime(LifetimeKind.BOOT)
    seconds = read_span(duration) if _SPAN.fullmatch(duration) else None
    if seconds is None:
        known = "once, a time such as 30s, 15m or 12h, until restart, or always"
        raise SnitchError("duration", f"{clipped(duration)!r}: it is {known}")
    return Lifetime(LifetimeKind.SPAN, seconds)


def rules_of(rule: SnitchRule) -> list[Rule]:
    """Rules that match, together, exactly what `rule` does. Raises SnitchError.

    Its duration must not be `once`.
    """
    decision = "allow" if rule.action == "allow" else "deny"
    lifetime = lifetime_of(rule.duration) or FOREVER
    columns: dict[str, list[str]] = {}
    families: list[tuple[str, int]] = []
    for operator in rule.operators:
        if operator.operand == "true" and operator.type == "simple":
            continue
        key, values = _values(operator, decision)
        if key in columns or (key == "proto" and families):
            raise SnitchError(operator.place, f"a second condition on {key}= has no equal")
        if key == "proto":
            families = [_PROTOCOLS[value] for value in values]
        else:
            columns[key] = values
    out = dict.fromkeys(
        _rule(decision, table).replace(lifetime=lifetime) for table in _tables(columns, families)
    )
    if not out:
        text = "no connection can match: its protocol and its destination are of other families"
        raise SnitchError("operator", text)
    return list(out)


def _rule(decision: str, table: dict[str, str]) -> Rule:
    try:
        return read_item({"decision": decision, **table}, "").rule
    except WordsError as error:
        raise SnitchError("operator", f"{error.key}=: {error}") from None


def _tables(
    columns: dict[str, list[str]], families: list[tuple[str, int]]
) -> Iterable[dict[str, str]]:
    """Every combination of alternatives; ports are one value in a rule."""
    if "port" in columns:
        columns = columns | {"port": [",".join(columns["port"])]}
    many = len(families) or 1
    for values in columns.values():
        many *= len(values)
    if many > MOST:
        raise SnitchError("operator", f"it stands for {many} rules, more than {MOST}")
    for combination in itertools.product(*columns.values()):
        table = dict(zip(columns, combination, strict=True))
        if not families:
            yield table
            continue
        for proto, host in _with_protocols(table.get("host", ""), families):
            yield table | {"proto": proto} | ({"host": host} if host else {})


def _with_protocols(host: str, families: list[tuple[str, int]]) -> Iterable[tuple[str, str]]:
    """(proto, host) pairs: a protocol of one family only is one with that family's hosts."""
    by_proto: dict[str, set[int]] = {}
    for proto, family in families:
        by_proto.setdefault(proto, set()).add(family)
    family = _family(host)
    for proto, of in by_proto.items():
        if len(of) == 2 or (family and family in of):
            yield proto, host
        elif host and not family:
            text = f"{proto} of one family and a name have no equal together; ^{proto}6?$ has"
            raise SnitchError("operator", text)
        elif not host:
            yield proto, _EVERYTHING[next(iter(of))]


def _family(host: str) -> int:
    """4, 6, or 0 for a name and for no host."""
    try:
        return ipaddress.ip_network(host).version if host else 0
    except ValueError:
        return 0


# --- one condition --------------------------------------------------------------------------


def _values(operator: Operator, decision: str) -> tuple[str, list[str]]:
    """The key of ours that a condition is about, and the values it allows."""
    operand, place = operator.operand, operator.place
    if operand in _NO_EQUAL:
        raise SnitchError(f"{place}.operand", f"{operand} has no equal: {_NO_EQUAL[operand]}")
    if operand not in _KEYS:
        raise SnitchError(f"{place}.operand", f"{clipped(operand)!r} has no equal here")
    key, check = _KEYS[operand]
    if operand == "dest.network":
        if operator.type != "network":
            raise SnitchError(f"{place}.type", "dest.network is compared with type network only")
        texts = [operator.data]
    elif operator.type == "range" and operand == "dest.port":
        texts = [operator.data]
        check = _port_range
    else:
        texts = _texts(operator)
    return key, list(dict.fromkeys(check(text, operator, decision) for text in texts))


def _texts(operator: Operator) -> list[str]:
    """The texts that a condition compares with; an ending as `*.example.org`."""
    if operator.type == "simple":
        if "*" in operator.data:
            raise _wrong(operator, "a * is no wildcard in a simple condition")
        return [operator.data]
    if operator.type != "regexp":
        known = "simple, regexp, network or range"
        raise SnitchError(f"{operator.place}.type", f"{clipped(operator.type)!r} is not {known}")
    try:
        texts = texts_of(operator.data)
    except NoEqualError as error:
        raise _wrong(operator, f"it has no equal: {error}") from None
    if any("*" in text for text in (*texts.exact, *texts.endings)):
        raise _wrong(operator, "a path or name with a * in it has no equal")
    if texts.endings and operator.operand != "dest.host":
        raise _wrong(operator, "of regexps without ^ only the end of a host name has an equal")
    for ending in texts.endings:
        if not ending.startswith("."):
            text = f"it matches any name that ends in {clipped(ending)!r}, not in a whole label"
            raise _wrong(operator, text)
    return [*texts.exact, *(f"*{ending}" for ending in texts.endings)]


def _wrong(operator: Operator, text: str) -> SnitchError:
    return SnitchError(f"{operator.place}.data", text)


def _path(text: str, operator: Operator, decision: str) -> str:
    if not text.startswith("/"):
        raise _wrong(operator, f"{clipped(text)!r} is not a whole path")
    for start, id in _ELSEWHERE.items():
        if text.startswith(start):
            raise _wrong(operator, f"arbiter knows such a program as {id}; {_NEXT}")
    if appimage_mount(text):
        raise _wrong(operator, f"arbiter knows such a program as appimage:FILE; {_NEXT}")
    stable = stable_path(text)
    if stable != text:
        wider = f"arbiter knows it as {clipped(stable)}, which is every version of it"
        raise _wrong(operator, f"{wider}; if that is meant, add that rule by hand")
    if decision == "deny" and interpreter_name(text.rpartition("/")[2]):
        raise _wrong(operator, f"arbiter knows each script by itself, as script:…; {_NEXT}")
    return text


def _host(text: str, operator: Operator, decision: str) -> str:
    name = text.removeprefix("*.")
    if not _NAME.fullmatch(name) or len(name) > 253 or name.lower() in tuple(ScopeName):
        raise _wrong(operator, f"{clipped(text)!r} is no name of a host")
    if _family(name) or name.replace(".", "").isdigit():
        raise _wrong(operator, f"{clipped(text)!r} is an address: OpenSnitch has names there")
    if operator.sensitive and name != name.lower():
        raise _wrong(operator, "names are compared without case here")
    return text.lower()


def _address(text: str, operator: Operator, decision: str) -> str:
    try:
        canonical = str(ipaddress.ip_address(text))
    except ValueError:
        raise _wrong(operator, f"{clipped(text)!r} is no address") from None
    if canonical != (text if operator.sensitive else text.lower()) or "%" in text:
        raise _wrong(operator, f"it never matches: OpenSnitch writes that address {canonical}")
    if ":" in text and ipaddress.IPv6Address(text).ipv4_mapped is not None:
        raise _wrong(operator, "it never matches: OpenSnitch writes that address as IPv4")
    return canonical


def _network(text: str, operator: Operator, decision: str) -> str:
    address, slash, bits = text.partition("/")
    fault = f"{clipped(text)!r} is no network, such as 192.0.2.0/24"
    try:
        # Host bits are allowed, and cleared, by Go's ParseCIDR; other masks are not.
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise _wrong(operator, fault) from None
    if not slash or not bits.isdigit() or str(int(bits)) != bits or "%" in address:
        raise _wrong(operator, fault)
    if network.version == 6 and ipaddress.IPv6Address(address).ipv4_mapped is not None:
        raise _wrong(operator, "an IPv4-mapped network: write it as IPv4")
    return str(network)


def _port(text: str, operator: Operator, decision: str) -> str:
    if not _number(text, 65535):
        raise _wrong(operator, f"{clipped(text)!r} is no port, 1 to 65535")
    return text


def _port_range(text: str, operator: Operator, decision: str) -> str:
    low, _, high = text.partition("-")
    if not (_number(low, 65535) and _number(high, 65535) and int(low) <= int(high)):
        raise _wrong(operator, f"{clipped(text)!r} is no range of ports, such as 1024-65535")
    return text


def _number(text: str, most: int) -> bool:
    """A decimal number 1 to `most`. In OpenSnitch, port 0 is what has no ports, too."""
    return bool(re.fullmatch(r"[1-9][0-9]{0,9}", text)) and int(text) <= most


def _user(text: str, operator: Operator, decision: str) -> str:
    if text != "0" and not _number(text, 0xFFFFFFFE):
        raise _wrong(operator, f"{clipped(text)!r} is no uid")
    return text


def _protocol(text: str, operator: Operator, decision: str) -> str:
    name = text if operator.sensitive else text.lower()
    if name not in _PROTOCOLS:
        known = ", ".join(_PROTOCOLS)
        raise _wrong(operator, f"{clipped(text)!r} is none of the protocols {known}")
    return name


_Check = Callable[[str, Operator, str], str]
_KEYS: dict[str, tuple[str, _Check]] = {
    "process.path": ("app", _path),
    "process.parent.path": ("parent", _path),
    "user.id": ("user", _user),
    "dest.host": ("host", _host),
    "dest.ip": ("host", _address),
    "dest.network": ("host", _network),
    "dest.port": ("port", _port),
    "protocol": ("proto", _protocol),
}
