"""The socket's room alone: whatever a client sends is answered with its reason, and harms nobody.

A real server on a real Unix socket, its event loop in a thread; the clients block, and `uid`
pretends who connects. One file although long: every promise needs the same daemon and client.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import os
import pwd
import select
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arbiter import protocol
from arbiter.model import Peer
from arbiter.protocol import RefusedReason, Role
from arbiter.server import Server, ServerError, server

MESSAGES = Path(__file__).parent.parent / "fixtures" / "messages"
STATUS = msgspec.json.decode((MESSAGES / "status.json").read_bytes(), type=protocol.Status)
ALICE, BOB = 4_000_001, 4_000_002
"""uids that no machine has: not root, in no group."""
QUERY = protocol.encode(protocol.Query())
HELLO_TIMEOUT = 0.4


def eventually(look: Callable[[], object]) -> None:
    """Returns once `look` is true."""
    end = time.monotonic() + 5
    while not look():
        assert time.monotonic() < end, "waited 5 s in vain"
        time.sleep(0.005)


def note(id: int, text: str = "") -> protocol.Withdraw:
    return protocol.Withdraw(id, protocol.WithdrawReason.RULE, text)


class Daemon:
    """A handler that answers queries, and remembers the rest. Its server runs in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.uid = 0
        self.backlog: list[protocol.DaemonMessage] = []
        self.seen: list[tuple[int, protocol.ClientMessage]] = []
        self.prompts: list[tuple[Peer, ...]] = []
        self.errors: list[dict[str, Any]] = []
        self.server = Server(path, self, admins=frozenset({ALICE + 9}), hello_timeout=HELLO_TIMEOUT)
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def run(self, work: Callable[[], Any]) -> Any:
        """Call it in the event loop; wait for what it gives."""

        async def call() -> Any:
            result = work()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(10)

    def tell(self, message: protocol.DaemonMessage, uid: int | None = None) -> None:
        self.run(lambda: self.server.broadcast(uid, lambda _: message))

    def stop(self) -> None:
        self.run(self.server.close)
        self.run(self.loop.shutdown_default_executor)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    # --- Handler ----------------------------------------------------------------------------

    def arrived(self, client: int, peer: Peer) -> Iterable[protocol.DaemonMessage]:
        return self.backlog

    def message(self, client: int, peer: Peer, message: protocol.ClientMessage) -> None:
        self.seen.append((peer.uid, message))
        if isinstance(message, protocol.Query):
            self.server.send(client, STATUS)
        elif isinstance(message, protocol.Follow):
            self.server.follow(client)

    def prompts_changed(self, peers: tuple[Peer, ...]) -> None:
        self.prompts.append(peers)

    def welcome(self, peer: Peer, asks: int) -> protocol.Welcome:
        return protocol.Welcome(1, "0", peer.user, peer.admin, "ask", "deny", asks)

    # --- clients ----------------------------------------------------------------------------

    def connect(self, uid: int = 0) -> Client:
        self.uid = uid
        client = Client(self.path)
        # The uid is asked for when the connection is accepted: not before that may it change.
        eventually(lambda: not uid or self.uid != uid)
        return client

    def client(self, uid: int = 0, role: Role = Role.COMMAND) -> Client:
        """One that has said hello."""
        client = self.connect(uid)
        client.say(protocol.Hello(protocol.VERSION, role, "test"))
        client.welcome = client.receive(protocol.Welcome)
        return client


class Client:
    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(str(path))
        self.welcome: protocol.Welcome | None = None
        self._decoder = protocol.daemon_decoder()
        self._messages: list[protocol.DaemonMessage] = []

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def say(self, *messages: protocol.ClientMessage) -> None:
        self.sock.sendall(b"".join(map(protocol.encode, messages)))

    def next(self) -> protocol.DaemonMessage | None:
        """The next message; None where the daemon has ended the connection."""
        while not self._messages:
            try:
                data = self.sock.recv(1 << 18)
            except ConnectionResetError:
                return None
            if not data:
                return None
            for message in self._decoder.feed(data):
                assert not isinstance(message, protocol.ProtocolError), message.text
                self._messages.append(message)
        return self._messages.pop(0)

    def receive(self, kind: type[Any]) -> Any:
        message = self.next()
        assert isinstance(message, kind), message
        return message

    def refused(self, reason: RefusedReason) -> str:
        message = self.receive(protocol.Refused)
        assert message.reason is reason, message
        assert message.text
        return str(message.text)

    def ended(self) -> bool:
        return self.next() is None

    def works(self) -> bool:
        self.sock.sendall(QUERY)
        return self.next() == STATUS


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    running = Daemon(tmp_path / "socket")

    def credentials(writer: asyncio.StreamWriter) -> tuple[int, int, int]:
        uid, running.uid = running.uid, 0
        return os.getpid(), uid, uid

    monkeypatch.setattr(server, "_credentials", credentials)
    running.run(running.server.start)
    try:
        yield running
    finally:
        running.stop()
    assert running.errors == [], "something went past the room's own error handling"


