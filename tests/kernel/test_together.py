"""Every kind of frontend at once, beside one daemon: all are asked, the first answer wins, the
others hear whose it was; and all of them come back by themselves when the daemon does."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from busmock import BusMock
from notifyserver import NotifyServer
from onterminal import READ_SECONDS, OnTerminal
from running import Arbiter, eventually
from webconsole import Console

from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6
from prompts.notify.desk import GUARD_SECONDS


@pytest.fixture
def arbiter(lab: Lab, tmp_path: Path) -> Iterator[Arbiter]:
    with Arbiter(lab, tmp_path) as running:
        yield running


def curl(arbiter: Arbiter, server: str) -> subprocess.Popen[str]:
    host = f"[{server}]" if ":" in server else server
    return arbiter.program("curl", "-sS", "-m", "60", f"http://{host}/")


async def until(look: Any) -> Any:
    return await asyncio.to_thread(eventually, look, 30)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_five_frontends_are_asked_told_and_come_back(
    arbiter: Arbiter, tmp_path: Path, how: signal.Signals
) -> None:
    """A script that says nothing, two terminals, a page and notifications."""
    asked = tmp_path / "asked"
    script = tmp_path / "watches.sh"
    script.write_text(f"#!/bin/sh\ncat >> {asked}\n")
    script.chmod(0o755)

    async def scene(bus: BusMock, stack: ExitStack) -> None:
        server = NotifyServer(bus.address)
        await server.start()
        terminal = stack.enter_context(OnTerminal(arbiter, "terminal"))
        tui = stack.enter_context(OnTerminal(arbiter, "tui"))
        notify = arbiter.prompt("notify", DBUS_SESSION_BUS_ADDRESS=bus.address)
        program = arbiter.prompt("exec", "--", str(script))
        console = Console(arbiter.socket, env=arbiter.command_environment())
        stack.callback(console.end)
        await asyncio.to_thread(console.login)
        lines = stack.enter_context(console.news())
        await until(lambda: arbiter.status().prompts == 5)

        async def all_are_asked(server_address: str, since: tuple[int, int]) -> None:
            await asyncio.to_thread(terminal.sees, server_address, since[0])
            await asyncio.to_thread(tui.sees, server_address, since[1])
            await server.until(f"{server_address}, port 80", "wants to connect")
            await until(lambda: asked.exists() and server_address in asked.read_text())
            await asyncio.to_thread(page_has, lines, server_address)

        four = await asyncio.to_thread(curl, arbiter, SERVER4)
        await all_are_asked(SERVER4, (0, 0))
        await asyncio.sleep(READ_SECONDS)
        terminal.key("d")
        assert await asyncio.to_thread(four.wait, 20) == 7
        await asyncio.to_thread(tui.sees, "answered by root from terminal: deny")
        await until(lambda: not server.find(f"{SERVER4}, port 80", "wants to connect"))

        six = await asyncio.to_thread(curl, arbiter, SERVER6)
        await all_are_asked(SERVER6, (0, 0))
        marks = len(terminal.said), len(tui.said)
        asked.unlink()
        await asyncio.to_thread(arbiter.stop, how)
        await asyncio.to_thread(terminal.sees, "trying again", marks[0])
        await asyncio.to_thread(tui.sees, "NOT CONNECTED", marks[1])
        six.kill()
        marks = len(terminal.said), len(tui.said)
        await asyncio.to_thread(arbiter.start)
        six = await asyncio.to_thread(curl, arbiter, SERVER6)
        await until(lambda: arbiter.status().prompts == 5)
        await all_are_asked(SERVER6, marks)
        note = server.find(f"{SERVER6}, port 80", "wants to connect")
        await asyncio.sleep(GUARD_SECONDS + 0.1)
        server.press(note, server.notes[note].keys["Allow"])
        out, _ = await asyncio.to_thread(six.communicate, timeout=20)
        assert "link=wifi" in out
        await asyncio.to_thread(terminal.sees, "answered by root from notify: allow", marks[0])
        for process in (notify, program):
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 10) == 0
        server.stop()

    with BusMock() as bus, ExitStack() as stack:
        asyncio.run(scene(bus, stack))
    assert len(arbiter.rules()) == 2


def page_has(line: Any, text: str) -> None:
    """A page that is open hears of a question with this text."""
    end = time.monotonic() + 30
    while not any(k.startswith("ask:") and text in str(v) for k, v in line()["set"].items()):
        assert time.monotonic() < end
