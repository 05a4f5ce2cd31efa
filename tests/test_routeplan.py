"""The rules and tables a plan asks for, and that no packet of a link finds a way round them."""

from __future__ import annotations

import socket

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter.links import Route
from arbiter.model import MARK_DECIDED, MARK_DENIED, MARK_MASK
from arbiter.routeconflicts import ahead, conflicts
from arbiter.routeplan import (
    LOCAL,
    MAIN,
    PROTOCOL,
    UNREACHABLE,
    LinkRoutes,
    RoutePlan,
    Rule,
    TableRoute,
    link_mark,
)


def ip(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


LAN4 = Route(4, ip("10.1.0.0"), 24, source=ip("10.1.0.2"))
OUT4 = Route(4, b"", 0, ip("10.1.0.1"), 100)
LAN6 = Route(6, ip("2001:db8:1::"), 64, metric=256)
OUT6 = Route(6, b"", 0, ip("2001:db8:1::1"), 100)
WIFI = LinkRoutes(1, "wlan0", 5, True, True, (OUT4, LAN4, OUT6, LAN6))
LTE = LinkRoutes(2, "wwan0", 6, True, True, (Route(4, b"", 0, metric=200), Route(6, b"", 0)))


def of(plan: RoutePlan, mark: int, family: int) -> list[str]:
    """What a packet with that mark meets, in order, as `pref action`."""
    rules = sorted(plan.rules(), key=lambda rule: rule.preference)
    return [
        f"{rule.preference} {rule.table or 'unreachable'}"
        for rule in rules
        if rule.family == family and mark & rule.mask == rule.mark
    ]


@pytest.mark.parametrize("family", [4, 6])
def test_a_links_packets_meet_the_lan_then_its_table_then_unreachable(family: int) -> None:
    plan = RoutePlan((WIFI, LTE))
    assert of(plan, 0x22000000, family) == ["905 254", "910 7002", "920 unreachable"]


@pytest.mark.parametrize(("family", "longest"), [(4, 1), (6, 4)])
def test_of_main_only_what_is_no_way_out_is_used(family: int, longest: int) -> None:
    (rule,) = {r for r in RoutePlan((LTE,)).rules() if r.table == MAIN and r.family == family}
    assert rule.suppress == longest


def test_the_table_mirrors_the_links_routes_nearest_first() -> None:
    found = RoutePlan((WIFI,)).routes()
    assert [r.route for r in found] == [LAN4, LAN6, OUT4, OUT6]
    assert {(r.table, r.index, r.onlink, r.protocol) for r in found} == {(7001, 5, False, PROTOCOL)}


def test_a_gateway_that_no_route_reaches_is_taken_as_on_link() -> None:
    far = Route(4, b"", 0, ip("172.31.1.1"))
    (route,) = RoutePlan((msgspec.structs.replace(WIFI, routes=(far,)),)).routes()
    assert route.onlink
    near = Route(6, b"", 0, ip("fe80::1"))
    (route,) = RoutePlan((msgspec.structs.replace(WIFI, routes=(near,)),)).routes()
    assert not route.onlink


@pytest.mark.parametrize("family", [4, 6])
def test_a_link_without_a_family_has_no_routes_of_it_and_all_its_rules(family: int) -> None:
    up = RoutePlan((WIFI,))
    down = RoutePlan((msgspec.structs.replace(WIFI, up4=family != 4, up6=family != 6),))
    assert {r.route.family for r in down.routes()} == {4, 6} - {family}
    assert down.rules() == up.rules()


def test_link_local_and_multicast_routes_are_not_mirrored() -> None:
    local = (Route(6, ip("fe80::"), 64), Route(6, ip("ff00::"), 8))
    assert RoutePlan((msgspec.structs.replace(WIFI, routes=local),)).routes() == ()


def test_ipv6_metrics_are_as_the_kernel_shows_them() -> None:
    assert [r.route.metric for r in RoutePlan((LTE,)).routes()] == [200, 1024]


@pytest.mark.parametrize("family", [4, 6])
def test_links_on_one_subnet_answer_there_each_for_itself(family: int) -> None:
    twin = LinkRoutes(2, "eth0", 6, True, True, (LAN4, LAN6, OUT4))
    plan = RoutePlan((WIFI, twin))
    assert of(plan, 0x22000000, family)[:2] == ["900 7002", "905 254"]
    assert of(plan, 0x21000000, family)[:2] == ["900 7001", "905 254"]
    own = [r for r in plan.rules() if r.preference == 900 and r.family == family]
    lan = LAN4 if family == 4 else LAN6
    assert {(r.dst, r.dst_len) for r in own} == {(lan.dst, lan.prefixlen)}


def test_another_mask_moves_every_mark() -> None:
    plan = RoutePlan((LTE,), mask=0x7F)
    assert plan.mark(2) == 0x22
    assert plan.mark_mask == 0x3F
    assert of(plan, 0xABCD0022, 4) == ["905 254", "910 7002", "920 unreachable"]
    assert all(rule.mask & ~0x7F == 0 for rule in plan.rules())
    assert link_mark(31, 0x7F) == (0x3F, 0x3F)


# --- DNS servers ------------------------------------------------------------------------------

THERE4, THERE6 = ip("203.0.113.53"), ip("2001:db8:53::1")
FREE = 0xFFFFFFFF ^ MARK_DECIDED


def with_dns(link: LinkRoutes, *servers: bytes, **changes: object) -> LinkRoutes:
    return msgspec.structs.replace(link, dns=servers, **changes)


def for_dns(*links: LinkRoutes) -> list[tuple[int, bytes, int]]:
    """(preference, server, table) of each rule for packets of no link."""
    found = [r for r in RoutePlan(links).rules() if r.preference in (914, 915)]
    assert all((r.mark, r.mask, r.dst_len) == (0, FREE, 8 * len(r.dst)) for r in found)
    assert all((r.suppress >= 0) == (r.preference == 914) == (r.table == MAIN) for r in found)
    return [(r.preference, r.dst, r.table) for r in found]


def hosts(*links: LinkRoutes) -> list[TableRoute]:
    return [r for r in RoutePlan(links).routes() if r.route.dst in (THERE4, THERE6)]


@pytest.mark.parametrize("server", [THERE4, THERE6])
def test_a_dns_server_of_one_link_is_looked_for_there_after_the_lans_of_main(server: bytes) -> None:
    found = for_dns(WIFI, with_dns(LTE, server, server))
    assert found == [(914, server, MAIN), (915, server, 7002)]


def test_a_server_that_two_links_claim_has_no_rule_until_one_of_them_is_down() -> None:
    both = with_dns(WIFI, THERE4, THERE6), with_dns(LTE, THERE4, THERE6)
    assert for_dns(*both) == []
    half = msgspec.structs.replace(both[0], up4=False)
    assert for_dns(half, both[1]) == [(914, THERE4, MAIN), (915, THERE4, 7002)]
    assert for_dns(msgspec.structs.replace(both[0], up4=False, up6=False)) == []


@pytest.mark.parametrize("server", [ip("10.1.0.7"), ip("2001:db8:1::7")])
def test_a_server_on_a_lan_has_neither_rule_nor_route(server: bytes) -> None:
    """Nor does a network that claims somebody's LAN address as its server get that traffic."""
    for links in ((with_dns(WIFI, server), LTE), (WIFI, with_dns(LTE, server))):
        assert for_dns(*links) == []
    plan = RoutePlan((with_dns(WIFI, server),))
    assert plan.routes() == RoutePlan((WIFI,)).routes()


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.53", "0.0.0.0", "0.1.2.3", "224.0.0.251", "169.254.1.1", "255.255.255.255",
        "240.0.0.1", "::1", "::", "fe80::1", "ff02::fb", "::ffff:203.0.113.53",
    ],
)  # fmt: skip
def test_no_rule_or_route_is_made_for_what_is_no_server_beyond_this_machine(text: str) -> None:
    plan = RoutePlan((with_dns(LTE, ip(text)),))
    assert plan.rules() == RoutePlan((LTE,)).rules()
    assert plan.routes() == RoutePlan((LTE,)).routes()


