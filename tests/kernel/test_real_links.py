"""Links as they are in life: real WireGuard and ipip, a link that loses packets, a dummy, a VRF.

A small kernel has none of these: then a test says aloud what it lacks. Debian's stock kernel has
them all. WireGuard is set up over netlink, so that no tool of its own is needed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from capture import Capture
from running import PATIENCE, UDP_CLIENT, Arbiter, eventually, python
from test_main_job import picture
from twelvescene import curl, finish, sh
from wgnetlink import WireGuard

from arbiter.lab import Lab
from arbiter.lab.config import LTE, SECOND4, SECOND6, SERVER4, SERVER6, WIFI

UDP = 17
PORT = 51820
HOST4, FAR4, HOST6, FAR6 = "10.99.0.2", "10.99.0.1", "fd99::2", "fd99::1"
QUICK_MARK = 0xCA6C
"""What wg-quick(8) sets on the tunnel's own packets: the port, 51820."""
OURS = 0x7F000000
SLOWLY = 60.0
"""Seconds: an emulated CPU needs its time, and so does a link that loses packets."""
TUNNEL_KEEPS = f"allow host={SECOND4} port={PORT} proto=udp"
both = pytest.mark.parametrize("server", [SERVER4, SERVER6], ids=["IPv4", "IPv6"])


def needs(line: str) -> pytest.MarkDecorator:
    """Skips, aloud, where the kernel refuses that command in a network namespace of its own."""
    done = subprocess.run(["unshare", "-n", *line.split()], capture_output=True, text=True)
    said = f"KERNEL TEST NOT RUN: this kernel refuses `{line}`: {done.stderr.strip()}"
    return pytest.mark.skipif(done.returncode != 0, reason=said)


has_wireguard = needs("ip link add wg0 type wireguard")
has_netem = needs("tc qdisc add dev lo root netem loss 5%")


def command(lab: Lab, line: str, ns: str = "host") -> None:
    done = lab.run(line.split(), ns=ns)
    assert done.returncode == 0, f"{line} in {ns}: {done.stderr}"


# --- WireGuard ---------------------------------------------------------------------------------


def tunnel_end(lab: Lab, ns: str, device: str = "wg0", port: int = 0, mark: int = 0) -> bytes:
    """A WireGuard interface with a key of its own; gives the public key."""
    command(lab, f"ip link add {device} type wireguard", ns)

    def put() -> bytes:
        with WireGuard() as wg:
            wg.set(device, os.urandom(32), port, mark)
            return wg.public_key(device)

    return lab.inside(put, ns)


def introduce(
    lab: Lab,
    ns: str,
    device: str,
    key: bytes,
    allowed: Iterable[str],
    endpoint: tuple[str, int] | None = None,
) -> None:
    """Tell an interface of its peer."""

    def put() -> None:
        with WireGuard() as wg:
            wg.add(device, key, allowed, endpoint)

    lab.inside(put, ns)


def wireguard(lab: Lab, fwmark: int = 0, endpoint: str = SECOND4) -> None:
    """wg0 in the host, its peer behind wifi; all may go through it, and no route leads there yet.

    What comes out at the peer reaches the lab's servers there, which say whom they see.
    """
    near = tunnel_end(lab, "host", mark=fwmark)
    far = tunnel_end(lab, "wifi", port=PORT)
    introduce(lab, "host", "wg0", far, ["0.0.0.0/0", "::/0"], (endpoint, PORT))
    introduce(lab, "wifi", "wg0", near, [f"{HOST4}/32", f"{HOST6}/128"])
    for ns, address4, address6 in (("host", HOST4, HOST6), ("wifi", FAR4, FAR6)):
        command(lab, f"ip addr add {address4}/24 dev wg0", ns)
        command(lab, f"ip addr add {address6}/64 dev wg0 nodad", ns)
        command(lab, "ip link set wg0 up", ns)


