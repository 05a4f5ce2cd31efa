"""A rule's one-line form: `allow app=/usr/bin/curl host=192.0.2.0/24 port=443 for=15m`.

The decision comes first; the rest may be read in any order and is written in the order of
KEYS. `parse(format_rule(rule)) == rule` for every rule. What
this version cannot express is refused, never read as something wider.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from arbiter.model import (
    ALLOW,
    DENY,
    PORT_PROTOS,
    PROTO_NAMES,
    PROTO_NUMBERS,
    Action,
    Decision,
    Hook,
    TrafficClass,
    proto_name,
)
from arbiter.rules.context import read_network, read_profile, read_sim, read_yes_no
from arbiter.rules.hosts import format_host, read_host
from arbiter.rules.rule import (
    FOREVER,
    LINK_NAME,
    MAX_PORT,
    Lifetime,
    LifetimeKind,
    Rule,
    class_fault,
    is_number,
    merged,
    user_fault,
    via_fault,
)
from arbiter.rules.synonyms import ACTION_SYNONYMS, KEY_SYNONYMS, SERVICES
from arbiter.rules.times import format_times, read_times
from arbiter.rules.words import (
    RuleError,
    Word,
    check_blank,
    nearest,
    plain_words,
    quote,
    read_span,
    shown,
    split,
    too_long,
    write_span,
)

ACTIONS = tuple(action.value for action in Action)
KEYS = (
    *("via", "class"),
    *("app", "parent", "user", "host", "port", "proto", "hook"),
    *("profile", "network", "sim", "roaming", "metered", "time"),
    "for",
)
_LIFETIMES = tuple(kind.value for kind in LifetimeKind if kind is not LifetimeKind.SPAN)


# --- reading --------------------------------------------------------------------------------


def parse(line: str) -> Rule:
    """The rule a line says. Raises RuleError with the place, and the nearest valid word."""
    try:
        rule = _parse_plain(line)
    except ValueError:  # RuleError is one; said again, with the right place, below
        rule = None
    return _parse(line) if rule is None else rule


def _parse_plain(line: str) -> Rule | None:
    """The same for most lines, in a fifth of the time: 100,000 are read at start.

    None, or some ValueError, where `_parse` must look; never a rule that `_parse` would refuse.
    """
    words = plain_words(line)
    if words is None or words[0] not in ACTIONS:
        return None
    values: dict[str, Any] = {}
    for word in words[1:]:
        key, _, value = word.partition("=")
        field = FIELDS.get(key)
        if field is None or not value or field in values:
            return None
        values[field] = READ[key](value, 0)
    decision = decision_of(words[0], values.pop("via", ()), values.pop("traffic", None))
    return Rule(decision, **values)


@functools.lru_cache(maxsize=256)  # and one value for all rules that decide the same: memory
def decision_of(action: str, via: tuple[str, ...], traffic: TrafficClass | None) -> Decision:
    """The decision that an action makes with its links and class; it may be a faulty one."""
    if not via and traffic is None and action != Action.ROUTE:
        return ALLOW if action == Action.ALLOW else DENY
    return Decision(Action(action), via, traffic)


def _parse(line: str) -> Rule:
    words = split(line)
    if not words:
        raise RuleError("no rule here: it starts with allow, deny or route", 0, "", "allow")
    action = _action(words[0])
    values: dict[str, Any] = {}
    places: dict[str, Word] = {}
    for word in words[1:]:
        check_blank(word, line, next(reversed(places.values()), None))
        _check_key(word, places)
        places[word.key] = word
        values[FIELDS[word.key]] = READ[word.key](word.value or "", word.value_position)
    decision = decision_of(action.value, values.pop("via", ()), values.pop("traffic", None))
    _check_decision(decision, words[0], places)
    if "ports" in values and values.get("proto", 6) not in PORT_PROTOS:
        text = f"{proto_name(values['proto'])} has no ports: leave out port=, or say which"
        raise RuleError(text, places["port"].position, "port", "proto=tcp")
    return Rule(decision, **values)


def _action(word: Word) -> Action:
    if word.value is not None:
        text = "the decision comes first: allow, deny or route"
        suggestion = word.key if word.key in ACTIONS else "allow"
        raise RuleError(text, word.position, word.key, suggestion)
    if word.key not in ACTIONS:
        suggestion = nearest(word.key, ACTIONS, ACTION_SYNONYMS)
        text = f"{quote(shown(word.key))} is no decision: it is allow, deny or route"
        raise RuleError(text, word.position, word.key, suggestion or "allow")
    return Action(word.key)


def _check_key(word: Word, places: dict[str, Word]) -> None:
    key = word.key
    if key not in KEYS:
        suggestion = nearest(key, KEYS, KEY_SYNONYMS)
        text = f"{quote(shown(key))} is no condition: there is {', '.join(KEYS)}"
        if key in ACTIONS:
            text, suggestion = "a rule has one decision, at its start", ""
        if suggestion in KEYS:
            suggestion += "="
        raise RuleError(text, word.position, key, suggestion)
    if key in places:
        text = f"{key}= stands twice (first in column {places[key].position + 1})"
        raise RuleError(text, word.position, key)
    if not word.value:
        text = f"{key}= has no value: leave it out to match any, or give one"
        raise RuleError(text, word.position, key)


def _check_decision(decision: Decision, first: Word, places: dict[str, Word]) -> None:
    fault, place = via_fault(decision), places.get("via")
    if fault and place is None:
        raise RuleError(fault, first.position, first.key, "route via=any")
    if fault and place is not None:
        suggestion = "route" if decision.action is not Action.ROUTE else ""
        where = place.position if suggestion else place.value_position
        raise RuleError(fault, where, place.value or "", suggestion)
    if fault := class_fault(decision):
        raise RuleError(fault, places["class"].position, "class")


def _read_text(text: str, position: int) -> str:
    return sys.intern(text)  # one string for all rules of an app: memory


def _read_user(text: str, position: int) -> str:
    fault = user_fault(text)
    if fault:
        sign = text[: text.startswith("@")]
        bare = sign + (text[len(sign) :].lstrip("0") or "0")
        raise RuleError(fault, position, text, "" if text == "@" or user_fault(bare) else bare)
    return sys.intern(text)


def _read_via(text: str, position: int) -> tuple[str, ...]:
    """Each name; what is wrong with their order or number is `via_fault`'s to say."""
    names = text.split(",")
    for name in names:
        if not LINK_NAME.match(name):
            fault = "a link name has 1 to 15 letters, digits, '_', '.' or '-'"
            raise RuleError(fault, position, name)
        position += len(name) + 1
    return tuple(names)