def test_a_nat64_address_is_a_server() -> None:
    assert len(for_dns(with_dns(LTE, ip("64:ff9b::8.8.8.8")))) == 2


def test_while_a_vpn_is_up_no_other_network_draws_traffic_away_from_it() -> None:
    tunnel = LinkRoutes(3, "tun0", 9, True, False, (Route(4, b"", 0),), (ip("192.0.2.1"),), True)
    found = for_dns(with_dns(LTE, THERE4, THERE6), tunnel)
    assert [found[0][1], found[2][1]] == [tunnel.dns[0], THERE6], "it has IPv4 only"
    assert len(found) == 4
    down = msgspec.structs.replace(tunnel, up4=False)
    assert for_dns(with_dns(LTE, THERE4), down) == [(914, THERE4, MAIN), (915, THERE4, 7002)]


def test_a_network_can_name_many_servers_and_few_are_taken() -> None:
    many = tuple(bytes([203, 0, 113, n]) for n in range(1, 200))
    assert {server for _, server, _ in for_dns(with_dns(LTE, *many))} == set(many[:4])
    added = len(RoutePlan((with_dns(LTE, *many),)).routes()) - len(RoutePlan((LTE,)).routes())
    assert added == 4


def test_a_links_table_has_its_servers_through_its_gateway() -> None:
    four, six = hosts(with_dns(WIFI, THERE4, THERE6))
    assert four == TableRoute(7001, 5, Route(4, THERE4, 32, OUT4.gateway, 100))
    assert six == TableRoute(7001, 5, Route(6, THERE6, 128, OUT6.gateway, 100))
    direct = hosts(with_dns(LTE, THERE4, THERE6))
    assert [(r.route.gateway, r.onlink) for r in direct] == [(b"", False)] * 2


