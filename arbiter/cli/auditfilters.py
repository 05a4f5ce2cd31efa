"""The filters that the commands of `arbiter audit` share: options in, what the store finds out."""

from __future__ import annotations

import fnmatch
import re
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import click

from arbiter.cli.common import fail_rule
from arbiter.cli.times import moment
from arbiter.events import Reason
from arbiter.model import proto_name
from arbiter.records import from_utf8, read_list
from arbiter.rules import RuleError, parse
from arbiter.rules.rule import Address, Domain, Name, Network, Rule, ScopeName, is_number, plain
from arbiter.rules.scopes import scope_of
from arbiter.rules.words import quote
from arbiter.store.filters import Filter, Wanted

F = TypeVar("F", bound=Callable[..., Any])
_REASONS = click.Choice([reason.value for reason in Reason])
_OPTIONS: dict[str, dict[str, Any]] = {
    "since": {"callback": moment, "metavar": "TIME", "help": "From then on: 2h, today, ..."},
    "until": {"callback": moment, "metavar": "TIME", "help": "Before then: 1h, 2026-11-19, ..."},
    "app": {"help": "This app's id, its last part (curl), or a pattern with *."},
    "user": {"help": "Of this user's processes; a pattern with * is one, too."},
    "host": {"help": "To what host= of a rule means: a name, an address, lan, ..."},
    "port": {"help": "To these ports: 443, or 1-1023,8080."},
    "proto": {"help": "tcp, udp, icmp, ..., or a number."},
    "link": {"help": "That left over this link; '' for none."},
    "decision": {"metavar": "DECISION", "help": "allow, deny, route, or 'route via=LINK,...'."},
    "rule": {"metavar": "RULE", "help": "By this rule: its number, or FILE:LINE."},
    "by": {"help": "Answered, or its rule made, by this person; * is a pattern."},
    "reason": {"type": _REASONS, "help": "Decided for it."},
}
"""Each filter, and what click is told of it."""


def filter_options(*without: str) -> Callable[[F], F]:
    """All filters as options, but for those that the command has as its argument."""

    def add(command: F) -> F:
        for name, option in reversed(_OPTIONS.items()):
            if name not in without:
                command = click.option(f"--{name}", **option)(command)
        return command

    return add


def wanted_by(
    *,
    since: float | None,
    until: float | None,
    app: str | None,
    user: str | None,
    host: str | None,
    port: str | None,
    proto: str | None,
    link: str | None,
    decision: str | None,
    rule: str | None,
    by: str | None,
    reason: str | None,
) -> Wanted:
    """What the options ask for. Ends the program with code 2 where one cannot be understood."""
    found = [
        _app(app),
        _text("user", user),
        _host(host),
        _port(port),
        _proto(proto),
        None if link is None else Filter("link", (link,)),
        _decision(decision),
        _rule(rule),
        _text("by_user", by),
        None if reason is None else Filter("reason", (reason,)),
    ]
    return Wanted(since, until, tuple(one for one in found if one is not None))


def _app(app: str | None) -> Filter | None:
    if app is None or "*" in app or not app or "/" in app or ":" in app:
        return _text("app", app)
    return Filter("app", test=lambda id: re.split("[/:]", id)[-1] == app or id == app)


def _text(column: str, text: str | None) -> Filter | None:
    if text is None:
        return None
    if "*" not in text:
        return Filter(column, (text,))
    match = re.compile(fnmatch.translate(text.replace("[", "[[]").replace("?", "[?]"))).match
    return Filter(column, test=lambda value: match(from_utf8(value)) is not None)


def _host(text: str | None) -> Filter | None:
    if text is None:
        return None
    host = _condition("host", text).host
    match host:
        case Name(name):
            return Filter("names", test=lambda names: name in _names(names))
        case Domain(name):
            end = f".{name}"
            return Filter("names", test=lambda names: any(n.endswith(end) for n in _names(names)))
        case Address(packed):
            return Filter("daddr", test=lambda daddr: _packed(daddr) == packed)
        case Network(packed, prefixlen):
            shift = 8 * len(packed) - prefixlen
            want = int.from_bytes(packed) >> shift
            width = len(packed)
            return Filter("daddr", test=lambda daddr: _within(daddr, width, shift, want))
        case ScopeName():
            return Filter("daddr", test=lambda daddr: _scope(daddr) is host)
    raise AssertionError(host)


def _names(array: str) -> tuple[str, ...]:
    try:
        return read_list(array)
    except (ValueError, RecursionError):
        return ()  # not as arbiter writes it: no name that anything was looked up by


def _packed(text: str) -> bytes:
    """The bytes of an address; b"" for what is none, such as that of an undecodable packet."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return plain(socket.inet_pton(family, text))
    except (OSError, ValueError):
        return b""


def _within(daddr: str, width: int, shift: int, want: int) -> bool:
    packed = _packed(daddr)
    return len(packed) == width and int.from_bytes(packed) >> shift == want


def _scope(daddr: str) -> ScopeName | None:
    packed = _packed(daddr)
    return scope_of(packed) if packed else None


def _port(text: str | None) -> Filter | None:
    if text is None:
        return None
    ranges = _condition("port", text).ports
    return Filter("dport", test=lambda port: any(a <= port <= b for a, b in ranges))


def _proto(text: str | None) -> Filter | None:
    if text is None:
        return None
    number = _condition("proto", text).proto
    return None if number is None else Filter("proto", (proto_name(number),))


def _condition(key: str, text: str) -> Rule:
    """What a condition of a rule means, in the words of a rule."""
    line = f"allow {key}={quote(text)}"  # one word: a space must not begin another condition
    try:
        return parse(line)
    except RuleError as error:
        fail_rule(error, line)


def _decision(text: str | None) -> Filter | None:
    if text is None:
        return None
    if text == "route":
        return Filter("decision", test=lambda decision: decision.startswith("route "))
    if text not in ("allow", "deny") and not text.startswith("route via="):
        raise click.BadParameter(
            f"{text!r} is no decision: give allow, deny, route, or 'route via=LINK,...'",
            param_hint="'--decision'",
        )
    return Filter("decision", test=lambda decision: decision == text)


def _rule(text: str | None) -> Filter | None:
    if text is None:
        return None
    if is_number(text) and len(text) < 19:
        return Filter("rule_id", (int(text),))
    if ":" not in text:
        raise click.BadParameter(
            f"{text!r} is no rule: give its number (`arbiter rules list`), or FILE:LINE of a policy"
            " file",
            param_hint="'--rule'",
        )
    return Filter("by_user", (f"file:{text.removeprefix('file:')}",))
