"""The JSON form: exact both ways, strict, and as clear about mistakes as the line."""

from __future__ import annotations

import json

import pytest
import rule_strategies as strategies
from hypothesis import given
from hypothesis import strategies as st

from arbiter.rules import FieldError, Rule, RuleError, format_rule, from_json, parse, to_json
from arbiter.rules.line import KEYS

WHOLE = (
    "route via=lte,any class=bulk app=/usr/bin/curl parent=/bin/sh user=@netdev "
    "host=*.debian.org port=443,8000-8080 proto=tcp hook=out profile=home "
    "network=ssid:Home sim=89430123456789012345 roaming=no metered=yes time=sat,sun for=15m"
)
OBJECT = {
    "decision": "route",
    "via": ["lte", "any"],
    "class": "bulk",
    "app": "/usr/bin/curl",
    "parent": "/bin/sh",
    "user": "@netdev",
    "host": "*.debian.org",
    "port": [443, "8000-8080"],
    "proto": "tcp",
    "hook": "out",
    "profile": "home",
    "network": "ssid:Home",
    "sim": "89430123456789012345",
    "roaming": False,
    "metered": True,
    "time": "sat,sun",
    "for": "15m",
}


def test_every_word_of_a_line_has_its_key_in_the_same_order() -> None:
    assert list(to_json(parse(WHOLE)).items()) == list(OBJECT.items())
    assert from_json(OBJECT) == parse(WHOLE)
    assert list(OBJECT) == ["decision", *KEYS]


@strategies.UNHURRIED
@given(strategies.rules())
def test_every_rule_survives_as_json(rule: Rule) -> None:
    assert from_json(json.loads(json.dumps(to_json(rule)))) == rule


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"decision": "allow"}, "allow"),
        ({"host": "Example.ORG.", "decision": "deny"}, "deny host=example.org"),
        ({"decision": "allow", "port": 443, "proto": 6}, "allow port=443 proto=tcp"),
        ({"decision": "allow", "port": "80,443"}, "allow port=80,443"),
        ({"decision": "allow", "port": ["1-10", 5, "11"]}, "allow port=1-11"),
        ({"decision": "route", "via": "lte"}, "route via=lte"),
        ({"decision": "allow", "app": "/opt/a, b"}, 'allow app="/opt/a, b"'),
        ({"decision": "allow", "for": "forever"}, "allow"),
    ],
)
def test_shorter_spellings_are_read(given: object, line: str) -> None:
    assert format_rule(from_json(given)) == line


@pytest.mark.parametrize(
    ("given", "key", "text", "suggestion"),
    [
        (None, "", "a rule is an object", ""),
        (["allow"], "", "a rule is an object", ""),
        ({}, "decision", "is missing", "allow"),
        ({"app": "/a"}, "decision", "is missing", "allow"),
        ({"decision": "block"}, "decision", "allow, deny or route", "deny"),
        ({"decision": ["allow"]}, "decision", "allow, deny or route", "allow"),
        ({"decision": "allow", "action": "deny"}, "action", "no such key", "decision"),
        ({"decision": "allow", "dport": 1}, "dport", "no such key", "port"),
        ({"decision": "allow", "ap": "/a"}, "ap", "no such key", "app"),
        ({"decision": "allow", "app": None}, "app", "text, not null", ""),
        ({"decision": "allow", "app": ""}, "app", "has no value", ""),
        ({"decision": "allow", "app": ["/a"]}, "app", "text, not an array", ""),
        ({"decision": "allow", "app": 7}, "app", "text, not a number", ""),
        ({"decision": "allow", "port": []}, "port", "has no value", ""),
        ({"decision": "allow", "port": [True]}, "port", "not true or false", ""),
        ({"decision": "allow", "port": 1.5}, "port", "not a number", ""),
        ({"decision": "allow", "port": 65536}, "port", "65536 is no port", ""),
        ({"decision": "allow", "port": [-1]}, "port", "is no port", "443,8000-8080"),
        ({"decision": "allow", "proto": 10**5000}, "proto", "is no protocol", ""),
        ({"decision": "allow", "port": ["1,2", 3]}, "port", "without commas", ""),
        ({"decision": "route", "via": [["lte"]]}, "via", "not an array", ""),
        ({"decision": "route", "via": {}}, "via", "not an object", ""),
        ({"decision": "route", "via": ["lte", ""]}, "via", "has no value", ""),
        ({"decision": "route"}, "", "route needs via=", ""),
        ({"decision": "deny", "class": "bulk"}, "", "deny takes no class=", ""),
        ({"decision": "allow", "metered": "yes"}, "metered", "true or false", "true"),
        ({"decision": "allow", "roaming": 0}, "roaming", "true or false", ""),
        ({"decision": "allow", "proto": "tpc"}, "proto", "tpc is no protocol", "tcp"),
        ({"decision": "allow", "port": 1, "proto": 1}, "", "icmp has no ports", ""),
        ({"decision": "allow", "host": "10.0.0.1/8"}, "host", "host bits", "10.0.0.0/8"),
        ({"decision": "allow", "time": "8-17"}, "time", "no span", "08:00-17:00"),
        ({"decision": "allow", "for": "15"}, "for", "no lifetime", "15m"),
        ({"decision": "allow", "\x1b[2J": 1}, r"\x1b[2J", "no such key", ""),
    ],
)
def test_what_is_no_rule_says_which_key_and_what_was_meant(
    given: object, key: str, text: str, suggestion: str
) -> None:
    with pytest.raises(FieldError) as caught:
        from_json(given)
    error = caught.value
    assert (error.key, error.suggestion) == (key, suggestion)
    assert text in error.text
    assert str(error).isprintable()
    assert ("did you mean" in str(error)) == bool(suggestion)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@strategies.UNHURRIED
@given(_json | st.dictionaries(st.sampled_from(["decision", *KEYS, "x"]), _json), st.booleans())
def test_from_json_gives_a_rule_or_a_rule_error_and_nothing_else(
    given: object, decided: bool
) -> None:
    if decided and isinstance(given, dict):
        given["decision"] = "allow"
    try:
        rule = from_json(given)
    except RuleError as error:
        assert str(error).isprintable()
    else:
        assert from_json(to_json(rule)) == rule