def test_a_server_without_a_default_route_is_reached_by_the_links_gateway_or_not_at_all() -> None:
    through = Route(4, ip("198.18.0.0"), 15, ip("10.1.0.9"), 7)
    (host,) = hosts(with_dns(WIFI, THERE4, routes=(LAN4, through)))
    assert (host.route.gateway, host.route.metric, host.onlink) == (ip("10.1.0.9"), 7, False)
    nearer = Route(4, ip("203.0.113.0"), 24, ip("10.1.0.8"))
    (host,) = hosts(with_dns(WIFI, THERE4, routes=(LAN4, OUT4, through, nearer)))
    assert host.route.gateway == ip("10.1.0.8")
    assert hosts(with_dns(WIFI, THERE4, routes=(LAN4,))) == []
    own = Route(4, THERE4, 32, ip("10.1.0.3"), 50)
    (host,) = hosts(with_dns(WIFI, THERE4, routes=(LAN4, OUT4, own)))
    assert host.route == own


def test_rules_for_servers_stand_behind_the_links_and_other_peoples_marks_pass_them() -> None:
    plan = RoutePlan((with_dns(LTE, THERE4),))
    assert of(plan, 0, 4) == of(plan, MARK_DECIDED, 4) == ["914 254", "915 7002"]
    for others in (0xCA6C, 0x2000, MARK_DENIED):
        assert of(plan, others, 4) == []
    assert of(plan, 0x22000000, 4) == ["905 254", "910 7002", "920 unreachable"]


# --- promises for every plan ------------------------------------------------------------------

routes = st.one_of(
    st.sampled_from([LAN4, OUT4, LAN6, OUT6, Route(4, b"", 0), Route(6, b"", 0)]),
    st.builds(
        lambda dst, gateway, metric: Route(4, dst, 32, gateway, metric),
        st.binary(min_size=4, max_size=4),
        st.sampled_from([b"", b"\x0a\x01\x00\x01", ip("fe80::1")]),
        st.integers(0, 0xFFFFFFFF),
    ),
    st.builds(
        lambda dst: Route(6, dst, 128),
        st.binary(min_size=16, max_size=16),
    ),
)
links = st.builds(
    lambda number, up4, up6, found, dns, vpn: LinkRoutes(
        number, f"if{number}", number + 3, up4, up6, tuple(found), tuple(dns), vpn
    ),
    st.integers(1, 31),
    st.booleans(),
    st.booleans(),
    st.lists(routes, max_size=6),
    st.lists(
        st.sampled_from([THERE4, THERE6, ip("10.1.0.7"), b"", b"abc"])
        | st.binary(min_size=4, max_size=4)
        | st.binary(min_size=16, max_size=16),
        max_size=6,
    ),
    st.booleans(),
)
plans = st.builds(
    lambda found, shift: RoutePlan(tuple(found), mask=0x7F << shift),
    st.lists(links, max_size=6, unique_by=lambda link: link.number),
    st.integers(0, 25),
)


