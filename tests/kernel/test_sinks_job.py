"""Records on their way out of a real daemon, which never asks about what it sends itself."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from running import Arbiter, eventually, forget_closed

from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6

RECEIVER = """
import socket, sys
kind, address, file = sys.argv[1:]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind((address, 5514))
if kind == "tcp":
    sock.listen()
print("up", flush=True)
with open(file, "ab", buffering=0) as out:
    while kind == "udp":
        out.write(sock.recv(65536) + b"\\n")
    while True:
        peer = sock.accept()[0]
        while data := peer.recv(65536):
            out.write(data)
"""


@contextmanager
def receiver(lab: Lab, kind: str, address: str, file: Path) -> Iterator[None]:
    """A syslog daemon in the internet of the first link."""
    program = lab.popen(
        [sys.executable, "-c", RECEIVER, kind, address, str(file)],
        ns="wifi",
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    try:
        assert program.stdout.readline() == "up\n"
        yield
    finally:
        program.kill()
        program.wait()
        program.stdout.close()


def lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def test_a_file_tells_what_was_decided_and_how_it_ended(clean_lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "out" / "decisions.jsonl"
    settings = f'[audit]\njson_lines = "{out}"\n'
    with Arbiter(clean_lab, tmp_path, settings=settings) as arbiter:
        arbiter.add("allow host=internet")
        forget_closed(clean_lab)
        echo = arbiter.echo(SERVER4)
        echo.send(50_000)
        eventually(lambda: [line for line in lines(out) if line["kind"] == "decided"])
        out.rename(tmp_path / "rotated")
        echo.end()
        ended = eventually(lambda: [one for one in lines(out) if one["kind"] == "ended"], 15)
        (first,) = lines(tmp_path / "rotated")
        found = arbiter.json
        eventually(lambda: found("audit", "--port", "7")[0]["state"] == "closed")
        (kept,) = found("audit", "--port", "7")
        assert {k: v for k, v in ended[0].items() if k != "kind"} == kept
        assert (first["id"], first["state"], kept["state"]) == (kept["id"], "open", "closed")
        assert kept["out_bytes"] > 50_000
        arbiter.add(f"deny host={SERVER6}")
        assert arbiter.run("curl", "-sS", f"http://[{SERVER6}]/")[0] == 7
        told = eventually(lambda: [one for one in lines(out) if one["daddr"] == SERVER6])
        assert (told[0]["decision"], told[0]["exe"]) == ("deny", "/usr/bin/curl")


@pytest.mark.parametrize("kind", ["udp", "tcp"])
@pytest.mark.parametrize("address", [SERVER4, SERVER6])
def test_messages_to_syslog_are_not_asked_about_and_end_somewhere(
    clean_lab: Lab, tmp_path: Path, kind: str, address: str
) -> None:
    """Each message about a message would be another one, for ever."""
    got = tmp_path / "got"
    host = f"[{address}]" if ":" in address else address
    settings = f'mode = "ask"\n[audit]\nsyslog = "{kind}://{host}:5514"\n'
    with (
        receiver(clean_lab, kind, address, got),
        Arbiter(clean_lab, tmp_path, settings=settings) as arbiter,
    ):
        arbiter.add("deny port=80")
        assert arbiter.run("curl", "-sS", f"http://{SERVER4}/")[0] == 7
        eventually(lambda: got.exists() and b"decided [arbiter@" in got.read_bytes())
        time.sleep(1.5)
        assert arbiter.asks() == []
        assert got.read_bytes().count(b"decided [arbiter@") == 1
        assert [each["dport"] for each in arbiter.json("audit", "--all")] == [80]
        assert f'daddr="{SERVER4}"'.encode() in got.read_bytes()
        assert arbiter.status().problems == ()


def test_a_dead_receiver_delays_nobody_and_gets_everything_when_it_is_back(
    clean_lab: Lab, tmp_path: Path
) -> None:
    got = tmp_path / "got"
    settings = f'[audit]\nsyslog = "tcp://{SERVER4}:5514"\n'
    with Arbiter(clean_lab, tmp_path, settings=settings) as arbiter:
        arbiter.add("deny port=80")
        for _ in range(5):
            code, _, seconds = arbiter.run("curl", "-sS", f"http://{SERVER4}/")
            assert (code, seconds < 2) == (7, True)
        (problem,) = eventually(lambda: arbiter.status().problems)
        assert f"records do not reach syslog at tcp://{SERVER4}:5514: Connection refused" in problem
        shown = arbiter.ran("status").stdout
        assert "records do not reach syslog" in shown
        with receiver(clean_lab, "tcp", SERVER4, got):
            eventually(lambda: got.exists() and got.read_bytes().count(b" decided [") == 5, 30)
            assert eventually(lambda: arbiter.status().problems == ())
        log = (tmp_path / "log").read_text()
        assert "records reach syslog" in log


def test_the_end_of_arbiter_passes_on_what_waits(clean_lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "x"
    with Arbiter(clean_lab, tmp_path, settings=f'audit.json_lines = "{out}"') as arbiter:
        arbiter.add("deny port=80")
        for _ in range(3):
            assert arbiter.run("curl", "-sS", f"http://{SERVER4}/")[0] == 7
        arbiter.stop()
        assert [each["dport"] for each in lines(out)] == [80] * 3
