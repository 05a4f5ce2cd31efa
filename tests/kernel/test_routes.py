"""Routing on the real kernel: what the servers behind each link saw decides every test."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from arbiter.kernel import firewall, linkloss, linksysctl, routes
from arbiter.kernel.queue import Queue
from arbiter.kernel.rtnetlink import Rtnetlink
from arbiter.lab import Lab, LinkConfig
from arbiter.lab.config import LAN_PEER4, LAN_PEER6, LTE, SECOND4, SERVER4, SERVER6, WIFI
from arbiter.links import Route
from arbiter.model import ACCEPTED, DENIED, MARK_DECIDED, Packet, Undecodable, Verdict, VerdictKind
from arbiter.routeplan import MAIN, LinkRoutes, RoutePlan, Rule, TableRoute

QUEUE = 21
OVER = {n: Verdict(VerdictKind.ACCEPT, MARK_DECIDED | n << 24) for n in (1, 2)}
Choose = Callable[[Packet], Verdict]
both = pytest.mark.parametrize("server", [SERVER4, SERVER6])


def sh(lab: Lab, line: str) -> str:
    done = lab.run(line.split())
    assert done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout


def plan_of(lab: Lab, down: tuple[str, ...] = ()) -> RoutePlan:
    """What arbiter would want: each link's routes as table main has them now."""

    def look() -> RoutePlan:
        found = []
        with Rtnetlink() as net:
            main = [r for family in (4, 6) for r in net.routes(family, table=MAIN)]
        for number, link in enumerate(lab.config.links, 1):
            index = socket.if_nametoindex(link.interface)
            up = link.name not in down
            mine = tuple(r.route for r in main if r.index == index)
            found.append(LinkRoutes(number, link.interface, index, up, up, mine))
        return RoutePlan(tuple(found))

    return lab.inside(look)


def state(lab: Lab) -> list[str]:
    """All rules, routes and link sysctls of the host, as the tools show them."""
    shown = [sh(lab, f"ip {f} {what}") for f in ("-4", "-6") for what in ("rule", ROUTES)]
    names = [link.interface for link in lab.config.links]
    keys = [f"net.ipv4.conf.{n}.{k}" for n in (*names, "all") for k in linksysctl.WANTED]
    return [*shown, sh(lab, f"sysctl {' '.join(keys)}")]


ROUTES = "route show table all"


class Host:
    """The lab's host with firewall, routes and a consumer that marks by `choose`."""

    def __init__(self, lab: Lab, choose: Choose, notes: Path) -> None:
        self.lab, self.choose, self.notes = lab, choose, notes
        self.got: list[Packet] = []
        self.plan = plan_of(lab)
        links = tuple(enumerate((x.interface for x in lab.config.links), 1))
        self.rules = firewall.Plan(queue=QUEUE, links=links)

    def start(self) -> None:
        assert self.lab.inside(lambda: routes.check(self.plan)) == ()
        self.queue = self.lab.inside(
            lambda: Queue(QUEUE, self._packet, length=1024, fail_open=False)
        )
        backend = self.lab.inside(lambda: firewall.probe_backend("auto"))
        self.lab.inside(lambda: firewall.apply(self.rules, backend))
        self.lab.inside(lambda: routes.apply(self.plan))
        names = [link.interface for link in self.lab.config.links]
        assert self.lab.inside(lambda: linksysctl.apply(names, self.notes)) == ()
        self.wake, self.stopping = os.pipe()
        self.thread = threading.Thread(target=lambda: self.lab.inside(self._loop))
        self.thread.start()

    def _loop(self) -> None:
        while self.wake not in select.select([self.queue.fileno(), self.wake], [], [])[0]:
            self.queue.handle()

    def _packet(self, packet: Packet | Undecodable) -> None:
        assert isinstance(packet, Packet)
        self.got.append(packet)
        self.queue.set_verdict(packet.id, self.choose(packet))

    def apply(self, plan: RoutePlan | None = None) -> routes.Changes:
        return self.lab.inside(lambda: routes.apply(plan or plan_of(self.lab)))

    def leaves(self, mark: int, address: str) -> int:
        def look() -> int:
            with Rtnetlink() as net:
                return net.leaves(mark, packed(address))

        return self.lab.inside(look)

    def stop(self) -> None:
        os.close(self.stopping)
        self.thread.join()
        self.queue.close()
        os.close(self.wake)

    def ask(self, server: str, *options: str) -> str:
        """One HTTP request; "" if it fails."""
        host = f"[{server}]" if ":" in server else server
        return self.lab.run(["curl", "-sS", "-m", "4", *options, f"http://{host}/"]).stdout

    def connect(self, server: str, port: int = 7, seconds: float = 4.0) -> socket.socket:
        return self.lab.inside(lambda: socket.create_connection((server, port), seconds))


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