def behind_others(lab: Lab, device: str = "wg0") -> None:
    """A default route over the tunnel that nothing takes by itself."""
    for family in ("-4", "-6"):
        command(lab, f"ip {family} route add default dev {device} metric 900")


def sees(output: str) -> str:
    """The address that a server saw."""
    found = re.search(r"peer=(?:\[([^\]]+)\]|([\d.]+)):\d+", output)
    assert found, output
    return found[1] or found[2]


def own(server: str) -> str:
    return HOST6 if ":" in server else HOST4


@contextmanager
def counters(lab: Lab, *rules: str) -> Iterator[list[str]]:
    """`nft` rules, each counting, behind everything of arbiter's; the list gets the counts."""
    counts: list[str] = []
    lines = "\n".join(rules)
    text = "table inet watch {\n chain out { type filter hook postrouting priority 400;\n"
    text += lines.replace("IN ", "}\n chain in { type filter hook input priority 400;\n", 1)
    done = lab.run(["nft", "-f", "-"], input=text + "\n }\n}\n")
    assert done.returncode == 0, done.stderr
    yield counts
    counts += re.findall(r"counter packets (\d+)", sh(lab, "nft list table inet watch"))
    sh(lab, "nft delete table inet watch")


@has_wireguard
@pytest.mark.parametrize("endpoint", [SECOND4, SECOND6], ids=["over IPv4", "over IPv6"])
def test_a_wireguard_tunnel_is_a_vpn_link_and_carries_both_families(
    clean_lab: Lab, tmp_path: Path, endpoint: str
) -> None:
    wireguard(clean_lab, endpoint=endpoint)
    behind_others(clean_lab)
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        (link,) = (x for x in arbiter.json("links") if x["interface"] == "wg0")
        assert (link["kind"], link["name"], link["up4"], link["up6"]) == ("vpn", "vpn", True, True)
        arbiter.add(f"allow host={endpoint} port={PORT} proto=udp")
        arbiter.add(f"route via=vpn host={SERVER4}")
        arbiter.add(f"route via=vpn host={SERVER6}")
        for server in (SERVER4, SERVER6):
            code, output, _ = arbiter.run(*curl(server))
            assert (code, sees(output)) == (0, own(server)), output
            code, output, _ = arbiter.run(*curl(server, "bytes/300000"), timeout=60)
            assert (code, len(output)) == (0, 300_000), output[-200:]
            code, output, _ = arbiter.run(*python(UDP_CLIENT, server, "7", "3"))
            assert (code, output.count(own(server))) == (0, 3), output
        assert {(f.proto, f.destination, f.dport) for f in wire.sent("wifi")} == {
            (UDP, endpoint, PORT)
        }
        assert wire.frames("lte") == []


@has_wireguard
def test_a_link_file_names_a_tunnel(clean_lab: Lab, tmp_path: Path) -> None:
    wireguard(clean_lab)
    behind_others(clean_lab)
    file = '[link]\nname = "work"\nmatch = { interface = "wg*" }\n'
    with Arbiter(clean_lab, tmp_path, links={"work.toml": file}) as arbiter:
        arbiter.add(TUNNEL_KEEPS)
        arbiter.add("route via=work app=/usr/bin/curl")
        assert sees(arbiter.run(*curl(SERVER4))[1]) == HOST4


@has_wireguard
def test_a_tunnels_own_packets_are_asked_about_once_as_the_kernels(
    clean_lab: Lab, tmp_path: Path
) -> None:
    wireguard(clean_lab)
    behind_others(clean_lab)
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        arbiter.add("route via=vpn app=/usr/bin/curl")
        program = arbiter.program(*curl(SERVER4, "", "-m", "60"))
        ask = arbiter.ask()
        assert (ask["destination"]["address"], ask["destination"]["port"]) == (SECOND4, PORT), ask
        assert "kernel" in json.dumps(ask), ask
        assert wire.frames() == [], "nothing of the tunnel leaves before it is answered"
        arbiter.answer("allow", "--scope", "destination", "--for", "forever")
        # WireGuard sends its first packet again each five seconds (REKEY_TIMEOUT), held or not.
        queued = arbiter.counter("queued")
        assert queued >= 2, "curl, and the tunnel's first packet"
        code, output = finish(program, 90)
        assert (code, sees(output)) == (0, HOST4), output
        assert sees(arbiter.run(*curl(SERVER6))[1]) == HOST6
        assert arbiter.asks() == []
        assert arbiter.counter("queued") == queued + 1, "curl once more, and nothing of the tunnel"


