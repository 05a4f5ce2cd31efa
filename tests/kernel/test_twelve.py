"""The twelve points that a test must cover, each by its number, from what was on the wire.

The real daemon, kernel and programs. Points 1 to 9 and 12 are here; what other files keep already
is named, and not repeated. A test below holds this table to the files.

| point | beside `test_NN_…` here |
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
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from capture import Capture, Frame
from running import PATIENCE, UDP_CLIENT, Arbiter, eventually, python
from test_main_job import picture

from arbiter.kernel import linkloss
from arbiter.kernel.firewall import probe
from arbiter.lab import Lab
from arbiter.lab.config import DNS4, LAN_PEER4, LAN_PEER6, LTE, SERVER4, SERVER6, WIFI

TCP, UDP = 6, 17
HERE = Path(__file__).parent
both = pytest.mark.parametrize("server", [SERVER4, SERVER6], ids=["IPv4", "IPv6"])


def url(server: str, path: str = "") -> str:
    return f"http://[{server}]/{path}" if ":" in server else f"http://{server}/{path}"


def curl(server: str, path: str = "", *options: str) -> tuple[str, ...]:
    return ("curl", "-sS", "-g", "-m", str(20 * PATIENCE), *options, url(server, path))


def sh(lab: Lab, line: str) -> str:
    done = lab.run(line.split())
    assert done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout


def finish(program: subprocess.Popen[str], timeout: float = 20) -> tuple[int, str]:
    output, _ = program.communicate(timeout=timeout * PATIENCE)
    return program.returncode, output


def test_the_table_names_tests_that_there_are() -> None:
    named = re.findall(r"(test_\w+\.py) \|\n\|   \| ::(test_\w+)", __doc__ or "")
    assert len(named) >= 9
    for file, test in named:
        tree = ast.parse((HERE / file).read_text())
        assert test in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}, test
    mine = {
        n.name[5:7]
        for n in ast.walk(ast.parse(Path(__file__).read_text()))
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


# --- 3: what repeats itself while a person thinks ---------------------------------------------


def foreign_table(lab: Lab) -> None:
    """Somebody's firewall comes and goes. The kernel drops held packets of every queue when a base
    chain is unregistered (nf_queue_nf_hook_drop, net/netfilter/nf_queue.c)."""
    table = "table inet foreign { chain c { type filter hook output priority 0; }; }\n"
    for text in (table, "delete table inet foreign\n"):
        assert lab.run(["nft", "-f", "-"], input=text).returncode == 0


@both
def test_03_syn_retransmits_are_one_prompt_and_one_connection(
    clean_lab: Lab, tmp_path: Path, server: str
) -> None:
    """While its SYN is held, TCP repeats none (skb_still_in_host_queue, net/ipv4/tcp_output.c):
    copies come once the kernel has dropped the held one."""
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        program = arbiter.program(*curl(server))
        for copies in (1, 2, 3):
            eventually(lambda copies=copies: arbiter.counter("queued") == copies)  # type: ignore[misc]
            if copies < 3:
                foreign_table(clean_lab)
        (ask,) = arbiter.asks()
        assert ask["id"] == 1
        assert wire.frames() == []
        arbiter.answer("route via=lte", "--for", "forever")
        assert finish(program)[0] == 0
        assert [seen.local for seen in clean_lab.seen("lte")] == [server]
        assert wire.frames("wifi") == []
        assert arbiter.asks() == []


A_AND_AAAA = """
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(15)
s.connect((sys.argv[1], 53))
name = b"\\3www\\3lab\\4test\\0"
for number, kind in ((1, 1), (2, 28)):
    s.send(struct.pack("!6H", number, 0x100, 1, 0, 0, 0) + name + struct.pack("!HH", kind, 1))
