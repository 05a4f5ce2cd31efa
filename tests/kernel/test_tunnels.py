"""A rule that sends everything into a tunnel just works: the tunnel itself stays out of it.

WireGuard and the tunnels between two addresses need a kernel that has them, as Debian's does.
"""

from __future__ import annotations

import os
import socket
from contextlib import closing
from pathlib import Path

import pytest
from capture import Capture
from running import UDP_CLIENT, Arbiter, eventually, python
from test_real_links import (
    FAR4,
    HOST4,
    HOST6,
    PORT,
    SLOWLY,
    UDP,
    behind_others,
    command,
    has_wireguard,
    introduce,
    own,
    sees,
    tunnel_end,
    wireguard,
)
from twelvescene import curl, sh
from wgnetlink import WireGuard

from arbiter.kernel.tunnels import Tunnel, Tunnels
from arbiter.lab import Lab
from arbiter.lab.config import SECOND4, SECOND6, SERVER4, SERVER6, WIFI
from arbiter.model import Flow

EVERYTHING = "route via=vpn"
endpoints = pytest.mark.parametrize("endpoint", [SECOND4, SECOND6], ids=["over IPv4", "over IPv6"])


def goes_through(arbiter: Arbiter, *servers: str) -> None:
    """Programs reach the servers, and are seen there with the tunnel's addresses."""
    for server in servers:
        code, output, _ = arbiter.run(*curl(server, "", "-m", "20"), timeout=30)
        assert (code, sees(output)) == (0, own(server)), output
        code, output, _ = arbiter.run(*python(UDP_CLIENT, server, "7", "3"), timeout=30)
        assert (code, output.count(own(server))) == (0, 3), output


def move(device: str, address: str) -> None:
    """The one peer's far end is there from now on."""
    with WireGuard() as wg:
        (key,) = wg.peers(device)
        wg.add(device, key, endpoint=(address, PORT))


def quiet_udp(address: str, port: int) -> tuple[str, ...]:
    """A program that sends one datagram, and says what the kernel said of it."""
    family = "AF_INET6" if ":" in address else "AF_INET"
    return python(
        f"import socket; s = socket.socket(socket.{family}, socket.SOCK_DGRAM)\n"
        f"s.connect(({address!r}, {port})); s.send(b'not the tunnel')"
    )


def notes(arbiter: Arbiter, least: int) -> list[tuple[int, str]]:
    """Port and note of the decisions on tunnels' outer packets, and what looks like them, once
    there are so many: they are written some time after the verdict."""
    rows = f"SELECT dport, note FROM decisions WHERE dport IN ({PORT}, {PORT + 1}) ORDER BY id"
    eventually(lambda: len(arbiter.database(rows)) >= least)
    return [(int(port), str(note)) for port, note in arbiter.database(rows)]


@has_wireguard
@endpoints
def test_everything_goes_through_wireguard_and_nothing_beside_it(
    clean_lab: Lab, tmp_path: Path, endpoint: str
) -> None:
    wireguard(clean_lab, endpoint=endpoint)
    behind_others(clean_lab)
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        arbiter.add(EVERYTHING)
        goes_through(arbiter, SERVER4, SERVER6)
        assert {(f.proto, f.destination, f.dport) for f in wire.sent()} == {(UDP, endpoint, PORT)}
        assert arbiter.asks() == []
        assert notes(arbiter, 1)
        rows = arbiter.database(f"SELECT note, no_owner FROM decisions WHERE dport = {PORT}")
        assert rows == [
            ("a packet of vpn itself: over wifi", "kernel socket (the tunnel wg0 itself)")
        ]


