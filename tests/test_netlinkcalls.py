"""Lists over netlink: whole, in parts, of one moment or known for being none."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from arbiter.kernel.netlink import NLMSG_DONE, NLMSG_ERROR, Message
from arbiter.kernel.netlinkcalls import NetlinkCalls
from arbiter.kernel.rtnetlink import Rtnetlink

LIST, ITEM = 18, 16
MULTI, INTERRUPTED = 0x02, 0x12


class Played(NetlinkCalls):
    """Its kernel says what was prepared."""

    def __init__(self) -> None:
        super().__init__(socket.NETLINK_ROUTE)
        self._sock.close()
        self._sock, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def close(self) -> None:
        super().close()
        self.kernel.close()


@pytest.fixture
def calls() -> Iterator[Played]:
    with Played() as played:
        yield played


def message(payload: bytes, seq: int = 1, kind: int = ITEM, flags: int = MULTI) -> bytes:
    head = struct.pack("=IHHII", 16 + len(payload), kind, flags, seq, 0)
    return head + payload + bytes(-len(payload) % 4)


def done(seq: int = 1, error: int = 0, flags: int = MULTI) -> bytes:
    return message(struct.pack("=i", -error), seq, NLMSG_DONE, flags)


def test_a_list_comes_in_the_parts_that_the_kernel_made(calls: Played) -> None:
    calls.kernel.send(message(b"a") + message(b"another's", seq=7) + message(b"b"))
    calls.kernel.send(message(b"c") + done() + message(b"behind the end"))
    parts = [[m.payload for m in part] for part in calls.parts(LIST, b"", "listing")]
    assert parts == [[b"a", b"b"], [b"c"]]
    assert not calls.interrupted


@pytest.mark.parametrize("torn", [message(b"a", flags=INTERRUPTED) + done(), done(flags=0x12)])
def test_a_list_of_two_moments_is_read_again(calls: Played, torn: bytes) -> None:
    calls.kernel.send(torn)
    calls.kernel.send(message(b"b", seq=2) + done(2))
    assert [m.payload for m in calls.dump(LIST, b"", "listing")] == [b"b"]
    assert not calls.interrupted


def test_a_list_that_never_stands_still_is_given_up(calls: Played) -> None:
    for seq in range(1, 20):
        calls.kernel.send(message(b"a", seq, flags=INTERRUPTED) + done(seq))
    with pytest.raises(BlockingIOError, match="listing: it changes faster than it can be read"):
        calls.dump(LIST, b"", "listing")


@pytest.mark.parametrize("how", ["at once", "at the end"])
def test_a_refusal_names_what_was_asked(calls: Played, how: str) -> None:
    refusal = message(struct.pack("=i", -errno.EPERM) + bytes(16), kind=NLMSG_ERROR, flags=0)
    calls.kernel.send(refusal if how == "at once" else message(b"a") + done(error=errno.EPERM))
    with pytest.raises(PermissionError, match="listing: Operation not permitted"):
        calls.dump(LIST, b"", "listing")


def test_a_kernel_that_says_nothing_is_not_waited_for(calls: Played) -> None:
    calls.kernel.send(message(b"a"))
    with pytest.raises(TimeoutError, match="listing: the kernel gave no answer"):
        calls.dump(LIST, b"", "listing")


def test_what_is_no_message_is_a_value_error(calls: Played) -> None:
    calls.kernel.send(message(b"a") + b"\x11\0\0\0torn")
    with pytest.raises(ValueError, match="netlink header cut off"):
        calls.dump(LIST, b"", "listing")


@pytest.mark.parametrize(
    "payload", [b"", bytes(12), b"\2" + bytes(11) + b"\6\0\n\0\0\0"], ids=["none", "family", "mark"]
)
def test_a_list_that_cannot_be_read_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, payload: bytes
) -> None:
    with Rtnetlink() as net:
        monkeypatch.setattr(net, "dump", lambda *_: [Message(32, 0, 1, payload)])
        with pytest.raises(OSError, match="listing ip -4 rule: ") as caught:
            net.rules(4)
    assert caught.value.errno == errno.EPROTO
