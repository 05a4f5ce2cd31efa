"""Rules and routes that change on the real kernel: no connection goes elsewhere meanwhile, and
conflicts are said."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from routescene import OVER, Host, careful, packed, plan_of, running, sh, state

from arbiter.kernel import linksysctl, routes
from arbiter.kernel.rtnetlink import Rtnetlink
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6, WIFI
from arbiter.links import Route
from arbiter.routeplan import MAIN, RoutePlan, Rule, TableRoute


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "run" / "sysctl.json"


@pytest.fixture
def over_lte(clean_lab: Lab, notes: Path) -> Iterator[Host]:
    with running(clean_lab, lambda packet: OVER[2], notes) as host:
        yield host


# --- changes --------------------------------------------------------------------------------


def test_no_connection_leaves_elsewhere_while_the_tables_change(over_lte: Host) -> None:
    """200 connections; meanwhile default routes, metrics, the other link and rules change."""
    lab, plan = over_lte.lab, over_lte.plan
    wifi, lte = plan.links

    def other(route: Route) -> Route:
        return msgspec.structs.replace(route, metric=route.metric + 7, source=b"")

    moved = msgspec.structs.replace(lte, routes=tuple(map(other, lte.routes)))
    down = msgspec.structs.replace(lte, up4=False, up6=False)
    variants = [(wifi, moved), (lte,), (wifi, lte), (wifi, down), (wifi,), (moved,)]
    done, changes = threading.Event(), 0

    def churn() -> None:
        nonlocal changes
        while not done.is_set():
            for links in variants:
                over_lte.apply(msgspec.structs.replace(plan, links=links))
                changes += 1

    thread = threading.Thread(target=churn)
    thread.start()
    over_lte.choose = careful(over_lte)
    carried = refused = 0
    try:
        for n in range(200):
            try:
                with over_lte.connect((SERVER4, SERVER6)[n % 2], seconds=4) as sock:
                    assert sock.recv(100).startswith(b"link=lte")
                carried += 1
            except OSError:
                refused += 1
    finally:
        done.set()
        thread.join()
    assert lab.seen("wifi") == []
    assert carried >= 20, f"carried {carried}, refused {refused}"
    assert changes >= 12


def syn_retransmits(lab: Lab) -> int:
    """How many SYNs the lab's host has sent again (TcpExt TCPSynRetrans)."""
    text = lab.inside(lambda: Path("/proc/thread-self/net/netstat").read_text())
    names, values = (line.split() for line in text.splitlines()[:2])
    return int(values[names.index("TCPSynRetrans")])


def test_a_change_of_metric_loses_no_connection(over_lte: Host) -> None:
    """New before old: with the link up all the time, not one of 200 handshakes is lost."""
    before = syn_retransmits(over_lte.lab)
    lte = over_lte.plan.links[1]
    moved = [
        msgspec.structs.replace(
            lte,
            routes=tuple(msgspec.structs.replace(r, metric=r.metric + extra) for r in lte.routes),
        )
        for extra in (0, 5, 9)
    ]
    done, changes = threading.Event(), 0

    def churn() -> None:
        nonlocal changes
        while not done.is_set():
            for link in moved:
                over_lte.apply(
                    msgspec.structs.replace(over_lte.plan, links=(over_lte.plan.links[0], link))
                )
                changes += 1

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for n in range(200):
            with over_lte.connect((SERVER4, SERVER6)[n % 2]) as sock:
                assert sock.recv(100).startswith(b"link=lte")
    finally:
        done.set()
        thread.join()
    assert changes >= 3
    # A machine that stands still for a second makes one or two; old before new loses dozens.
    assert syn_retransmits(over_lte.lab) - before <= 2
    assert over_lte.lab.seen("wifi") == []


def test_a_new_gateway_replaces_the_old_one_in_one_step(over_lte: Host) -> None:
    """Of the same destination and metric: nothing is left to remove, so there was no gap."""
    wifi, lte = over_lte.plan.links
    gateways = {4: packed("10.2.0.9"), 6: packed("2001:db8:2::9")}
    moved = tuple(
        msgspec.structs.replace(r, gateway=gateways[r.family]) if r.gateway else r
        for r in lte.routes
    )
    plan = RoutePlan((wifi, msgspec.structs.replace(lte, routes=moved)))
    assert over_lte.apply(plan) == routes.Changes(added=2, removed=0)
    assert not over_lte.apply(plan)
    for family in ("-4", "-6"):
        shown = sh(over_lte.lab, f"ip {family} route show table 7002 default")
        assert shown.count("via") == 1
        assert "9 dev wwan0" in shown


def test_applying_twice_is_applying_once(over_lte: Host) -> None:
    before = state(over_lte.lab)
    assert not over_lte.apply(over_lte.plan)
    names = [link.interface for link in over_lte.lab.config.links]
    noted = over_lte.notes.stat().st_mtime_ns
    assert over_lte.lab.inside(lambda: linksysctl.apply(names, over_lte.notes)) == ()
    assert over_lte.notes.stat().st_mtime_ns == noted
    assert state(over_lte.lab) == before
    assert "7002" in before[0]


