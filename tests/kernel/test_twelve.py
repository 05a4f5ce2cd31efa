"""The twelve points that a test must cover, each by its number, from what was on the wire.

The real daemon, kernel and programs. Points 1 to 9 and 12 are here and in test_twelve_*.py; what
other files keep already is named, and not repeated. A test below holds this table to the files.

| point | beside `test_NN_…` |
|---|---|
| 1 curl over link B: its source, replies with strict rp_filter | test_routes.py |
|   | ::test_a_chosen_link_carries_tcp_and_udp_though_all_is_strict |
| 2 no IPv6; no default route in main | test_links_job.py |
|   | ::test_a_link_without_ipv6_is_refused_over_it_and_works_over_ipv4 |
| 3 SYN retransmits, A + AAAA, a QUIC first flight | test_main_job.py |
|   | ::test_datagrams_that_follow_a_held_one_are_one_question_and_none_is_lost |
| 4 in a prompt: foreign table, link down, SIGKILL, 5,000 SYNs | test_main_job.py |
|   | ::test_sigkill_with_packets_held_then_restart_and_rescue |
| 5 others' marks; inner packets of a tunnel | test_main_job.py |
|   | ::test_other_softwares_mark_bits_survive |
| 6 routed flow to LAN, container, 127/8, fe80, multicast; DHCP | test_links_job.py |
|   | ::test_a_routed_flow_reaches_the_lan_all_the_same |
| 7 a link of MTU 1280 | test_lab.py |
|   | ::test_a_link_without_ipv6_has_none_and_a_small_mtu_works_both_ways |
| 8 link down in mid-transfer | test_links_job.py |
|   | ::test_a_link_lost_in_mid_transfer_ends_its_connections_and_no_others |
| 9 inbound on B answers by B | |
| 12 no trace after stop and crash; backends agree | test_firewall_applied.py |
|   | ::test_removal_finds_every_backend_s_leftovers_and_applying_leaves_one |
"""

from __future__ import annotations

import ast
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from capture import Capture, Frame
from running import PATIENCE, UDP_CLIENT, Arbiter, eventually, python
from test_main_job import picture
from twelvescene import TCP, UDP, both, curl, finish, sh, url

from arbiter.kernel import linkloss
from arbiter.kernel.firewall import probe
from arbiter.lab import Lab
from arbiter.lab.config import LTE, SERVER4, SERVER6, WIFI

HERE = Path(__file__).parent


def test_the_table_names_tests_that_there_are() -> None:
    named = re.findall(r"(test_\w+\.py) \|\n\|   \| ::(test_\w+)", __doc__ or "")
    assert len(named) >= 9
    for file, test in named:
        tree = ast.parse((HERE / file).read_text())
        assert test in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}, test
    mine = {
        n.name[5:7]
        for path in HERE.glob("test_twelve*.py")
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.FunctionDef) and re.match(r"test_\d\d_", n.name)
    }
    points = {f"{int(number):02}" for number in re.findall(r"^\| (\d+) ", __doc__ or "", re.M)}
    assert mine == points


# --- 1: over link B, and over nothing else ----------------------------------------------------


@both
def test_01_every_packet_of_a_routed_program_leaves_by_its_link_with_the_links_source(
    clean_lab: Lab, tmp_path: Path, server: str
) -> None:
    sh(clean_lab, "sysctl -qw net.ipv4.conf.all.rp_filter=1")
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        arbiter.add("route via=lte host=internet")
        code, output, _ = arbiter.run(*curl(server, "bytes/1000000"))
        assert (code, len(output)) == (0, 1_000_000), output[-200:]
        code, output, _ = arbiter.run(*python(UDP_CLIENT, server, "7", "5"))
        assert (code, output.count("link=lte")) == (0, 5), output
        assert arbiter.run("ping", "-c", "2", "-W", "4", server)[0] == 0
        sent = wire.sent("lte")
        assert {frame.source for frame in sent} == {LTE.host6 if ":" in server else LTE.host4}
        assert {frame.proto for frame in sent} == {TCP, UDP, 58 if ":" in server else 1}
        assert wire.frames("wifi") == []


# --- 2: links that lack something -------------------------------------------------------------


