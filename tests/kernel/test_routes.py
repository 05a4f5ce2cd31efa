"""Rules and routes on the real kernel: a chosen link carries all, and nothing else leaves by it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
from routescene import OVER, Choose, Host, both, careful, packed, plan_of, running, sh, state

from arbiter.kernel import firewall, routes
from arbiter.kernel.rtnetlink import Rtnetlink
from arbiter.lab import Lab, LinkConfig
from arbiter.lab.config import LAN_PEER4, LAN_PEER6, LTE, SERVER4, SERVER6, WIFI
from arbiter.model import ACCEPTED, MARK_DECIDED
from arbiter.routeplan import RoutePlan


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "run" / "sysctl.json"


@pytest.fixture
def over_lte(clean_lab: Lab, notes: Path) -> Iterator[Host]:
    with running(clean_lab, lambda packet: OVER[2], notes) as host:
        yield host


@contextmanager
def lab_of(*links: LinkConfig) -> Iterator[Lab]:
    with Lab(f"r{os.getpid()}", links) as lab:
        yield lab


def always(number: int) -> Choose:
    return lambda packet: OVER[number]


# --- over the link that was chosen ----------------------------------------------------------


@both
def test_a_chosen_link_carries_tcp_and_udp_though_all_is_strict(
    over_lte: Host, server: str
) -> None:
    lab = over_lte.lab
    sh(lab, "sysctl -qw net.ipv4.conf.all.rp_filter=1")
    assert over_lte.ask(server).startswith("link=lte peer=")
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with closing(lab.inside(lambda: socket.socket(family, socket.SOCK_DGRAM))) as sock:
        sock.settimeout(4)
        sock.connect((server, 7))
        for _ in range(3):
            sock.send(b"x")
            assert sock.recv(100).startswith(b"link=lte")
    assert len(over_lte.got) == 2
    assert lab.seen("wifi") == []
    assert {seen.peer for seen in lab.seen("lte")} <= {LTE.host4, LTE.host6}


def test_replies_over_a_chosen_link_need_the_links_rp_filter(over_lte: Host) -> None:
    """The counter-test: without it, strict filtering drops them."""
    sh(over_lte.lab, "sysctl -qw net.ipv4.conf.all.rp_filter=1")
    sh(over_lte.lab, "sysctl -qw net.ipv4.conf.wwan0.rp_filter=1")
    sh(over_lte.lab, "sysctl -qw net.ipv4.conf.wwan0.src_valid_mark=0")
    assert over_lte.ask(SERVER4, "-m", "1") == ""


@pytest.mark.parametrize("peer", [LAN_PEER4, LAN_PEER6])
def test_the_lan_is_reachable_for_a_flow_of_another_link(over_lte: Host, peer: str) -> None:
    assert over_lte.ask(peer).startswith("link=wifi peer=")
    assert len(over_lte.got) == 1


def test_an_openvpn_style_half_default_in_main_does_not_catch_a_chosen_link(
    over_lte: Host,
) -> None:
    for half in ("0.0.0.0/1", "128.0.0.0/1"):
        sh(over_lte.lab, f"ip route add {half} via {WIFI.gateway4} dev wlan0")
    for half in ("2000::/4", "3000::/4"):
        sh(over_lte.lab, f"ip route add {half} via {WIFI.gateway6} dev wlan0")
    assert over_lte.ask(SERVER4).startswith("link=lte")
    assert over_lte.ask(SERVER6).startswith("link=lte")
    assert over_lte.lab.seen("wifi") == []


# --- DNS servers ----------------------------------------------------------------------------

ONLY4, ONLY6 = "203.0.113.53", "2001:db8:53::53"
"""Answer behind lte only."""
only = pytest.mark.parametrize("server", [ONLY4, ONLY6])


def answer_behind_lte(lab: Lab) -> None:
    for address in (f"{ONLY4}/32", f"{ONLY6}/128"):
        done = lab.run(["ip", "addr", "add", address, "dev", "lo"], ns="lte")
        assert done.returncode == 0, done.stderr


def naming(plan: RoutePlan, wifi: tuple[str, ...] = (), lte: tuple[str, ...] = ()) -> RoutePlan:
    """The plan, where each link's network named these DNS servers."""
    links = (
        msgspec.structs.replace(link, dns=tuple(map(packed, servers)))
        for link, servers in zip(plan.links, (wifi, lte), strict=True)
    )
    return msgspec.structs.replace(plan, links=tuple(links))


