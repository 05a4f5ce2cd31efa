"""The keys of policy files: how each is read, its JSON Schema, and what it means.

These tables are the one definition: `load` reads by them, `schema` and the docs' test speak of
the same rows.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from arbiter.model import PORT_PROTOS, Action, Decision, Hook, TrafficClass
from arbiter.policyfiles import hosts
from arbiter.policyfiles.hosts import AdviceHost
from arbiter.policyfiles.values import FORMAT, Relevance, Wrong
from arbiter.rules import Rule, RuleError, parse
from arbiter.rules.rule import MAX_PORT
from arbiter.rules.words import quote
from arbiter.tomlfile import nearest

MAX_NAME, MAX_WORDS, MAX_URL, MAX_APP = 64, 200, 200, 4096
"""Characters of an application's name, of a sentence for a prompt, of a website, of an app."""
MAX_HOSTS = 64
"""Destinations of one connection."""
_WEBSITE = re.compile(r"https?://[A-Za-z0-9.-]+(?:[:/][!-~]*)?\Z")


class Key(Struct, frozen=True):
    """A key of a table."""

    read: Callable[[object], Any]
    """The value; raises Wrong."""
    schema: Mapping[str, Any]
    """JSON Schema of what is written; what only code can judge is left to `read`."""
    says: str
    """What the key means, in one sentence."""
    required: str = ""
    """A line to show who left it out; "" if it may be left out."""


# --- values ---------------------------------------------------------------------------------


def _text(value: object, most: int, example: str) -> str:
    if not isinstance(value, str):
        raise Wrong("it must be a text in quotes" + (f', such as "{example}"' if example else ""))
    if not value.strip():
        raise Wrong("an empty text says nothing: leave the key out, or give a value")
    if len(value) > most:
        raise Wrong(f"it has more than {most} characters")
    return value


def _sentence(most: int, example: str) -> Callable[[object], str]:
    """A text that a prompt shows as it is: one line, and no character that could mislead."""

    def read(value: object) -> str:
        text = _text(value, most, example)
        if not text.isprintable() or text != text.strip():
            raise Wrong("it must be one line of printable characters, without blanks at its ends")
        return text

    return read


def _website(value: object) -> str:
    text = _text(value, MAX_URL, "https://www.example.org")
    if not _WEBSITE.match(text):
        raise Wrong("it must be an address of the web, such as https://www.example.org")
    return text


def _app(value: object) -> str:
    text = _text(value, MAX_APP, "/usr/bin/curl")
    if not text.isprintable():
        raise Wrong("it holds characters that cannot be shown, which no packaged program needs")
    return text


def _format(value: object) -> int:
    if type(value) is not int or value != FORMAT:
        raise Wrong(f"this version of arbiter reads format {FORMAT} only")
    return value


def _hosts(value: object) -> tuple[AdviceHost, ...]:
    items = value if isinstance(value, list) else [value]
    if not items or len(items) > MAX_HOSTS:
        raise Wrong(f'it has 1 to {MAX_HOSTS} destinations; every one is "*"')
    try:
        found = dict.fromkeys(hosts.read(_text(item, 300, "*.example.org")) for item in items)
    except ValueError as error:
        raise Wrong(str(error)) from None
    if None in found and len(found) > 1:
        raise Wrong('"*" is every destination: nothing can be added to it')
    return tuple(found)


@functools.lru_cache(maxsize=1024)  # port=443 and proto=tcp are nearly all there is
def _through_parser(key: str, text: str) -> Rule:
    """The rule of one condition, as the one-line form has it."""
    try:
        return parse(f"allow {key}={quote(text)}")
    except RuleError as error:
        hint = f"; did you mean {error.suggestion}?" if error.suggestion else ""
        raise Wrong(error.text + hint) from None


def _ports(value: object) -> tuple[tuple[int, int], ...]:
    return _through_parser("port", _joined(value)).ports