@has_wireguard
@pytest.mark.parametrize("fwmark", [0, QUICK_MARK], ids=["no mark", "fwmark"])
def test_no_mark_goes_from_the_inner_to_the_outer_packet_or_back(
    clean_lab: Lab, tmp_path: Path, fwmark: int
) -> None:
    """Without a fwmark the outer connection is decided for no link, with one it is nobody's."""
    wireguard(clean_lab, fwmark)
    behind_others(clean_lab)
    outer = fwmark or 0x20000000
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("route via=vpn app=/usr/bin/curl")
        arbiter.add("allow app=/usr/bin/ping")
        if not fwmark:
            arbiter.add(TUNNEL_KEEPS)
        with counters(
            clean_lab,
            f"udp dport {PORT} meta mark {outer:#x} counter",
            f"udp dport {PORT} meta mark != {outer:#x} counter",
            f'IN iifname "wg0" meta l4proto icmp meta mark & {OURS:#x} == 0 counter',
            f'iifname "wg0" meta l4proto icmp meta mark & {OURS:#x} != 0 counter',
        ) as counts:
            assert sees(arbiter.run(*curl(SERVER4))[1]) == HOST4
            code, output, _ = arbiter.run("ping", "-c", "2", "-W", "9", FAR4)
            assert code == 0, output
        right, wrong, bare, marked = map(int, counts)
        assert (right >= 8, wrong) == (True, 0)
        assert (bare, marked) == (2, 0)
        assert arbiter.asks() == []
        assert arbiter.counter("queued") == 2 + (not fwmark)


@has_wireguard
@both
@pytest.mark.parametrize("loss", ["ip link set wg0 down", "ip link del wg0"])
def test_a_tunnel_that_is_gone_refuses_strict_flows_at_once_and_nothing_leaves_elsewhere(
    clean_lab: Lab, tmp_path: Path, server: str, loss: str
) -> None:
    wireguard(clean_lab, QUICK_MARK)
    behind_others(clean_lab)
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("route via=vpn app=/usr/bin/curl")
        assert sees(arbiter.run(*curl(server))[1]) == own(server)
        cut = arbiter.program(*curl(server, "slow/600", "-m", "90"))
        eventually(lambda: len(clean_lab.seen("wifi")) == 2, SLOWLY)
        with Capture(clean_lab) as wire:
            sh(clean_lab, loss)
            assert finish(cut, 30)[0] not in (0, 28), "ended, and not by its own time-out"
            assert arbiter.run(*curl(server, "", "-m", "90"))[0] == 7, "refused, not timed out"
            # Outer packets, and the kernel's word to the peer that nobody listens any more.
            assert {(f.proto, f.destination) for f in wire.sent()} <= {(UDP, SECOND4), (1, SECOND4)}
        assert arbiter.asks() == []


def quick(lab: Lab) -> None:
    """What `wg-quick up` does (its script, linux.bash: set_config, add_default): the mark, a table,
    the rules, and the nft table that keeps others out and the mark with its connection."""
    wireguard(lab, QUICK_MARK)
    for family in ("-4", "-6"):
        command(lab, f"ip {family} route add default dev wg0 table {PORT}")
        command(lab, f"ip {family} rule add not fwmark {PORT} table {PORT}")
        command(lab, f"ip {family} rule add table main suppress_prefixlength 0")
    command(lab, "sysctl -qw net.ipv4.conf.all.src_valid_mark=1")
    for family, address in (("ip", HOST4), ("ip6", HOST6)):
        text = f"""table {family} wg-quick-wg0 {{
 chain preraw {{ type filter hook prerouting priority -300;
  iifname != "wg0" {family} daddr {address} fib saddr type != local drop; }}
 chain premangle {{ type filter hook prerouting priority -150;
  meta l4proto udp meta mark set ct mark; }}
 chain postmangle {{ type filter hook postrouting priority -150;
  meta l4proto udp meta mark {PORT} ct mark set mark; }}
}}
"""
        done = lab.run(["nft", "-f", "-"], input=text)
        assert done.returncode == 0, done.stderr