def _read_class(text: str, position: int) -> TrafficClass:
    for traffic in TrafficClass:
        if traffic.value == text:
            return traffic
    names = tuple(traffic.value for traffic in TrafficClass)
    synonyms = {
        **dict.fromkeys(("realtime", "voip", "voice", "high"), "interactive"),
        **dict.fromkeys(("idle", "scavenger", "low", "lowest"), "background"),
    }
    fault = f"{quote(shown(text))} is no class: it is {', '.join(names)}"
    raise RuleError(fault, position, text, nearest(text, names, synonyms))


def _read_ports(text: str, position: int) -> tuple[tuple[int, int], ...]:
    # One tuple shared by all rules for port 443 (memory), wherever it stands in their lines.
    return _known_ports(text) or _ports(text, position)


@functools.lru_cache(maxsize=1024)
def _known_ports(text: str) -> tuple[tuple[int, int], ...]:
    """() where `_ports` has something to say."""
    try:
        return _ports(text, 0)
    except RuleError:
        return ()


def _ports(text: str, position: int) -> tuple[tuple[int, int], ...]:
    ranges = []
    for item in text.split(","):
        low, dash, high = item.partition("-")
        ends = (_port(low, position), _port(high, position + len(low) + 1) if dash else None)
        first, last = ends[0], ends[0] if ends[1] is None else ends[1]
        if first > last:
            fault = "a range goes from the smaller port to the larger"
            raise RuleError(fault, position, item, f"{last}-{first}")
        ranges.append((first, last))
        position += len(item) + 1
    return merged(tuple(ranges))


def _port(text: str, position: int) -> int:
    number = _number(text, MAX_PORT)
    if number is None:
        fault = f"{quote(shown(text))} is no port: it is a number 0 to {MAX_PORT}"
        suggestion = text.lstrip("0") if is_number(text) else ""
        if _number(suggestion, MAX_PORT) is None:
            suggestion = "" if is_number(text) else SERVICES.get(text.lower(), "443,8000-8080")
        raise RuleError(fault, position, text, suggestion)
    return number


def _number(text: str, most: int) -> int | None:
    """A canonical decimal number up to `most`; None for everything else."""
    if not is_number(text) or len(text) > len(str(most)) or (len(text) > 1 and text[0] == "0"):
        return None
    return number if (number := int(text)) <= most else None


