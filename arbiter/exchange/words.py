"""A rule as a table of words (TOML, JSON), and back: the keys and values of the one-line form."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from typing import Any

from arbiter.exchange.items import Item, clipped
from arbiter.model import Action
from arbiter.rules import LifetimeKind, Rule, RuleError, format_rule, parse
from arbiter.rules.line import KEYS
from arbiter.rules.words import quote, split
from arbiter.tomlfile import shown_value, unknown

DECISION = "decision"
LINE = "rule"
"""The key of a whole line, in place of all others."""
EXPIRES = "expires"
NOTE = "note"
"""A word for people in a policy file; a remembered rule has none."""
PROVENANCE = frozenset({"id", "layer", "by", "frontend", "created", "process"})
"""What `rules list --json` says beside the rule: who made it, which an import does not repeat."""
_NUMBERS = frozenset({"port", "proto", "user"})
_LISTS = frozenset({"port", "via"})
_YES_NO = frozenset({"roaming", "metered"})
_MOST = 1 << 40


class WordsError(ValueError):
    """A table is no rule: `key` says where, the text why."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


# --- reading --------------------------------------------------------------------------------


def read_item(data: Mapping[str, Any], place: str) -> Item:
    """The rule in a table. Raises WordsError."""
    layer = data.get("layer", "remembered")
    if layer != "remembered":
        fault = f"{shown_value(layer)}: a rule of another layer comes from a policy file"
        raise WordsError("layer", fault)
    if data.get("process") is not None:
        raise WordsError("process", "it was made for one process, which is not here")
    rule = _of_line(data) if LINE in data else _of_words(data)
    expires = _expires(data.get(EXPIRES))
    if expires is not None and rule.lifetime.kind is not LifetimeKind.SPAN:
        raise WordsError(EXPIRES, "only a rule with a time span (for=1h) expires at a time")
    return Item(rule, place, expires)


def _of_line(data: Mapping[str, Any]) -> Rule:
    for key in data:
        if key not in (LINE, EXPIRES) and key not in PROVENANCE:
            keys = (LINE, EXPIRES, *sorted(PROVENANCE))
            raise WordsError(key, unknown(key, keys, "key beside a whole rule"))
    line = data[LINE]
    if not isinstance(line, str):
        raise WordsError(LINE, f"{shown_value(line)} is no text")
    try:
        return parse(line)
    except RuleError as error:
        raise WordsError(LINE, clipped(str(error))) from None


def _of_words(data: Mapping[str, Any]) -> Rule:
    if DECISION not in data:
        raise WordsError(DECISION, f"there is none: give {DECISION} = allow, deny or route")
    for key in data:
        if key not in (DECISION, EXPIRES, NOTE, *KEYS) and key not in PROVENANCE:
            raise WordsError(key, unknown(key, (DECISION, EXPIRES, *KEYS), "key of a rule"))
    decision = data[DECISION]
    if not isinstance(decision, str) or decision not in tuple(Action):
        raise WordsError(DECISION, f"{shown_value(decision)}: it is allow, deny or route")
    # One line, read as every other line: what the language refuses is refused here, too.
    line, starts = decision, [(0, DECISION)]
    for key in KEYS:
        if key in data:
            starts.append((len(line) + 1, key))
            line = f"{line} {key}={quote(_text(key, data[key]))}"
    try:
        return parse(line)
    except RuleError as error:
        key = next(key for start, key in reversed(starts) if start <= error.position)
        hint = f"; did you mean {error.suggestion}?" if error.suggestion else ""
        raise WordsError(key, clipped(error.text + hint)) from None


def _text(key: str, value: object) -> str:
    """A value as it stands in a line. Raises WordsError for what is no value of that key."""
    if key in _YES_NO and isinstance(value, bool):
        return "yes" if value else "no"
    if key in _LISTS and isinstance(value, list):
        if not value:
            raise WordsError(key, "an empty list: leave the key out to match any")
        return ",".join(_text_of_one(key, part) for part in value)
    return _text_of_one(key, value)


def _text_of_one(key: str, value: object) -> str:
    if isinstance(value, str):
        return value
    number = isinstance(value, int) and not isinstance(value, bool)
    if number and key in _NUMBERS and isinstance(value, int) and abs(value) < _MOST:
        return str(value)
    raise WordsError(key, f"{shown_value(value)} is no value of {key}")


def _expires(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        return value.timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST:
        seconds = float(value)
        if math.isfinite(seconds):
            return seconds
    fault = "is no time: give epoch seconds, or date and time with their zone"
    raise WordsError(EXPIRES, f"{shown_value(value)} {fault}")


# --- writing --------------------------------------------------------------------------------


def to_words(rule: Rule) -> dict[str, str]:
    """The keys and values of a rule's line; `_of_words` reads the same rule back."""
    first, *rest = split(format_rule(rule))
    return {DECISION: first.key} | {word.key: word.value or "" for word in rest}