@has_wireguard
@pytest.mark.parametrize("first", ["wg-quick", "arbiter"])
def test_beside_wg_quick_all_goes_through_the_tunnel_but_what_is_routed_elsewhere(
    clean_lab: Lab, tmp_path: Path, first: str
) -> None:
    if first == "wg-quick":
        quick(clean_lab)
        before = picture(clean_lab)
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        if first == "arbiter":
            quick(clean_lab)
            eventually(lambda: "vpn (wg0, IPv4 and IPv6)" in (tmp_path / "log").read_text(), SLOWLY)
        arbiter.add("allow app=/usr/bin/wget")
        arbiter.add("allow host=internet proto=udp")
        arbiter.add("route via=lte app=/usr/bin/curl")
        for server in (SERVER4, SERVER6):
            host = f"[{server}]" if ":" in server else server
            code, output, _ = arbiter.run("wget", "-qO-", "-T", "20", f"http://{host}/")
            assert (code, sees(output)) == (0, own(server)), output
            code, output, _ = arbiter.run(*python(UDP_CLIENT, server, "7", "3"))
            assert (code, output.count("link=wifi")) == (0, 3), output
            code, output, _ = arbiter.run(*curl(server))
            assert (code, output[:9]) == (0, "link=lte "), output
            assert sees(output) == (LTE.host6 if ":" in server else LTE.host4)
        assert {(f.proto, f.destination, f.dport) for f in wire.sent("wifi")} == {
            (UDP, SECOND4, PORT)
        }
        assert {f.dport for f in wire.sent("lte")} == {80}
        assert arbiter.asks() == []
        # The tunnel gone, wg-quick's rules stay: what was routed over it is refused.
        arbiter.add("route via=vpn app=/usr/bin/wget")
        assert sees(arbiter.run("wget", "-qO-", "-T", "20", f"http://{SERVER4}/")[1]) == HOST4
        sh(clean_lab, "ip link set wg0 down")
        assert arbiter.run("wget", "-qO-", "-t", "1", "-T", "60", f"http://{SERVER4}/")[0] == 4
        assert {f.destination for f in wire.sent("wifi")} == {SECOND4}
        command(clean_lab, "ip link set wg0 up")
        for family in ("-4", "-6"):
            command(clean_lab, f"ip {family} route replace default dev wg0 table {PORT}")
        command(clean_lab, f"ip addr replace {HOST6}/64 dev wg0 nodad")
    if first == "wg-quick":
        assert picture(clean_lab) == before, "wg-quick's part is as it was"


@has_wireguard
def test_a_tunnel_lives_on_when_the_link_under_it_was_lost(clean_lab: Lab, tmp_path: Path) -> None:
    """Its socket is the kernel's, and serves on: it is not ended with the link's connections."""
    wireguard(clean_lab)
    behind_others(clean_lab)
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add(f"route via=wifi host={SECOND4} port={PORT} proto=udp")
        arbiter.add("route via=vpn app=/usr/bin/curl")
        assert sees(arbiter.run(*curl(SERVER4))[1]) == HOST4
        sh(clean_lab, "ip link set wlan0 down")
        eventually(lambda: "wifi (wlan0, down)" in (tmp_path / "log").read_text(), SLOWLY)
        assert arbiter.run(*curl(SERVER4, "", "-m", "4"))[0] != 0
        clean_lab.mend("wifi")
        eventually(lambda: arbiter.run(*curl(SERVER4, "", "-m", "5"))[0] == 0, SLOWLY)


