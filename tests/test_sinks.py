"""Records on their way out: each form is what its readers expect, whatever a program chose."""

from __future__ import annotations

import array
import json
import os
import re
import resource
import socket
import stat
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arbiter.auditsettings import SyslogTo
from arbiter.protocol import clean
from arbiter.records import Progress, Record, State, json_list
from arbiter.recordwords import KEYS, as_object
from arbiter.sinks import Decided, Ended, Item, Journald, JsonLines, Lost, Syslog
from arbiter.sinks.journald import MESSAGE_IDS, _field, datagram
from arbiter.sinks.jsonlines import line
from arbiter.sinks.syslogtext import SD_ID, message
from arbiter.store.rows import RECORD_COLUMNS

CURL = Record(
    time=1_790_000_000.25,
    decision="route via=lte",
    reason="rule",
    proto="tcp",
    saddr="10.0.0.2",
    sport=40000,
    daddr="198.51.100.10",
    dport=443,
    uid=1000,
    user="alice",
    app="/usr/bin/curl",
    argv=json_list(["curl", "https://example.org/"]),
    names=json_list(["example.org"]),
    rule_id=3,
    by="alice",
    link="lte",
    metered=True,
    state="open",
)
DENIED = Record(time=1.0, decision="deny", reason="deadline", no_owner="exited")
CLOSED = Progress(7, State.CLOSED, replied=5.0, closed=6.0, out_bytes=1200, in_bytes=34)
LOST = Lost(12, 3.0, 4.0)
HOSTILE = st.text(
    st.characters(codec=None) | st.sampled_from('\n\r\0"]\\\u202e\udcff<>=[ ')
) | st.just("x" * 9000)
RECORDS = st.builds(
    lambda text, other, words, count, at: Record(
        time=at,
        decision="allow",
        reason="observe",
        app=text,
        exe=other,
        argv=json_list(words),
        names=json_list(words[:2]),
        note=other,
        by=text,
        out_bytes=count,
    ),
    HOSTILE,
    HOSTILE,
    st.lists(HOSTILE, max_size=40),
    st.none() | st.integers(0, 2**63),
    st.floats(allow_nan=False) | st.just(1.0),
)
ITEMS = st.one_of(
    st.builds(Decided, st.integers(1, 2**63), RECORDS),
    st.builds(Ended, st.just(CLOSED), st.just(6.0), st.none() | RECORDS),
    st.just(LOST),
)


# --- lines of JSON ----------------------------------------------------------------------------


def test_a_line_has_the_keys_of_audit_nl_and_a_kind() -> None:
    assert ("id", *RECORD_COLUMNS) == KEYS
    told = json.loads(line(Decided(7, CURL)))
    assert told.pop("kind") == "decided"
    assert told == as_object(7, CURL)
    assert tuple(told) == KEYS
    ended = json.loads(line(Ended(CLOSED, 6.0)))
    assert (ended["kind"], ended["id"], ended["state"]) == ("ended", 7, "closed")
    assert json.loads(line(LOST)) == {"kind": "lost", "count": 12, "since": 3.0, "until": 4.0}


@given(ITEMS)
def test_whatever_was_chosen_is_one_line(item: Item) -> None:
    made = line(item)
    assert made.count(b"\n") == 1
    assert made.endswith(b"\n")
    assert made.isascii()
    assert json.loads(made)["kind"] == item.kind