def test_a_rule_or_route_that_somebody_removed_comes_back(over_lte: Host) -> None:
    before = state(over_lte.lab)
    sh(over_lte.lab, "ip -6 rule del pref 920")
    sh(over_lte.lab, "ip route flush table 7002")
    sh(over_lte.lab, "ip rule del pref 905")
    assert over_lte.apply(over_lte.plan)
    assert sorted("".join(state(over_lte.lab)).split("\n")) == sorted("".join(before).split("\n"))


# --- conflicts ------------------------------------------------------------------------------


def test_conflicts_are_found_in_the_kernel(clean_lab: Lab) -> None:
    plan = plan_of(clean_lab)
    sh(clean_lab, "ip -6 rule add pref 910 fwmark 5 lookup 77")
    sh(clean_lab, f"ip route add 192.0.2.0/24 via {WIFI.gateway4} table 7030")
    sh(clean_lab, "ip rule add pref 15 lookup 51820")
    sh(clean_lab, "ip rule add pref 60 iif wlan0 lookup 51820")
    found = clean_lab.inside(lambda: routes.check(plan))
    assert [sum(word in text for text in found) for word in ("910", "7030", "preference 15")] == [
        1, 1, 1,
    ]  # fmt: skip
    assert len(found) == 3
    sh(clean_lab, "ip rule del pref 15")
    elsewhere = RoutePlan(plan.links, table=8000, preference=20)
    assert clean_lab.inside(lambda: routes.check(elsewhere)) == ()


def test_a_refused_route_is_said_and_the_other_link_is_served(over_lte: Host) -> None:
    wifi, lte = over_lte.plan.links
    bad = msgspec.structs.replace(wifi, routes=(Route(4, b"", 0, source=packed("192.0.2.77")),))
    with pytest.raises(routes.RouteError, match="table 7001"):
        over_lte.apply(msgspec.structs.replace(over_lte.plan, links=(bad, lte)))
    assert over_lte.leaves(OVER[1].mark, SERVER4) == 0
    assert over_lte.ask(SERVER4).startswith("link=lte")


# --- the wire -------------------------------------------------------------------------------


def test_rules_and_routes_read_back_as_they_were_written(clean_lab: Lab) -> None:
    rules = [
        Rule(4, 40, 0x22, 0x3F, table=70000, dst=packed("10.0.0.0"), dst_len=8),
        Rule(6, 41, 0x22, 0x3F, table=MAIN, suppress=4),
        Rule(6, 42, 1, 1, action=7),
    ]
    gateway6 = packed("fe80::1")
    with clean_lab.inside(Rtnetlink) as net:
        index = clean_lab.inside(lambda: socket.if_nametoindex("wlan0"))
        written = [
            TableRoute(70000, index, Route(4, b"", 0, packed("10.1.0.9"), 3, packed("10.1.0.2"))),
            TableRoute(70000, index, Route(4, packed("10.5.0.0"), 16, gateway6)),
            TableRoute(70000, index, Route(6, packed("2001:db8:7::"), 48, gateway6, 9)),
            TableRoute(70000, index, Route(4, b"", 0, packed("172.31.1.1"), 4), onlink=True),
        ]
        for rule in rules:
            net.add_rule(rule)
            assert rule in net.rules(rule.family)
            with pytest.raises(FileExistsError, match=f"pref {rule.preference}"):
                net.add_rule(rule)
            net.delete_rule(rule)
            assert rule not in net.rules(rule.family)
        for route in written:
            net.replace_route(route)
            assert route in net.routes(route.route.family, table=70000)
        assert {r.table for r in net.routes(4, protocol=65)} == {70000}
        for route in written:
            net.delete_route(route)
        assert net.routes(4, protocol=65) == net.routes(6, protocol=65) == []
        assert net.routes(4, table=4_000_000_000) == []


def test_a_thousand_lookups_cost_less_than_a_tenth_of_a_second(over_lte: Host) -> None:
    """A look-up a verdict must not be felt: about 20 us each. A bound that only a scan breaks."""
    with over_lte.lab.inside(Rtnetlink) as net:
        began = time.process_time()
        for _ in range(1000):
            assert net.leaves(OVER[2].mark, packed(SERVER4))
        assert time.process_time() - began < 0.5


def test_without_root_it_says_what_is_missing(clean_lab: Lab) -> None:
    code = "from arbiter.kernel import routes; print(routes.apply(routes.RoutePlan()))"
    done = clean_lab.run([sys.executable, "-P", "-c", code], user="nobody")
    assert done.returncode != 0
    assert "needs root (CAP_NET_ADMIN)" in done.stderr