print(*sorted(struct.unpack("!4H", s.recv(512)[:8])[::3] for _ in range(2)))
"""


def test_03_a_and_aaaa_from_one_socket_are_one_prompt_and_both_are_answered(
    clean_lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        program = arbiter.program(*python(A_AND_AAAA, DNS4))
        eventually(lambda: [a for a in arbiter.asks() if arbiter.counter("queued") == 2])
        arbiter.answer("route via=lte")
        code, output = finish(program)
        assert (code, output.strip()) == (0, "(1, 1) (2, 1)"), output
        assert [seen.detail[:4].strip() for seen in clean_lab.seen("lte")] == ["A ww", "AAAA"]
        assert wire.frames("wifi") == []
        assert (arbiter.asks(), arbiter.counter("queued")) == ([], 2)


QUIC = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(15)
s.connect((sys.argv[1], 7))
s.setsockopt(17, 103, 1200)  # UDP_SEGMENT: one send, many datagrams, as QUIC stacks do
for first in range(0, 12, 4):
    s.send(b"".join(bytes([65 + first + n]) * 1200 for n in range(4)))
got = [s.recv(2000) for _ in range(12)]
print([data[-1] for data in got] == list(range(65, 77)), {data.count(data[-1:]) for data in got})
"""


@both
def test_03_a_quic_first_flight_is_one_prompt_and_arrives_whole_and_in_order(
    clean_lab: Lab, tmp_path: Path, server: str
) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        program = arbiter.program(*python(QUIC, server))
        eventually(lambda: arbiter.counter("queued") == 3)  # three sends of four datagrams
        assert wire.frames() == []
        arbiter.answer("route via=lte")
        assert finish(program) == (0, "True {1200}\n")
        assert wire.frames("wifi") == []
        assert len([s for s in clean_lab.seen("lte") if s.proto == "udp"]) == 12
        assert (arbiter.asks(), arbiter.counter("queued")) == ([], 3)


# --- 4: what happens while a person thinks ----------------------------------------------------


def test_04_a_foreign_table_added_and_deleted_in_a_prompt_costs_no_connection(
    clean_lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        programs = [arbiter.program(*curl(server)) for server in (SERVER4, SERVER6)]
        eventually(lambda: len(arbiter.asks()) == 2)
        foreign_table(clean_lab)
        for ask in arbiter.asks():
            done = arbiter.command("answer", str(ask["id"]), "allow", "--for", "forever")
            assert done.returncode == 0, done.stderr
        assert [finish(program)[0] for program in programs] == [0, 0]
        assert arbiter.asks() == []


ONCE = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(float(sys.argv[2]))
s.connect((sys.argv[1], 7))
s.send(b"once")
print(s.recv(100)[-4:].decode())
"""


@both
def test_04_links_that_come_and_go_in_a_prompt_cost_no_datagram(
    clean_lab: Lab, tmp_path: Path, server: str
) -> None:
    """A ruleset is made for each of them, around what waits. Nobody sends the datagram again."""

    def last_plan() -> str:
        return str(re.findall("in force by.*", (tmp_path / "log").read_text())[-1])

    with Arbiter(clean_lab, tmp_path) as arbiter:
        program = arbiter.program(*python(ONCE, server, str(30 * PATIENCE)))
        ask = arbiter.ask()
        for line in (
            "link add extra0 type veth peer name extra1",
            "link set extra1 up",
            "link set extra0 up",
            "addr add 10.9.0.2/24 dev extra0",
            "route add default via 10.9.0.1 dev extra0 metric 900",
        ):
            sh(clean_lab, f"ip {line}")
        eventually(lambda: "extra0" in last_plan())
        sh(clean_lab, "ip link del extra0")
        eventually(lambda: "extra0" not in last_plan())
        arbiter.answer("allow")
        assert finish(program) == (0, "once\n")
        assert arbiter.counter("queued") == 1 and ask["id"] == 1


@pytest.mark.parametrize("answer", ["route via=lte,any", "route via=wifi", "deny", "allow"])
def test_04_the_default_link_lost_in_a_prompt_hangs_nobody(
    clean_lab: Lab, tmp_path: Path, answer: str
) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        program = arbiter.program(*curl(SERVER4))
        ask = arbiter.ask()
        sh(clean_lab, "ip link set wlan0 down")
        eventually(lambda: "wifi (wlan0, down)" in (tmp_path / "log").read_text())
        assert [one["id"] for one in arbiter.asks()] == [ask["id"]], "the question stays"
        done = arbiter.command("answer", str(ask["id"]), answer, "--for", "forever")
        assert done.returncode == 0, done.stderr
        code, output = finish(program, 10)
        if answer != "allow":  # then either end will do, but an end
            assert code == (0 if "lte" in answer else 7), output
        assert wire.frames("wifi") == []
        assert {frame.source for frame in wire.sent("lte")} <= {LTE.host4}
        assert arbiter.asks() == []


@pytest.mark.parametrize("when_absent", ["block", "pass"])
def test_04_sigkill_in_a_prompt_lets_what_waits_go_as_the_setting_says(
    clean_lab: Lab, tmp_path: Path, when_absent: str
) -> None:
    arbiter = Arbiter(clean_lab, tmp_path, "--when-absent", when_absent).start()
    with Capture(clean_lab) as wire:
        waiting = arbiter.program(*curl(SERVER4, "", "-m", "6"))
        arbiter.ask()
        arbiter.stop(signal.SIGKILL)
        code, output = finish(waiting)
        later = arbiter.run(*curl(SERVER6, "", "-m", "2"))
        if when_absent == "pass":
            assert (code, output[:9], later[0]) == (0, "link=wifi", 0)
        else:
            assert (code, later[0], wire.frames()) == (28, 28, [])
    assert arbiter.command("rescue").returncode == 0


FLOOD = """
import asyncio, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (6000, 6000))
async def one():
    reader, writer = await asyncio.open_connection(sys.argv[1], 7)
    line = await reader.readline()
    writer.close()
    return line