# --- what is no message ---------------------------------------------------------------------

BAD = {
    "garbage": b"\x00\x01\xfe\xff",
    "invalid UTF-8": b'{"type":"answer","ask":1,"decision":"allow","scope":"\xff\xfe"}',
    "half a surrogate pair": b'{"type":"answer","ask":1,"decision":"allow","scope":"\\ud800"}',
    "no object": b"[1, 2, 3]",
    "two objects on a line": b'{"type":"query"}{"type":"query"}',
    "deep nesting": b'{"a":' * 10_000,
    "deep nesting in a value": b'{"type":"query","x":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "no type": b"{}",
    "unknown type": b'{"type":"configure"}',
    "the daemon's own message": protocol.encode(STATUS).strip(),
    "type of the wrong type": b'{"type":{"query":1}}',
    "ask of the wrong type": b'{"type":"answer","ask":"1","decision":"allow"}',
    "a fraction of an ask": b'{"type":"answer","ask":1.5,"decision":"allow"}',
    "an ask beyond all numbers": b'{"type":"answer","ask":' + b"9" * 5000 + b',"decision":"deny"}',
    "unknown decision": b'{"type":"answer","ask":1,"decision":"configure"}',
    "missing field": b'{"type":"answer","ask":1}',
    "unknown field": b'{"type":"query","admin":true}',
    "via of the wrong type": b'{"type":"answer","ask":1,"decision":"route","via":"lte"}',
}


@pytest.mark.parametrize("line", BAD.values(), ids=BAD)
def test_a_line_that_is_no_message_is_refused_as_malformed_and_the_connection_goes_on(
    daemon: Daemon, line: bytes
) -> None:
    with daemon.client() as client:
        client.sock.sendall(line + b"\n")
        text = client.refused(RefusedReason.MALFORMED)
        assert text.isprintable() and len(text) < 1000
        assert client.works()
    assert [message for _, message in daemon.seen] == [protocol.Query()]


@pytest.mark.parametrize("line", BAD.values(), ids=BAD)
def test_a_line_that_is_no_message_in_place_of_hello_is_refused_and_ends_the_connection(
    daemon: Daemon, line: bytes
) -> None:
    with daemon.connect() as client:
        client.sock.sendall(line + b"\n")
        client.refused(RefusedReason.MALFORMED)
        assert client.ended()


ANYTHING = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=50).map(lambda text: json.dumps({"type": text}).encode()),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(("answer", "hello", "query", "changed")),
            "ask": st.integers() | st.text() | st.none() | st.floats(),
            "decision": st.sampled_from(("allow", "deny", "route")) | st.text(),
            "scope": st.text() | st.integers(),
            "version": st.integers() | st.text(),
        }
    ).map(lambda value: json.dumps(value).encode()),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(ANYTHING, max_size=8), st.booleans())
def test_any_bytes_are_answered_in_the_protocol_and_leave_everybody_else_alone(
    daemon: Daemon, lines: list[bytes], greet: bool
) -> None:
    with daemon.client() as witness:
        with daemon.client() if greet else daemon.connect() as client:
            client.sock.sendall(b"\n".join(lines) + b"\n")
            client.sock.shutdown(socket.SHUT_WR)
            while (message := client.next()) is not None:
                assert isinstance(message, protocol.Refused | protocol.Status | protocol.Welcome)
        assert witness.works()


def test_a_message_may_come_byte_by_byte(daemon: Daemon) -> None:
    with daemon.client() as client, daemon.client() as other:
        for byte in QUERY[:-1]:
            client.sock.sendall(bytes((byte,)))
        assert other.works(), "half a line holds nobody up"
        client.sock.sendall(QUERY[-1:])
        assert client.next() == STATUS


