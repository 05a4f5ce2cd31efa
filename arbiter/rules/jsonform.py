"""A rule as a JSON object: the keys of its line, and `decision`.

    {"decision": "route", "via": ["lte", "any"], "app": "/usr/bin/curl", "host": "*.debian.org",
     "port": [443, "8000-8080"], "proto": "tcp", "roaming": false, "for": "15m"}

Values are those of the line, as text; but ports are numbers and ranges in an array, `via` is an
array, `roaming` and `metered` are true or false. What is not said is left out, never null.
`from_json(to_json(rule)) == rule`; what a line cannot say is refused here too.
"""

from __future__ import annotations

from arbiter.rules.hosts import format_host
from arbiter.rules.line import (
    ACTIONS,
    FIELDS,
    KEYS,
    READ,
    decision_of,
    format_lifetime,
    format_proto,
)
from arbiter.rules.rule import FOREVER, Rule
from arbiter.rules.synonyms import ACTION_SYNONYMS, KEY_SYNONYMS
from arbiter.rules.times import format_times
from arbiter.rules.words import RuleError, nearest, quote, shown

_FLAGS = ("roaming", "metered")
_LISTS = ("via", "port")
_NUMBERS = ("port", "proto")


class FieldError(RuleError):
    """An object that is no rule: `text` says why, `key` where ("" for the whole object)."""

    def __init__(self, key: str, text: str, word: str = "", suggestion: str = "") -> None:
        self.key = shown(key)
        super().__init__(text, 0, word, suggestion)

    def __str__(self) -> str:
        where = f"{quote(self.key)}: " if self.key else ""
        hint = f"; did you mean {self.suggestion}?" if self.suggestion else ""
        return f"{where}{self.text}{hint}"


def to_json(rule: Rule) -> dict[str, object]:
    """What a JSON encoder takes, in the order of the line.

    Bytes that are no text are lone surrogates in it, as in the rule: an encoder must escape them.
    """
    out: dict[str, object] = {"decision": rule.decision.action.value}
    if rule.decision.via:
        out["via"] = list(rule.decision.via)
    if rule.decision.traffic is not None:
        out["class"] = rule.decision.traffic.value
    texts = {
        "app": rule.app,
        "parent": rule.parent,
        "user": rule.user,
        "host": format_host(rule.host) if rule.host is not None else "",
        "port": [low if low == high else f"{low}-{high}" for low, high in rule.ports],
        "proto": format_proto(rule.proto) if rule.proto is not None else "",
        "hook": rule.hook.value if rule.hook is not None else "",
        "profile": rule.profile,
        "network": rule.network,
        "sim": rule.sim,
    }
    out.update((key, value) for key, value in texts.items() if value)
    flags = {"roaming": rule.roaming, "metered": rule.metered}
    out.update((key, value) for key, value in flags.items() if value is not None)
    if rule.times:
        out["time"] = format_times(rule.times)
    if rule.lifetime != FOREVER:
        out["for"] = format_lifetime(rule.lifetime)
    return out


def from_json(value: object) -> Rule:
    """The rule that a decoded JSON object says. Raises FieldError, with what `parse` would say.

    A single port or link may stand without its array, a protocol may be a number.
    """
    if not isinstance(value, dict):
        raise FieldError("", 'a rule is an object, such as {"decision": "allow"}')
    fields: dict[str, object] = {}
    action = ""
    for key, given in value.items():
        if key == "decision":
            action = _action(given)
        elif key in FIELDS:
            fields[FIELDS[key]] = _read(key, given)
        else:
            raise _unknown(key)
    if not action:
        raise FieldError("decision", "is missing: it is allow, deny or route", "", "allow")
    via, traffic = fields.pop("via", ()), fields.pop("traffic", None)
    try:
        return Rule(decision_of(action, via, traffic), **fields)  # type: ignore[arg-type]  # each was converted
    except ValueError as error:  # what only all fields together can do wrong
        raise FieldError("", str(error)) from None


def _action(given: object) -> str:
    if given in ACTIONS and isinstance(given, str):
        return given
    word = given if isinstance(given, str) else ""
    suggestion = nearest(word, ACTIONS, ACTION_SYNONYMS) or "allow"
    raise FieldError("decision", "it is allow, deny or route", word, suggestion)


def _read(key: str, given: object) -> object:
    text = _text(key, given)
    try:
        return READ[key](text, 0)
    except RuleError as error:
        raise FieldError(key, error.text, error.word, error.suggestion) from None


def _text(key: str, given: object) -> str:
    """The same value as it stands in a line. Raises FieldError for one of another type."""
    if key in _FLAGS:
        if isinstance(given, bool):
            return "yes" if given else "no"
        raise FieldError(key, "it is true or false", suggestion=_flag(given))
    items = given if isinstance(given, list) and key in _LISTS else [given]
    words = [_word(key, item) for item in items]
    if not words or not all(words):
        raise FieldError(key, "it has no value: leave it out to match any, or give one")
    if any("," in word for word in words) and len(words) > 1:
        raise FieldError(key, "each item of the array is one, without commas")
    return ",".join(words)


def _word(key: str, item: object) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, int) and not isinstance(item, bool) and key in _NUMBERS:
        # A number of thousands of digits has no decimal text (sys.set_int_max_str_digits).
        return str(item) if abs(item) < 1 << 32 else f"{item:#x}"
    forms = {
        "via": "text, or an array of texts",
        "port": 'a number, a range such as "8000-8080", or an array of them',
        "proto": "text or a number",
    }
    kinds = {dict: "an object", list: "an array", bool: "true or false", type(None): "null"}
    found = kinds.get(type(item), "a number")
    raise FieldError(key, f"it is {forms.get(key, 'text')}, not {found}")


def _flag(given: object) -> str:
    return {"yes": "true", "no": "false"}.get(given, "") if isinstance(given, str) else ""


def _unknown(key: object) -> FieldError:
    name = key if isinstance(key, str) else ""
    keys = ("decision", *KEYS)
    synonyms = {**KEY_SYNONYMS, "action": "decision", "verdict": "decision", "policy": "decision"}
    suggestion = nearest(name, keys, synonyms)
    return FieldError(name, f"there is no such key: there is {', '.join(keys)}", name, suggestion)