async def all():
    lines = await asyncio.gather(*(one() for _ in range(int(sys.argv[2]))), return_exceptions=True)
    print(sum(isinstance(line, bytes) and line.startswith(b"link=wifi") for line in lines))
asyncio.run(all())
"""
SYNS = 5000 if PATIENCE == 1 else 2500
"""Half of the room is 2,048. An emulated CPU is busy for minutes with that."""


def test_04_five_thousand_syns_in_a_prompt_are_one_question_and_all_connect(
    clean_lab: Lab, tmp_path: Path
) -> None:
    """Half of the room is one user's: what is over it is dropped as if lost, and sent again.
    Another user's question comes through all the same."""
    deadline = f"deadline = {min(120.0 * PATIENCE, 600.0)}\n"
    with Arbiter(clean_lab, tmp_path, settings=deadline) as arbiter:
        flood = arbiter.program(*python(FLOOD, SERVER4, str(SYNS)))
        eventually(lambda: arbiter.counter("queued") >= SYNS, 60)
        (ask,) = arbiter.asks()
        other = clean_lab.popen(curl(SERVER4), user="nobody", stdout=subprocess.PIPE, text=True)
        eventually(lambda: [a for a in arbiter.asks() if a["user"] == "nobody"], 20)
        for one in arbiter.asks():
            done = arbiter.command("answer", str(one["id"]), "allow", "--for", "forever")
            # An emulated CPU takes longer than a command waits; the answer counts all the same.
            assert done.returncode == 0 or (PATIENCE > 1 and "did not reply" in done.stderr)
        assert finish(flood, 60) == (0, f"{SYNS}\n")
        assert finish(other)[0] == 0
        assert ask["id"] == 1
        assert (arbiter.asks(), arbiter.status().held) == ([], 0)


# --- 5: marks of others -----------------------------------------------------------------------

