"""Owners on the real kernel while processes change under the look-up: nobody else is named."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest
from msgspec import structs
from ownerscene import (
    V4,
    Client,
    clients,
    entered,
    flow,
    looking_up,
    made_namespace,
    pids,
    reason,
    resolve,
)

from arbiter.kernel.holders import Holder
from arbiter.kernel.owner import OwnerLookup
from arbiter.kernel.procevents import ProcEvents
from arbiter.kernel.procfs import ProcessTable
from arbiter.kernel.sockdiag import SocketInfo
from arbiter.kernel.sockets import Found
from arbiter.kernel.tunnels import Tunnel, Tunnels
from arbiter.model import NoOwner, NoOwnerReason, Owner, Process

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a network namespace"),
]


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    with made_namespace() as name:
        yield name


@pytest.fixture(autouse=True)
def inside(namespace: str) -> Iterator[None]:
    """The whole test runs in the namespace, and so do its clients."""
    with entered(namespace):
        yield


@pytest.fixture
def client() -> Iterator[Client]:
    with clients() as start:
        yield start


@pytest.fixture(params=["events", "no events"])
def lookup(request: pytest.FixtureRequest) -> Iterator[OwnerLookup]:
    with looking_up(request.param == "events") as made:
        yield made


class Table:
    """A process table that says what a test wants: one answer after the other, the last again."""

    def __init__(self, *answers: Process | None, start: int = 5) -> None:
        self.answers = list(answers)
        self.start = start

    def get(self, pid: int) -> Process | None:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def start_time(self, pid: int) -> int | None:
        return self.start


def facts(start: int = 5, exe: str = "/usr/bin/a") -> Process:
    real = ProcessTable()
    process = real.get(os.getpid())
    real.close()
    assert process is not None
    return structs.replace(process, start=start, exe=exe)


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket() as made:
        made.setblocking(False)
        made.connect_ex((V4, 443))
        yield made


@pytest.mark.parametrize(
    "table",
    [
        Table(None),
        Table(*(facts(start) for start in range(5, 11))),
        Table(*(facts(exe=f"/{name}") for name in "abcdef")),
    ],
    ids=["gone", "pid used again", "exec"],
)
def test_a_process_that_changes_under_the_look_up_is_never_named(
    table: Table, sock: socket.socket
) -> None:
    lookup = OwnerLookup(table)
    packet = flow(6, sock.getsockname()[1])
    try:
        lookup._holders.note(Holder(os.getpid(), sock.fileno(), 0), 0)
        assert lookup.quick(packet) is None
        found = lookup.scan(packet)
        assert reason(found) is NoOwnerReason.EXITED
        assert isinstance(found, NoOwner)
        assert (found.uid, found.user) == (0, "root")
    finally:
        lookup.close()


def test_a_process_that_settles_is_named_at_the_second_try(sock: socket.socket) -> None:
    lookup = OwnerLookup(Table(facts(4), facts(5)))
    try:
        found = lookup.scan(flow(6, sock.getsockname()[1]))
        assert isinstance(found, Owner)
        assert [process.start for process in found.processes] == [5]
    finally:
        lookup.close()


def test_a_socket_closed_while_its_process_is_read_names_nobody(sock: socket.socket) -> None:
    class Closing(Table):
        def get(self, pid: int) -> Process | None:
            sock.close()
            return super().get(pid)

    lookup = OwnerLookup(Closing(facts()))
    try:
        packet = flow(6, sock.getsockname()[1])
        assert reason(lookup.scan(packet)) is NoOwnerReason.EXITED
    finally:
        lookup.close()


def test_an_exec_between_two_look_ups_is_verified_anew(sock: socket.socket) -> None:
    table = Table(facts(exe="/a"))
    lookup = OwnerLookup(table)
    try:
        packet = flow(6, sock.getsockname()[1])
        assert isinstance(lookup.scan(packet), Owner)
        table.answers = [facts(exe="/b"), facts(exe="/c")]
        assert lookup.quick(packet) is None, "it changed while it was looked at"
        found = lookup.quick(packet)
        assert isinstance(found, Owner)
        assert found.processes[0].exe == "/c"
    finally:
        lookup.close()


@pytest.mark.parametrize(
    ("uid", "expected"), [(0, NoOwnerReason.KERNEL), (1000, NoOwnerReason.AMBIGUOUS)]
)
def test_a_socket_in_nobodys_descriptor_table_is_not_guessed_at(
    uid: int, expected: NoOwnerReason
) -> None:
    info = SocketInfo(2**32 - 2, uid, 2, bytes(4), 1, bytes(4), 2)
    lookup = OwnerLookup(ProcessTable(), find=lambda packet: Found((info,)))
    try:
        assert lookup.quick(flow(6, 1)) is None
        assert reason(lookup.scan(flow(6, 1))) is expected
    finally:
        lookup.close()


@pytest.mark.parametrize("uid", [0, 998])
@pytest.mark.parametrize("known", [True, False])
def test_a_tunnels_socket_is_the_kernels_whoever_set_the_tunnel_up(
    monkeypatch: pytest.MonkeyPatch, uid: int, known: bool
) -> None:
    """Its uid is that of systemd-networkd, say."""
    info = SocketInfo(2**32 - 2, uid, 7, bytes(4), 1, bytes(4), 0)
    lookup = OwnerLookup(ProcessTable(), find=lambda packet: Found((info,)))
    tunnels = (Tunnel(9, "wg0"),) if known else ()
    monkeypatch.setattr(Tunnels, "sending", lambda self, flow: tunnels)
    try:
        assert lookup.quick(flow(17, 1)) is None
        found = lookup.scan(flow(17, 1))
        assert isinstance(found, NoOwner)
        if known:
            assert (found.reason, found.uid, found.user) == (NoOwnerReason.KERNEL, 0, "root")
            assert found.tunnels == (9,)
        else:
            plain = NoOwnerReason.AMBIGUOUS if uid else NoOwnerReason.KERNEL
            assert (found.reason, found.uid, found.tunnels) == (plain, uid, ())
        raw = lookup.scan(flow(47, 0))
        assert isinstance(raw, NoOwner)
        assert raw.tunnels == (), "a socket that somebody has: no tunnel needs one"
    finally:
        lookup.close()


def test_a_socket_in_transit_has_no_holder_and_then_its_receiver(lookup: OwnerLookup) -> None:
    one, two = socket.socketpair()
    with one, two:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex((V4, 443))
        packet = flow(6, sock.getsockname()[1])
        socket.send_fds(one, [b"x"], [sock.fileno()])
        sock.close()
        assert isinstance(resolve(lookup, packet), NoOwner)
        _, fds, _, _ = socket.recv_fds(two, 9, 1)
        assert pids(resolve(lookup, packet)) == [os.getpid()]
        os.close(fds[0])


def test_scans_run_beside_quick_look_ups(lookup: OwnerLookup, client: Client) -> None:
    process, [port] = client("s = tcp('10.9.0.2'); say(s.getsockname()[1]); wait()")
    packet, stop, seen = flow(6, port), threading.Event(), []

    def scanning() -> None:
        while not stop.is_set():
            seen.append(pids(lookup.scan(packet)))

    thread = threading.Thread(target=scanning)
    thread.start()
    try:
        lookup.scan(packet)
        for _ in range(500):
            assert pids(lookup.quick(packet)) == [process.pid]
    finally:
        stop.set()
        thread.join()
    assert seen
    assert all(one == [process.pid] for one in seen)


@pytest.fixture
def events() -> Iterator[ProcEvents]:
    made = ProcEvents.open()
    if made is None:
        pytest.skip("this kernel delivers no process events here")
    yield made
    made.close()