def read(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_a_file_grows_by_lines_and_is_made_again_where_it_was_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "log" / "decisions.jsonl"
    target = JsonLines(path)
    assert target.send([b"1\n", b"2\n"]) == 2
    assert stat.S_IMODE(path.stat().st_mode) & ~0o640 == 0
    assert stat.S_IMODE(path.parent.stat().st_mode) & ~0o750 == 0
    path.rename(tmp_path / "old")
    target.send([b"3\n"])
    assert (read(tmp_path / "old"), read(path)) == (["1", "2"], ["3"])
    path.unlink()
    target.send([b"4\n"])
    assert read(path) == ["4"]
    os.truncate(path, 0)  # copytruncate
    target.send([b"5\n"])
    assert path.read_bytes() == b"5\n"
    path.rename(tmp_path / "older")
    path.touch(0o600)  # logrotate's `create`
    target.send([b"6\n"])
    target.close()
    target.send([b"7\n"])
    target.close()
    assert (read(tmp_path / "older"), read(path)) == (["5"], ["6", "7"])


def test_a_torn_line_is_not_glued_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text('{"id": 1}\n{"id": 2, "ap')
    target = JsonLines(path)
    target.send([b"3\n"])
    target.close()
    assert read(path) == ['{"id": 1}', '{"id": 2, "ap', "3"]


def test_where_the_disk_takes_a_part_only_none_of_it_stays(tmp_path: Path) -> None:
    path = tmp_path / "x"
    target = JsonLines(path)
    target.send([b"1\n"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (7, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            target.send([b"12345\n", b"67890\n"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read(path) == ["1"]
    target.send([b"12345\n", b"67890\n"])
    target.close()
    assert read(path) == ["1", "12345", "67890"]


def test_no_link_is_followed_and_only_a_file_is_written_to(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine\n")
    (tmp_path / "link").symlink_to(victim)
    os.mkfifo(tmp_path / "pipe")
    for name, why in [("link", "symbolic link"), ("pipe", "no regular file"), (".", "directory")]:
        with pytest.raises(OSError, match=why):
            JsonLines(tmp_path / name).send([b"x\n"])
        with pytest.raises(OSError, match=why):
            JsonLines(tmp_path / name).begin()
    assert victim.read_text() == "mine\n"


# --- journald ---------------------------------------------------------------------------------


def fields(data: bytes) -> list[tuple[str, str]]:
    """A native message, read as journald reads it."""
    found = []
    while data:
        name, equals, _ = data.partition(b"\n")[0].partition(b"=")
        if equals:
            value, _, data = data[len(name) + 1 :].partition(b"\n")
        else:
            (size,) = struct.unpack("<Q", data[len(name) + 1 : len(name) + 9])
            value = data[len(name) + 9 : len(name) + 9 + size]
            assert data[len(name) + 9 + size : len(name) + 10 + size] == b"\n"
            data = data[len(name) + 10 + size :]
        assert re.fullmatch(rb"[A-Z][A-Z0-9_]{0,63}", name)
        found.append((name.decode(), value.decode()))
    return found


def test_the_journal_gets_every_key_as_a_field() -> None:
    told = fields(datagram(Decided(7, CURL)))
    assert ("MESSAGE", "7: /usr/bin/curl → example.org (198.51.100.10) port 443 tcp:"
            " route via=lte over lte, rule 3 by alice") in told  # fmt: skip
    assert [value for name, value in told if name == "ARBITER_ARGV"] == [
        "curl",
        "https://example.org/",
    ]
    found = dict(told)
    assert (found["ARBITER_DECISION"], found["ARBITER_METERED"]) == ("route via=lte", "1")
    assert (found["PRIORITY"], found["SYSLOG_IDENTIFIER"]) == ("6", "arbiter")
    assert found["MESSAGE_ID"] == MESSAGE_IDS["decided"]
    assert "ARBITER_CLOSED" not in found
    assert dict(fields(datagram(Decided(8, DENIED))))["PRIORITY"] == "5"
    assert dict(fields(datagram(LOST)))["PRIORITY"] == "4"
    ended = dict(fields(datagram(Ended(CLOSED, 6.0))))
    assert ended["MESSAGE"] == "7: closed, 1.2 kB sent, 34 bytes received"


@given(ITEMS)
def test_no_value_becomes_a_field_of_its_own(item: Item) -> None:
    names = {name for name, _ in fields(datagram(item))}
    known = {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "MESSAGE_ID", "ARBITER_KIND"}
    assert names <= known | {f"ARBITER_{key.upper()}" for key in item.values}


def test_a_newline_in_a_value_begins_no_field() -> None:
    """Items are cleaned before; this is the protocol's own word on it."""
    assert fields(_field("ARBITER_X", "a\nPRIORITY=0")) == [("ARBITER_X", "a\nPRIORITY=0")]


def test_what_is_too_big_for_a_datagram_goes_as_a_sealed_file(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        target = Journald(path)
        big = b"MESSAGE=" + b"x" * 3_000_000 + b"\n"
        assert target.send([b"MESSAGE=small\n"]) == 1
        assert target.send([big]) == 1
        assert journal.recv(100) == b"MESSAGE=small\n"
        data, ancillary, _, _ = journal.recvmsg(100, 100)
        assert data == b""
        (fd,) = array.array("i", ancillary[0][2])
        with os.fdopen(fd, "rb") as file:
            assert os.pread(fd, len(big) + 1, 0) == big
            with pytest.raises(OSError, match="permitted"):
                os.ftruncate(file.fileno(), 1)
        target.close()


# --- syslog -----------------------------------------------------------------------------------

HEAD = re.compile(
    rb"<(\d{1,3})>1 (-|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) ([!-~]{1,255}) arbiter (\d+) (\w+) "
)


def read_message(data: bytes) -> tuple[int, dict[str, str], str]:
    """Priority, parameters and words of an RFC 5424 message; fails for anything else."""
    head = HEAD.match(data)
    assert head is not None, data[:100]
    at = head.end()
    start = b"[" + SD_ID.encode()
    assert data[at:].startswith(start)
    at += len(start)
    found = {}
    while data[at : at + 1] == b" ":
        param = re.match(
            rb' ([!-<>-\\^-~]{1,32})="((?:[^"\\\]]|\\["\\\]])*)"', data[at:], re.DOTALL
        )
        assert param is not None, data[at : at + 100]
        found[param[1].decode()] = re.sub(r"\\([\"\\\]])", r"\1", param[2].decode())
        at += param.end()
    assert data[at : at + 5] == b"] \xef\xbb\xbf", data[at : at + 10]
    return int(head[1]), found, data[at + 5 :].decode()


def test_a_syslog_message_has_every_key_as_a_parameter() -> None:
    made = message(Decided(7, CURL), 6, "box", 42, 8192)
    assert made.startswith(b"<86>1 2026-09-21T14:13:20.250000Z box arbiter 42 decided [arbiter@")
    priority, found, words = read_message(made)
    assert (priority, found["app"], found["id"], found["metered"]) == (
        86,
        "/usr/bin/curl",
        "7",
        "1",
    )
    assert json.loads(found["argv"]) == ["curl", "https://example.org/"]
    assert words.startswith("7: /usr/bin/curl → example.org (198.51.100.10) port 443 tcp")
    assert "closed" not in found


@given(ITEMS, st.sampled_from([2048, 8192]))
@example(Decided(1, Record(time=1.0, decision="allow", reason="x", app='a"b\\c]d')), 2048)
def test_no_value_leaves_its_parameter_and_no_message_is_too_long(item: Item, limit: int) -> None:
    made = message(item, 6, "bo x\n", 42, limit)
    assert len(made) <= limit
    assert b"\n" not in made
    assert b"\0" not in made
    _, found, words = read_message(made)
    assert clean(words, limit) == words
    left_out = json.loads(found.pop("left_out", "[]"))
    values = {k: v for k, v in item.values.items() if v not in (None, "", [])}
    assert set(found) | set(left_out) == set(values)
    for key in found:
        if isinstance(values[key], str):
            assert found[key] == values[key]
    if "id" in values:
        assert found["id"] == str(values["id"])


def test_udp_and_unix_carry_a_message_a_datagram(tmp_path: Path) -> None:
    for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET6, ("::1", 0)),
                            (socket.AF_UNIX, str(tmp_path / "log"))):  # fmt: skip
        with socket.socket(family, socket.SOCK_DGRAM) as server:
            server.bind(address)
            name: Any = server.getsockname()
            to = (
                SyslogTo("unix", path=name)
                if isinstance(name, str)
                else SyslogTo("udp", host=name[0], port=name[1])
            )
            target = Syslog(to, 0)
            target.send([target.render(Decided(7, CURL))])
            target.close()
            assert read_message(server.recv(9000))[1]["daddr"] == "198.51.100.10"


def read_counted(data: bytes) -> list[bytes]:
    found = []
    while data:
        size, _, rest = data.partition(b" ")
        found.append(rest[: int(size)])
        data = rest[int(size) :]
    return found


def test_tcp_counts_octets_and_notices_that_the_receiver_has_hung_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        target = Syslog(SyslogTo("tcp", host="127.0.0.1", port=port), 0)
        items = [target.render(Decided(7, CURL)), target.render(LOST)]
        assert target.send(items) == 2
        with server.accept()[0] as receiver:
            found = read_counted(receiver.recv(100_000))
            assert [read_message(one)[1].get("id") for one in found] == ["7", None]
        with pytest.raises(ConnectionResetError):
            target.send(items)
        target.close()
        assert target.send(items) == 2
        with server.accept()[0] as receiver:
            assert len(read_counted(receiver.recv(100_000))) == 2
        target.close()
