"""Who sends too much, reads too little or takes every place is cut off, and nobody else notices."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serverscene import ALICE, BOB, QUERY, STATUS, Daemon, eventually, note, serving

from arbiter import protocol
from arbiter.protocol import RefusedReason, Role
from arbiter.server import server


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    with serving(tmp_path / "socket", monkeypatch) as running:
        yield running


def test_a_client_that_never_reads_is_cut_off_and_the_others_get_everything(
    daemon: Daemon,
) -> None:
    total, size = 120, 50_000
    with daemon.client(role=Role.PROMPT) as deaf, daemon.client(role=Role.PROMPT) as prompt:
        got: list[int] = []

        def read() -> None:
            got.extend(prompt.receive(protocol.Withdraw).ask for _ in range(total))

        reader = threading.Thread(target=read)
        reader.start()
        longest = 0.0
        for id in range(total):
            while len(got) < id - 5 and reader.is_alive():
                time.sleep(0.001)  # it reads, however slow this machine is at the moment
            message = note(id, "x" * size)
            began = time.monotonic()
            daemon.tell(message)
            longest = max(longest, time.monotonic() - began)
        reader.join(10)
        assert got == list(range(total))
        assert longest < 2, "a broadcast waited for somebody"
        eventually(lambda: len(daemon.prompts[-1]) == 1)  # the deaf one is gone from the prompts
        poll = select.poll()
        poll.register(deaf.sock, 0)
        assert poll.poll(2000), "the connection of the deaf client is still open"


def test_a_client_that_ends_without_reading_is_counted_until_its_memory_is_free(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or one user could pile up closed connections, each with a buffer, past every limit."""
    monkeypatch.setattr(server, "LINGER", 0.3)
    with daemon.client(ALICE, Role.PROMPT) as deaf:
        big = note(1, "x" * 60_000)
        for _ in range(10):  # more than a socket takes, less than MAX_UNSENT
            daemon.tell(big, ALICE)
        deaf.sock.sendall(b"x" * protocol.MAX_MESSAGE)
        eventually(lambda: not daemon.prompts[-1])
        assert daemon.run(lambda: dict(daemon.server._per_user)) == {ALICE: 1}
        eventually(lambda: not daemon.run(lambda: dict(daemon.server._per_user)))
        poll = select.poll()
        poll.register(deaf.sock, 0)
        assert poll.poll(2000), "it lingers on"


def test_more_asks_than_the_buffer_takes_still_arrive_at_a_client_that_reads(
    daemon: Daemon,
) -> None:
    daemon.backlog = [note(id, "x" * 30_000) for id in range(150)]
    assert len(daemon.backlog) * 30_000 > 3 * server.MAX_UNSENT
    with daemon.client(role=Role.PROMPT) as client:
        assert client.welcome is not None and client.welcome.asks == 150
        daemon.tell(note(1000))
        got = [client.receive(protocol.Withdraw).ask for _ in range(151)]
        assert got == [*range(150), 1000]


def test_a_flood_of_messages_is_cut_off_with_busy(daemon: Daemon) -> None:
    with daemon.client() as client, daemon.client() as witness:
        client.sock.sendall(QUERY * (server.BURST + 60))
        served = 0
        while isinstance(message := client.next(), protocol.Status):
            served += 1
        assert isinstance(message, protocol.Refused) and message.reason is RefusedReason.BUSY
        assert client.ended()
        assert server.BURST <= served < server.BURST + 50
        assert witness.works()


def test_descriptors_that_a_client_passes_are_not_taken(daemon: Daemon) -> None:
    """As many as one message carries, again and again (unix(7), SCM_RIGHTS): the daemon would
    run out of its own."""
    with daemon.client() as client, contextlib.ExitStack() as stack:
        read, write = os.pipe()
        stack.callback(os.close, read)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(8):
            socket.send_fds(client.sock, [QUERY], [write] * 200)
            assert client.next() == STATUS
            assert len(os.listdir("/proc/self/fd")) == before
        os.close(write)
        # Nobody else holds the pipe's other end: not in a buffer of the daemon's either.
        assert select.select([read], [], [], 5)[0] and os.read(read, 1) == b""


def test_a_flood_of_bad_lines_is_cut_off_before_each_one_is_looked_at(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    real = protocol.LineDecoder._decode

    def counting(self: Any, line: bytes) -> Any:
        decoded.append(line)
        return real(self, line)

    with daemon.client() as client, daemon.client() as witness:
        monkeypatch.setattr(protocol.LineDecoder, "_decode", counting)
        client.sock.sendall(b"x\n" * 30_000)
        while (message := client.next()) is not None:
            last = message
        assert isinstance(last, protocol.Refused) and last.reason is RefusedReason.BUSY
        assert len([line for line in decoded if line == b"x"]) <= 2 * server.BURST
        assert witness.works()


def test_a_client_within_the_rate_is_never_cut_off(daemon: Daemon) -> None:
    with daemon.client() as client:
        for _ in range(server.BURST // 2):
            assert client.works()


def test_one_connection_too_many_is_told_busy_and_other_users_are_let_in(daemon: Daemon) -> None:
    clients = [daemon.client(ALICE) for _ in range(server.MAX_CLIENTS_PER_USER)]
    with daemon.connect(ALICE) as late:
        assert str(server.MAX_CLIENTS_PER_USER) in late.refused(RefusedReason.BUSY)
        assert late.ended()
    with daemon.client(BOB) as other:
        assert other.works()
    assert all(client.works() for client in clients)
    clients.pop().sock.close()
    most = server.MAX_CLIENTS_PER_USER
    eventually(lambda: daemon.run(lambda: daemon.server._per_user[ALICE]) < most)
    with daemon.client(ALICE) as again:
        assert again.works()
    for client in clients:
        client.sock.close()


def test_users_who_take_every_place_do_not_lock_root_out(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CLIENTS", 2)
    with daemon.client(ALICE), daemon.client(BOB):
        with daemon.connect(BOB + 1) as third:
            third.refused(RefusedReason.BUSY)
            assert third.ended()
        with daemon.client(0) as root, daemon.client(ALICE + 9) as named:
            assert root.works() and named.works()
