"""A link that is lost on the real kernel: its connections end, and nobody else's."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from routescene import OVER, Host, both, running, sh

from arbiter.kernel import linkloss
from arbiter.lab import Lab
from arbiter.lab.config import LAN_PEER4, SECOND4, SERVER4, SERVER6
from arbiter.model import ACCEPTED, Packet, Verdict


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "run" / "sysctl.json"


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