def test_a_line_of_the_largest_size_is_read_and_one_byte_more_is_too_large(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.sock.sendall(QUERY.rstrip().ljust(protocol.MAX_MESSAGE - 1) + b"\n")
        assert client.next() == STATUS
        client.sock.sendall(QUERY.rstrip().ljust(protocol.MAX_MESSAGE) + b"\n")
        client.refused(RefusedReason.TOO_LARGE)
        assert client.ended()


def test_ten_megabytes_without_a_newline_end_their_own_connection_only(daemon: Daemon) -> None:
    with daemon.client() as client, daemon.client() as witness:
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            client.sock.sendall(b"x" * 10_000_000)
        client.refused(RefusedReason.TOO_LARGE)
        assert client.ended()
        assert witness.works()


def test_a_client_that_leaves_in_the_middle_of_a_message_leaves_nothing(daemon: Daemon) -> None:
    with daemon.client(role=Role.PROMPT) as client:
        client.sock.sendall(b'{"type":"answer","ask":1,"deci')
    with daemon.client() as witness:
        eventually(lambda: not daemon.prompts[-1])
        assert witness.works()
    assert daemon.seen == [(0, protocol.Query())]


# --- in what order --------------------------------------------------------------------------


def test_nothing_is_carried_out_before_hello(daemon: Daemon) -> None:
    for message in (
        protocol.Answer(1, protocol.Choice.ALLOW),
        protocol.Changed(),
        protocol.Query(),
    ):
        with daemon.connect() as client:
            client.say(message)
            client.refused(RefusedReason.ORDER)
            assert client.ended()
    assert daemon.seen == []


def test_a_second_hello_is_refused_and_changes_nothing(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.say(protocol.Hello(protocol.VERSION, Role.PROMPT, "another"))
        client.refused(RefusedReason.ORDER)
        assert client.works()
        assert daemon.run(lambda: daemon.server.prompts) == ()


@pytest.mark.parametrize("version", [0, 2, -1, 10**30])
def test_another_version_is_refused_with_both_versions(daemon: Daemon, version: int) -> None:
    with daemon.connect() as client:
        client.say(protocol.Hello(version, Role.PROMPT, "old"))
        text = client.refused(RefusedReason.VERSION)
        assert f"version {protocol.VERSION} " in text and str(version) in text
        assert client.ended()


@pytest.mark.parametrize("said", [b"", b"\n\n", b'{"type":"hello","ver'])
def test_who_says_no_hello_in_time_is_told_and_cut_off(daemon: Daemon, said: bytes) -> None:
    began = time.monotonic()
    with daemon.connect() as client:
        client.sock.sendall(said)
        assert "hello" in client.refused(RefusedReason.ORDER)
        assert client.ended()
    assert time.monotonic() - began >= HELLO_TIMEOUT * 0.9


def test_messages_right_behind_the_hello_are_not_lost(daemon: Daemon) -> None:
    with daemon.connect() as client:
        client.say(protocol.Hello(protocol.VERSION, Role.COMMAND, "quick"), protocol.Query())
        client.receive(protocol.Welcome)
        assert client.next() == STATUS


def test_a_name_is_cleaned_and_cut_before_anybody_sees_it(daemon: Daemon) -> None:
    with daemon.connect() as client:
        client.say(protocol.Hello(protocol.VERSION, Role.PROMPT, "\x1b[31m\u202e" + "n" * 9000))
        client.receive(protocol.Welcome)
        assert client.works()
        (peer,) = daemon.prompts[-1]
        assert peer.frontend.startswith("\ufffd[31m\ufffdnnn") and len(peer.frontend) == 64


# --- too much -------------------------------------------------------------------------------


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


# --- whose ----------------------------------------------------------------------------------


def test_a_broadcast_reaches_admins_and_the_user_it_is_about_and_nobody_else(
    daemon: Daemon,
) -> None:
    with (
        daemon.client(0, Role.PROMPT) as root,
        daemon.client(ALICE, Role.PROMPT) as alice,
        daemon.client(BOB, Role.PROMPT) as bob,
        daemon.client(0, Role.COMMAND) as command,
    ):
        tell = daemon.server.broadcast
        daemon.run(lambda: tell(ALICE, lambda peer: note(1, peer.user)))
        daemon.tell(note(2))
        daemon.run(lambda: tell(BOB, lambda _: note(3), commands=True))
        assert [root.receive(protocol.Withdraw).ask for _ in range(3)] == [1, 2, 3]
        assert alice.receive(protocol.Withdraw) == note(1, str(ALICE))
        assert bob.receive(protocol.Withdraw).ask == 3
        assert command.receive(protocol.Withdraw).ask == 3
        assert all(client.works() for client in (root, alice, bob, command)), "and nothing more"


def test_who_follows_hears_of_what_it_may_answer_for_and_others_hear_nothing(
    daemon: Daemon,
) -> None:
    with (
        daemon.client(0, Role.WATCH) as root,
        daemon.client(ALICE, Role.COMMAND) as alice,
        daemon.client(BOB, Role.PROMPT) as bob,
        daemon.client(ALICE, Role.PROMPT) as idle,
    ):
        assert not daemon.server.followed
        for client in (root, alice, bob):
            client.say(protocol.Follow())
            assert client.works()
        assert daemon.server.followed
        tell = daemon.server.tell
        daemon.run(lambda: tell(ALICE, lambda: note(1)))
        daemon.run(lambda: tell(None, lambda: note(2), everyone=True))
        daemon.run(lambda: tell(None, lambda: note(3)))
        assert [root.receive(protocol.Withdraw).ask for _ in range(3)] == [1, 2, 3]
        assert [alice.receive(protocol.Withdraw).ask for _ in range(2)] == [1, 2]
        assert bob.receive(protocol.Withdraw).ask == 2
        assert all(client.works() for client in (root, alice, bob, idle)), "and nothing more"
    eventually(lambda: not daemon.server.followed)


def test_a_watch_hears_of_asks_is_nobody_to_ask_and_answers_nothing(daemon: Daemon) -> None:
    with daemon.client(ALICE, Role.WATCH) as watch:
        daemon.tell(note(1), ALICE)
        assert watch.receive(protocol.Withdraw).ask == 1
        assert daemon.server.prompts == ()
        watch.say(protocol.Answer(1, protocol.Choice.ALLOW))
        watch.refused(RefusedReason.RIGHT)
        assert watch.works()
    assert not [m for _, m in daemon.seen if isinstance(m, protocol.Answer)]


def test_a_prompt_that_is_away_is_nobody_to_ask_and_hears_everything(daemon: Daemon) -> None:
    with daemon.client(ALICE, Role.PROMPT) as alice:
        alice.say(protocol.Away(True))
        assert alice.works()
        daemon.tell(note(1), ALICE)
        assert alice.receive(protocol.Withdraw).ask == 1
        alice.say(protocol.Away(False))
        assert alice.works()
        assert [[peer.uid for peer in peers] for peers in daemon.prompts] == [[ALICE], [], [ALICE]]


def test_only_admins_make_the_daemon_read_its_rules_anew(daemon: Daemon) -> None:
    with daemon.client(ALICE) as alice, daemon.client(0) as root:
        alice.say(protocol.Changed())
        alice.refused(RefusedReason.RIGHT)
        root.say(protocol.Changed())
        assert root.works() and alice.works()
    changes = [uid for uid, message in daemon.seen if message == protocol.Changed()]
    assert changes == [0]


def test_pid_and_uid_are_the_kernels_word_for_who_connected() -> None:
    left, right = socket.socketpair()
    with left, right:

        class Writer:
            def get_extra_info(self, name: str) -> socket.socket:
                return left

        found = server._credentials(Writer())  # type: ignore[arg-type]  # all it uses
        assert found == (os.getpid(), os.getuid(), os.getgid())


def entry(name: str, uid: int) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, uid, "", "/", "/bin/sh"))


