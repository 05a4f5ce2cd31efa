"""Which scope an address is in, and what an ask offers."""

from __future__ import annotations

import ipaddress
import itertools

import pytest
import rule_strategies as strategies
from hypothesis import given
from hypothesis import strategies as st

from arbiter.model import ALLOW, PORT_PROTOS, Ancestor, App, AppKind, Flow, Hook
from arbiter.rules import (
    FOREVER,
    Query,
    Rule,
    ScopeName,
    conditions,
    parse,
    scope_of,
    scopes_for,
    why_not,
)
from arbiter.rules.choose import parent_domain
from arbiter.rules.rule import plain
from arbiter.rules.scopes import LAN, LOOPBACK, MULTICAST


def _packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


# First and last address of every block, and both neighbours.
BORDERS = [
    ("0.0.0.0", "loopback"),
    ("0.0.0.1", "internet"),
    ("9.255.255.255", "internet"),
    ("10.0.0.0", "lan"),
    ("10.255.255.255", "lan"),
    ("11.0.0.0", "internet"),
    ("100.64.0.1", "internet"),
    ("126.255.255.255", "internet"),
    ("127.0.0.0", "loopback"),
    ("127.255.255.255", "loopback"),
    ("128.0.0.0", "internet"),
    ("169.253.255.255", "internet"),
    ("169.254.0.0", "lan"),
    ("169.254.255.255", "lan"),
    ("169.255.0.0", "internet"),
    ("172.15.255.255", "internet"),
    ("172.16.0.0", "lan"),
    ("172.31.255.255", "lan"),
    ("172.32.0.0", "internet"),
    ("192.167.255.255", "internet"),
    ("192.168.0.0", "lan"),
    ("192.168.255.255", "lan"),
    ("192.169.0.0", "internet"),
    ("223.255.255.255", "internet"),
    ("224.0.0.0", "multicast"),
    ("239.255.255.255", "multicast"),
    ("240.0.0.0", "internet"),
    ("255.255.255.254", "internet"),
    ("255.255.255.255", "lan"),
    ("::", "loopback"),
    ("::1", "loopback"),
    ("::2", "internet"),
    ("::ffff:10.0.0.1", "lan"),
    ("::ffff:127.0.0.1", "loopback"),
    ("::ffff:8.8.8.8", "internet"),
    ("::10.0.0.1", "internet"),
    ("64:ff9b::a00:1", "internet"),
    ("2001:db8::1", "internet"),
    ("2002:a00:1::", "internet"),
    ("fbff:ffff::", "internet"),
    ("fc00::", "lan"),
    ("fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "lan"),
    ("fe00::", "internet"),
    ("fe7f:ffff::", "internet"),
    ("fe80::", "lan"),
    ("febf:ffff::1", "lan"),
    ("fec0::", "internet"),
    ("feff::", "internet"),
    ("ff00::", "multicast"),
    ("ffff::", "multicast"),
]


@pytest.mark.parametrize(("address", "scope"), BORDERS)
def test_each_block_begins_and_ends_where_its_rfc_says(address: str, scope: str) -> None:
    assert scope_of(_packed(address)) is ScopeName(scope)


@pytest.mark.parametrize(("address", "scope"), BORDERS)
def test_its_areas_have_the_addresses_of_a_scope_and_no_others(address: str, scope: str) -> None:
    areas = {"lan": LAN, "loopback": LOOPBACK, "multicast": MULTICAST}
    there = ipaddress.ip_address(plain(_packed(address)))
    near = {
        name: any(there in ipaddress.ip_network(area) for area in found)
        for name, found in areas.items()
    }
    assert near == {name: name == scope for name in areas}


@strategies.UNHURRIED
@given(strategies.packed)
def test_only_private_and_link_local_addresses_are_lan(packed: bytes) -> None:
    address = ipaddress.ip_address(packed)
    if scope_of(packed) is ScopeName.LAN:
        assert address.is_private or address.is_link_local
    if address.is_global and not address.is_multicast:
        assert scope_of(packed) is ScopeName.INTERNET


@strategies.UNHURRIED
@given(st.binary(max_size=20).filter(lambda packed: len(packed) not in (4, 16)))
def test_bytes_that_are_no_address_are_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match="4 or 16 bytes"):
        scope_of(packed)


