"""Whatever a client sends is answered with its reason, and harms nobody."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serverscene import HELLO_TIMEOUT, QUERY, STATUS, Daemon, eventually, serving

from arbiter import protocol
from arbiter.protocol import RefusedReason, Role


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    with serving(tmp_path / "socket", monkeypatch) as running:
        yield running


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
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
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