@pytest.mark.parametrize(
    ("uid", "groups", "admins", "expected"),
    [
        (0, [0], (), Peer(0, "carol", True)),
        (ALICE, [5], (), Peer(ALICE, "carol", False)),
        (ALICE, [5, 77], (), Peer(ALICE, "carol", True)),
        (ALICE, [5], (ALICE,), Peer(ALICE, "carol", True)),
        (ALICE, [5], (BOB,), Peer(ALICE, "carol", False)),
    ],
)
def test_admins_are_root_members_of_the_group_and_who_was_named(
    monkeypatch: pytest.MonkeyPatch,
    uid: int,
    groups: list[int],
    admins: tuple[int, ...],
    expected: Peer,
) -> None:
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: entry("carol", uid))
    monkeypatch.setattr(os, "getgrouplist", lambda user, gid: [gid, *groups])
    group = grp.struct_group(("arbiter", "x", 77, []))
    monkeypatch.setattr(grp, "getgrnam", {"arbiter": group}.__getitem__)
    assert server._peer(uid, 5, frozenset(admins)) == expected


def test_without_the_group_and_without_a_name_nobody_but_root_is_admin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grp, "getgrnam", {}.__getitem__)
    nobody = pwd.getpwnam("nobody")
    assert server._peer(nobody.pw_uid, nobody.pw_gid, frozenset()).admin is False
    assert server._peer(ALICE, ALICE, frozenset()) == Peer(ALICE, str(ALICE), False)
    assert server._peer(ALICE, ALICE, frozenset({ALICE})).admin is True