# --- what an ask offers ---------------------------------------------------------------------

CURL = App("/usr/bin/curl", AppKind.PATH, "curl")
SCRIPT = App("script:/bin/sh:/srv/deploy.sh", AppKind.SCRIPT, "deploy.sh")
INIT = App("unit:init.scope", AppKind.UNIT, "init")
ANCESTORS = (Ancestor(12, CURL), Ancestor(11, SCRIPT), Ancestor(1, INIT))
TCP = Flow(6, _packed("10.0.0.2"), 40000, _packed("192.0.2.1"), 443)
TCP6 = Flow(6, _packed("fd00::2"), 40000, _packed("2001:db8::1"), 443)
ICMP = Flow(1, _packed("10.0.0.2"), 77, _packed("192.0.2.1"), 0)

A, H = "app=/usr/bin/curl", "host=192.0.2.1"
P, U = "parent=script:/bin/sh:/srv/deploy.sh", "user=alice"


def _lines(scopes: tuple[tuple[str, Rule], ...]) -> list[tuple[str, str]]:
    return [(id, conditions(rule)) for id, rule in scopes]


def test_a_user_is_offered_rules_for_that_user_narrowest_first() -> None:
    assert _lines(scopes_for(CURL, ANCESTORS, "alice", TCP, admin=False)) == [
        ("connection", f"{A} {U} {H} port=443 proto=tcp"),
        ("host", f"{A} {U} {H}"),
        ("port", f"{A} {U} port=443 proto=tcp"),
        ("parent", f"{A} {P} {U}"),
        ("app", f"{A} {U}"),
    ]


def test_an_admin_is_offered_rules_for_all_and_the_destination_last() -> None:
    assert _lines(scopes_for(CURL, ANCESTORS, "alice", TCP6, admin=True)) == [
        ("connection", f"{A} host=2001:db8::1 port=443 proto=tcp"),
        ("host", f"{A} host=2001:db8::1"),
        ("port", f"{A} port=443 proto=tcp"),
        ("parent", f"{A} {P}"),
        ("app", A),
        ("destination", "host=2001:db8::1 port=443 proto=tcp"),
    ]


def test_a_protocol_without_ports_gets_no_port() -> None:
    assert _lines(scopes_for(CURL, (), "alice", ICMP, admin=True)) == [
        ("connection", f"{A} {H} proto=icmp"),
        ("host", f"{A} {H}"),
        ("app", A),
        ("destination", f"{H} proto=icmp"),
    ]


def test_port_zero_is_a_port_and_not_any_port() -> None:
    zero = Flow(17, TCP.saddr, 1, TCP.daddr, 0)
    assert dict(_lines(scopes_for(CURL, (), "alice", zero, admin=True)))["connection"] == (
        f"{A} {H} port=0 proto=udp"
    )


def test_a_flow_without_owner_is_offered_by_its_destination() -> None:
    assert _lines(scopes_for(None, (), "", TCP, admin=True)) == [
        ("destination", f"{H} port=443 proto=tcp")
    ]
    assert _lines(scopes_for(None, (), "alice", TCP, admin=False)) == [
        ("destination", f"{U} {H} port=443 proto=tcp")
    ]


def test_a_user_is_offered_nothing_for_a_flow_whose_user_nobody_knows() -> None:
    assert scopes_for(None, (), "", TCP, admin=False) == ()
    assert scopes_for(CURL, (), "", TCP, admin=False) == ()


def test_a_user_without_a_name_or_named_like_a_number_is_meant_by_uid() -> None:
    for user in ("", "4711", "1234"):
        offered = dict(scopes_for(CURL, (), user, TCP, admin=False, uid=1234))
        assert offered["app"].user == "1234"
    assert dict(scopes_for(CURL, (), "alice", TCP, admin=False, uid=1234))["app"].user == "alice"


def test_a_hook_other_than_out_stays_in_every_rule() -> None:
    for _, rule in scopes_for(CURL, ANCESTORS, "alice", TCP, Hook.IN, admin=True):
        assert rule.hook is Hook.IN