WITH_MARK = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET)
s.settimeout(4)
s.setsockopt(socket.SOL_SOCKET, 36, int(sys.argv[1]))  # SO_MARK, as VPN daemons set it
s.connect((sys.argv[2], 7))
print(s.recv(99).decode())
"""
MULLVAD = "rule add pref 5199 not fwmark 0x6d6f6c65 lookup main"
MARKS = (0xCA6C, 0x80000, 0x6D6F6C65, 0x4000)


def test_05_the_marks_of_others_pass_unasked_and_unchanged(clean_lab: Lab, tmp_path: Path) -> None:
    sh(clean_lab, f"ip {MULLVAD}")
    with pytest.raises(AssertionError, match="set mark_base = ") as refused:
        Arbiter(clean_lab, tmp_path).start()  # its mark has our bits at the usual place
    (free,) = re.findall(r"set (mark_base = 0x\w+)", str(refused.value))
    with Arbiter(clean_lab, tmp_path, settings=f"{free}\n") as arbiter:
        arbiter.add("deny host=internet")  # who is asked about is refused
        for mark in MARKS:
            for tool in ("iptables", "ip6tables"):
                rule = f"-t mangle -A POSTROUTING -m mark --mark {mark:#x}/0xffffffff"
                sh(clean_lab, f"{tool} {rule}")
            for server in (SERVER4, SERVER6):
                code, output, _ = arbiter.run(*python(WITH_MARK, str(mark), server))
                assert (code, output[:9]) == (0, "link=wifi"), (hex(mark), output)
        assert arbiter.counter("queued") == 0
        for tool in ("iptables", "ip6tables"):
            lines = sh(clean_lab, f"{tool} -t mangle -nvxL POSTROUTING").splitlines()[-len(MARKS) :]
            counted = {line.split()[-1]: int(line.split()[0]) for line in lines}
            assert set(counted) == {hex(mark) for mark in MARKS}
            assert all(count >= 3 for count in counted.values()), counted


TUNNEL = """
import fcntl, os, socket, struct, sys
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH", b"tun0", 0x1001))  # TUNSETIFF: IFF_TUN|IFF_NO_PI
outer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
outer.connect((sys.argv[1], 7))
print("up", flush=True)
while True:
    outer.send(os.read(tun, 2000))
    # The echo server sends it back behind a line of its own: the far end of the tunnel answers.
    back = outer.recv(4000).split(b"\\n", 1)[1]
    if back[9] == 17 and back[0] == 0x45:
        # Source and destination change places; both checksums stay what they were.
        back = back[:12] + back[16:20] + back[12:16] + back[22:24] + back[20:22] + back[24:]
        os.write(tun, back)
"""
INNER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(float(sys.argv[1]))
s.connect(("10.77.0.9", 4000))
s.send(b"through the tunnel")
print(s.recv(100).decode())
"""


def test_05_what_comes_out_of_a_tunnel_carries_no_mark_of_the_outer_packet(
    clean_lab: Lab, tmp_path: Path
) -> None:
    """A userspace tunnel over lte. ipip, gre and WireGuard give an inner packet the outer one's
    mark (mwan3 PR 20923): a rule that runs before arbiter's does so here, on any kernel."""
    if not Path("/dev/net/tun").exists():
        pytest.skip("KERNEL TEST NOT RUN: this machine has no /dev/net/tun")
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        arbiter.add(f"route via=lte host={SERVER4}")
        arbiter.add("allow host=10.77.0.9")
        tunnel = arbiter.program(*python(TUNNEL, SERVER4))
        assert tunnel.stdout is not None
        assert tunnel.stdout.readline() == "up\n"
        sh(clean_lab, "ip addr add 10.77.0.2/24 dev tun0")
        sh(clean_lab, "ip link set tun0 up")
        sh(clean_lab, "ip route add default dev tun0 metric 50")
        eventually(lambda: "tun0" in (tmp_path / "log").read_text())
        inherit = "iptables -t raw -A PREROUTING -i tun0 -j MARK --set-xmark"
        sh(clean_lab, f"{inherit} 0x22000040/0xffffffff")
        inner = "iptables -A INPUT -i tun0 -p udp --sport 4000"
        sh(clean_lab, f"{inner} -m mark --mark 0x40/0xffffffff")
        sh(clean_lab, inner)
        assert arbiter.run(*python(INNER, str(4 * PATIENCE)))[:2] == (0, "through the tunnel\n")
        counted = [
            int(x.split()[0]) for x in sh(clean_lab, "iptables -nvxL INPUT").splitlines()[2:]
        ]
        assert counted == [1, 1], "its own mark stays, the outer packet's has to go"
        assert {frame.dport for frame in wire.sent("lte")} == {7}
        assert wire.sent("wifi") == []


# --- 6: what is near stays reachable, whatever link was chosen --------------------------------