def _proto(value: object) -> int | None:
    return _through_parser("proto", _word_or_number(value)).proto


def _relevance(value: object) -> Relevance:
    words = [str(word) for word in Relevance]
    if isinstance(value, str) and value in words:
        return Relevance(value)
    hint = nearest(value, words) if isinstance(value, str) else ""
    raise Wrong(f"it must be one of {', '.join(words)}{hint and ': '}{hint}")


def _suggest(value: object) -> Decision:
    return _decision_of(_text(value, 200, "allow"))


@functools.lru_cache(maxsize=1024)
def _decision_of(text: str) -> Decision:
    try:
        rule = parse(text)
    except RuleError as error:
        raise Wrong(str(error)) from None
    if rule != Rule(rule.decision):
        raise Wrong("it is a decision alone: conditions are keys of [[connection]]")
    return rule.decision


def _list_of_text(example: str) -> Callable[[object], tuple[str, ...]]:
    def read(value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise Wrong(f'it must be a list of texts, such as ["{example}"]')
        return tuple(value)

    return read


def _joined(value: object) -> str:
    """A text, a whole number, or a list of both, as the one-line form writes it: with commas."""
    items = value if isinstance(value, list) else [value]
    if not items or not all(type(item) in (str, int) for item in items):
        raise Wrong("it must be a text in quotes, a whole number, or a list of these")
    # Short enough for Python to write it (sys.get_int_max_str_digits), longer than any of ours.
    if any(isinstance(item, int) and abs(item) >= 10**30 for item in items):
        raise Wrong("that number is too long")
    text = ",".join(map(str, items))
    if not text:
        raise Wrong("an empty text says nothing: leave the key out, or give a value")
    return text


def _word(value: object) -> str:
    return _text(value, MAX_APP, "")


def _word_or_number(value: object) -> str:
    if isinstance(value, list):
        raise Wrong("it must be one value: a text in quotes, or a whole number")
    return _text(value, MAX_APP, "") if isinstance(value, str) else _joined(value)


def _links(value: object) -> str:
    return ",".join(_list_of_text("wifi")(value)) if isinstance(value, list) else _word(value)


def _yes_no(value: object) -> str:
    if not isinstance(value, bool):
        raise Wrong("it must be true or false, without quotes")
    return "yes" if value else "no"


def _decision(value: object) -> str:
    words = [action.value for action in Action]
    if isinstance(value, str) and value in words:
        return value
    hint = nearest(value, words) if isinstance(value, str) else ""
    raise Wrong(f"it must be one of {', '.join(words)}{hint and ': '}{hint}")


# --- tables ---------------------------------------------------------------------------------

_TEXT: Mapping[str, Any] = {"type": "string", "minLength": 1}
_PORT: Mapping[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": MAX_PORT},
        {"type": "string", "pattern": "^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$"},
    ]
}
_PORTS: Mapping[str, Any] = {
    "anyOf": [*_PORT["anyOf"], {"type": "array", "minItems": 1, "items": dict(_PORT)}]
}
_NAME_OR_NUMBER: Mapping[str, Any] = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "minLength": 1}]
}
_TEXTS: Mapping[str, Any] = {
    "anyOf": [dict(_TEXT), {"type": "array", "minItems": 1, "items": dict(_TEXT)}]
}


def _enum(words: Iterable[str]) -> Mapping[str, Any]:
    return {"enum": [str(word) for word in words]}


Table = Mapping[str, Key]
_SENTENCE = {**_TEXT, "maxLength": MAX_WORDS}

TOP: Table = MappingProxyType(
    {
        "format": Key(
            _format,
            {"const": FORMAT},
            f"The version of this format; {FORMAT} if it is left out.",
        ),
    }
)
"""What stands above the tables of every policy file."""