@given(plans, st.integers(1, 31), st.integers(0, 0xFFFFFFFF), st.sampled_from([4, 6]))
def test_a_decided_links_packet_ends_at_unreachable_and_sees_no_other_links_table(
    plan: RoutePlan, number: int, others: int, family: int
) -> None:
    mark = others & ~plan.mask & 0xFFFFFFFF | plan.mark(number)
    seen = of(plan, mark, family)
    assert seen[-1].endswith("unreachable")
    tables = {entry.split()[1] for entry in seen} - {"unreachable", str(MAIN)}
    assert tables <= {str(plan.table_of(number))}
    assert bool(tables) == (number in [link.number for link in plan.links])


@given(plans, st.integers(0, 0xFFFFFFFF), st.sampled_from([0, MARK_DECIDED, MARK_DENIED]))
def test_packets_without_a_link_number_meet_only_rules_for_dns_servers(
    plan: RoutePlan, others: int, bits: int
) -> None:
    shift = (plan.mask & -plan.mask).bit_length() - 1
    mark = others & ~plan.mask & 0xFFFFFFFF | bits >> 24 << shift
    claimed = {server for link in plan.links for server in link.dns}
    for rule in plan.rules():
        if mark & rule.mask == rule.mark:
            assert mark == bits >> 24 << shift, "somebody else's packet"
            assert rule.dst in claimed
            assert rule.dst_len == 8 * len(rule.dst)


@given(plans, st.integers(0, 0xFFFFFFFF))
def test_undecided_packets_with_any_bit_meet_no_rule(plan: RoutePlan, mark: int) -> None:
    shift = (plan.mask & -plan.mask).bit_length() - 1
    mark &= ~(MARK_DECIDED >> 24 << shift)
    for family in (4, 6):
        assert mark == 0 or of(plan, mark, family) == []


@given(plans)
def test_a_rule_for_a_dns_server_names_a_link_that_is_up_and_alone_claims_it(
    plan: RoutePlan,
) -> None:
    for rule in plan.rules():
        if rule.preference == plan.preference + 15:
            up = [link for link in plan.links if link.up(rule.family)]
            (link,) = (x for x in up if rule.dst in x.dns)
            assert rule.table == plan.table_of(link.number)
            assert not any(other.vpn for other in up if other is not link)


@given(plans)
def test_tables_hold_what_is_up_once_a_key_and_through_its_own_interface(plan: RoutePlan) -> None:
    found = plan.routes()
    assert len({route.key for route in found}) == len(found)
    for route in found:
        (link,) = (x for x in plan.links if plan.table_of(x.number) == route.table)
        assert link.up(route.route.family)
        assert route.index == link.index
    for link in plan.links:
        mine = [r for r in found if r.table == plan.table_of(link.number)]
        near = [n for n, r in enumerate(mine) if not r.route.gateway]
        assert near == list(range(len(near))), "a gateway before the route that reaches it"
        mirrored = {(r.family, r.dst, r.prefixlen) for r in link.routes if link.up(r.family)}
        ours = {(r.route.family, r.route.dst, r.route.prefixlen) for r in mine}
        servers = {(4 if len(s) == 4 else 6, s, 8 * len(s)) for s in link.dns}
        assert {m for m in mirrored if m[1][:1] not in (b"\xfe", b"\xff")} <= ours
        assert ours <= mirrored | servers


@given(plans)
def test_no_rule_is_named_twice_and_the_safety_net_comes_first(plan: RoutePlan) -> None:
    rules = plan.rules()
    assert len(set(rules)) == len(rules)
    last = [rule.action == UNREACHABLE for rule in rules]
    assert last == sorted(last, reverse=True)
    assert sum(last) == 10
    assert {rule.preference for rule in rules} <= plan.preferences


# --- conflicts --------------------------------------------------------------------------------