@needs("ip link add tun9 type ipip remote 192.0.2.1")
def test_an_ipip_tunnels_outer_packets_are_a_connection_of_their_own(
    clean_lab: Lab, tmp_path: Path
) -> None:
    """The kernel copies the mark of what it wraps, unlike WireGuard (ip_tunnel_xmit)."""
    for ns, near, far in (("host", WIFI.host4, SECOND4), ("wifi", SECOND4, WIFI.host4)):
        command(clean_lab, f"ip link add tun9 type ipip local {near} remote {far}", ns)
        command(clean_lab, f"ip addr add {HOST4 if ns == 'host' else FAR4}/24 dev tun9", ns)
        command(clean_lab, "ip link set tun9 up", ns)
    command(clean_lab, "ip route add default dev tun9 metric 900")
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("route via=vpn app=/usr/bin/curl")
        arbiter.add("allow app=/usr/bin/ping")
        program = arbiter.program(*curl(SERVER4, "", "-m", "60"))
        assert arbiter.ask()["destination"]["address"] == SECOND4
        arbiter.answer("allow", "--scope", "destination", "--for", "forever")
        code, output = finish(program, 90)
        assert (code, sees(output)) == (0, HOST4), output
        with counters(
            clean_lab,
            "ip protocol 4 meta mark 0x20000000 counter",
            "ip protocol 4 meta mark != 0x20000000 counter",
            'IN iifname "tun9" meta l4proto icmp meta mark 0 counter',
            'iifname "tun9" meta l4proto icmp meta mark != 0 counter',
        ) as counts:
            assert sees(arbiter.run(*curl(SERVER4))[1]) == HOST4
            code, output, _ = arbiter.run("ping", "-c", "2", "-W", "9", FAR4)
            assert code == 0, output
        right, wrong, bare, marked = map(int, counts)
        assert (right >= 6, wrong) == (True, 0)
        assert (bare, marked) == (2, 0)
        assert arbiter.counter("queued") == 4, "curl twice, ping, and the tunnel's first packet"


# --- a link that is slow and loses packets -----------------------------------------------------


def worsen(lab: Lab, loss: int) -> None:
    """1 Mbit/s, a round trip of 200 ms, and that much loss, in percent, each way."""
    for ns, device in (("host", "wwan0"), ("lte", "access0")):
        how = f"netem delay 100ms rate 1mbit loss {loss}%"
        command(lab, f"tc qdisc replace dev {device} root {how}", ns)
    # Known for good: an ARP request that is lost would say that the gateway is gone.
    (far,) = json.loads(lab.run(["ip", "-j", "link", "show", "access0"], ns="lte").stdout)
    for gateway in (LTE.gateway4, LTE.gateway6):
        entry = f"{gateway} lladdr {far['address']} dev wwan0 nud permanent"
        command(lab, f"ip neigh replace {entry}")


def repeats(lab: Lab) -> int:
    """TCP segments that the host sent again."""
    return int(sh(lab, "nstat -asz TcpRetransSegs").split()[-2])


@has_netem
@both
def test_a_transfer_over_a_slow_link_that_loses_packets_completes(
    clean_lab: Lab, tmp_path: Path, server: str
) -> None:
    worsen(clean_lab, 5)
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        arbiter.add("route via=lte app=/usr/bin/curl")
        fetch = curl(server, "bytes/200000", "-m", "110")
        code, output, _ = arbiter.run(*fetch, timeout=120)
        assert (code, len(output)) == (0, 200_000), output[-200:]
        assert wire.frames("wifi") == []
        assert arbiter.counter("queued") == 1