@contextmanager
def running(lab: Lab, choose: Choose, notes: Path) -> Iterator[Host]:
    host = Host(lab, choose, notes)
    host.start()
    try:
        yield host
    finally:
        host.stop()


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


def careful(host: Host, number: int = 2) -> Choose:
    """As the daemon must: what cannot leave by its link is refused, not lost."""

    def choose(packet: Packet) -> Verdict:
        with Rtnetlink() as net:
            reachable = net.leaves(OVER[number].mark, packet.flow.daddr)
        return OVER[number] if reachable else DENIED

    return choose


def always(number: int) -> Choose:
    return lambda packet: OVER[number]


# --- over the link that was chosen ------------------------------------------------------------


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


# --- DNS servers ------------------------------------------------------------------------------

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


# --- other numbers ----------------------------------------------------------------------------


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


# --- a link that is not there -----------------------------------------------------------------


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


# --- changes ----------------------------------------------------------------------------------


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


# --- conflicts --------------------------------------------------------------------------------


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


# --- nothing is left --------------------------------------------------------------------------


def test_remove_leaves_rules_routes_and_sysctls_exactly_as_they_were(
    clean_lab: Lab, notes: Path
) -> None:
    sh(clean_lab, "sysctl -qw net.ipv4.conf.wlan0.rp_filter=1")
    sh(clean_lab, "ip rule add pref 5 fwmark 0x5 lookup 77")
    before = state(clean_lab)
    plan = plan_of(clean_lab)
    clean_lab.inside(lambda: routes.apply(plan))
    assert clean_lab.inside(lambda: linksysctl.apply(["wlan0", "wwan0"], notes)) == ()
    during = state(clean_lab)
    assert all(a != b for a, b in zip(before, during, strict=True)), "nothing was done"
    for _ in range(2):
        assert clean_lab.inside(routes.remove) == ()
        assert clean_lab.inside(lambda: linksysctl.restore(notes)) == ()
        assert state(clean_lab) == before
    assert not notes.exists()


def test_remove_finds_what_another_run_with_other_settings_left(clean_lab: Lab) -> None:
    before = state(clean_lab)
    plan = plan_of(clean_lab)
    for table, preference, mask in ((9000, 300, 0x7F), (7000, 900, 0x7F000000)):
        other = RoutePlan(plan.links, table, preference, mask)
        with clean_lab.inside(Rtnetlink) as net:
            for rule in other.rules():
                net.add_rule(rule)
            for route in other.routes():
                net.replace_route(route)
    assert clean_lab.inside(routes.remove) == ()
    assert state(clean_lab) == before