FOREIGN = 3  # RTPROT_BOOT: what `ip` says of itself
DEFAULTS = (Rule(4, 0, table=LOCAL, protocol=2), Rule(4, 32766, table=MAIN, protocol=2))


def test_what_arbiter_left_and_what_every_machine_has_is_no_conflict() -> None:
    plan = RoutePlan((WIFI, LTE))
    moved = RoutePlan((WIFI,), mask=0x7F)
    assert conflicts(plan, (*DEFAULTS, *plan.rules(), *moved.rules()), plan.routes()) == ()


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule(4, 910, 5, 5, table=99, protocol=FOREIGN), ("preference 910", "route_pref")),
        (Rule(6, 1200, table=7003, protocol=FOREIGN), ("ip -6", "table 7003", "route_table")),
        (Rule(4, 21, table=51820, protocol=FOREIGN), ("51820", "no room", "21 preferences")),
    ],
)
def test_a_conflict_names_rule_and_setting(rule: Rule, words: tuple[str, ...]) -> None:
    (text,) = conflicts(RoutePlan((LTE,)), (*DEFAULTS, rule), ())
    for word in words:
        assert word in text


TAKERS = [
    Rule(4, 904, 0xCA6C, 0xFFFFFFFF, table=51820, protocol=FOREIGN, narrow=True, inverted=True),
    Rule(6, 904, table=MAIN, suppress=0, protocol=FOREIGN),
    Rule(4, 100, table=99, protocol=FOREIGN),
    Rule(4, 22, table=99, protocol=FOREIGN, narrow=True),
    Rule(4, 915, 0x20000000, 0x20000000, table=99, protocol=FOREIGN),
    Rule(4, 920, 0x22000000, 0xFFFFFFFF, table=99, protocol=FOREIGN),
]
PASSED = [
    Rule(4, 904, 0xCA6C, 0xFFFFFFFF, table=51820, protocol=FOREIGN),
    Rule(4, 904, 0, 0xFFFFFFFF, table=99, protocol=FOREIGN),
    Rule(4, 904, 0x80000, 0xFF0000, table=99, protocol=FOREIGN),
    Rule(4, 904, table=MAIN, suppress=1, protocol=FOREIGN),
    Rule(6, 904, table=MAIN, suppress=4, protocol=FOREIGN),
    Rule(4, 904, table=LOCAL, protocol=FOREIGN),
    Rule(4, 904, action=UNREACHABLE, protocol=FOREIGN),
    Rule(4, 904, table=99, narrow=True, inbound=True, protocol=FOREIGN),
    Rule(4, 904, table=99, dst=ip("10.0.0.0"), dst_len=8, protocol=FOREIGN),
    Rule(4, 921, table=99, protocol=FOREIGN),
]


@pytest.mark.parametrize("rule", TAKERS)
def test_our_rules_go_before_anothers_that_would_take_what_is_decided_for_a_link(
    rule: Rule,
) -> None:
    plan = RoutePlan((LTE,))
    moved = ahead(plan, (*DEFAULTS, *plan.rules(), rule, *PASSED))
    assert max(r.preference for r in moved.rules()) == rule.preference - 1
    assert ahead(plan, (*DEFAULTS, *moved.rules(), rule)) == moved
    assert ahead(plan, (*DEFAULTS, *moved.rules())) == plan, "back, once it is gone"
    assert conflicts(plan, (*DEFAULTS, rule), ()) == ()


@pytest.mark.parametrize("rule", PASSED)
def test_our_rules_stay_where_they_are_for_any_other(rule: Rule) -> None:
    assert ahead(RoutePlan((LTE,)), (*DEFAULTS, rule)) == RoutePlan((LTE,))


@pytest.mark.parametrize(
    "rule",
    [
        Rule(4, 100, 1, 1, table=99, protocol=FOREIGN),
        Rule(4, 100, table=99, protocol=FOREIGN, narrow=True),
        Rule(4, 100, table=MAIN, suppress=0, protocol=FOREIGN),
        Rule(4, 100, table=99, dst=ip("10.0.0.0"), dst_len=8, protocol=FOREIGN),
        Rule(4, 5210, table=52, protocol=FOREIGN),
        Rule(4, 1000, table=7000, protocol=FOREIGN),
        Rule(4, 1000, table=7032, protocol=FOREIGN),
    ],
)
def test_rules_that_do_not_meet_ours_are_left_in_peace(rule: Rule) -> None:
    assert conflicts(RoutePlan((LTE,)), (*DEFAULTS, rule), ()) == ()


