"""OpenSnitch's rules: what is imported decides the same, and never lets more go."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import snitch
from examples import examples
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rule_strategies import UNHURRIED

from arbiter.exchange import Batch, Format, RemarkKind, Source, read, settle
from arbiter.exchange.meet import ApartError, NotOneRuleError, meet
from arbiter.exchange.regexps import NoEqualError, texts_of
from arbiter.model import Action
from arbiter.rules import Entry, Index, Layer, LifetimeKind, Query, format_rule, parse, why_not

FIXTURES = Path(__file__).parent.parent / "fixtures" / "imports" / "opensnitch"


def rule(operator: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "name": "r",
        "enabled": True,
        "action": "allow",
        "duration": "always",
        "operator": operator or simple("process.path", "/usr/bin/curl"),
        **more,
    }


def simple(operand: str, data: str, type: str = "simple", **more: Any) -> dict[str, Any]:
    return {"type": type, "operand": operand, "data": data, **more}


def both(*operators: dict[str, Any]) -> dict[str, Any]:
    return {"type": "list", "operand": "list", "data": "", "list": list(operators)}


def imported(*rules: object) -> Batch:
    sources = [Source(f"{n}.json", json.dumps(one).encode()) for n, one in enumerate(rules)]
    return settle(read(sources, Format.OPENSNITCH), now=0.0)


def lines(batch: Batch) -> list[str]:
    return [format_rule(item.rule) for item in batch.items]


def texts(batch: Batch, kind: RemarkKind) -> list[str]:
    return [f"{r.place}: {r.text}" for r in batch.remarks if r.kind is kind]


# --- the same decisions ---------------------------------------------------------------------


@st.composite
def flows(draw: st.DrawFn) -> Query:
    ip = draw(st.sampled_from(snitch.IPS))
    six = ":" in ip
    proto = draw(st.sampled_from([6, 17, 58 if six else 1]))
    return Query(
        app=draw(st.sampled_from(snitch.PATHS)),
        parents=tuple(draw(st.lists(st.sampled_from(snitch.PARENTS), max_size=2))),
        uid=draw(st.sampled_from([1000, 1001])),
        user="someone",
        daddr=socket.inet_pton(socket.AF_INET6 if six else socket.AF_INET, ip),
        dport=draw(st.sampled_from([53, 54, 443])) if proto in (6, 17) else 0,
        proto=proto,
    )


def decided(batch: Batch, query: Query, *, later: bool = False) -> str:
    """What the imported rules say at once, or after their time spans."""
    index = Index(
        Entry(
            number,
            item.rule,
            Layer.REMEMBERED,
            0.0,
            "x",
            expires=3600.0 if item.rule.lifetime.kind is LifetimeKind.SPAN else None,
        )
        for number, item in enumerate(batch.items, 1)
    )
    entry = index.lookup(query, 4000.0 if later else 0.0)
    if entry is None:
        return ""
    return "deny" if entry.rule.decision.action is Action.DENY else "allow"


@settings(UNHURRIED, max_examples=examples(150))
@given(
    st.lists(snitch.snitch_rules(), max_size=7),
    st.lists(flows(), min_size=1, max_size=10),
    st.booleans(),
)
def test_nothing_is_allowed_that_opensnitch_denies(
    rules: list[dict[str, Any]], queries: list[Query], later: bool
) -> None:
    batch = imported(*rules)
    assume(not batch.cannot())
    spelling = any("other spellings" in remark.text for remark in batch.remarks)
    for query in queries:
        if decided(batch, query, later=later) == "allow":
            there = snitch.decides(rules, snitch.flow_of(query), later=later)
            assert there == "allow" or spelling, (lines(batch), query)


@settings(UNHURRIED, max_examples=examples(150))
@given(
    st.lists(snitch.snitch_rules(), max_size=7),
    st.lists(flows(), min_size=1, max_size=10),
    st.booleans(),
)
def test_where_no_warning_says_otherwise_the_decisions_are_the_same(
    rules: list[dict[str, Any]], queries: list[Query], later: bool
) -> None:
    batch = imported(*rules)
    assume(not batch.cannot())
    differs = any("has precedence over" in remark.text for remark in batch.remarks)
    for query in queries:
        here = decided(batch, query, later=later)
        there = snitch.decides(rules, snitch.flow_of(query), later=later)
        if here == there:
            continue
        respelt = there and _respelt(rules, query)
        assert respelt or (differs and (here, there) == ("deny", "allow")), (lines(batch), query)


def _respelt(rules: list[dict[str, Any]], query: Query) -> bool:
    """Whether case alone makes some rule match: the one difference that is never kept."""
    flow = snitch.flow_of(query)

    def exactly(operator: dict[str, Any]) -> dict[str, Any]:
        inner = [exactly(one) for one in operator.get("list") or []]
        return {**operator, "sensitive": True, "list": inner}

    return any(
        snitch.matches(one["operator"], flow) and not snitch.matches(exactly(one["operator"]), flow)
        for one in rules
    )


@UNHURRIED
@given(snitch.snitch_rules(), flows())
def test_one_rule_matches_what_it_matched(one: dict[str, Any], query: Query) -> None:
    one = {**one, "enabled": True, "duration": "always"}
    batch = imported(one)
    assume(not batch.cannot())
    if any(why_not(item.rule, query) is None for item in batch.items):
        assert snitch.matches(one["operator"], snitch.flow_of(query))
    elif snitch.matches(one["operator"], snitch.flow_of(query)):
        assert _respelt([one], query)


def test_a_more_specific_allow_does_not_pass_a_deny() -> None:
    deny = rule(simple("dest.network", "10.0.0.0/8", "network"), name="z", action="deny")
    batch = imported(rule(), deny)
    assert lines(batch) == [
        "allow app=/usr/bin/curl",
        "deny host=10.0.0.0/8",
        "deny app=/usr/bin/curl host=10.0.0.0/8",
    ]
    assert any("added to keep OpenSnitch's order" in t for t in texts(batch, RemarkKind.WARNING))


def test_precedence_before_a_deny_needs_nothing_added() -> None:
    deny = rule(simple("dest.network", "10.0.0.0/8", "network"), name="z", action="deny")
    assert len(imported(rule(precedence=True), deny).items) == 2
    assert len(imported(rule(precedence=True, name="zz"), deny).items) == 3


def test_an_allow_that_a_deny_covers_is_left_out() -> None:
    part = both(simple("process.path", "/usr/bin/curl"), simple("dest.port", "443"))
    batch = imported(rule(part, name="a"), rule(name="b", action="reject"))
    assert lines(batch) == ["deny app=/usr/bin/curl"]
    assert "0.json: it has no effect there: 1.json" in texts(batch, RemarkKind.LEFT_OUT)[0]


def test_precedence_that_is_lost_is_said_with_the_rule_that_keeps_it() -> None:
    deny = both(simple("process.path", "/usr/bin/curl"), simple("dest.port", "443"))
    batch = imported(rule(name="a", precedence=True), rule(deny, name="b", action="deny"))
    (text, *_) = texts(batch, RemarkKind.WARNING)
    assert text.endswith("to allow it: allow app=/usr/bin/curl port=443")


def test_a_deny_that_loses_other_spellings_to_an_allow_is_said() -> None:
    allow = rule(simple("dest.port", "443"), name="b")
    warned = imported(rule(action="deny", name="a"), allow)
    assert any("other spellings" in text for text in texts(warned, RemarkKind.WARNING))
    exact = simple("process.path", "/usr/bin/curl", sensitive=True)
    for quiet in (imported(rule(action="deny")), imported(rule(exact, action="deny"), allow)):
        assert not any("other spellings" in text for text in texts(quiet, RemarkKind.WARNING))


# --- one rule -------------------------------------------------------------------------------

GOOD = [
    (simple("process.path", "/usr/bin/curl"), ["allow app=/usr/bin/curl"]),
    (simple("process.path", r"^\/usr\/bin\/curl$", "regexp"), ["allow app=/usr/bin/curl"]),
    (simple("dest.port", "^(80|443)$", "regexp"), ["allow port=80,443"]),
    (simple("dest.port", "1024-65535", "range"), ["allow port=1024-65535"]),
    (simple("dest.network", "192.168.1.7/24", "network"), ["allow host=192.168.1.0/24"]),
    (simple("dest.network", "192.0.2.1/32", "network"), ["allow host=192.0.2.1"]),
    (simple("dest.ip", "2001:DB8::1"), ["allow host=2001:db8::1"]),
    (simple("protocol", "TCP"), ["allow host=0.0.0.0/0 proto=tcp"]),
    (simple("protocol", "udp6"), ["allow host=::/0 proto=udp"]),
    (simple("protocol", "^(tcp|tcp6|udp)$", "regexp"),
     ["allow proto=tcp", "allow host=0.0.0.0/0 proto=udp"]),
    (simple("protocol", "icmp6"), ["allow host=::/0 proto=icmpv6"]),
    (both(simple("protocol", "tcp"), simple("dest.ip", "192.0.2.1")),
     ["allow host=192.0.2.1 proto=tcp"]),
    (simple("user.id", "1000"), ["allow user=1000"]),
    (simple("process.parent.path", "/usr/sbin/cron"), ["allow parent=/usr/sbin/cron"]),
    (simple("true", ""), ["allow"]),
    ({"type": "list", "data": json.dumps([simple("dest.port", "53")])}, ["allow port=53"]),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "expected"), GOOD)
def test_what_has_an_equal_is_that(operator: dict[str, Any], expected: list[str]) -> None:
    batch = imported(rule(operator))
    assert lines(batch) == expected
    assert not batch.cannot()


NO_EQUAL = [
    (simple("process.path", "/usr/bin/curl", "regexp"), "does not end in"),
    (simple("process.path", "curl$", "regexp"), "only the end of a host name"),
    (simple("process.path", "^/usr/bin/.*$", "regexp"), "elsewhere than at the start"),
    (simple("process.path", ".*", "regexp"), "does not end in"),
    (simple("process.path", ".*$", "regexp"), "matches everything"),
    (simple("process.path", "^https?://x$", "regexp"), "not a whole path"),
    (simple("process.path", "curl"), "not a whole path"),
    (simple("process.path", "/opt/x-1.2.3/x"), "every version of it"),
    (simple("process.path", "/opt/x-*/x"), "no wildcard"),
    (simple("process.path", r"^/opt/x-\*/x$", "regexp"), "with a . in it"),
    (simple("process.path", "/snap/firefox/1/firefox"), "snap:NAME"),
    (simple("process.path", "/tmp/.mount_abc/x"), "appimage:FILE"),
    (simple("process.command", "curl x"), "command line"),
    (simple("process.hash.md5", "00"), "no equal"),
    (simple("iface.out", "wlan0"), "via="),
    (simple("lists.domains", "/etc/x", "lists"), "its files are not read"),
    (simple("dest.port", "0"), "no port"),
    (simple("dest.port", "0443"), "no port"),
    (simple("dest.port", "٤٤٣"), "no port"),
    (simple("dest.port", "9-1", "range"), "no range"),
    (simple("dest.port", r"^44\d$", "regexp"), "escaped punctuation"),
    (simple("dest.ip", "192.0.2.01"), "no address"),
    (simple("dest.ip", "2001:db8:0::1"), "writes that address 2001:db8::1"),
    (simple("dest.ip", "::ffff:c000:201"), "as IPv4|writes that address"),
    (simple("dest.ip", "fe80::1%eth0"), "never matches"),
    (simple("dest.network", "LAN", "network"), "no network"),
    (simple("dest.network", "192.0.2.0/255.255.255.0", "network"), "no network"),
    (simple("dest.network", "192.0.2.0", "network"), "no network"),
    (simple("dest.network", "::ffff:10.0.0.0/104", "network"), "IPv4-mapped"),
    (simple("dest.network", "192.0.2.0/24"), "type network only"),
    (simple("dest.host", "lan"), "no name of a host"),
    (simple("dest.host", "*.example.org"), "no wildcard"),
    (simple("dest.host", "192.0.2.1"), "is an address"),
    (simple("dest.host", "Example.org", sensitive=True), "without case"),
    (simple("dest.host", r"example\.org$", "regexp"), "not in a whole label"),
    (simple("dest.host", "^example.org$", "regexp"), "a dot matches any character"),
    (simple("protocol", "tcp4"), "none of the protocols"),
    (simple("user.id", "alice"), "no uid"),
    (simple("user.id", "-1"), "no uid"),
    (simple("user.name", "alice"), "no equal here"),
    (simple("dest.port", "443", "complex"), "is not simple, regexp"),
    (both(simple("dest.port", "443"), simple("dest.port", "80")), "a second condition"),
    (both(simple("dest.ip", "::1"), simple("dest.network", "::/0", "network")), "a second"),
    (both(simple("protocol", "tcp"), simple("dest.ip", "::1")), "other families"),
    (both(simple("protocol", "tcp"), simple("protocol", "udp")), "a second condition"),
    (both(simple("protocol", "icmp"), simple("dest.port", "1")), "icmp has no ports"),
    (both(simple("protocol", "tcp"), simple("dest.host", "a.example")), "no equal together"),
    (both(), "an empty list"),
    (both(both(simple("dest.port", "1"))), "a list inside a list"),
    ({"type": "list", "data": "[", "list": []}, "not JSON"),
    ({"type": "list", "data": "[1]", "list": [simple("dest.port", "1")]}, "disagree"),
    ({"type": "list", "data": "[1]"}, "is a JSON object"),
    (simple("dest.port", "443", extra=1), "unknown key 'extra'"),
    (simple("dest.port", "443", sensitive="no"), "neither true nor false"),
    ({"type": "simple", "operand": "dest.port", "data": 443}, "is no text"),
    ({}, "no operator|not simple|no equal"),
]


@pytest.mark.parametrize(("operator", "why"), NO_EQUAL)
def test_what_has_no_equal_is_refused_with_its_place(operator: dict[str, Any], why: str) -> None:
    batch = imported({**rule(), "operator": operator})
    (text,) = texts(batch, RemarkKind.CANNOT)
    assert text.startswith("0.json: operator"), text
    assert re.search(why, text), text
    assert batch.items == ()


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (simple("dest.host", "Example.org"), ["host=example.org"]),
        (simple("dest.host", r"^example\.org$", "regexp"), ["host=example.org"]),
        (simple("dest.host", r".*\.example\.org$", "regexp"), ["host=*.example.org"]),
        (simple("dest.host", r"\.example\.org$", "regexp"), ["host=*.example.org"]),
        (
            simple("dest.host", r"^(.*\.)?example\.(org|net)$", "regexp"),
            ["host=example.org", "host=example.net", "host=*.example.org", "host=*.example.net"],
        ),
    ],
)
def test_names_become_words_that_the_language_accepts_or_refuses(
    operator: dict[str, Any], expected: list[str]
) -> None:
    batch = imported(rule(operator))
    for line in expected:
        try:
            parse(f"allow {line}")
        except ValueError:
            assert "names are not supported" in texts(batch, RemarkKind.CANNOT)[0]
            return
    assert sorted(lines(batch)) == sorted(f"allow {line}" for line in expected)


@pytest.mark.parametrize("path", ["/usr/bin/python3", "/bin/bash", "/usr/bin/node"])
def test_an_interpreter_is_not_denied_by_its_path(path: str) -> None:
    operator = simple("process.path", path)
    (text,) = texts(imported(rule(operator, action="deny")), RemarkKind.CANNOT)
    assert "each script by itself" in text and "skip it with care" in text
    allowed = imported(rule(operator))
    assert lines(allowed) == [f"allow app={path}"]
    assert any("each script by itself" in text for text in texts(allowed, RemarkKind.WARNING))


def test_rules_that_are_no_rules_are_left_out_and_said() -> None:
    batch = imported(
        rule(name="a", enabled=False),
        rule(name="b", duration="once"),
        rule(name="c", enabled=None) | {"enabled": False},
        {key: value for key, value in rule(name="d").items() if key != "enabled"},
        rule(simple("dest.port", "1"), name="e"),
        rule(simple("dest.port", "2"), name="e"),
    )
    assert lines(batch) == ["allow port=2"]
    assert len(texts(batch, RemarkKind.LEFT_OUT)) == 5


@pytest.mark.parametrize(
    ("duration", "line"),
    [
        ("always", "allow app=/usr/bin/curl"),
        ("30s", "allow app=/usr/bin/curl for=30s"),
        ("1h30m", "allow app=/usr/bin/curl for=90m"),
        ("until restart", "allow app=/usr/bin/curl for=boot"),
    ],
)
def test_durations(duration: str, line: str) -> None:
    assert lines(imported(rule(duration=duration))) == [line]


BROKEN = [
    ([], "a JSON object"),
    (rule(action="maybe"), "0.json: action: 'maybe'"),
    (rule(action=""), "0.json: action"),
    (rule(duration="1.5h"), "0.json: duration"),
    (rule(duration=""), "0.json: duration"),
    (rule(duration="1w"), "0.json: duration"),
    (rule(duration="0s"), "0.json: duration"),
    (rule(name=""), "0.json: name"),
    (rule(enabled="yes"), "0.json: enabled"),
    (rule(precedense=True), "did you mean 'precedence'"),
    ({**rule(), "Action": "deny"}, "did you mean 'action'"),
    ({**rule(), "operator": 5}, "no operator"),
    ({**rule(), "operator": both(*[simple("dest.port", "1")] * 65)}, "more than 64"),
]


@pytest.mark.parametrize(("value", "why"), BROKEN)
def test_a_broken_rule_is_said_with_its_place(value: object, why: str) -> None:
    (text,) = texts(imported(value), RemarkKind.CANNOT)
    assert why in text


def test_the_same_conditions_twice_are_one_rule() -> None:
    batch = imported(rule(name="a"), rule(name="b"), rule(name="c", action="deny"))
    assert lines(batch) == ["deny app=/usr/bin/curl"]
    batch = imported(rule(name="a", precedence=True), rule(name="c", action="deny"))
    assert lines(batch) == ["allow app=/usr/bin/curl"]
    batch = imported(rule(name="a", duration="1h"), rule(name="b", duration="always"))
    assert lines(batch) == ["allow app=/usr/bin/curl"]
    batch = imported(rule(name="a"), rule(name="c", action="deny", duration="1h"))
    assert "another duration" in texts(batch, RemarkKind.CANNOT)[0]


def test_a_denial_for_a_while_does_not_hide_an_allow_for_good() -> None:
    part = both(simple("process.path", "/usr/bin/curl"), simple("dest.port", "443"))
    batch = imported(rule(part, name="a"), rule(name="b", action="deny", duration="1h"))
    assert "for a while" in texts(batch, RemarkKind.CANNOT)[0]


def test_the_fixtures_are_imported_whole() -> None:
    sources = [Source(p.name, p.read_bytes()) for p in sorted(FIXTURES.glob("*.json"))]
    batch = settle(read(sources), now=0.0)
    assert not batch.cannot()
    assert "allow app=/usr/bin/curl host=0.0.0.0/0 port=80,443 proto=tcp" in lines(batch)
    assert "deny app=/usr/bin/telnet host=192.168.1.2 port=23" in lines(batch)
    assert len(texts(batch, RemarkKind.LEFT_OUT)) == 2


# --- regexps --------------------------------------------------------------------------------

PIECES = ("a", "b", r"\.", "[.]", "[ab]", "(a|b)", "(?:a|)", "a?", ".*", ".+", "^", "$", "|", "(")
MORE = (
    ")",
    "?",
    "*",
    "{2}",
    "\\",
    "[",
    "]",
    ".",
    "é",
    r"\d",
    r"\Q",
    "(a$|b)",
    "[a-z]",
    "[^a]",
    "/",
)


@UNHURRIED
@given(
    st.lists(st.sampled_from(PIECES + MORE), max_size=8).map("".join),
    st.lists(st.text("ab./é", max_size=5), max_size=10),
)
def test_a_regexp_matches_its_texts_and_no_others(expression: str, samples: list[str]) -> None:
    try:
        found = texts_of(expression)
    except NoEqualError:
        return
    there = re.compile(expression.replace("$", r"\Z"))
    for text in [*found.exact, *found.endings, *(f"x{e}" for e in found.endings)]:
        if ".+" not in expression:  # one character at least, which names have before a dot
            assert there.search(text), text
    for text in samples:
        here = text in found.exact or text.endswith(found.endings or ("\0",))
        if there.search(text):
            assert here
        elif ".+" not in expression:
            assert not here


@pytest.mark.parametrize("text", ["^" + "(" * 5000, "^" + "(a|b)" * 50 + "$", "^" + "a?" * 5000])
def test_a_regexp_does_not_grow_beyond_its_bounds(text: str) -> None:
    with pytest.raises(NoEqualError):
        texts_of(text)


@UNHURRIED
@given(st.text(max_size=30))
def test_any_text_is_a_list_of_texts_or_has_no_equal(text: str) -> None:
    try:
        assert texts_of(text)
    except NoEqualError as error:
        assert str(error)


# --- meeting, and anything at all -----------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("allow port=53-54", "deny port=54-60", "deny port=54"),
        ("allow port=1-10,20-30", "deny port=5-25", "deny port=5-10,20-25"),
        ("allow port=53", "deny port=54", None),
        ("allow port=53", "deny proto=icmp", None),
        ("allow host=10.0.0.0/8", "deny host=10.1.0.0/16", "deny host=10.1.0.0/16"),
        ("allow host=10.0.0.1", "deny host=10.0.0.0/8", "deny host=10.0.0.1"),
        ("allow host=10.0.0.0/8", "deny host=::/0", None),
        ("allow host=10.0.0.0/8", "deny host=11.0.0.0/8", None),
        ("allow app=/a", "deny user=1 for=1h", "deny app=/a user=1 for=1h"),
        ("allow app=/a", "deny app=/b", None),
        ("allow proto=tcp", "deny proto=udp", None),
    ],
)
def test_what_two_rules_have_in_common(one: str, other: str, common: str | None) -> None:
    try:
        assert format_rule(meet(parse(one), parse(other))) == common
    except ApartError:
        assert common is None


@UNHURRIED
@given(snitch.snitch_rules(), snitch.snitch_rules(), st.lists(flows(), min_size=1, max_size=8))
def test_two_rules_meet_where_both_match(
    one: dict[str, Any], other: dict[str, Any], queries: list[Query]
) -> None:
    rules = [
        item.rule
        for number, value in enumerate((one, other))
        for item in imported({**value, "name": str(number), "enabled": True}).items[:1]
    ]
    assume(len(rules) == 2)
    try:
        common = meet(*rules)
    except ApartError:
        common = None
    except NotOneRuleError:
        return
    for query in queries:
        matching = all(why_not(rule, query) is None for rule in rules)
        assert matching is (common is not None and why_not(common, query) is None)


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = ("type", "operand", "data", "sensitive", "list", "name", "action", "operator", "duration")
OPERANDS = ("process.path", "dest.ip", "dest.host", "dest.network", "dest.port", "user.id", "true")
TEXTS = ("simple", "regexp", "network", "range", "list", *OPERANDS, "/a", "^a$", "1-2", "::/0")


@UNHURRIED
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(KEYS),
            values
            | st.sampled_from(TEXTS)
            | st.dictionaries(st.sampled_from(KEYS), values | st.sampled_from(TEXTS)),
        )
        | st.builds(
            lambda operator: rule(operator),
            st.dictionaries(
                st.sampled_from(KEYS[:5]), st.text(max_size=9) | st.sampled_from(TEXTS)
            ),
        )
        | values,
        max_size=4,
    )
)
def test_whatever_the_json_there_is_a_batch(objects: list[Any]) -> None:
    batch = imported(*objects)
    for remark in batch.remarks:
        assert (remark.place + remark.text).isprintable()


def test_nesting_is_bounded() -> None:
    deep: Any = []
    for _ in range(500):
        deep = [deep]
    for value in (rule(operator={"type": "list", "list": deep}), {"operator": deep}, deep):
        (text,) = texts(imported(value), RemarkKind.CANNOT)
        assert "nested too deeply" in text