@has_wireguard
def test_a_programs_packets_to_the_tunnels_far_end_go_into_the_tunnel_like_all_others(
    clean_lab: Lab, tmp_path: Path
) -> None:
    wireguard(clean_lab)
    behind_others(clean_lab)
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        arbiter.add(EVERYTHING)
        goes_through(arbiter, SERVER4)
        before = len(wire.sent())
        (host,) = {f.sport for f in wire.sent()}
        assert arbiter.run(*quiet_udp(SECOND4, PORT))[0] == 0
        # It comes out at the far end of the tunnel, which answers that nobody listens there.
        eventually(lambda: len(wire.sent()) > before)
        assert {f.sport for f in wire.sent()} == {host}, "nothing but the tunnel's own on the wire"
        assert notes(arbiter, 2) == [
            (PORT, "a packet of vpn itself: over wifi"),
            (PORT, "over vpn"),
        ]


@has_wireguard
def test_rules_for_the_far_end_hold_for_the_tunnel_too(clean_lab: Lab, tmp_path: Path) -> None:
    """The lab's second address is behind both links; what answers is behind wifi only."""
    wireguard(clean_lab)
    behind_others(clean_lab)
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        arbiter.add(EVERYTHING)
        arbiter.add(f"deny host={SECOND4}")
        assert arbiter.run(*curl(SERVER4, "", "-m", "8"))[0] != 0
        assert wire.sent() == []
        arbiter.add(f"route via=lte host={SECOND4}")  # in place of the denial
        arbiter.run(*curl(SERVER4, "", "-m", "8"))
        assert {(f.proto, f.destination, f.dport) for f in wire.sent("lte")} == {
            (UDP, SECOND4, PORT)
        }
        assert wire.sent("wifi") == []


@has_wireguard
def test_behind_the_tunnel_in_a_list_is_what_carries_it(clean_lab: Lab, tmp_path: Path) -> None:
    wireguard(clean_lab)
    behind_others(clean_lab)
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        arbiter.add("route via=vpn,lte")
        arbiter.run(*curl(SERVER4, "", "-m", "8"))
        assert {(f.proto, f.destination, f.dport) for f in wire.sent("lte")} == {
            (UDP, SECOND4, PORT)
        }
        assert wire.sent("wifi") == []


@has_wireguard
def test_a_far_end_that_moves_is_still_known(clean_lab: Lab, tmp_path: Path) -> None:
    """No netlink event tells of it."""
    wireguard(clean_lab)
    behind_others(clean_lab)
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        arbiter.add(EVERYTHING)
        goes_through(arbiter, SERVER4)

        clean_lab.inside(lambda: move("wg0", SECOND6), "host")
        goes_through(arbiter, SERVER4, SERVER6)
        assert {f.destination for f in wire.sent()} == {SECOND4, SECOND6}
        assert arbiter.asks() == []


@has_wireguard
def test_after_a_restart_and_a_flap_it_is_still_right(clean_lab: Lab, tmp_path: Path) -> None:
    wireguard(clean_lab)
    behind_others(clean_lab)
    arbiter = Arbiter(clean_lab, tmp_path)
    with Capture(clean_lab) as wire:
        with arbiter:
            arbiter.add(EVERYTHING)
            goes_through(arbiter, SERVER4)
        with arbiter:
            goes_through(arbiter, SERVER4)
            sh(clean_lab, "ip link set wg0 down")
            assert arbiter.run(*curl(SERVER4, "", "-m", "20"), timeout=30)[0] == 7, "refused"
            command(clean_lab, "ip link set wg0 up")
            behind_others(clean_lab)
            eventually(lambda: arbiter.run(*curl(SERVER4, "", "-m", "5"))[0] == 0, SLOWLY)
            # The link below goes and comes back: the tunnel's connection was that link's.
            sh(clean_lab, "ip link set wlan0 down")
            eventually(lambda: "wifi (wlan0, down)" in (tmp_path / "log").read_text(), SLOWLY)
            arbiter.run(*curl(SERVER4, "", "-m", "6"))
            assert {(f.proto, f.destination, f.dport) for f in wire.sent("lte")} == {
                (UDP, SECOND4, PORT)
            }
            clean_lab.mend("wifi")
            eventually(lambda: arbiter.run(*curl(SERVER4, "", "-m", "5"))[0] == 0, SLOWLY)
            assert arbiter.asks() == []
        assert {(f.proto, f.destination, f.dport) for f in wire.sent("wifi")} == {
            (UDP, SECOND4, PORT)
        }