ADMIN: Table = MappingProxyType(
    {
        "rules": Key(
            _list_of_text("deny app=/usr/bin/wget"),
            {"type": "array", "items": dict(_TEXT)},
            "Rules in their one-line form.",
        ),
        "adopt": Key(
            _list_of_text("/usr/lib/firefox/firefox"),
            {"type": "array", "items": dict(_TEXT)},
            "Apps whose packages' suggestions decide without asking.",
        ),
    }
)
"""What stands above the tables of an administrator's file only."""

APPLICATION: Table = MappingProxyType(
    {
        "name": Key(
            _sentence(MAX_NAME, "Firefox"),
            {**_TEXT, "maxLength": MAX_NAME},
            "What people call the application.",
            'name = "Firefox"',
        ),
        "app": Key(
            _app,
            {**_TEXT, "maxLength": MAX_APP},
            "The whole path of the executable that makes the connections, or its unit.",
            'app = "/usr/lib/firefox/firefox"',
        ),
        "website": Key(
            _website,
            {**_TEXT, "maxLength": MAX_URL, "pattern": "^https?://"},
            "Where people can read more.",
        ),
    }
)

CONNECTION: Table = MappingProxyType(
    {
        "host": Key(
            _hosts,
            _TEXTS,
            "Where it goes: a name, `*.domain`, an address, a network, a scope, or `*`; or a list.",
            'host = "*.example.org"',
        ),
        "port": Key(_ports, _PORTS, "Ports and ranges; every port if it is left out."),
        "proto": Key(
            _proto, _NAME_OR_NUMBER, "The protocol, by name or number; every one if it is left out."
        ),
        "purpose": Key(
            _sentence(MAX_WORDS, "Updates and add-ons"),
            _SENTENCE,
            "What the connection is for, as the prompt shows it.",
            'purpose = "Updates and add-ons"',
        ),
        "if_denied": Key(
            _sentence(MAX_WORDS, "It will not update itself"),
            _SENTENCE,
            "What does not work without it, as the prompt shows it.",
        ),
        "relevance": Key(
            _relevance,
            _enum(Relevance),
            "Whether the application is of use without it; optional if it is left out.",
        ),
        "suggest": Key(
            _suggest,
            {**_TEXT, "pattern": "^(allow|deny|route)\\b"},
            "The decision that the prompt offers first; none if it is left out.",
        ),
    }
)

RULE: Table = MappingProxyType(
    {
        "decision": Key(_decision, _enum(Action), "The decision.", 'decision = "deny"'),
        "via": Key(_links, _TEXTS, "With route: the links, in the order they are tried."),
        "class": Key(_word, _enum(TrafficClass), "How packets are marked."),
        "app": Key(_word, _TEXT, "The program."),
        "parent": Key(_word, _TEXT, "A program above it in the process tree."),
        "user": Key(_word_or_number, _NAME_OR_NUMBER, "The user's name or uid."),
        "host": Key(_word, _TEXT, "The destination."),
        "port": Key(_joined, _PORTS, "Ports and ranges."),
        "proto": Key(_word_or_number, _NAME_OR_NUMBER, "The protocol, by name or number."),
        "hook": Key(_word, _enum(Hook), "The way of the packet."),
        "profile": Key(_word, _TEXT, "The profile that is active."),
        "network": Key(_word, _TEXT, "A network that the machine is on."),
        "sim": Key(_word, _TEXT, "A SIM that is in use."),
        "roaming": Key(_yes_no, {"type": "boolean"}, "Whether the default link is roaming."),
        "metered": Key(_yes_no, {"type": "boolean"}, "Whether the default link is metered."),
        "time": Key(_word, _TEXT, "When the rule holds."),
        "note": Key(
            _sentence(MAX_WORDS, "asked for by the lab"),
            _SENTENCE,
            "Why the rule is there, for people.",
        ),
    }
)
"""A rule's table. Every value is read into the word of the one-line form, whose parser judges."""


def has_ports(proto: int | None) -> bool:
    """Whether a port can be asked for."""
    return proto is None or proto in PORT_PROTOS
