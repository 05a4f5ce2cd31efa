"""One rule of OpenSnitch as its file says it: decoded strictly, nothing interpreted.

Its code is the reference: daemon/rule/{rule,operator,loader}.go of OpenSnitch 1.5 to 1.6.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from arbiter.exchange.items import clipped
from arbiter.exchange.jsontext import JsonError, load_json
from arbiter.tomlfile import shown_value, unknown

MAX_OPERATORS = 64
"""Conditions of one rule."""
_RULE_KEYS = (
    *("created", "updated", "name", "description", "enabled", "precedence", "nolog"),
    *("action", "duration", "operator"),
)
_OPERATOR_KEYS = ("type", "operand", "data", "sensitive", "list")
ACTIONS = ("allow", "deny", "reject")


class SnitchError(ValueError):
    """A file, or one rule, is not what it should be; `place` is the path of keys in it."""

    def __init__(self, place: str, text: str) -> None:
        super().__init__(text)
        self.place = place


class Operator(Struct, frozen=True):
    """One condition. `place` is its path in the file."""

    type: str
    operand: str
    data: str
    sensitive: bool
    place: str


class SnitchRule(Struct, frozen=True):
    """A rule; it matches where all of its operators do."""

    name: str
    enabled: bool
    precedence: bool
    action: str
    duration: str
    operators: tuple[Operator, ...]
    origin: str = ""

    @property
    def order(self) -> bytes:
        """What its rules are sorted by: Go compares strings by their bytes."""
        return self.name.encode("utf-8", "surrogatepass")


def is_snitch(data: object) -> bool:
    """Whether a JSON value looks like a rule of OpenSnitch."""
    return isinstance(data, dict) and "operator" in data


def decode(data: object, origin: str) -> SnitchRule:
    """The rule in a JSON value. Raises SnitchError."""
    if not isinstance(data, dict):
        raise SnitchError("", "a rule of OpenSnitch is a JSON object")
    _check_keys(data, _RULE_KEYS, "")
    action = _text(data, "action", "")
    if action not in ACTIONS:
        raise SnitchError("action", f"{shown_value(action)}: it is {', '.join(ACTIONS)}")
    name = _text(data, "name", "")
    if not name:
        raise SnitchError("name", "a rule needs a name: the order depends on it")
    return SnitchRule(
        name=name,
        enabled=_flag(data, "enabled", ""),
        precedence=_flag(data, "precedence", ""),
        action=action,
        duration=_text(data, "duration", ""),
        operators=_operators(data.get("operator")),
        origin=origin,
    )


def _operators(data: object) -> tuple[Operator, ...]:
    place = "operator"
    if not isinstance(data, dict):
        raise SnitchError(place, "there is no operator, which says what the rule matches")
    _check_keys(data, _OPERATOR_KEYS, place)
    if data.get("type") != "list":
        return (_operator(data, place),)
    # Older versions keep the list as JSON in `data`; where both are there, versions differ in
    # which of them counts.
    given, place = data.get("list") or [], f"{place}.list"
    text = _text(data, "data", "operator")
    if text:
        try:
            old = load_json(text)
        except JsonError as error:
            raise SnitchError("operator.data", str(error)) from None
        if given and old != given:
            raise SnitchError("operator", "`data` and `list` disagree: keep one of them")
        given, place = old, "operator.data"
    if not isinstance(given, list) or not given:
        raise SnitchError(place, "an empty list matches every connection: say what is meant")
    if len(given) > MAX_OPERATORS:
        raise SnitchError(place, f"more than {MAX_OPERATORS} conditions")
    operators = []
    for number, part in enumerate(given):
        here = f"{place}[{number}]"
        if not isinstance(part, dict):
            raise SnitchError(here, "a condition is a JSON object")
        _check_keys(part, _OPERATOR_KEYS, here)
        operators.append(_operator(part, here))
    return tuple(operators)


def _operator(data: dict[str, Any], place: str) -> Operator:
    type = _text(data, "type", place)
    if type == "list" or data.get("list"):
        raise SnitchError(place, "a list inside a list is not read by OpenSnitch itself")
    return Operator(
        type=type,
        operand=_text(data, "operand", place),
        data=_text(data, "data", place),
        sensitive=_flag(data, "sensitive", place),
        place=place,
    )


def _check_keys(data: dict[str, Any], keys: tuple[str, ...], place: str) -> None:
    for key in data:
        if key not in keys:
            # A key of a later version may be one more condition: without it the rule is wider.
            text = unknown(key, keys, "key of an OpenSnitch rule")
            raise SnitchError(_path(place, clipped(key)), text)


def _text(data: dict[str, Any], key: str, place: str) -> str:
    value = data.get(key, "")
    if not isinstance(value, str):
        raise SnitchError(_path(place, key), f"{shown_value(value)} is no text")
    return value


def _flag(data: dict[str, Any], key: str, place: str) -> bool:
    value = data.get(key, False)
    if not isinstance(value, bool):
        raise SnitchError(_path(place, key), f"{shown_value(value)} is neither true nor false")
    return value


def _path(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key
