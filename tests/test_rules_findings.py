"""What is said of rules beside each other is certain, and what is plain is said."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
import rule_strategies as strategies
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from arbiter.model import DENY, Hook
from arbiter.rules import (
    Address,
    Domain,
    Entry,
    Layer,
    LifetimeKind,
    Name,
    Network,
    Query,
    ScopeName,
    check,
    parse,
    rank,
    scope_of,
    why_not,
)
from arbiter.rules.findings import LOOKED
from arbiter.rules.rank import specificity
from arbiter.rules.relate import apart, covers, scope_around
from arbiter.rules.rule import plain


def entry(
    id: int,
    line: str,
    layer: Layer = Layer.REMEMBERED,
    created: float = 0.0,
    process: tuple[int, int] | None = None,
) -> Entry:
    parsed = parse(line)
    span = parsed.lifetime.kind is LifetimeKind.SPAN
    expires = created + parsed.lifetime.seconds if span else None
    return Entry(id, parsed, layer, created, "alice", "cli", expires=expires, process=process)


CURL = "app=/usr/bin/curl"
CONTEXT = ("profile", "network", "sim")
FOUND = [
    # lines (the first is rule 1), kind, odd one, because of
    ((f"allow {CURL}", f"allow {CURL}"), "redundant", 1, 2),
    ((f"allow {CURL}", f"deny {CURL}"), "contradicting", 1, 2),
    ((f"deny {CURL}", f"allow {CURL}"), "contradicting", 2, 1),
    ((f"route via=lte {CURL}", f"route via=wifi {CURL}"), "contradicting", 1, 2),
    ((f"allow {CURL}", f"allow {CURL} host=10.0.0.1"), "redundant", 2, 1),
    (("deny host=*.example.org", "deny host=*.a.example.org"), "redundant", 2, 1),
    (("deny host=*.example.org", "deny host=www.example.org"), "redundant", 2, 1),
    (("deny host=10.0.0.0/8", "deny host=10.1.0.0/16"), "redundant", 2, 1),
    (("deny host=lan", "deny host=10.1.2.0/24"), "redundant", 2, 1),
    (("deny host=internet", "deny host=2001:db8::/32"), "redundant", 2, 1),
    (("deny host=::/0", "deny host=2001:db8::1"), "redundant", 2, 1),
    (("deny port=1-1023", "deny port=80,443 proto=tcp"), "redundant", 2, 1),
    (("deny time=mon-fri", "deny time=tue@08:00-09:00"), "redundant", 2, 1),
    (("deny time=mon-fri", "allow time=tue@08:00-09:00"), "shadowed", 2, 1),
    (("deny time=mon", "deny time=mon,tue"), "redundant", 1, 2),
    (("allow", "allow for=1h"), "redundant", 2, 1),
    (("deny for=2h", "deny port=80 for=1h"), "redundant", 2, 1),
    (("deny for=boot", "deny port=80 for=session"), "redundant", 2, 1),
    ((f"allow {CURL}", f"allow {CURL} for=1h"), "redundant", 2, 1),
    # As specific, and they meet: the decision settles it.
    ((f"allow {CURL} port=80,443", f"deny {CURL} port=443,8080"), "contradicting", 1, 2),
    (("deny port=80-90", "allow port=85-95"), "contradicting", 2, 1),
    (("allow port=80-90", "route via=lte port=85-95"), "contradicting", 1, 2),
    (("allow host=lan network=ssid:Home", "deny host=lan roaming=yes"), "contradicting", 1, 2),
    (("allow time=mon-wed", "deny time=wed-fri"), "contradicting", 1, 2),
    (("allow time=mon for=1h", "deny metered=yes"), "contradicting", 1, 2),
    # Between them stands another decision, but for other connections.
    (("allow", "allow port=80", "deny proto=udp", "deny user=alice"), "", 0, 0),
    (("allow", "allow port=80 proto=tcp", "deny proto=udp"), "redundant", 2, 1),
    (("allow", "allow port=80", "deny proto=icmp"), "redundant", 2, 1),
    (("allow", "allow host=10.0.0.1", "deny host=internet"), "redundant", 2, 1),
    ((f"allow {CURL}", f"allow {CURL} port=80", "deny port=80"), "redundant", 2, 1),
]
SILENT = [
    ("allow", "deny port=80"),
    (f"allow {CURL}", "allow app=/usr/bin/wget"),
    (f"allow {CURL}", "allow user=alice"),
    ("deny host=example.org", "deny host=*.example.org"),
    ("deny host=*.example.org", "deny host=badexample.org"),
    ("deny host=10.0.0.0/9", "deny host=10.128.0.0/9"),
    ("deny host=internet", "deny host=8.0.0.0/5"),
    ("deny host=lan", "deny host=0.0.0.0/0"),
    ("deny user=alice", "deny user=@alice"),
    ("deny port=1-1023", "deny port=1000-1024"),
    # As specific, and it is not sure that they meet.
    ("allow port=80-90", "deny port=91-101"),
    ("allow network=ssid:A", "deny network=ssid:B"),
    ("allow host=a.example", "deny host=b.example"),
    ("allow time=mon", "deny time=tue"),
    ("allow user=@a", "deny user=@b"),
    ("allow port=80,443", "deny port=8080"),
    ("allow roaming=yes metered=no", "deny roaming=no time=mon"),
    # The other will be gone.
    ("deny for=1h", "deny port=80"),
    ("deny for=session", "deny port=80 for=boot"),
    ("deny for=1h", "allow"),
    # Without the narrow one, the one in the middle would decide.
    ("allow", "allow host=10.0.0.1 port=443", "deny port=443"),
    ("allow", "allow host=www.example.org", "deny host=*.example.org"),
    ("allow", "allow host=www.example.org", "deny host=10.0.0.0/8"),
    (f"allow {CURL}", f"allow {CURL} port=80", f"deny {CURL} user=alice"),
    ("allow", f"allow {CURL}", "deny parent=/bin/sh"),
]


@pytest.mark.parametrize(("lines", "kind", "odd", "because"), FOUND)
def test_what_is_odd_is_found(lines: tuple[str, ...], kind: str, odd: int, because: int) -> None:
    found = [
        finding
        for finding in check(entry(id, line) for id, line in enumerate(lines, 1))
        if finding.other is not None
    ]
    if not kind:
        assert found == []
        return
    assert [(f.kind.value, f.entry.id, f.other and f.other.id) for f in found] == [
        (kind, odd, because)
    ]
    assert f"rule {odd} ({lines[odd - 1]})" in found[0].text
    assert f"rule {because} ({lines[because - 1]})" in found[0].text


@pytest.mark.parametrize("lines", SILENT)
def test_what_is_not_sure_is_not_said(lines: tuple[str, ...]) -> None:
    found = check(entry(id, line) for id, line in enumerate(lines, 1))
    assert [finding for finding in found if finding.other is not None] == []


def test_an_earlier_layer_shadows_whatever_it_decides() -> None:
    for decision in ("allow", "deny"):
        wide = entry(1, f"{decision} host=lan", Layer.ADMIN)
        narrow = entry(2, f"allow {CURL} host=10.0.0.1")
        (found,) = check([narrow, wide])
        assert (found.kind.value, found.entry, found.other) == ("shadowed", narrow, wide)
    assert check([entry(1, "allow host=lan", Layer.SHIPPED), narrow]) == []


def test_rules_of_profiles_stand_apart_and_a_rule_of_none_covers_them() -> None:
    home = entry(1, f"allow {CURL} profile=home")
    travel = entry(2, f"deny {CURL} profile=travel")
    everywhere = entry(3, f"deny {CURL}")
    assert apart(home.rule, travel.rule)
    assert not covers(home, everywhere) and not covers(home, travel)
    assert covers(everywhere, travel) and not apart(everywhere.rule, travel.rule)
    assert check([home, travel]) == []
    found = [(f.kind.value, f.entry.id) for f in check([home, travel, everywhere])]
    assert found == [("redundant", 2)]


def test_a_process_covers_itself_only() -> None:
    mine, other = (7, 70), (8, 80)
    one = entry(1, f"allow {CURL} for=process", process=mine)
    for process, kinds in ((mine, ["redundant"]), (other, [])):
        two = entry(2, f"allow {CURL} port=1 for=process", process=process)
        assert [found.kind.value for found in check([one, two])] == kinds
        same = entry(3, f"deny {CURL} for=process", process=process)
        assert [found.kind.value for found in check([one, same])] == (
            ["contradicting"] if kinds else []
        )


def test_one_rule_by_itself_is_looked_at_too_and_expiry_needs_a_clock() -> None:
    entries = [
        entry(1, "deny app=curl"),
        entry(2, "allow for=1m", created=100.0),
        entry(3, "allow port=80 for=1m", created=90.0),
        entry(4, "deny host=*.com"),
        entry(5, "deny host=224.0.0.251"),
    ]
    assert [(f.kind.value, f.entry.id) for f in check(entries, 155.0)] == [
        ("never-matches", 1),
        ("over-broad", 2),
        ("expired", 3),
        ("over-broad", 4),
        ("never-matches", 5),
    ]
    assert [(f.kind.value, f.entry.id) for f in check(entries)][2] == ("redundant", 3)


def decides(entries: list[Entry], asked: Query, now: float) -> Entry | None:
    """The definition of matching and of precedence, without any index."""
    matching = (each for each in entries if why_not(each, asked, now) is None)
    return min(matching, key=rank, default=None)


def there_is(asked: Query) -> bool:
    """Whether arbiter is ever asked this: what never matches does match the others."""
    icmp6 = asked.proto == 1 and len(plain(asked.daddr)) == 16
    passes = scope_of(asked.daddr) in (ScopeName.LOOPBACK, ScopeName.MULTICAST)
    return asked.hook == "out" and not (icmp6 or passes)


@settings(max_examples=examples(120), deadline=None)
@given(
    st.lists(strategies.small_entries(st.integers(1, 60)), max_size=14, unique_by=lambda e: e.id),
    st.lists(strategies.small_queries(), min_size=1, max_size=12),
)
def test_without_what_is_found_the_same_is_decided(
    entries: list[Entry], queries: list[Query]
) -> None:
    asks = list(itertools.product(queries, (50.0, 150.0, 250.0)))
    decided = [decides(entries, *each) for each in asks]
    for finding in check(entries):
        assert finding.text.isprintable()
        if finding.other is None and finding.kind.value != "never-matches":
            assert not finding.removable
            continue
        rest = [each for each in entries if each is not finding.entry]
        for (asked, now), before in zip(asks, decided, strict=True):
            after = decides(rest, asked, now) if before is finding.entry else before
            both = finding.other is not None and not why_not(finding.other, asked, now)
            if finding.removable and (finding.kind.value != "never-matches" or there_is(asked)):
                assert (before and before.rule.decision) == (after and after.rule.decision)
                if finding.kind.value != "redundant":
                    assert before != finding.entry, "it never decides"
            elif both:
                assert before != finding.entry, "the other comes first"


@settings(max_examples=examples(100), deadline=None)
@given(
    st.lists(strategies.small_entries(st.integers(1, 60)), max_size=8, unique_by=lambda e: e.id),
    st.data(),
)
def test_rules_that_contradict_are_as_specific_and_do_meet(
    entries: list[Entry], data: st.DataObject
) -> None:
    # Much the same rule thrice, so that some are as specific as others.
    for first in entries[:3]:
        rule = first.rule.replace(ports=data.draw(st.sampled_from(strategies.RANGES)), proto=None)
        id = 100 + len(entries)
        entries.append(msgspec.structs.replace(first, id=id, rule=rule.replace(decision=DENY)))
    for finding in check(entries):
        if finding.kind.value != "contradicting":
            continue
        assert finding.other is not None
        one, other = finding.entry, finding.other
        assert specificity(one) == specificity(other)
        assert one.rule.decision != other.rule.decision
        assert rank(other) < rank(one)
        asked, now = witness(one, other)
        assert why_not(one, asked, now) is None
        assert why_not(other, asked, now) is None


def witness(one: Entry, other: Entry) -> tuple[Query, float]:
    """A connection, and a moment, that both rules match if they say the same but for ports and
    context."""
    rules = (one.rule, other.rule)
    ports = [set(itertools.chain(*(range(a, b + 1) for a, b in r.ports))) for r in rules if r.ports]
    minutes = [set(itertools.chain(*(range(a, b) for a, b in r.times))) for r in rules if r.times]
    rule = one.rule
    address = bytes((93, 184, 216, 34))
    if isinstance(rule.host, Address | Network):
        address = rule.host.packed
    elif isinstance(rule.host, ScopeName):
        address = {"lan": b"\n\0\0\1", "loopback": b"\x7f\0\0\1", "multicast": b"\xe0\0\0\1"}.get(
            rule.host.value, address
        )
    name = f"x.{rule.host.name}" if isinstance(rule.host, Domain) else ""
    names = (rule.host.name,) if isinstance(rule.host, Name) else (name,)
    group = rule.user.startswith("@")
    user = rule.user.lstrip("@")
    first = {key: next((getattr(r, key) for r in rules if getattr(r, key)), "") for key in CONTEXT}
    flags: dict[str, Any] = {
        key: next((getattr(r, key) for r in rules if getattr(r, key) is not None), None)
        for key in ("roaming", "metered")
    }
    ended = [each.expires for each in (one, other) if each.expires is not None]
    minute = min(set.intersection(*minutes)) if minutes else 4321
    return Query(
        app=rule.app or "/app",
        parents=(rule.parent,),
        uid=int(user) if user.isdigit() and not group else None,
        user=user if not group else "",
        daddr=address,
        dport=min(set.intersection(*ports)) if ports else 0,
        proto=rule.proto if rule.proto is not None else 6,
        hook=rule.hook or Hook.OUT,
        processes=tuple(each.process for each in (one, other) if each.process),
        profile=str(first["profile"]),
        sims=(str(first["sim"]),),
        networks=(str(first["network"]),),
        groups=(user,),
        gids=(int(user),) if group and user.isdigit() else (),
        names=names,
        **flags,
    ), (minute - 4320) * 60.0 - (7 * 86400 if ended else 0)


@settings(max_examples=examples(150), deadline=None)
@given(
    strategies.small_entries(st.just(1)),
    strategies.small_entries(st.just(2)),
    st.lists(strategies.small_queries(), min_size=4, max_size=10),
)
def test_what_covers_matches_too_and_what_is_apart_never_meets(
    one: Entry, other: Entry, queries: list[Query]
) -> None:
    for asked, now in itertools.product(queries, (50.0, 150.0, 250.0)):
        first, second = (why_not(each, asked, now) is None for each in (one, other))
        if covers(one, other):
            assert first or not second
        if apart(one.rule, other.rule):
            assert not (first and second)
    assert covers(one, one)
    assert apart(one.rule, other.rule) == apart(other.rule, one.rule)


@strategies.UNHURRIED
@given(strategies.packed, st.integers(0, 128), st.data())
def test_a_network_lies_in_a_scope_only_with_all_its_addresses(
    packed: bytes, prefixlen: int, data: st.DataObject
) -> None:
    host = strategies.network(packed, prefixlen)
    assert isinstance(host, Address | Network)
    around = scope_around(host)
    inside = {host.packed}
    if isinstance(host, Network):
        open_bits = 8 * len(host.packed) - host.prefixlen
        base = int.from_bytes(host.packed)
        for offset in data.draw(st.lists(st.integers(0, (1 << open_bits) - 1), max_size=20)):
            inside.add((base | offset).to_bytes(len(host.packed)))
    if around is not None:
        assert {scope_of(each) for each in inside} == {around}


def test_the_unspecified_address_makes_no_network_loopback() -> None:
    assert scope_around(Network(bytes(4), 1)) is None
    assert scope_around(Network(bytes(4), 31)) is None
    assert scope_around(Address(bytes(4))) is ScopeName.LOOPBACK


def test_every_block_of_a_scope_is_found_in_it() -> None:
    for text, scope in (
        ("10.0.0.0/8", "lan"),
        ("172.16.0.0/12", "lan"),
        ("127.0.0.0/8", "loopback"),
        ("224.0.0.0/4", "multicast"),
        ("8.8.0.0/16", "internet"),
        ("fc00::/7", "lan"),
        ("ff00::/8", "multicast"),
        ("2001:db8::/32", "internet"),
        ("::/127", "loopback"),
    ):
        host = parse(f"allow host={text}").host
        assert isinstance(host, Network)
        assert scope_around(host) is ScopeName(scope), text
    for text in (
        "0.0.0.0/0",
        "0.0.0.0/1",
        "0.0.0.0/31",
        "8.0.0.0/5",
        "::/0",
        "fc00::/6",
        "255.255.255.254/31",
        "8000::/1",
    ):
        host = parse(f"allow host={text}").host
        assert isinstance(host, Network)
        assert scope_around(host) is None, text


def test_many_rules_with_the_same_exact_conditions_are_not_held_against_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = 0

    def counted(wide: Entry, narrow: Entry) -> bool:
        nonlocal asked
        asked += 1
        return covers(wide, narrow)

    monkeypatch.setattr("arbiter.rules.findings.covers", counted)
    count = 1000
    check(entry(id, f"allow port={id}-{id + 1}") for id in range(1, count + 1))
    assert 0 < asked <= count * LOOKED