# --- the socket itself ----------------------------------------------------------------------


def test_everybody_may_connect_and_the_end_leaves_no_file_and_no_connection(
    daemon: Daemon,
) -> None:
    assert stat.S_IMODE(daemon.path.stat().st_mode) == 0o666
    with daemon.client(role=Role.PROMPT) as client, daemon.connect() as silent:
        eventually(lambda: daemon.run(lambda: daemon.server._per_user[0]) == 2)
        daemon.run(daemon.server.close)
        assert client.ended() and silent.ended()
    assert not daemon.path.exists()
    assert daemon.prompts[-1] == ()


def test_a_dead_daemons_socket_is_replaced_and_a_live_ones_is_not(daemon: Daemon) -> None:
    dead = daemon.path.with_name("dead")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(dead))
    second = Server(dead, daemon, admins=frozenset())
    daemon.run(second.start)
    daemon.run(second.close)

    with pytest.raises(ServerError, match=r"another arbiter answers there.*--socket"):
        daemon.run(Server(daemon.path, daemon, admins=frozenset()).start)
    with daemon.client() as client:
        assert client.works()


def test_a_file_in_the_sockets_place_is_never_removed(daemon: Daemon) -> None:
    file = daemon.path.with_name("file")
    file.write_text("precious")
    with pytest.raises(ServerError, match=f"{file}.*no socket.*--socket"):
        daemon.run(Server(file, daemon, admins=frozenset()).start)
    assert file.read_text() == "precious"


def test_a_path_too_long_for_a_socket_is_an_error_for_people(daemon: Daemon) -> None:
    path = daemon.path.with_name("x" * 150)
    with pytest.raises(ServerError, match=r"too long.*--socket"):
        daemon.run(Server(path, daemon, admins=frozenset()).start)


def test_a_socket_that_was_removed_is_made_anew_and_who_is_connected_stays(daemon: Daemon) -> None:
    with daemon.client() as before:
        assert daemon.run(daemon.server.look_after) is False
        daemon.path.unlink()
        assert daemon.run(daemon.server.look_after) is True
        assert stat.S_IMODE(daemon.path.stat().st_mode) == 0o666
        with daemon.client() as after:
            assert after.works()
        assert before.works()
        assert daemon.run(daemon.server.look_after) is False


def test_a_socket_whose_directory_was_removed_is_made_anew_with_it(daemon: Daemon) -> None:
    path = daemon.path.parent / "gone" / "a.sock"
    other = Server(path, daemon, admins=frozenset())
    daemon.run(other.start)
    path.unlink()
    path.parent.rmdir()
    assert daemon.run(other.look_after) is True
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    daemon.run(other.close)
    assert not path.exists()


def test_what_took_the_sockets_place_is_told_and_stays_to_the_end(daemon: Daemon) -> None:
    daemon.path.unlink()
    daemon.path.write_text("precious")
    with pytest.raises(ServerError, match=f"{daemon.path}.*no socket"):
        daemon.run(daemon.server.look_after)
    daemon.run(daemon.server.close)
    assert daemon.path.read_text() == "precious"


def test_another_daemons_socket_is_not_removed_at_the_end(daemon: Daemon) -> None:
    daemon.path.unlink()
    with socket.socket(socket.AF_UNIX) as another:
        another.bind(str(daemon.path))
        another.listen()
        with pytest.raises(ServerError, match="another arbiter answers there"):
            daemon.run(daemon.server.look_after)
        daemon.run(daemon.server.close)
        assert daemon.path.is_socket()