def test_02_a_link_without_ipv6_refuses_it_within_a_second_and_ipv4_works(tmp_path: Path) -> None:
    with (
        Lab(f"n{os.getpid()}", (WIFI, replace(LTE, ipv6=False))) as lab,
        Arbiter(lab, tmp_path) as arbiter,
        Capture(lab) as wire,
    ):
        arbiter.add("route via=lte host=internet")
        code, output, seconds = arbiter.run(*curl(SERVER6))
        assert (code, seconds < PATIENCE) == (7, True), output
        assert wire.frames() == [], "refused here, not sent to be refused there"
        code, output, _ = arbiter.run("curl", "-sS", "-m", "8", "http://www.lab.test/")
        assert (code, output[:9]) == (0, "link=lte "), output
        assert [frame for frame in wire.frames() if ":" in frame.source] == []


def test_02_a_link_with_no_default_route_in_main_prompts_and_carries(tmp_path: Path) -> None:
    """As NetworkManager's `ipv4.route-table` or mwan3 have it: the default is in another table."""
    file = '[link]\nname = "mobile"\nmatch = { interface = "wwan0" }\n'
    with Lab(f"n{os.getpid()}", (WIFI, replace(LTE, default_route=False))) as lab:
        sh(lab, f"ip route add default via {LTE.gateway4} dev wwan0 table 77")
        sh(lab, f"ip -6 route add default via {LTE.gateway6} dev wwan0 table 77")
        with Arbiter(lab, tmp_path, links={"mobile.toml": file}) as arbiter, Capture(lab) as wire:
            for server in (SERVER4, SERVER6):
                program = arbiter.program(*curl(server))
                assert ("mobile", True) in {(x["name"], x["up"]) for x in arbiter.ask()["links"]}
                arbiter.answer("route via=mobile", "--for", "forever")
                code, output = finish(program)
                assert (code, output[:9]) == (0, "link=lte "), output
            assert wire.frames("wifi") == []
            lab.run(["ip", "route", "flush", "table", "77"])
            eventually(lambda: arbiter.run(*curl(SERVER4))[0] == 7)
            assert wire.frames("wifi") == [], "without its own default it is a link that is down"


# --- 7: a narrow link -------------------------------------------------------------------------


@both
def test_07_a_megabyte_goes_both_ways_over_a_chosen_link_of_mtu_1280(
    tmp_path: Path, server: str
) -> None:
    with (
        Lab(f"n{os.getpid()}", (WIFI, replace(LTE, mtu=1280))) as lab,
        Arbiter(lab, tmp_path) as arbiter,
        Capture(lab) as wire,
    ):
        arbiter.add("route via=lte host=internet")
        (tmp_path / "body").write_bytes(b"y" * 1_000_000)
        code, output, _ = arbiter.run(*curl(server, "bytes/1000000"))
        assert (code, len(output)) == (0, 1_000_000), output[-200:]
        code, output, _ = arbiter.run(*curl(server, "", "--data-binary", f"@{tmp_path / 'body'}"))
        assert (code, "received=1000000" in output) == (0, True), output
        # The program chose its MSS by wifi's MTU of 1500: it must have been clamped.
        headers = 60 if ":" in server else 40
        assert {frame.mss for frame in wire.sent("lte") if frame.syn} == {1280 - headers}
        assert wire.frames("wifi") == []


# --- 8: a link lost in mid-transfer -----------------------------------------------------------


LOSSES = {
    "admin down": ("host", "ip link set wwan0 down"),
    "carrier lost": ("lte", "ip link set access0 down"),
    "addresses removed": ("host", "ip addr flush dev wwan0"),
}