KILLED = """
import os, signal, sys
from pathlib import Path
import msgspec
from arbiter.kernel import linksysctl, routes
from arbiter.kernel.rtnetlink import Rtnetlink
from arbiter.routeplan import RoutePlan
plan = msgspec.json.decode(sys.stdin.read(), type=RoutePlan)
left = int(sys.argv[2])
def step(original):
    def run(*args):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return original(*args)
    return run
Rtnetlink.add_rule = step(Rtnetlink.add_rule)
Rtnetlink.replace_route = step(Rtnetlink.replace_route)
Path.write_text = step(Path.write_text)
linksysctl._store = step(linksysctl._store)
linksysctl.apply(["wlan0", "wwan0"], Path(sys.argv[1]))
routes.apply(plan)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_remove_after_sigkill_at_any_step_leaves_nothing(clean_lab: Lab, notes: Path) -> None:
    before = state(clean_lab)
    plan = msgspec.json.encode(plan_of(clean_lab)).decode()
    for steps in (0, 1, 3, 5, 15, 17, 22, 99):
        argv = [sys.executable, "-P", "-c", KILLED, str(notes), str(steps)]
        done = clean_lab.run(argv, input=plan)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert (state(clean_lab) != before) == (steps > 1)
        assert clean_lab.inside(routes.remove) == ()
        assert clean_lab.inside(lambda: linksysctl.restore(notes)) == ()
        assert state(clean_lab) == before


# --- sysctls ----------------------------------------------------------------------------------


def value(lab: Lab, name: str) -> str:
    return sh(lab, f"sysctl -n net.ipv4.conf.{name}").strip()


def test_a_sysctl_that_was_changed_since_stays_and_is_said(clean_lab: Lab, notes: Path) -> None:
    assert clean_lab.inside(lambda: linksysctl.apply(["wlan0"], notes)) == ()
    assert (value(clean_lab, "wlan0.rp_filter"), value(clean_lab, "all.rp_filter")) == ("2", "0")
    sh(clean_lab, "sysctl -qw net.ipv4.conf.wlan0.rp_filter=1")
    (text,) = clean_lab.inside(lambda: linksysctl.restore(notes))
    assert "net.ipv4.conf.wlan0.rp_filter is 1" in text
    assert value(clean_lab, "wlan0.rp_filter") == "1"
    assert value(clean_lab, "wlan0.src_valid_mark") == "0"


def test_sysctls_follow_a_renamed_link_and_forget_one_that_is_gone(
    clean_lab: Lab, notes: Path
) -> None:
    assert clean_lab.inside(lambda: linksysctl.apply(["wlan0", "wwan0"], notes)) == ()
    sh(clean_lab, "ip link set wlan0 down")
    sh(clean_lab, "ip link set wlan0 name radio0")
    sh(clean_lab, "ip link del wwan0")
    assert clean_lab.inside(lambda: linksysctl.restore(notes)) == ()
    assert value(clean_lab, "radio0.rp_filter") == value(clean_lab, "radio0.src_valid_mark") == "0"


def test_a_link_that_is_none_any_more_gets_its_sysctls_back(clean_lab: Lab, notes: Path) -> None:
    assert clean_lab.inside(lambda: linksysctl.apply(["wlan0", "wwan0"], notes)) == ()
    assert clean_lab.inside(lambda: linksysctl.apply(["wwan0"], notes)) == ()
    assert (value(clean_lab, "wlan0.rp_filter"), value(clean_lab, "wwan0.rp_filter")) == ("0", "2")


@pytest.mark.parametrize("name", ["all", "default", "lo", "../all", "a/b", "", "x" * 16, "nope0"])
def test_no_sysctl_is_written_for_what_is_no_link(clean_lab: Lab, notes: Path, name: str) -> None:
    before = state(clean_lab)
    said = clean_lab.inside(lambda: linksysctl.apply([name], notes))
    assert bool(said) == (name != "nope0")
    assert state(clean_lab) == before


@pytest.mark.parametrize("rubbish", [b"", b"{", b"\xff\xfe", b'{"boot": 3}', b"[" * 100_000])
def test_notes_that_cannot_be_read_are_said_and_nothing_is_touched(
    clean_lab: Lab, notes: Path, rubbish: bytes
) -> None:
    notes.parent.mkdir()
    notes.write_bytes(rubbish)
    before = state(clean_lab)
    for action in (lambda: linksysctl.restore(notes), lambda: linksysctl.apply(["wlan0"], notes)):
        (text,) = clean_lab.inside(action)
        assert str(notes) in text
    assert state(clean_lab) == before
    assert notes.read_bytes() == rubbish


def test_notes_of_another_namespace_are_not_used_here(clean_lab: Lab, notes: Path) -> None:
    assert clean_lab.inside(lambda: linksysctl.apply(["wlan0"], notes)) == ()
    (text,) = clean_lab.inside(lambda: linksysctl.restore(notes), "wifi")
    assert "another network namespace" in text
    assert clean_lab.inside(lambda: linksysctl.restore(notes)) == ()
    assert value(clean_lab, "wlan0.rp_filter") == "0"


def test_notes_name_no_other_sysctl(clean_lab: Lab, notes: Path) -> None:
    assert clean_lab.inside(lambda: linksysctl.apply(["wlan0"], notes)) == ()
    kept = json.loads(notes.read_bytes())
    kept["saved"][0]["was"]["../../ip_forward"] = "1"
    kept["saved"][0]["was"]["forwarding"] = "1"
    notes.write_text(json.dumps(kept))
    assert clean_lab.inside(lambda: linksysctl.restore(notes)) == ()
    assert value(clean_lab, "wlan0.forwarding") == "0"
    assert sh(clean_lab, "sysctl -n net.ipv4.ip_forward").strip() == "0"


# --- link loss --------------------------------------------------------------------------------


@pytest.fixture
def split(clean_lab: Lab, notes: Path) -> Iterator[Host]:
    """Port 80 over lte, everything else over wifi."""

    def choose(packet: Packet) -> Verdict:
        return OVER[2] if packet.flow.dport == 80 else OVER[1]

    with running(clean_lab, choose, notes) as host:
        yield host


def tracked(lab: Lab, number: int) -> tuple[linkloss.Tracked, ...]:
    return lab.inside(lambda: linkloss.connections(number))


def await_tracked(lab: Lab, number: int, wanted: set[tuple[int, int]]) -> None:
    """Wait for these (protocol, port): a datagram is sent before its verdict is given."""
    until = time.monotonic() + 5
    while (found := {(f.proto, f.sport) for f in tracked(lab, number)}) != wanted:
        assert time.monotonic() < until, found
        time.sleep(0.01)


@both
def test_losing_a_link_ends_its_sockets_within_a_second_and_no_others(
    split: Host, server: str
) -> None:
    lab = split.lab
    with split.connect(server, 80) as lost, split.connect(server, 7) as kept:
        lost.send(b"GET /slow/50 HTTP/1.0\r\n\r\n")
        assert lost.recv(10)
        assert kept.recv(100).startswith(b"link=wifi")
        (flow,) = tracked(lab, 2)
        assert (flow.dport, flow.sport) == (80, lost.getsockname()[1])
        began = time.monotonic()
        done = lab.inside(lambda: linkloss.destroy_sockets(2))
        assert done == linkloss.Destroyed(1)
        with pytest.raises(ConnectionAbortedError):
            while lost.recv(1000):
                pass
        assert time.monotonic() - began < 1
        kept.send(b"still here\n")
        assert kept.recv(100)
        lab.inside(lambda: linkloss.forget_connections(2))
        assert tracked(lab, 2) == ()
        assert len(tracked(lab, 1)) == 1
    assert lab.inside(lambda: linkloss.destroy_sockets(2)).sockets == 0


def test_sockets_bound_to_the_link_and_connected_udp_are_ended_too(split: Host) -> None:
    def make(kind: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, kind)
        sock.settimeout(4)
        return sock

    lab = split.lab
    index = lab.inside(lambda: socket.if_nametoindex("wwan0"))
    bound = lab.inside(lambda: make(socket.SOCK_STREAM))
    connected = lab.inside(lambda: make(socket.SOCK_DGRAM))
    with bound, connected:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"wwan0")
        bound.connect((SERVER4, 80))
        connected.connect((SERVER4, 80))
        connected.send(b"x")
        await_tracked(lab, 2, {(6, bound.getsockname()[1]), (17, connected.getsockname()[1])})
        assert lab.inside(lambda: linkloss.destroy_sockets(2, indexes=[index])).sockets == 2
        for sock in (bound, connected):
            with pytest.raises(OSError, match="abort"):
                sock.recv(10)


def test_a_listener_and_an_unconnected_udp_socket_are_never_ended(split: Host) -> None:
    """Their connections may be anybody's; the port of a connection that is over may be theirs."""
    lab = split.lab

    def make(kind: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.settimeout(2)
        return sock

    gone = lab.inside(lambda: make(socket.SOCK_STREAM))
    gone.connect((SERVER4, 80))
    port = gone.getsockname()[1]
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset: no TIME_WAIT
    gone.close()
    listener, loose = (lab.inside(lambda k=k: make(k)) for k in (1, 2))  # type: ignore[misc]
    with listener, loose:
        listener.bind(("0.0.0.0", port))
        listener.listen()
        loose.sendto(b"x", (SERVER4, 80))
        await_tracked(lab, 2, {(6, port), (17, loose.getsockname()[1])})
        assert lab.inside(lambda: linkloss.destroy_sockets(2)).sockets == 0
        with split.connect("127.0.0.1", port):
            listener.accept()[0].close()
        loose.sendto(b"x", (LAN_PEER4, 7))
        assert loose.recv(100).startswith(b"link=wifi")


def test_forgetting_touches_only_entries_decided_for_that_link(split: Host) -> None:
    lab = split.lab
    for server in (SERVER4, SERVER6, SECOND4):
        assert split.ask(server).startswith("link=lte")
    split.connect(SERVER4, 7).close()
    add = "conntrack -I -p udp -s 10.9.9.9 -d 10.9.9.8 --sport 1 --dport 2 -t 60 --mark"
    for mark in ("0x02000000", "0x22004000", "0x23000000", "0x20000000"):
        sh(lab, f"{add} {mark}".replace("--sport 1", f"--sport {int(mark, 16) % 9973 + 1}"))
    sh(lab, "ip link set wwan0 down")
    lab.inside(lambda: linkloss.forget_connections(2))
    left = sorted({word for word in sh(lab, "conntrack -L").split() if word.startswith("mark=")})
    marks = (0x02000000, 0x20000000, 0x21000000, 0x23000000)
    assert left == sorted(f"mark={m}" for m in marks)


def test_a_lost_links_flow_is_asked_about_again(split: Host) -> None:
    assert split.ask(SERVER4).startswith("link=lte")
    split.lab.inside(lambda: linkloss.forget_connections(2))
    split.choose = lambda packet: ACCEPTED
    assert split.ask(SERVER4).startswith("link=wifi")


# --- the wire ---------------------------------------------------------------------------------


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