def test_a_table_with_anothers_routes_is_a_conflict_and_said_once() -> None:
    found = [TableRoute(7009, 3, Route(4, b"", 0, metric=n), protocol=FOREIGN) for n in (1, 2)]
    (text,) = conflicts(RoutePlan((LTE,)), DEFAULTS, found)
    assert "7009" in text
    assert "route_table" in text
    assert conflicts(RoutePlan((LTE,), table=8000), DEFAULTS, found) == ()


@pytest.mark.parametrize(("table", "preference"), [(8000, 300), (255, 1), (9_999, 32_745)])
def test_other_tables_and_preferences_move_everything(table: int, preference: int) -> None:
    usual = RoutePlan((WIFI, with_dns(LTE, THERE4)))
    moved = RoutePlan(usual.links, table, preference)
    rules = [
        msgspec.structs.replace(
            rule,
            preference=rule.preference - 900 + preference,
            table=rule.table - 7000 + table if rule.table in usual.tables else rule.table,
        )
        for rule in usual.rules()
    ]
    assert list(moved.rules()) == rules
    assert {rule.preference for rule in rules} <= moved.preferences
    assert {route.table for route in moved.routes()} == {table + 1, table + 2}
    assert {table + 1, table + 2} <= set(moved.tables)
    assert conflicts(moved, (*DEFAULTS, *usual.rules(), *moved.rules()), moved.routes()) == ()
    for own in moved.preferences:
        (text,) = conflicts(moved, (*DEFAULTS, Rule(4, own, 5, 5, table=9, protocol=FOREIGN)), ())
        assert f"preference {own}" in text


# --- bad values -------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0, 0x3F, 0x7F << 26, 0x7E000001, 0xFF000000])
def test_a_mask_that_is_not_seven_adjacent_bits_is_refused(mask: int) -> None:
    with pytest.raises(ValueError, match="seven adjacent bits"):
        RoutePlan(mask=mask)


@pytest.mark.parametrize("preference", [0, -1, 32746, 40000])
def test_a_preference_behind_main_or_before_local_is_refused(preference: int) -> None:
    with pytest.raises(ValueError, match="route_pref"):
        RoutePlan(preference=preference)


@pytest.mark.parametrize("table", [0, 240, 254, 0xFFFFFFFF])
def test_a_table_base_that_would_take_the_systems_tables_is_refused(table: int) -> None:
    with pytest.raises(ValueError, match="route_table"):
        RoutePlan(table=table)


@pytest.mark.parametrize("number", [-1, 0, 32])
def test_a_number_that_the_mark_cannot_hold_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="1-31"):
        LinkRoutes(number, "wlan0", 1, True, True)
    with pytest.raises(ValueError, match="1-31"):
        link_mark(number)


def test_two_links_of_one_number_are_refused() -> None:
    with pytest.raises(ValueError, match="two links"):
        RoutePlan((WIFI, msgspec.structs.replace(LTE, number=1)))


@pytest.mark.parametrize(
    "route",
    [
        Route(5, b"", 0),
        Route(4, b"\0" * 16, 24),
        Route(4, b"\0" * 4, 33),
        Route(4, b"", 24),
        Route(6, b"", 0, b"\0" * 4),
        Route(4, b"", 0, b"\0" * 3),
        Route(4, b"", 0, source=b"\0" * 16),
        Route(4, b"", 0, metric=1 << 32),
        Route(4, b"", 0, metric=-1),
    ],
)
def test_a_route_that_cannot_be_is_refused(route: Route) -> None:
    with pytest.raises(ValueError, match="wlan0"):
        LinkRoutes(1, "wlan0", 1, True, True, (route,))


def test_the_default_place_is_the_models() -> None:
    assert RoutePlan().mark_mask == 0x3F000000
    assert RoutePlan().mask == MARK_MASK
