"""Connections that began while nobody decided, on a machine that had no conntrack until then: the
kernel knows none of them."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from olderscene import HOST4, PORT, away, both, records
from running import Arbiter, eventually, python
from talking import REFUSED, Talk

from arbiter.lab import Lab
from arbiter.lab.config import LINKS

SERVES = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listens = socket.create_server((sys.argv[1], 45100), family=family)
print("listens", flush=True)
one, _ = listens.accept()
while part := one.recv(100):
    one.sendall(part)
"""
COMES = """
import socket, sys
one = socket.create_connection((sys.argv[1], 45100), timeout=5)
for line in sys.stdin:
    one.sendall(b"x")
    print(one.recv(1).decode(), flush=True)
"""


@both
def test_a_download_that_conntrack_learns_of_from_the_other_side_is_ended_if_denied(
    clean_lab: Lab, tmp_path: Path, server: str
) -> None:
    host = f"[{server}]" if ":" in server else server
    with away(clean_lab, tmp_path, "deny port=80", tracked=False) as arbiter:
        url = f"http://{host}/slow/600"
        denied = arbiter.program("curl", "-sSN", "-m", "60", url)
        allowed = arbiter.program("curl", "-sSN", "-m", "60", url.replace("/slow", ":8080/slow"))
        time.sleep(0.5)
        arbiter.start()
        assert denied.wait(5) == 56
        (found,) = eventually(lambda: arbiter.json("audit", "--port", "80"))
        assert (found["decision"], found["note"]) == ("deny", "begun while arbiter was away")
        time.sleep(1)
        assert allowed.poll() is None
        assert arbiter.asks() == []


@both
@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_a_connected_socket_that_conntrack_does_not_know_is_ended_if_denied(
    clean_lab: Lab, tmp_path: Path, server: str, proto: str
) -> None:
    rule = f"deny host={server} proto={proto}"
    with away(clean_lab, tmp_path, rule, tracked=False) as arbiter:
        talk = Talk(arbiter, proto, server, PORT)
        other = Talk(arbiter, "tcp" if proto == "udp" else "udp", server, PORT)
        assert talk("send") == other("send") == "done"
        arbiter.start()
        assert talk("send") in REFUSED
        (found,) = eventually(lambda: records(arbiter))
        assert found == ("deny", "rule", "begun while arbiter was away")
        if proto == "udp":
            assert other("send") == "done", "a stream that is open goes on undecided"


def address_like(server: str) -> str:
    """This host's own, of the server's family."""
    return LINKS[0].host6 if ":" in server else HOST4


def serve(arbiter: Arbiter, code: str, here: str) -> None:
    """A server runs, and somebody can come."""
    sshd = arbiter.program(*python(code, here))
    assert sshd.stdout is not None
    assert sshd.stdout.readline() == "listens\n"


@both
@pytest.mark.parametrize("tracked", [True, False])
def test_who_came_in_stays_whatever_a_rule_says_of_its_program(
    clean_lab: Lab, tmp_path: Path, server: str, tracked: bool
) -> None:
    """The ssh session of the person who is to answer."""
    here = address_like(server)
    with away(clean_lab, tmp_path, "deny", tracked=tracked) as arbiter:
        serve(arbiter, SERVES, here)
        pipe = subprocess.PIPE
        argv = python(COMES, here)
        comes = clean_lab.popen(argv, ns="wifi", stdin=pipe, stdout=pipe, text=True)
        arbiter.programs.append(comes)
        said, heard = comes.stdin, comes.stdout
        assert said is not None
        assert heard is not None

        def speak() -> str:
            said.write("x\n")
            said.flush()
            line: str = heard.readline()
            return line

        assert speak() == "x\n"
        arbiter.start()
        assert [speak() for _ in range(3)] == ["x\n"] * 3
        assert arbiter.json("audit", "--port", "45100") == []


SPEAKS = """
import socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listens = socket.create_server((sys.argv[1], 45100), family=family)
print("listens", flush=True)
one, _ = listens.accept()
while True:
    one.sendall(b"x")
    time.sleep(0.02)
"""
HEARS = """
import socket, sys
one = socket.create_connection((sys.argv[1], 45100), timeout=5)
while one.recv(1):
    print("x", flush=True)
"""


@both
def test_a_server_that_speaks_to_who_came_in_before_conntrack_is_not_cut(
    clean_lab: Lab, tmp_path: Path, server: str
) -> None:
    """Its next segment looks like the first of something: an ssh session with a log in it."""
    here = address_like(server)
    with away(clean_lab, tmp_path, "deny", tracked=False) as arbiter:
        serve(arbiter, SPEAKS, here)
        pipe = subprocess.PIPE
        comes = clean_lab.popen(python(HEARS, here), ns="wifi", stdout=pipe, text=True)
        arbiter.programs.append(comes)
        heard = comes.stdout
        assert heard is not None
        assert heard.readline() == "x\n"
        arbiter.start()
        assert [heard.readline() for _ in range(150)] == ["x\n"] * 150
        assert {one["decision"] for one in arbiter.json("audit")} <= {"allow"}
