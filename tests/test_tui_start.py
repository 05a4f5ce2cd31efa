"""How the full-screen prompt begins and ends: exit codes, one clear line where it cannot run."""

from __future__ import annotations

import asyncio
import errno
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scripted_daemon import ScriptedDaemon, example_ask

from arbiter.protocol import Away
from prompts.tui import start

PROMPT = [sys.executable, "-P", "-m", "arbiter", "prompt", "tui", "--socket"]


def test_without_a_terminal_it_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [*PROMPT, str(tmp_path / "s")], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("arbiter prompt: the full-screen prompt needs a terminal")
    assert "arbiter pending" in done.stderr


def test_without_its_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("prompts.tui.app")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "textual", None)
    assert asyncio.run(start.run("/nowhere")) == 1
    said = capsys.readouterr().err
    assert "pip install 'nfarbiter[tui]'" in said
    assert "arbiter prompt terminal" in said


def on_a_terminal(path: Path) -> tuple[subprocess.Popen[bytes], int]:
    master, slave = pty.openpty()
    env = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    child = subprocess.Popen(
        [*PROMPT, str(path)], stdin=slave, stdout=slave, stderr=slave, env=env, close_fds=True
    )
    os.close(slave)
    os.set_blocking(master, False)
    return child, master


def read(master: int) -> str:
    try:
        return os.read(master, 1 << 20).decode(errors="replace")
    except (BlockingIOError, OSError):  # nothing yet; or, EIO: the other end is closed
        return ""


def stops(child: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 30
    while "State:\tT" not in Path(f"/proc/{child.pid}/status").read_text():
        assert time.monotonic() < end, "it is not stopped"
        time.sleep(0.05)


def rest(master: int) -> str:
    """All that an ended child wrote: one read gives one buffer of the pty, not all of them."""
    os.set_blocking(master, True)
    said = b""
    while True:
        try:
            said += os.read(master, 1 << 20)
        except OSError as problem:
            assert problem.errno == errno.EIO, problem  # the other end is closed
            return said.decode(errors="replace")


def test_without_a_daemon_it_ends_with_3(tmp_path: Path) -> None:
    child, master = on_a_terminal(tmp_path / "none")
    assert child.wait(30) == 3
    assert "there is no such socket" in rest(master)
    os.close(master)


@pytest.mark.parametrize(("how", "code"), [("q", 0), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_it_gives_the_terminal_back_and_says_what_still_waits(
    tmp_path: Path, how: str | signal.Signals, code: int
) -> None:
    async def part() -> None:
        async with ScriptedDaemon(tmp_path / "s", example_ask()):
            child, master = on_a_terminal(tmp_path / "s")
            seen, end = "", time.monotonic() + 30
            while "wants" not in seen:
                assert time.monotonic() < end, seen
                await asyncio.sleep(0.05)
                seen += read(master)
            if isinstance(how, signal.Signals):
                child.send_signal(how)
            else:
                os.write(master, how.encode())
            while child.poll() is None:
                assert time.monotonic() < end + 30
                await asyncio.sleep(0.05)
                seen += read(master)
            seen += rest(master)
            os.close(master)
            assert child.returncode == code
            assert "\x1b[?1049l" in seen, "the alternate screen is left"
            assert "1 ask still waits: `arbiter pending` lists" in seen

    asyncio.run(part())


def test_a_terminal_that_cannot_place_text_is_told_of_the_other_prompt(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    done = subprocess.run(
        [*PROMPT, str(tmp_path / "s")],
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
        env=os.environ | {"TERM": "dumb"},
        text=True,
    )
    for end in (master, slave):
        os.close(end)
    assert done.returncode == 2
    assert "`arbiter prompt terminal`" in done.stderr


def test_suspended_it_gives_the_terminal_back_and_nobody_is_there_meanwhile(tmp_path: Path) -> None:
    children: list[subprocess.Popen[bytes]] = []

    async def part() -> None:
        async with ScriptedDaemon(tmp_path / "s", example_ask()) as daemon:
            child, master = on_a_terminal(tmp_path / "s")
            children.append(child)
            seen = ""

            async def sees(text: str) -> None:
                nonlocal seen
                end = time.monotonic() + 30
                while text not in seen:
                    assert time.monotonic() < end, seen
                    await asyncio.sleep(0.05)
                    seen += read(master)

            await sees("wants")
            os.write(master, b"\x1a")
            await sees("\x1b[?1049l")
            await asyncio.to_thread(stops, child)
            assert daemon.received[-1] == Away(True)
            seen = ""
            child.send_signal(signal.SIGCONT)
            await sees("deploy.sh < bash < sshd")
            await asyncio.sleep(0.1)
            assert Away(False) in daemon.received[-2:]
            os.write(master, b"?")
            await sees("Everywhere")
            os.write(master, b"\x03")  # Ctrl-C ends it, in a box, too
            await sees("\x1b[?1049l")
            assert await asyncio.to_thread(child.wait, 20) == 0
            os.close(master)

    try:
        asyncio.run(part())
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()


def test_a_terminal_that_is_gone_ends_it_without_a_signal(tmp_path: Path) -> None:
    async def part() -> None:
        async with ScriptedDaemon(tmp_path / "s", example_ask()):
            child, master = on_a_terminal(tmp_path / "s")
            seen, end = "", time.monotonic() + 30
            while "wants" not in seen:
                assert time.monotonic() < end, seen
                await asyncio.sleep(0.05)
                seen += read(master)
            os.close(master)
            try:
                assert await asyncio.to_thread(child.wait, 20) == 128 + signal.SIGHUP
            finally:
                child.kill()

    asyncio.run(part())
