"""One connection, one record, however many of its packets came before its verdict."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from running import PATIENCE, Arbiter, eventually, flows, forget_closed, python

from arbiter import protocol
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6
from arbiter.protocol import Role

BURST = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
sock.settimeout(20)
sock.connect((sys.argv[1], 7))
for number in range(int(sys.argv[2])):
    try:
        sock.send(b"%d" % number)
    except ConnectionRefusedError:
        pass
print("sent", flush=True)
sock.recv(2000)
print("answered", flush=True)
"""
"""`python(BURST, ADDRESS, COUNT)`: datagrams at once from one socket; waits for an answer."""
LOOK_UP = """
import socket
print(socket.getaddrinfo("www.lab.test", 80, type=socket.SOCK_STREAM))
"""
SERVERS = pytest.mark.parametrize("server", [SERVER4, SERVER6])


def records(arbiter: Arbiter, *filters: str) -> list[dict[str, Any]]:
    """All of them, once those are written that there may be."""
    found: list[dict[str, Any]] = eventually(lambda: arbiter.json("audit", *filters))
    while True:
        time.sleep(1.0 * PATIENCE)
        before, found = found, arbiter.json("audit", *filters)
        if len(found) == len(before):
            return found


def sums(arbiter: Arbiter) -> list[tuple[Any, ...]]:
    """Records and packets, as the sums have them, of what went to the echo server."""
    return arbiter.database("SELECT connections, packets FROM all_sums WHERE dport = 7")


@pytest.mark.parametrize("way", ["allow", "route via=lte"])
@SERVERS
def test_datagrams_that_wait_for_one_answer_are_one_connection(
    clean_lab: Lab, tmp_path: Path, server: str, way: str
) -> None:
    told = tmp_path / "told.jsonl"
    settings = f'[audit]\njson_lines = "{told}"\n'
    with Arbiter(clean_lab, tmp_path, settings=settings) as arbiter:
        program = arbiter.program(*python(BURST, server, "3"))
        eventually(lambda: arbiter.asks() and arbiter.ask()["waiting"] == 3)
        arbiter.answer(way, "--for", "once")
        assert program.stdout is not None
        assert program.stdout.read(13) == "sent\nanswered"
        [one] = records(arbiter, "--port", "7")
        assert (one["count"], one["state"], one["reason"]) == (3, "open", "answer")
        eventually(lambda: records(arbiter, "--port", "7")[0]["out_packets"] == 3, timeout=20)
        [one] = records(arbiter, "--port", "7")
        assert (one["count"], one["in_packets"]) == (3, 3)
        assert one["replied"]
        assert sums(arbiter) == [(1, 3)]
        assert [use["connections"] for use in arbiter.usage()] == [1]
        with arbiter.connection(Role.WATCH) as connection:
            connection.send(protocol.Follow())
            assert isinstance(connection.receive(), protocol.Links)
            shown = connection.receive()
            assert isinstance(shown, protocol.Connection)
            assert shown.id == one["id"]
        lines = [json.loads(line) for line in told.read_text().splitlines()]
        assert [(line["kind"], line["id"], line["count"]) for line in lines] == [
            ("decided", one["id"], 3)
        ]
        arbiter.intact()


@pytest.mark.parametrize("sync", ["true", "false"])
@SERVERS
def test_datagrams_that_a_rule_lets_go_at_once_are_one_connection(
    clean_lab: Lab, tmp_path: Path, server: str, sync: str
) -> None:
    with Arbiter(clean_lab, tmp_path, settings=f"[audit]\nsync = {sync}\n") as arbiter:
        arbiter.add("route via=lte host=internet")
        for _ in range(8):
            program = arbiter.program(*python(BURST, server, "4"))
            assert program.stdout is not None
            assert program.stdout.read(13) == "sent\nanswered"
        found = records(arbiter, "--port", "7")
        assert len(found) == 8, "each program had one socket"
        assert {one["state"] for one in found} == {"open"}
        assert all(1 <= one["count"] <= 4 for one in found)
        [(connections, packets)] = sums(arbiter)
        assert (connections, packets) == (8, sum(one["count"] for one in found))
        arbiter.intact()


