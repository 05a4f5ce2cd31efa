"""The filters of records in the words that people give: `arbiter audit` and the protocol have
the same. What they mean, and why one cannot be understood."""

from __future__ import annotations

import fnmatch
import re
import socket

from arbiter.events import Reason
from arbiter.model import proto_name
from arbiter.records import read_list, spelt
from arbiter.rules import RuleError, parse
from arbiter.rules.rule import Address, Domain, Name, Network, Rule, ScopeName, is_number, plain
from arbiter.rules.scopes import scope_of
from arbiter.rules.words import quote
from arbiter.store.filters import Filter, Wanted


class FilterError(ValueError):
    """A filter that cannot be understood: its name, and why, for people."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class ConditionError(FilterError):
    """The same of one that is a condition of a rule: `error` knows the place in `line`."""

    def __init__(self, name: str, line: str, error: RuleError) -> None:
        super().__init__(name, str(error))
        self.line, self.error = line, error


def wanted_by(
    *,
    since: float | None = None,
    until: float | None = None,
    app: str | None = None,
    user: str | None = None,
    host: str | None = None,
    port: str | None = None,
    proto: str | None = None,
    link: str | None = None,
    decision: str | None = None,
    rule: str | None = None,
    by: str | None = None,
    reason: str | None = None,
) -> Wanted:
    """What all these filters ask for together; None is no filter. Raises FilterError."""
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
        _reason(reason),
    ]
    return Wanted(since, until, tuple(one for one in found if one is not None))


def _app(app: str | None) -> Filter | None:
    if app is None or "*" in app or not app or "/" in app or ":" in app:
        return _text("app", app)
    name = spelt(app)
    return Filter("app", test=lambda id: name in (re.split("[/:]", id)[-1], id))


def _text(column: str, text: str | None) -> Filter | None:
    if text is None:
        return None
    if "*" not in text:
        return Filter(column, (text,))
    pattern = spelt(text).replace("[", "[[]").replace("?", "[?]")
    match = re.compile(fnmatch.translate(pattern)).match
    return Filter(column, test=lambda value: match(value) is not None)


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
        raise ConditionError(key, line, error) from None


def _decision(text: str | None) -> Filter | None:
    if text is None:
        return None
    if text == "route":
        return Filter("decision", test=lambda decision: decision.startswith("route "))
    if text not in ("allow", "deny") and not text.startswith("route via="):
        why = f"{text!r} is no decision: give allow, deny, route, or 'route via=LINK,...'"
        raise FilterError("decision", why)
    return Filter("decision", test=lambda decision: decision == text)


def _rule(text: str | None) -> Filter | None:
    if text is None:
        return None
    if is_number(text) and len(text) < 19:
        return Filter("rule_id", (int(text),))
    if ":" not in text:
        raise FilterError(
            "rule",
            f"{text!r} is no rule: give its number (`arbiter rules list`), or FILE:LINE of a policy"
            " file",
        )
    return Filter("by_user", (f"file:{text.removeprefix('file:')}",))


def _reason(text: str | None) -> Filter | None:
    if text is None:
        return None
    if text not in [reason.value for reason in Reason]:
        why = f"{text!r} is no reason: give one of {', '.join(reason.value for reason in Reason)}"
        raise FilterError("reason", why)
    return Filter("reason", (text,))
