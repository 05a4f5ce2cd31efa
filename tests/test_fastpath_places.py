"""What is answered wherever it goes: by the fast path to other addresses, and only so far."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from fastpathscene import DPORT, Child, Scene, Taken, connected, event, load, queued, standing
from nativeharness import build

FORK = 1
EXCEPTED = 2048
"""native/fastpath.h."""
US = os.getpid()
OTHERS = {
    socket.AF_INET: ("127.0.0.1", "127.0.0.2", "127.1.2.3", "127.255.255.254"),
    socket.AF_INET6: ("::1",),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("module"))


@pytest.fixture
def scene(plain: Path) -> Iterator[Scene]:
    made = Scene(load(str(plain)))
    yield made
    made.close()


def sent(scene: Scene, family: int = socket.AF_INET, address: str = "", port: int = DPORT) -> Taken:
    """A packet of a new socket of ours."""
    with connected(family, address, port) as sock:
        sport = sock.getsockname()[1]
        return scene.send(queued(family, sport, address=address, port=port))


@pytest.mark.parametrize("family", OTHERS)
def test_it_is_answered_at_every_address(scene: Scene, family: socket.AddressFamily) -> None:
    with connected(family) as first:
        assert scene.teach(family, standing(US, first.fileno()), 5, wherever=True)
        for address in OTHERS[family]:
            assert sent(scene, family, address).token == 5
        assert sent(scene, family, port=DPORT + 1).token == 0
        scene.path.forget()
        assert sent(scene, family).token == 0


def test_one_family_is_not_the_other(scene: Scene) -> None:
    with connected() as first:
        assert scene.teach(socket.AF_INET, standing(US, first.fileno()), 5, wherever=True)
        assert sent(scene, socket.AF_INET6).token == 0


@pytest.mark.parametrize("wherever_first", [False, True])
def test_what_is_known_of_just_this_address_comes_first(scene: Scene, wherever_first: bool) -> None:
    with connected() as first:
        for wherever in (wherever_first, not wherever_first):
            known = standing(US, first.fileno())
            assert scene.teach(socket.AF_INET, known, 5 if wherever else 6, wherever=wherever)
        assert sent(scene).token == 6
        assert sent(scene, address="127.0.0.2").token == 5


def test_what_is_known_of_one_address_says_nothing_of_others(scene: Scene) -> None:
    with connected() as first:
        assert scene.teach(socket.AF_INET, standing(US, first.fileno()), 5)
        assert sent(scene).token == 5
        assert sent(scene, address="127.0.0.2").token == 0


def test_what_is_left_out_is_answered_only_by_what_is_known_of_just_there(scene: Scene) -> None:
    there = socket.inet_aton("127.0.0.2")
    with connected() as first:
        known = standing(US, first.fileno())
        assert scene.path.leave_out(there)
        assert scene.teach(socket.AF_INET, known, 5, wherever=True)
        assert scene.path.leave_out(there)
        assert sent(scene).token == 5
        assert sent(scene, address="127.0.0.2").token == 0
        assert sent(scene, address="127.0.0.3").token == 5
        assert scene.path.leave_out(socket.inet_aton("127.0.0.1"))
        assert sent(scene).token == 0
        assert scene.teach(socket.AF_INET, known, 6)
        assert sent(scene).token == 6
        scene.path.forget()
        assert scene.teach(socket.AF_INET, known, 7, wherever=True)
        assert sent(scene, address="127.0.0.2").token == 7


def test_only_so_many_are_left_out_and_all_of_those_are(scene: Scene) -> None:
    with connected() as first:
        assert scene.teach(socket.AF_INET, standing(US, first.fileno()), 5, wherever=True)
        for number in range(EXCEPTED):
            assert scene.path.leave_out(socket.inet_aton(f"127.1.{number >> 8}.{number & 255}"))
        assert not scene.path.leave_out(socket.inet_aton("127.2.0.0"))
        assert scene.path.leave_out(socket.inet_aton("127.1.0.0")), "it is already"
        assert sent(scene, address="127.2.0.0").token == 5
        for number in (0, 1, 500, EXCEPTED - 1):
            address = f"127.1.{number >> 8}.{number & 255 or 1}"
            assert sent(scene, address=address).token == 0


@pytest.mark.parametrize(
    ("area", "inside", "outside"),
    [
        ("127.1.0.0/16", ("127.1.0.0", "127.1.255.255"), ("127.0.255.255", "127.2.0.0")),
        ("127.1.2.0/23", ("127.1.2.0", "127.1.3.255"), ("127.1.1.255", "127.1.4.0")),
        ("127.1.2.3/32", ("127.1.2.3",), ("127.1.2.2", "127.1.2.4")),
        ("127.1.2.2/31", ("127.1.2.2", "127.1.2.3"), ("127.1.2.1", "127.1.2.4")),
        ("0.0.0.0/0", ("0.0.0.0", "127.0.0.1", "255.255.255.255", "::1", "2001:db8::1"), ()),
        ("0.0.0.0/8", ("0.0.0.0", "0.255.255.255", "::1"), ("127.0.0.1", "1.0.0.0", "2001:db8::1")),
        ("224.0.0.0/4", ("224.0.0.0", "239.255.255.255"), ("223.255.255.255", "1.1.1.1")),
        ("fc00::/7", ("fc00::", "fdff::1"), ("fbff::1", "fe00::1", "2001:db8::1", "1.1.1.1")),
        ("::/127", ("::", "::1"), ("::2", "127.0.0.1", "1::")),
        ("2001:db8::1/128", ("2001:db8::1",), ("2001:db8::2", "32.1.13.184")),
        ("32.1.13.184/32", ("32.1.13.184",), ("2001:db8::1",)),
    ],
)
def test_a_whole_area_is_left_out(
    scene: Scene, area: str, inside: tuple[str, ...], outside: tuple[str, ...]
) -> None:
    net, others = ip_network(area), [ip_network("10.0.0.0/9"), ip_network("2001:db9::/33")]
    for one in (*others, net):
        assert scene.path.leave_out(one.network_address.packed, one.prefixlen)
    for there, addresses in ((True, inside), (False, outside)):
        for address in addresses:
            assert scene.path.left_out(ip_address(address).packed) is there, address
    scene.path.forget()
    assert not any(scene.path.left_out(ip_address(one).packed) for one in (*inside, *outside))
    for _ in range(200):  # more than there are sizes
        scene.path.forget()
        assert scene.path.leave_out(net.network_address.packed, net.prefixlen)
        assert scene.path.left_out(ip_address(inside[-1]).packed)


def test_an_area_is_answered_only_by_what_is_known_of_just_there(scene: Scene) -> None:
    with connected() as first:
        known = standing(US, first.fileno())
        assert scene.path.leave_out(bytes((127, 1, 0, 0)), 16)
        assert scene.teach(socket.AF_INET, known, 5, wherever=True)
        assert sent(scene, address="127.2.0.1").token == 5
        assert sent(scene, address="127.1.0.1").token == 0


def test_an_address_that_stands_for_one_of_ipv4_is_always_left_out(scene: Scene) -> None:
    assert scene.path.left_out(bytes(10) + b"\xff\xff\x01\x02\x03\x04")
    assert not scene.path.left_out(bytes(10) + b"\xff\xfe\x01\x02\x03\x04")


@pytest.mark.parametrize("address", [b"", b"123", b"12345", bytes(17)])
def test_what_is_no_address_is_not_left_out(scene: Scene, address: bytes) -> None:
    with pytest.raises(ValueError, match="4 or 16 bytes"):
        scene.path.leave_out(address)
    with pytest.raises(ValueError, match="4 or 16 bytes"):
        scene.path.left_out(address)


@pytest.mark.parametrize(("address", "bits"), [(4, -1), (4, 33), (16, -1), (16, 129)])
def test_what_is_no_area_is_not_left_out(scene: Scene, address: int, bits: int) -> None:
    with pytest.raises(ValueError, match="an area has 0 to"):
        scene.path.leave_out(bytes(address), bits)


def test_a_program_is_looked_at_wherever_its_sockets_were_lately(scene: Scene) -> None:
    def told(other: Child) -> int:
        scene.happens.send(event(FORK, US, US, other.pid, other.pid))
        return scene.send(other.packet()).token

    def moved(other: Child, number: int) -> Child:
        other.do(f"os.dup2({other.descriptor}, {number}), os.close({other.descriptor})")
        return other

    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Child())
        for number in range(40, 44):
            other = moved(stack.enter_context(Child()), number)
            assert scene.teach(socket.AF_INET, standing(other.pid, number, program=True), 5)
        for number in range(40, 44):
            assert told(moved(stack.enter_context(Child()), number)) == 5
        assert told(stack.enter_context(Child())) == 0
        known = standing(first.pid, first.descriptor, program=True)
        assert scene.teach(socket.AF_INET, known, 5)
        assert told(stack.enter_context(Child())) == 5
        assert told(moved(stack.enter_context(Child()), 40)) == 0, "that is the oldest"
        assert told(moved(stack.enter_context(Child()), 41)) == 5


def test_a_new_process_of_the_program_and_its_second_connection(scene: Scene) -> None:
    with Child() as first, Child(address="127.0.0.2") as other:
        known = standing(first.pid, first.descriptor, program=True)
        assert scene.teach(socket.AF_INET, known, 5, wherever=True)
        scene.happens.send(event(FORK, US, US, other.pid, other.pid))
        for _ in range(3):
            found = scene.send(other.packet())
            assert (found.token, found.pid) == (5, other.pid)
