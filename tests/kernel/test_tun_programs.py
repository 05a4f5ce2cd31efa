"""A VPN program (OpenVPN, say) holds the end of its tunnel open: its own packets stay out of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from capture import Capture
from running import UDP_CLIENT, Arbiter, eventually, python
from twelvescene import curl, sh

from arbiter.lab import Lab
from arbiter.lab.config import SECOND4, SERVER4

PORT = 1194
HOST4, FAR4 = "10.99.0.2", "10.99.0.1"
VPN = """
import fcntl, os, select, socket, struct, sys
name, near, where = sys.argv[1], sys.argv[2] == "near", (sys.argv[3], int(sys.argv[4]))
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH", name.encode(), 0x1001))  # IFF_TUN, IFF_NO_PI
def outer():
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.connect(where) if near else made.bind(where)
    return made
sock, peer = outer(), None
print("up", flush=True)
while True:
    for ready in select.select([tun, sock, sys.stdin], [], [])[0]:
        if ready is sys.stdin:
            if not sys.stdin.readline():
                sys.exit()
            sock.close()
            sock = outer()
            print("again", flush=True)
        elif ready is tun and (near or peer):
            data = os.read(tun, 4000)
            sock.send(data) if near else sock.sendto(data, peer)
        elif ready is sock:
            data, peer = sock.recvfrom(4000)
            os.write(tun, data)
"""
FOREIGN = """
import ctypes, fcntl, os, socket, struct, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
assert ctypes.CDLL(None).unshare(0x40000000) == 0  # CLONE_NEWNET
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH", b"tun0", 0x1001))
sock.sendto(b"not the tunnel's", (sys.argv[1], int(sys.argv[2])))
time.sleep(1)  # it is there when it is looked at
"""
pytestmark = pytest.mark.skipif(
    not Path("/dev/net/tun").exists(),
    reason="KERNEL TEST NOT RUN: this machine has no /dev/net/tun",
)


def end_of_tunnel(lab: Lab, ns: str, name: str) -> subprocess.Popen[str]:
    argv = python(VPN, name, "near" if ns == "host" else "far", SECOND4, str(PORT))
    pipe = subprocess.PIPE
    program = lab.popen(argv, ns=ns, stdin=pipe, stdout=pipe, text=True)
    assert program.stdout is not None
    assert program.stdout.readline() == "up\n"
    for line in (
        f"ip addr add {HOST4 if ns == 'host' else FAR4}/24 dev {name}",
        # Before it is up: else it has a link-local address, and solicits routers through the
        # tunnel, whose packets are then older than arbiter.
        f"ip link set {name} mtu 1400 addrgenmode none",
        f"ip link set {name} up",
    ):
        done = lab.run(line.split(), ns=ns)
        assert done.returncode == 0, done.stderr
    return program


@pytest.fixture
def vpn(clean_lab: Lab) -> Iterator[subprocess.Popen[str]]:
    """A tunnel to behind wifi; the program of this machine's end of it."""
    with (
        end_of_tunnel(clean_lab, "wifi", "tun1") as far,
        end_of_tunnel(clean_lab, "host", "tun0") as near,
    ):
        try:
            sh(clean_lab, "ip route add default dev tun0 metric 900")
            yield near
        finally:
            near.kill()
            far.kill()


def again(vpn: subprocess.Popen[str]) -> None:
    """As OpenVPN does with persist-tun: another socket, the same tunnel."""
    assert vpn.stdin is not None
    assert vpn.stdout is not None
    vpn.stdin.write("\n")
    vpn.stdin.flush()
    assert vpn.stdout.readline() == "again\n"


def notes(arbiter: Arbiter, least: int) -> list[str]:
    rows = f"SELECT note FROM decisions WHERE dport = {PORT} ORDER BY id"
    eventually(lambda: len(arbiter.database(rows)) >= least)
    return [str(note) for (note,) in arbiter.database(rows)]


def test_everything_goes_through_a_programs_tunnel_but_its_own_packets(
    clean_lab: Lab, tmp_path: Path, vpn: subprocess.Popen[str]
) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        arbiter.add("route via=vpn")
        for count in (1, 2):
            code, output, _ = arbiter.run(*curl(SERVER4))
            assert (code, f"peer={HOST4}:" in output) == (0, True), output
            code, output, _ = arbiter.run(*python(UDP_CLIENT, SERVER4, "7", "3"))
            assert (code, output.count(HOST4)) == (0, 3), output
            assert notes(arbiter, count) == ["a packet of vpn itself: over wifi"] * count
            again(vpn)
        assert {(f.proto, f.destination, f.dport) for f in wire.sent()} == {(17, SECOND4, PORT)}
        assert arbiter.asks() == []


def test_the_same_packets_of_other_programs_go_into_it(
    clean_lab: Lab, tmp_path: Path, vpn: subprocess.Popen[str]
) -> None:
    """Even of one that has an interface of the same name, in another network namespace."""
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        arbiter.add("route via=vpn")
        assert arbiter.run(*curl(SERVER4))[0] == 0
        own = {f.sport for f in wire.sent()}
        send = "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        send += "s.sendto(b'not the tunnel', (sys.argv[1], int(sys.argv[2])))"
        for code in (send, FOREIGN):
            done, output, _ = arbiter.run(*python(code, SECOND4, str(PORT)))
            assert done == 0, output
        assert notes(arbiter, 3) == ["a packet of vpn itself: over wifi", "over vpn", "over vpn"]
        assert {f.sport for f in wire.sent()} == own


def test_an_app_rule_decides_over_what_a_tunnel_is_carried(
    clean_lab: Lab, tmp_path: Path, vpn: subprocess.Popen[str]
) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        arbiter.add(f"route via=lte host={SECOND4}")
        arbiter.add("route via=vpn")
        arbiter.run(*curl(SERVER4, "", "-m", "4"))
        assert {(f.proto, f.destination, f.dport) for f in wire.sent("lte")} == {
            (17, SECOND4, PORT)
        }
        assert wire.sent("wifi") == []