@has_netem
def test_a_handshake_that_the_link_loses_is_one_question(clean_lab: Lab, tmp_path: Path) -> None:
    worsen(clean_lab, 100)
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab, "lte") as wire:
        program = arbiter.program(*curl(SERVER4, "", "-m", str(110 * PATIENCE)))
        ask = arbiter.ask()
        # While it is held TCP does not repeat it (skb_still_in_host_queue, net/ipv4/tcp_output.c).
        time.sleep(3)
        assert (arbiter.counter("queued"), arbiter.asks()) == (1, [ask])
        sent = repeats(clean_lab)
        arbiter.answer("route via=lte")
        # Its timer runs, and doubles, while it is held, too, and six times in all: an emulated CPU
        # may be so slow that two or three of them are left.
        enough = sent + (3 if PATIENCE == 1 else 1)
        eventually(lambda: repeats(clean_lab) >= enough, SLOWLY)
        assert (arbiter.counter("queued"), arbiter.asks()) == (1, [])
        assert wire.frames() == []
        worsen(clean_lab, 5)
        code, output = finish(program, 120)
        assert (code, output[:9]) == (0, "link=lte "), output
        assert arbiter.asks() == []


@has_netem
@both
def test_a_transfer_over_a_bad_link_ends_with_the_link(
    clean_lab: Lab, tmp_path: Path, server: str
) -> None:
    worsen(clean_lab, 5)
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab, "wifi") as wire:
        arbiter.add("route via=lte app=/usr/bin/curl")
        cut = arbiter.program(*curl(server, "slow/600", "-m", "110"))
        eventually(lambda: len(clean_lab.seen("lte")) == 1, SLOWLY)
        sh(clean_lab, "ip link set wwan0 down")
        assert finish(cut, 30)[0] not in (0, 28), "ended, and not by its own time-out"
        assert wire.frames() == []
        assert arbiter.asks() == []


# --- interfaces that are no links --------------------------------------------------------------


@needs("ip link add dum0 type dummy")
def test_a_dummy_is_no_link(clean_lab: Lab, tmp_path: Path) -> None:
    command(clean_lab, "ip link add dum0 type dummy")
    command(clean_lab, "ip addr add 192.0.2.7/24 dev dum0")
    command(clean_lab, "ip addr add 2001:db8:77::7/64 dev dum0 nodad")
    command(clean_lab, "ip link set dum0 up")
    with Arbiter(clean_lab, tmp_path) as arbiter:
        assert [x["interface"] for x in arbiter.json("links")] == ["wlan0", "wwan0"]
        arbiter.add("route via=lte app=/usr/bin/curl")
        for server in (SERVER4, SERVER6):
            code, output, _ = arbiter.run(*curl(server))
            assert (code, output[:9]) == (0, "link=lte "), output


@needs("ip link add blue type vrf table 66")
def test_a_vrf_and_what_is_in_it_are_no_links_of_who_is_outside(
    clean_lab: Lab, tmp_path: Path
) -> None:
    """Replies that come in over a VRF's interface reach only sockets that are bound to it."""
    command(clean_lab, "ip link add blue type vrf table 66")
    command(clean_lab, "ip link set blue up")
    for line in (
        "link add in0 type veth peer name in1",
        "link set in1 up",
        "link set in0 master blue",
        "link set in0 up",
        "addr add 192.0.2.2/24 dev in0",
        "route add default via 192.0.2.1 dev in0 table 66",
        "route add unreachable default table 66 metric 4278198272",
    ):
        command(clean_lab, f"ip {line}")
    before = picture(clean_lab)
    with Arbiter(clean_lab, tmp_path) as arbiter, Capture(clean_lab) as wire:
        assert [x["interface"] for x in arbiter.json("links")] == ["wlan0", "wwan0"]
        arbiter.add("allow app=/usr/bin/wget")
        arbiter.add("route via=lte app=/usr/bin/curl")
        for server in (SERVER4, SERVER6):
            code, output, _ = arbiter.run(*curl(server))
            assert (code, output[:9]) == (0, "link=lte "), output
        assert arbiter.run("wget", "-qO-", "-T", "20", f"http://{SERVER4}/")[1][:9] == "link=wifi"
        assert {f.dport for f in wire.sent()} == {80}
    assert picture(clean_lab) == before