@both
@pytest.mark.parametrize("loss", LOSSES)
def test_08_a_lost_link_ends_its_transfers_within_2_s_and_nothing_leaves_elsewhere(
    clean_lab: Lab, tmp_path: Path, server: str, loss: str
) -> None:
    def tracked(number: int) -> int:
        return len(clean_lab.inside(lambda: linkloss.connections(number)))

    def strict(frames: list[Frame]) -> list[Frame]:
        return [frame for frame in frames if frame.sport in ports]

    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        arbiter.add("route via=lte app=/usr/bin/curl")
        arbiter.add("route via=wifi app=/usr/bin/wget")
        lost = arbiter.program(*curl(server, "slow/100"))
        kept = arbiter.program("wget", "-q", "-O", "/dev/null", "-T", "30", url(server, "slow/100"))
        eventually(lambda: (tracked(2), tracked(1)) == (1, 1))
        eventually(lambda: len(clean_lab.seen("lte")) == len(clean_lab.seen("wifi")) == 1)
        (port,) = {frame.sport for frame in wire.sent("lte") if frame.syn}
        ports = {port}
        where, how = LOSSES[loss]
        assert clean_lab.run(how.split(), ns=where).returncode == 0
        code, output = finish(lost, 2)
        assert code != 0, output
        eventually(lambda: (tracked(2), tracked(1)) == (0, 1))
        code, output, seconds = arbiter.run(*curl(server))
        assert (code, seconds < PATIENCE) == (7, True), output
        assert kept.poll() is None, "a connection of another link was cut"
        assert arbiter.asks() == [], "what is left of it must not be asked about"
        others = {frame.sport for frame in wire.sent("wifi")}
        assert strict(wire.sent("wifi")) == []
        assert len(others) == 1, "only wget's own connection is on wifi"


# --- 9: who comes in over a link is answered over it ------------------------------------------


@pytest.mark.parametrize("family", [4, 6])
def test_09_an_inbound_connection_over_a_link_is_answered_over_that_link(
    clean_lab: Lab, tmp_path: Path, family: int
) -> None:
    ours, theirs = (LTE.host4, SERVER4) if family == 4 else (LTE.host6, SERVER6)
    listen = "import socket\ns=socket.create_server(('::',22),family=socket.AF_INET6,"
    listen += "dualstack_ipv6=True); print('up',flush=True)\n"
    listen += "while True: c,_=s.accept(); c.sendall(b'SSH-2.0-lab'); print(c.recv(99),flush=True)"
    client = "import socket,sys\ns=socket.create_connection((sys.argv[1],22),4,"
    client += "source_address=(sys.argv[2],0)); s.sendall(b'SSH-2.0-far'); print(s.recv(99))"
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        server = arbiter.program(*python(listen))
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        done = clean_lab.run(python(client, ours, theirs), ns="lte")
        assert "SSH-2.0-lab" in done.stdout, done.stderr
        assert "SSH-2.0-far" in server.stdout.readline()
        sent = wire.sent("lte")
        assert {(frame.source, frame.sport) for frame in sent} == {(ours, 22)}
        assert wire.frames("wifi") == []
        assert (arbiter.counter("queued"), arbiter.asks()) == (0, [])


# --- 12: nothing is left, and every backend does the same -------------------------------------


@pytest.mark.parametrize("backend", ["nft", "iptables"])
def test_12_stop_and_crash_leave_no_rule_route_or_sysctl_whatever_the_backend(
    clean_lab: Lab, tmp_path: Path, backend: str
) -> None:
    try:
        clean_lab.inside(lambda: probe.probe_backend(backend))
    except probe.FirewallError as error:
        pytest.skip(f"KERNEL TEST NOT RUN with {backend}: {error}")
    before = picture(clean_lab)
    arbiter = Arbiter(clean_lab, tmp_path, "--backend", backend)

    def use() -> None:
        """The same of every backend: routed, denied, lost, and back."""
        arbiter.add("route via=lte app=/usr/bin/curl")
        arbiter.add("deny app=/usr/bin/wget")
        assert arbiter.run(*curl(SERVER4))[1][:9] == "link=lte "
        assert arbiter.run(*curl(SERVER6))[1][:9] == "link=lte "
        assert arbiter.run("wget", "-q", "-O", "-", "-T", "8", "-t", "1", url(SERVER4))[0] == 4

    with arbiter:
        use()
    assert picture(clean_lab) == before, "after a stop"
    arbiter.start()
    arbiter.stop(signal.SIGKILL)
    assert picture(clean_lab) != before
    with arbiter:
        assert arbiter.run(*curl(SERVER4))[1][:9] == "link=lte "
    assert picture(clean_lab) == before, "after a crash, a start and a stop"
    arbiter.start()
    arbiter.stop(signal.SIGKILL)
    assert arbiter.command("rescue").returncode == 0
    assert picture(clean_lab) == before, "after a crash and a rescue"
