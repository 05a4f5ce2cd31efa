"""A real daemon on a real kernel, answered by a notification's button and by a program."""

from __future__ import annotations

import asyncio
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from busmock import BusMock
from notifyserver import NotifyServer
from running import Arbiter, eventually, python

from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6
from prompts.notify.desk import GUARD_SECONDS

CONNECT = """
import socket, sys, time
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
sock.settimeout(20)
try:
    sock.connect((sys.argv[1], int(sys.argv[2])))
    print("in", time.monotonic())
except OSError as error:
    print("out", time.monotonic())
"""


@pytest.fixture
def arbiter(lab: Lab, tmp_path: Path) -> Iterator[Arbiter]:
    with Arbiter(lab, tmp_path) as running:
        yield running


def prompt(arbiter: Arbiter, *words: str, **env: str) -> subprocess.Popen[str]:
    process = arbiter.prompt(*words, **env)
    eventually(lambda: arbiter.status().prompts == 1)
    return process


def test_a_button_of_a_notification_decides_a_held_connection_of_both_families(
    arbiter: Arbiter,
) -> None:
    async def scene(bus: BusMock) -> None:
        server = NotifyServer(bus.address)
        await server.start()
        process = await asyncio.to_thread(
            prompt, arbiter, "notify", DBUS_SESSION_BUS_ADDRESS=bus.address
        )
        for address, label, came in ((SERVER4, "Allow", "in"), (SERVER6, "Deny", "out")):
            program = arbiter.program(*python(CONNECT, address, "80"))
            number = await server.until(f"{address}, port 80", "wants to connect")
            await asyncio.sleep(GUARD_SECONDS + 0.1)
            assert program.poll() is None, "it is held"
            server.press(number, server.notes[number].keys[label])
            await server.until(f"{'allowed' if came == 'in' else 'denied'} ", "rule ")
            out, _ = await asyncio.to_thread(program.communicate, timeout=20)
            assert out.startswith(came)
        rules = await asyncio.to_thread(arbiter.rules)
        assert [rule.split()[0] for rule in rules] == ["allow", "deny"]
        result = server.find("denied ", "Undo")
        server.press(result, server.notes[result].keys["Undo"])
        await server.until("taken back")
        assert len(await asyncio.to_thread(arbiter.rules)) == 1
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 10) == 0
        server.stop()

    with BusMock() as bus:
        asyncio.run(scene(bus))


def test_a_program_decides_and_the_verdict_comes_at_once(arbiter: Arbiter, tmp_path: Path) -> None:
    """Each odd port may; the time from what the program says to the end of connect() is printed."""
    script = tmp_path / "decide.py"
    script.write_text(
        "import json, os, sys, time\n"
        "ask = json.load(sys.stdin)\n"
        "odd = ask['destination']['port'] % 2\n"
        f"open({str(tmp_path / 'said')!r}, 'a').write(f'{{time.monotonic()}}\\n')\n"
        "print('allow' if odd else 'deny for=15m', flush=True)\n"
        "os._exit(0)\n"  # what Python takes to end is not ours
    )
    process = prompt(arbiter, "exec", "--", sys.executable, str(script))
    took = []
    for port in range(8001, 8013):
        done = arbiter.lab.run(python(CONNECT, SERVER4, str(port)), timeout=30)
        came, at = done.stdout.split()
        # Nobody listens there: what is allowed is refused by the server, what is denied by us.
        said = (tmp_path / "said").read_text().split()
        took.append(float(at) - float(said[-1]))
        assert came == "out"
        assert len(said) == port - 8000
    assert [rule.split("port=")[1].split()[0] for rule in arbiter.rules()] == [
        str(port) for port in range(8002, 8013, 2)
    ]
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert out.count("denied ") == 6
    assert out.count("allowed ") == 6
    middle = statistics.median(took) * 1e3
    sys.stdout.write(f"from what a program says to its verdict: median {middle:.1f} ms\n")