@has_wireguard
def test_a_tunnel_in_a_tunnel(clean_lab: Lab, tmp_path: Path) -> None:
    """wg1 ends where wg0 leads to; one rule for everything names both."""
    wireguard(clean_lab)
    behind_others(clean_lab)
    inner = {"host": ("10.98.0.2", 0), "wifi": ("10.98.0.1", PORT + 1)}
    keys = {ns: tunnel_end(clean_lab, ns, "wg1", port) for ns, (_, port) in inner.items()}
    introduce(clean_lab, "host", "wg1", keys["wifi"], ["0.0.0.0/0"], (FAR4, PORT + 1))
    introduce(clean_lab, "wifi", "wg1", keys["host"], ["10.98.0.2/32"])
    for ns, (address, _) in inner.items():
        command(clean_lab, f"ip addr add {address}/24 dev wg1", ns)
        command(clean_lab, "ip link set wg1 up", ns)
    command(clean_lab, "ip route add default dev wg1 metric 901")
    files = {
        f"{name}.toml": f'[link]\nname = "{name}"\nmatch = {{ interface = "{device}" }}\n'
        for name, device in (("outer", "wg0"), ("inner", "wg1"))
    }
    with Arbiter(clean_lab, tmp_path, links=files) as arbiter, Capture(clean_lab) as wire:
        arbiter.add("route via=inner,outer")
        code, output, _ = arbiter.run(*curl(SERVER4, "", "-m", "20"), timeout=30)
        assert (code, sees(output)) == (0, "10.98.0.2"), output
        assert {(f.proto, f.destination, f.dport) for f in wire.sent()} == {(UDP, SECOND4, PORT)}
        assert notes(arbiter, 2) == [
            (PORT + 1, "over outer"),
            (PORT, "a packet of outer itself: over wifi"),
        ]
        # Each to be carried by the other: the one that would close the circle is refused.
        arbiter.add(f"route via=outer host={FAR4}")
        arbiter.add(f"route via=inner host={SECOND6}")
        clean_lab.inside(lambda: move("wg0", SECOND6), "host")
        arbiter.run(*curl(SERVER4, "", "-m", "5"), timeout=30)
        why = "inner is carried by this tunnel: it would go in a circle"
        assert (PORT, why) in notes(arbiter, 3)
        assert {f.destination for f in wire.sent()} == {SECOND4}


# --- tunnels between two addresses ---------------------------------------------------------------

KINDS = {
    "ipip": (4, 4),
    "sit": (4, 41),
    "gre": (4, 47),
    "ip6tnl": (6, 41),
    "ip6gre": (6, 47),
    "vti": (4, 50),
    "vti6": (6, 50),
}


def two_ends(kind: str, name: str = "tun9") -> str:
    near, far = (WIFI.host6, SECOND6) if KINDS[kind][0] == 6 else (WIFI.host4, SECOND4)
    key = " key 7" if kind.startswith("vti") else ""
    return f"ip link add {name} type {kind} local {near} remote {far}{key}"


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_says_which_packets_a_tunnel_sends(clean_lab: Lab, kind: str) -> None:
    made = clean_lab.run(two_ends(kind).split())
    if made.returncode:
        pytest.skip(f"KERNEL TEST NOT RUN: this kernel has no {kind}: {made.stderr.strip()}")
    family, proto = KINDS[kind]
    texts = (WIFI.host6, SECOND6) if family == 6 else (WIFI.host4, SECOND4)
    af = socket.AF_INET6 if family == 6 else socket.AF_INET
    near, far = (socket.inet_pton(af, text) for text in texts)

    flows = [
        Flow(proto, near, 0, far, 0),
        Flow(proto, near, 0, near, 0),
        Flow(proto, far, 0, far, 0),
        Flow(6, near, 0, far, 0),
        Flow(17, near, 0, far, 0),
    ]

    def look() -> list[tuple[str, ...]]:
        with closing(Tunnels()) as tunnels:
            return [tuple(each.name for each in tunnels.sending(flow)) for flow in flows]

    assert clean_lab.inside(look, "host") == [("tun9",), (), (), (), ()]
    # One that is elsewhere now goes on sending its packets here, and none there.
    command(clean_lab, f"ip link set tun9 netns {clean_lab.internet('lte')}")
    assert clean_lab.inside(look, "host") == [(), (), (), (), ()]
    assert clean_lab.inside(look, "lte") == [(), (), (), (), ()]


