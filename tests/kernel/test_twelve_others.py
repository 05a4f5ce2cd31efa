"""Points 5 and 6 of the twelve: others' marks and tunnels, and what is near, are let alone."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from capture import Capture
from running import PATIENCE, UDP_CLIENT, Arbiter, eventually, python
from twelvescene import UDP, curl, sh

from arbiter.lab import Lab
from arbiter.lab.config import LAN_PEER4, LAN_PEER6, SERVER4, SERVER6, WIFI

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