@only
def test_a_dns_server_that_answers_on_one_link_is_found_there_by_flows_of_no_link(
    over_lte: Host, server: str
) -> None:
    host = over_lte
    answer_behind_lte(host.lab)
    host.choose = lambda packet: ACCEPTED
    assert host.ask(server) == "", "it was to be unreachable by the default route"
    assert host.apply(naming(host.plan, lte=(ONLY4, ONLY6))).added
    assert host.ask(server).startswith("link=lte peer=")
    assert host.ask(SERVER4).startswith("link=wifi peer=")
    # And strict flows are as they were.
    host.choose = always(1)
    assert host.ask(server, "-m", "1") == ""
    host.choose = always(2)
    assert host.ask(server).startswith("link=lte")


@only
def test_a_dns_server_of_a_lost_link_is_looked_for_on_the_default_route_again(
    over_lte: Host, server: str
) -> None:
    host = over_lte
    index = {name: host.lab.inside(lambda n=name: socket.if_nametoindex(n)) for name in LINKS}  # type: ignore[misc]
    named = naming(host.plan, lte=(ONLY4, ONLY6))
    host.apply(named)
    assert host.leaves(0, server) == host.leaves(MARK_DECIDED, server) == index["wwan0"]
    assert host.leaves(0xCA6C, server) == index["wlan0"], "somebody else's packet"
    sh(host.lab, "ip link set wwan0 down")
    assert host.leaves(0, server) == index["wlan0"]
    host.apply(naming(plan_of(host.lab, down=("lte",)), lte=(ONLY4, ONLY6)))
    assert host.leaves(0, server) == index["wlan0"]
    for family in ("-4", "-6"):
        assert "915:" not in sh(host.lab, f"ip {family} rule")


LINKS = ("wlan0", "wwan0")


@pytest.mark.parametrize("peer", [LAN_PEER4, LAN_PEER6])
def test_a_network_that_names_a_lans_host_as_its_server_does_not_get_its_traffic(
    over_lte: Host, peer: str
) -> None:
    """Also where the LAN is no link's: table main is asked first, as it is."""
    host = over_lte
    host.choose = lambda packet: ACCEPTED
    wifi, lte = naming(host.plan, lte=(peer,)).links
    for routes_of_wifi in (wifi.routes, ()):
        host.apply(RoutePlan((msgspec.structs.replace(wifi, routes=routes_of_wifi), lte)))
        assert host.ask(peer).startswith("link=wifi peer=")
    rule = sh(host.lab, f"ip {'-6' if ':' in peer else '-4'} rule")
    assert f"914:\tfrom all to {peer} fwmark 0/0xdfffffff lookup main suppress" in rule


def test_rules_and_routes_for_servers_are_applied_once_and_removed_whole(clean_lab: Lab) -> None:
    before = state(clean_lab)
    plain = plan_of(clean_lab)
    named = naming(plain, (ONLY4,), (ONLY6, SERVER4))
    applied = clean_lab.inside(lambda: routes.apply(named))
    assert applied.added == len(named.rules()) + len(named.routes())
    assert not clean_lab.inside(lambda: routes.apply(named))
    assert clean_lab.inside(lambda: routes.check(named)) == ()
    assert clean_lab.inside(lambda: routes.apply(plain)).removed == 2 * 3 + 3
    assert clean_lab.inside(lambda: routes.apply(named)).added == 2 * 3 + 3
    assert clean_lab.inside(routes.remove) == ()
    assert state(clean_lab) == before


# --- other numbers --------------------------------------------------------------------------


@pytest.mark.parametrize(("table", "preference", "mask"), [(8000, 300, 0x7F000000), (300, 1, 0x7F)])
def test_with_other_settings_everything_is_elsewhere_and_is_known_for_ours(
    clean_lab: Lab, table: int, preference: int, mask: int
) -> None:
    before = state(clean_lab)
    links = naming(plan_of(clean_lab), lte=(ONLY4, ONLY6)).links
    plan = RoutePlan(links, table, preference, mask)
    clean_lab.inside(lambda: routes.apply(plan))
    for server in (SERVER4, SERVER6):
        for number, name in enumerate(LINKS, 1):
            index = clean_lab.inside(lambda n=name: socket.if_nametoindex(n))  # type: ignore[misc]
            with clean_lab.inside(Rtnetlink) as net:
                assert net.leaves(plan.mark(number), packed(server)) == index
                assert net.leaves(plan.mark(9), packed(server)) == 0
    rules = sh(clean_lab, "ip -4 rule") + sh(clean_lab, "ip -6 rule")
    shown = {int(line.split(":")[0]) for line in rules.splitlines()} - {0, 32766, 32767}
    assert shown == plan.preferences - {preference}, "no two links share a subnet here"
    assert clean_lab.inside(lambda: routes.check(plan)) == ()
    # The firewall's look for others' marks knows them, also in a run with yet other settings.
    ours = firewall.Plan(mask=mask)
    assert firewall.overlaps(ours, rules, "", plan.preferences) == ()
    assert firewall.overlaps(ours, rules, "", RoutePlan().preferences) == ()
    foreign = f"{preference + 40}:\tfrom all fwmark {mask:#x}/{mask:#x} lookup 99 proto static\n"
    (found,) = firewall.overlaps(ours, rules + foreign, "", plan.preferences)
    assert found.where == f"ip rule {preference + 40}"
    assert clean_lab.inside(routes.remove) == ()
    assert state(clean_lab) == before


