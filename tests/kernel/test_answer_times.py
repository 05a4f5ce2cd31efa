"""From an answer to the verdict: what a person's key, and a message, take to let a program go on.

Measured and told (`pytest -rP`), not promised: the machine may be shared. The target is a median of
5 ms. The web console's figure is in test_web_job.py, that of programs in test_desktop_prompts.py.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from busmock import BusMock
from notifyserver import NotifyServer
from onterminal import READ_SECONDS, OnTerminal
from running import Arbiter, eventually, python

from arbiter import protocol
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6
from arbiter.protocol import Choice, Role
from prompts.notify.desk import GUARD_SECONDS

ROUNDS = 15
CONNECT = """
import socket, sys, time
for line in sys.stdin:
    with socket.create_connection((sys.argv[1], 7), 20):
        print(time.monotonic(), flush=True)
"""


@pytest.fixture(scope="module")
def arbiter(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arbiter]:
    with Arbiter(lab, tmp_path_factory.mktemp("times")) as running:
        yield running


class Connects:
    """A program that connects when told to, and says when connect() came back."""

    def __init__(self, arbiter: Arbiter, server: str) -> None:
        self.program = arbiter.lab.popen(
            python(CONNECT, server), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        arbiter.programs.append(self.program)

    def go(self) -> None:
        assert self.program.stdin is not None
        self.program.stdin.write("\n")
        self.program.stdin.flush()

    def came(self, what: Callable[[], str] = str) -> float:
        """Monotonic seconds: the same clock for all processes. `what` tells why it did not."""
        assert self.program.stdout is not None
        line = self.program.stdout.readline()
        assert line, what()
        return float(line)


def tell(what: str, took: list[float]) -> None:
    """For `pytest -rP`, which shows what tests that passed have written."""
    middle, most = statistics.median(took) * 1000, max(took) * 1000
    sys.stdout.write(
        f"{what} to the end of connect(): median {middle:.2f} ms, most {most:.2f} ms\n"
    )


@pytest.mark.parametrize("server", [SERVER4, SERVER6])
def test_from_a_message_to_the_verdict(arbiter: Arbiter, server: str) -> None:
    program, took = Connects(arbiter, server), []
    with arbiter.connection(Role.PROMPT) as connection:
        for _ in range(2 * ROUNDS):
            program.go()
            while not isinstance(ask := connection.receive(), protocol.Ask):
                pass
            began = time.monotonic()
            connection.send(protocol.Answer(ask.id, Choice.ALLOW))
            took.append(program.came() - began)
            decided = connection.receive()
            assert isinstance(decided, protocol.Decided) and decided.released == 1
    tell(f"an answer's message, {server},", took)


@pytest.mark.parametrize("kind", ["terminal", "tui"])
def test_from_a_key_to_the_verdict(arbiter: Arbiter, kind: str) -> None:
    program, took = Connects(arbiter, SERVER4), []
    with arbiter.connection(Role.WATCH) as watch, OnTerminal(arbiter, kind) as prompt:
        seen = prompt.sees("listening as root")
        for number in range(ROUNDS):
            program.go()
            while not isinstance(watch.receive(), protocol.Ask):
                pass
            prompt.sees("wants to connect to", seen)
            time.sleep(READ_SECONDS)
            if number == 0:
                prompt.key("l")  # from forever to once, which is the default from now on
                time.sleep(READ_SECONDS)
            seen, began = len(prompt.said), time.monotonic()
            prompt.key("a")
            took.append(program.came(lambda: prompt.said[-4000:]) - began)
    tell(f"a key of prompt {kind}", took)
    assert arbiter.rules() == []
    eventually(lambda: arbiter.asks() == [])


def test_from_a_notifications_button_to_the_verdict(
    arbiter: Arbiter,
) -> None:
    async def scene(bus: BusMock) -> list[float]:
        server, took = NotifyServer(bus.address), []
        await server.start()
        process = arbiter.prompt("notify", "--for", "once", DBUS_SESSION_BUS_ADDRESS=bus.address)
        await asyncio.to_thread(eventually, lambda: arbiter.status().prompts == 1, 20)
        program = Connects(arbiter, SERVER4)
        for _ in range(ROUNDS):
            program.go()
            number = await server.until("wants to connect")
            await asyncio.sleep(GUARD_SECONDS + 0.3)
            began = time.monotonic()
            server.press(number, server.notes[number].keys["Allow"])
            took.append(await asyncio.to_thread(program.came) - began)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 10) == 0
        server.stop()
        return took

    with BusMock() as bus:
        tell("a notification's button", asyncio.run(scene(bus)))
    assert arbiter.rules() == []