def test_no_parent_is_offered_that_says_nothing() -> None:
    for ancestors in ((), (Ancestor(12, CURL),), (Ancestor(12, CURL), Ancestor(1, INIT))):
        ids = [id for id, _ in scopes_for(CURL, ancestors, "alice", TCP, admin=False)]
        assert "parent" not in ids


def test_a_known_name_is_offered_and_what_lies_below_its_domain() -> None:
    flow = Flow(6, _packed("10.0.0.2"), 40000, _packed("192.0.2.7"), 443)
    names = ["", "www.Deb.org", "www.deb.example.org", "other.example.net"]
    offered = dict(scopes_for(CURL, [], "alice", flow, admin=False, uid=1000, names=names))
    assert list(offered) == ["connection", "name", "host", "domain", "port", "app"]
    for id, host in (("name", "www.deb.example.org"), ("domain", "*.example.org")):
        line = f"app=/usr/bin/curl user=alice host={host} port=443 proto=tcp"
        assert conditions(offered[id]) == line
    nobody = scopes_for(None, [], "", flow, admin=True, names=names)
    assert [id for id, _ in nobody] == ["destination"], "whose look-up it was is not known"


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("www.example.org", "example.org"),
        ("a.b.c.example.org", "example.org"),
        ("example.org", ""),
        ("nas", ""),
        ("", ""),
        ("www.example.co.uk", "example.co.uk"),
        ("example.co.uk", ""),
        ("example.com.au", ""),
        ("www.bbc.de", ""),
        ("a.www.bbc.de", "www.bbc.de"),
        ("www.debian.de", "debian.de"),
        ("www.ibm.com", "ibm.com"),
    ],
)
def test_a_registrys_own_domain_is_not_offered(name: str, domain: str) -> None:
    assert parent_domain(name) == domain


_apps = st.builds(App, strategies.texts, st.sampled_from(AppKind), st.just("x"))


@strategies.UNHURRIED
@given(
    app=st.none() | _apps,
    ancestors=st.lists(st.builds(Ancestor, st.integers(1, 3), _apps), max_size=4),
    user=strategies.users,
    uid=st.none() | st.integers(0, 2000),
    daddr=strategies.packed,
    proto=st.sampled_from([1, 2, 58, 89, *PORT_PROTOS]),
    dport=st.integers(0, 65535),
    hook=st.sampled_from(Hook),
    admin=st.booleans(),
    names=st.lists(strategies.names | st.sampled_from(["", "A.b", "x.co.uk"]), max_size=3),
)
def test_each_offered_scope_matches_its_query_and_only_widens(
    app: App | None,
    ancestors: list[Ancestor],
    user: str,
    uid: int | None,
    daddr: bytes,
    proto: int,
    dport: int,
    hook: Hook,
    admin: bool,
    names: list[str],
) -> None:
    if uid is None and user.isascii() and user.isdigit():
        uid = int(user)
    flow = Flow(proto, daddr, 1, daddr, dport if proto in PORT_PROTOS else 0)
    query = Query(
        app=app.id if app else "",
        parents=tuple(ancestor.app.id for ancestor in ancestors),
        uid=uid,
        user=user,
        daddr=daddr,
        dport=flow.dport,
        proto=proto,
        hook=hook,
        names=tuple(names),
    )
    offered = scopes_for(app, ancestors, user, flow, hook, admin=admin, uid=uid, names=names)
    ids = [id for id, _ in offered]
    assert len(set(ids)) == len(ids)
    assert offered or not admin
    for _, rule in offered:
        assert why_not(rule, query) is None
        assert parse(f"allow {conditions(rule)}") == rule
        assert rule.decision == ALLOW
        assert rule.lifetime == FOREVER
        assert admin or rule.user
    if offered and proto in PORT_PROTOS:
        assert offered[0][1].ports == ((dport, dport),)
    for (_, earlier), (_, later) in itertools.combinations(offered, 2):
        assert not _narrower(later, earlier)


def _narrower(one: Rule, other: Rule) -> bool:
    """`one` has every condition of `other`, and more."""
    unset = ("", (), None)
    names = ("app", "parent", "user", "host", "ports", "proto", "hook")
    pairs = [(getattr(one, name), getattr(other, name)) for name in names]
    return one != other and all(theirs in unset or ours == theirs for ours, theirs in pairs)