@has_wireguard
def test_the_kernel_says_whose_packets_of_many_peers_these_are(clean_lab: Lab) -> None:
    """Their list takes more than one netlink message, and only the first has the port."""
    tunnel_end(clean_lab, "host", port=PORT)
    many = [f"192.0.2.{number}" for number in range(1, 201)]

    def look() -> tuple[set[str], list[tuple[Tunnel, ...]]]:
        with WireGuard() as wg:
            for address in many:
                allowed = [f"10.{n}.{n}.0/24" for n in range(20)]
                wg.add("wg0", os.urandom(32), allowed, (address, 7))
        near = socket.inet_aton(WIFI.host4)
        with closing(Tunnels()) as tunnels:
            known = {
                text
                for text in many
                if tunnels.sending(Flow(UDP, near, PORT, socket.inet_aton(text), 7))
            }
            far = socket.inet_aton(many[0])
            others = [
                Flow(UDP, near, PORT + 1, far, 7),
                Flow(UDP, near, PORT, far, 8),
                Flow(UDP, near, PORT, socket.inet_aton("192.0.2.254"), 7),
                Flow(6, near, PORT, far, 7),
            ]
            return known, [tunnels.sending(flow) for flow in others]

    known, others = clean_lab.inside(look, "host")
    assert known == set(many)
    assert others == [(), (), (), ()]


@pytest.mark.parametrize("kind", ["ipip", "gre", "ip6tnl", "ip6gre"])
def test_everything_goes_through_a_tunnel_between_two_addresses(
    clean_lab: Lab, tmp_path: Path, kind: str
) -> None:
    made = clean_lab.run(two_ends(kind).split())
    if made.returncode:
        pytest.skip(f"KERNEL TEST NOT RUN: this kernel has no {kind}: {made.stderr.strip()}")
    near, far = (WIFI.host6, SECOND6) if KINDS[kind][0] == 6 else (WIFI.host4, SECOND4)
    command(clean_lab, f"ip link add tun9 type {kind} local {far} remote {near}", "wifi")
    for ns, address in (("host", HOST4), ("wifi", FAR4)):
        command(clean_lab, f"ip addr add {address}/24 dev tun9", ns)
        command(clean_lab, "ip link set tun9 up", ns)
    command(clean_lab, "ip route add default dev tun9 metric 900")
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        arbiter.add(EVERYTHING)
        goes_through(arbiter, SERVER4)
        assert {f.destination for f in wire.sent()} == {far}
        assert wire.sent("lte") == []
        assert arbiter.asks() == []


@has_wireguard
def test_a_tunnel_that_another_user_set_up_is_known(clean_lab: Lab, tmp_path: Path) -> None:
    """As systemd-networkd does: the socket then has that user's uid."""
    wireguard(clean_lab)
    command(clean_lab, "ip link set wg0 down")
    keep = "--reuid 998 --inh-caps +net_admin --ambient-caps +net_admin"
    command(clean_lab, f"setpriv {keep} ip link set wg0 up")
    command(clean_lab, f"ip addr replace {HOST6}/64 dev wg0 nodad")
    behind_others(clean_lab)
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add(EVERYTHING)
        goes_through(arbiter, SERVER4)
        assert notes(arbiter, 1) == [(PORT, "a packet of vpn itself: over wifi")]