def _read_proto(text: str, position: int) -> int:
    number = PROTO_NUMBERS.get(text)
    if number is None:
        number = _number(text, 255)
    if number is None:
        fault = f"{quote(shown(text))} is no protocol: it is a name or a number 0 to 255"
        suggestion = nearest(text, PROTO_NUMBERS, {"icmp6": "icmpv6", "ipv6-icmp": "icmpv6"})
        raise RuleError(fault, position, text, suggestion)
    return number


def _read_hook(text: str, position: int) -> Hook:
    for hook in Hook:
        if hook.value == text:
            return hook
    names = tuple(hook.value for hook in Hook)
    synonyms = {"output": "out", "outgoing": "out", "input": "in", "incoming": "in"}
    fault = f"{quote(shown(text))} is no hook: it is {', '.join(names)}"
    raise RuleError(fault, position, text, nearest(text, names, synonyms))


@functools.lru_cache(maxsize=256)
def parse_lifetime(text: str, position: int = 0) -> Lifetime:
    """The lifetime that `for=` words name: `once`, `15m`, `forever` … Raises RuleError."""
    if text in _LIFETIMES:
        return Lifetime(LifetimeKind(text))
    seconds = read_span(text)
    if seconds is None and too_long(text):
        fault = f"{quote(shown(text))} is too long: the longest is 100 years"
        raise RuleError(fault, position, text, "forever")
    if seconds is None:
        fault = (
            f"{quote(shown(text))} is no lifetime: it is {', '.join(_LIFETIMES)}, or a time "
            "such as 90s, 15m, 1h30m, 7d, 2w"
        )
        synonyms = {"always": "forever", "permanent": "forever", "restart": "boot"}
        suggestion = nearest(text, _LIFETIMES, synonyms) or "15m"
        raise RuleError(fault, position, text, suggestion)
    return Lifetime(LifetimeKind.SPAN, seconds)


READ: dict[str, Callable[[str, int], object]] = {
    "via": _read_via,
    "class": _read_class,
    "app": _read_text,
    "parent": _read_text,
    "user": _read_user,
    "host": read_host,
    "port": _read_ports,
    "proto": _read_proto,
    "hook": _read_hook,
    "profile": read_profile,
    "network": read_network,
    "sim": read_sim,
    "roaming": read_yes_no,
    "metered": read_yes_no,
    "time": read_times,
    "for": parse_lifetime,
}
_RENAMED = {"class": "traffic", "port": "ports", "time": "times", "for": "lifetime"}
FIELDS = {key: _RENAMED.get(key, key) for key in KEYS}


# --- writing --------------------------------------------------------------------------------


def format_rule(rule: Rule) -> str:
    """The canonical line: one blank between words, `for=` only if it is not forever."""
    words = [format_decision(rule.decision), conditions(rule)]
    if rule.lifetime != FOREVER:
        words.append(f"for={format_lifetime(rule.lifetime)}")
    return " ".join(word for word in words if word)


def format_decision(decision: Decision) -> str:
    """`allow`, `deny`, or `route via=lte,any class=bulk`."""
    via = f" via={','.join(decision.via)}" if decision.via else ""
    traffic = f" class={decision.traffic.value}" if decision.traffic is not None else ""
    return decision.action.value + via + traffic


def format_lifetime(lifetime: Lifetime) -> str:
    """What `parse_lifetime` reads back as the same."""
    if lifetime.kind is LifetimeKind.SPAN:
        return write_span(lifetime.seconds)
    return lifetime.kind.value


def conditions(rule: Rule) -> str:
    """The line without decision and lifetime; "" for a rule without conditions."""
    words = [
        f"{key}={quote(text)}"
        for key, text in (("app", rule.app), ("parent", rule.parent), ("user", rule.user))
        if text
    ]
    if rule.host is not None:
        words.append(f"host={format_host(rule.host)}")
    if rule.ports:
        words.append(f"port={format_ports(rule.ports)}")
    if rule.proto is not None:
        words.append(f"proto={format_proto(rule.proto)}")
    if rule.hook is not None:
        words.append(f"hook={rule.hook.value}")
    words += [
        f"{key}={quote(text)}"
        for key, text in (("profile", rule.profile), ("network", rule.network), ("sim", rule.sim))
        if text
    ]
    words += [
        f"{key}={'yes' if value else 'no'}"
        for key, value in (("roaming", rule.roaming), ("metered", rule.metered))
        if value is not None
    ]
    if rule.times:
        words.append(f"time={format_times(rule.times)}")
    return " ".join(words)


def format_proto(proto: int) -> str:
    """`tcp`, or the number of a protocol that has no name here."""
    return PROTO_NAMES.get(proto) or str(proto)


def format_ports(ports: tuple[tuple[int, int], ...]) -> str:
    """`443,8000-8080`."""
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ports)