def test_the_two_queries_of_one_look_up_are_one_connection(clean_lab: Lab, tmp_path: Path) -> None:
    """glibc sends A and AAAA from one socket, one after the other (resolv.conf(5))."""
    with Arbiter(clean_lab, tmp_path) as arbiter:
        program = arbiter.program(*python(LOOK_UP))
        eventually(lambda: arbiter.asks() and arbiter.ask()["waiting"] == 2)
        arbiter.answer("allow", "--for", "once")
        output, _ = program.communicate(timeout=15 * PATIENCE)
        assert SERVER4 in output, output
        assert SERVER6 in output
        arbiter.add("allow port=53")
        for _ in range(5):
            assert SERVER6 in arbiter.run(*python(LOOK_UP))[1]
        found = records(arbiter, "--port", "53")
        ends = {(one["saddr"], one["sport"], one["daddr"]) for one in found}
        assert len(ends) == len(found) >= 6  # more where an answer took 5 s: it asks anew then
        assert found[0]["count"] == 2
        assert {one["state"] for one in found} == {"open"}


@SERVERS
def test_a_handshake_that_waits_long_is_one_connection(
    clean_lab: Lab, tmp_path: Path, server: str
) -> None:
    """TCP sends none again that is still in a queue (skb_still_in_host_queue, tcp_output.c), but
    for a kernel that lost count of it."""
    with Arbiter(clean_lab, tmp_path) as arbiter:
        forget_closed(clean_lab)
        echo = arbiter.echo(server)
        eventually(arbiter.asks)
        time.sleep(4)
        waiting = arbiter.ask()["waiting"]
        arbiter.answer("route via=lte", "--for", "once")
        echo.send(1000)
        [one] = records(arbiter, "--port", "7")
        assert (one["count"], one["state"], one["link"]) == (waiting, "open", "lte")
        echo.end()
        eventually(lambda: not [flow for flow in flows(clean_lab) if flow.proto == 6])
        eventually(lambda: records(arbiter, "--port", "7")[0]["state"] == "closed")
        [one] = records(arbiter, "--port", "7")
        assert (one["count"], one["out_bytes"] > 1000) == (waiting, True)
        assert sums(arbiter) == [(1, waiting)]


def test_what_was_refused_first_stays_told_as_refused(clean_lab: Lab, tmp_path: Path) -> None:
    """The same ports twice: denied by the deadline, and let go by the answer that came late."""
    code = BURST.replace("sock.connect", "sock.bind(('', 40123)); sock.connect")
    with Arbiter(clean_lab, tmp_path, settings="deadline = 2\n") as arbiter:
        arbiter.program(*python(code, SERVER4, "2"))
        [denied] = records(arbiter, "--port", "7", "--reason", "deadline")
        assert (denied["count"], denied["decision"], denied["state"]) == (2, "deny", "")
        arbiter.add("allow port=7")
        again = arbiter.program(*python(code, SERVER4, "1"))
        assert again.stdout is not None
        assert again.stdout.read(13) == "sent\nanswered"
        found = records(arbiter, "--port", "7")
        told = [(one["decision"], one["sport"], one["state"], one["count"]) for one in found]
        assert told == [("deny", 40123, "", 2), ("allow", 40123, "open", 1)]
        assert sorted(sums(arbiter)) == [(1, 1), (1, 2)]


def test_a_new_connection_on_the_same_ports_is_another_record(
    clean_lab: Lab, tmp_path: Path
) -> None:
    """However soon after the end of the one before: the kernel tells of that first."""
    code = """
import socket, sys, subprocess
for _ in range(20):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("", 40123))
    sock.settimeout(8)
    sock.connect((sys.argv[1], 7))
    sock.send(b"x")
    sock.recv(2000)
    sock.close()
    subprocess.run(["conntrack", "-D", "-p", "udp", "--sport", "40123"], check=True)
"""
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("allow host=internet")
        code_, output, _ = arbiter.run(*python(code, SERVER4))
        assert code_ == 0, output
        found = records(arbiter, "--port", "7")
        assert [(one["count"], one["state"]) for one in found] == [(1, "closed")] * 20


def test_a_burst_that_finds_no_room_to_wait_is_two_records(clean_lab: Lab, tmp_path: Path) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        program = arbiter.program(*python(BURST, SERVER4, "100"))
        eventually(lambda: arbiter.asks() and arbiter.ask()["waiting"] == 16)
        eventually(lambda: arbiter.counter("by_overflow") == 84)
        arbiter.answer("allow", "--for", "once")
        assert program.stdout is not None
        assert program.stdout.read(13) == "sent\nanswered"
        found = records(arbiter, "--port", "7")
        told = [(one["reason"], one["decision"], one["count"]) for one in found]
        assert told == [("overflow", "deny", 84), ("answer", "allow", 16)]
        arbiter.intact()