@contextmanager
def container(lab: Lab) -> Iterator[str]:
    """A network namespace behind a bridge, as containers have it; its address, port 80 serves."""
    name = f"{lab.name}-box"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for line in (
            "link add docker0 type bridge",
            f"link add veth0 type veth peer name eth0 netns {name}",
            "link set veth0 master docker0",
            "addr add 172.17.0.1/16 dev docker0",
            "link set veth0 up",
            "link set docker0 up",
            f"-n {name} addr add 172.17.0.2/16 dev eth0",
            f"-n {name} link set eth0 up",
        ):
            sh(lab, f"ip {line}")
        serve = "import socket\ns=socket.create_server(('',80)); print('up',flush=True)\n"
        serve += "while True: c,a=s.accept(); c.sendall(a[0].encode()); c.close()"
        argv = ["ip", "netns", "exec", name, *python(serve)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "up\n"
            yield "172.17.0.2"
            server.kill()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


CONNECT = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 4)
print(s.recv(200).decode().strip())
"""
SEND = """
import socket, sys
near, nport, far, fport = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
info = socket.getaddrinfo(far, fport, type=socket.SOCK_DGRAM)[0]
s = socket.socket(info[0], socket.SOCK_DGRAM)
s.bind((near, nport))
s.sendto(b"hello", info[4])
"""


def test_06_a_routed_program_reaches_the_lan_and_a_containers_port(
    clean_lab: Lab, tmp_path: Path
) -> None:
    with (
        container(clean_lab) as box,
        Arbiter(clean_lab, tmp_path) as arbiter,
        Capture(clean_lab) as wire,
    ):
        arbiter.add("route via=lte")
        for peer in (LAN_PEER4, LAN_PEER6):
            code, output, _ = arbiter.run(*python(CONNECT, peer, "7"))
            assert (code, output[:9]) == (0, "link=wifi"), output
            code, output, _ = arbiter.run(*python(UDP_CLIENT, peer, "7", "2"))
            assert (code, output.count("link=wifi")) == (0, 2), output
        # The container sees who it is, not a masquerade.
        assert arbiter.run(*python(CONNECT, box, "80"))[:2] == (0, "172.17.0.1\n")
        assert wire.frames("lte") == []
        sources = {frame.source for frame in wire.sent("wifi")}
        assert sources == {WIFI.host4, WIFI.host_ula}
        assert arbiter.run(*curl(SERVER4))[1][:9] == "link=lte "


def test_06_loopback_link_local_multicast_and_dhcp_are_let_alone(
    clean_lab: Lab, tmp_path: Path
) -> None:
    addresses = clean_lab.run(["ip", "-6", "-o", "addr", "show", "dev", "access0"], ns="wifi")
    (router,) = re.findall(r"fe80::[0-9a-f:]+", addresses.stdout)
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        arbiter.add("route via=lte")
        serve = (
            "import socket,sys\ns=socket.create_server(('127.5.5.5',80)); print('up',flush=True)\n"
        )
        serve += "while True: s.accept()[0].sendall(b'here')"
        local = arbiter.program(*python(serve))
        assert local.stdout is not None
        assert local.stdout.readline() == "up\n"
        assert arbiter.run(*python(CONNECT, "127.5.5.5", "80"))[:2] == (0, "here\n")
        code, output, _ = arbiter.run(*python(CONNECT, f"{router}%wlan0", "7"))
        assert (code, output[:9]) == (0, "link=wifi"), output
        for near, nport, far, fport in (
            ("0.0.0.0", 5353, "224.0.0.251", 5353),
            ("::", 5353, "ff02::fb%wlan0", 5353),
            ("0.0.0.0", 1900, "239.255.255.250", 1900),
            (WIFI.host4, 68, WIFI.gateway4, 67),  # a DHCP renewal is unicast (RFC 2131 4.4.5)
        ):
            code, output, _ = arbiter.run(*python(SEND, near, str(nport), far, str(fport)))
            assert code == 0, output
        sent = [f for f in wire.frames("wifi") if f.up and f.proto == UDP]
        assert [(f.source, f.destination) for f in sent if f.dport in (67, 1900)] == [
            (WIFI.host4, "239.255.255.250"),
            (WIFI.host4, WIFI.gateway4),
        ]
        assert wire.frames("lte") == []
        assert arbiter.counter("queued") == 0


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