# --- a link that is not there ---------------------------------------------------------------


@both
@pytest.mark.parametrize("applied", [True, False])
def test_a_strict_flow_of_a_lost_link_is_refused_at_once(
    over_lte: Host, server: str, applied: bool
) -> None:
    over_lte.choose = careful(over_lte)
    sh(over_lte.lab, "ip link set wwan0 down")
    if applied:
        over_lte.apply()
    began = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        over_lte.connect(server)
    assert time.monotonic() - began < 1
    assert over_lte.lab.seen("wifi") == []
    over_lte.lab.mend("lte")
    over_lte.apply()
    assert over_lte.ask(server).startswith("link=lte")


@both
def test_a_strict_flow_of_a_lost_link_leaves_nowhere_even_if_it_is_marked(
    over_lte: Host, server: str
) -> None:
    sh(over_lte.lab, "ip link set wwan0 down")
    assert over_lte.ask(server, "-m", "2") == ""
    assert over_lte.got
    for number in (*range(1, 32),):
        index = over_lte.leaves(0x20000000 | number << 24, server)
        assert bool(index) == (number == 1), f"link {number} leaves by interface {index}"
    assert over_lte.lab.seen("wifi") == []


def test_a_link_whose_carrier_is_lost_has_an_empty_table(over_lte: Host) -> None:
    over_lte.apply(plan_of(over_lte.lab, down=("lte",)))
    for server in (SERVER4, SERVER6):
        assert over_lte.leaves(OVER[2].mark, server) == 0
        assert over_lte.leaves(OVER[1].mark, server) != 0


def test_a_number_without_a_link_leaves_nowhere(over_lte: Host) -> None:
    plan = over_lte.plan
    over_lte.apply(msgspec.structs.replace(plan, links=plan.links[:1]))
    assert over_lte.leaves(OVER[2].mark, SERVER4) == over_lte.leaves(OVER[2].mark, SERVER6) == 0
    assert over_lte.leaves(OVER[2].mark, LAN_PEER4) == 0
    assert over_lte.leaves(MARK_DECIDED, SERVER4) == over_lte.leaves(0, SERVER6) != 0


def test_a_link_without_ipv6_refuses_it_at_once_and_carries_ipv4(notes: Path) -> None:
    lte = variant(LTE, ipv6=False)
    with lab_of(WIFI, lte) as lab, running(lab, lambda packet: OVER[2], notes) as host:
        host.choose = careful(host)
        began = time.monotonic()
        assert host.ask("www.example.org").startswith("link=lte peer=10.2.0.2")
        with pytest.raises(ConnectionRefusedError):
            host.connect(SERVER6)
        assert time.monotonic() - began < 1
        assert [seen for seen in lab.seen("wifi") if seen.proto == "tcp"] == []


def variant(link: LinkConfig, **changes: object) -> LinkConfig:
    fields = {name: getattr(link, name) for name in link.__dataclass_fields__}
    return LinkConfig(**(fields | changes))


def test_two_links_on_one_subnet_each_answer_for_themselves(notes: Path) -> None:
    twin = variant(
        WIFI, name="twin", interface="eth9", host4="10.1.0.3", host6="2001:db8:1::3",
        host_ula="fd12:3456:789a:1::3", metric=300,
    )  # fmt: skip
    with lab_of(WIFI, twin) as lab, running(lab, lambda packet: OVER[1], notes) as host:
        for name, number in (("wifi", 1), ("twin", 2), ("wifi", 1)):
            host.choose = always(number)
            for server in (SERVER4, SERVER6, LAN_PEER4, LAN_PEER6, WIFI.gateway4, WIFI.gateway6):
                assert host.ask(server).startswith(f"link={name} "), server
