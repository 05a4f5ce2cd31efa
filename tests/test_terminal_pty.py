"""The terminal prompt in a child on a real pty, against the scripted daemon on a real socket."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from scripted_daemon import ScriptedDaemon, ask_to

from arbiter.protocol import Answer, Ask, Away, Choice, Hello, Snooze, Snoozed, SnoozeView, Undo
from prompts.machine import GUARD_SECONDS

ROOT = Path(__file__).parent.parent


CHILD = """
import asyncio, fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from prompts import terminal
if sys.argv[2:] == ["crash"]:
    terminal.Board.key = lambda *_: 1 / 0
sys.exit(asyncio.run(terminal.run(sys.argv[1])))
"""


class Terminal:
    """`arbiter prompt terminal` in a child on a pty of its own."""

    def __init__(self, path: str, *args: str, **env: str) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(80, 24)
        self.before = termios.tcgetattr(self.slave)
        self.out = self.all = b""
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERM": "xterm",
                       "LANG": "C.UTF-8"} | env  # fmt: skip
        self.child = subprocess.Popen(
            [sys.executable, "-c", CHILD, path, *args], stdin=self.slave, stdout=self.slave,
            stderr=self.slave, start_new_session=True, env=environment,
        )  # fmt: skip
        os.set_blocking(self.master, False)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self) -> str:
        try:
            data = os.read(self.master, 65536)
        except BlockingIOError:
            data = b""  # nothing new
        self.out += data
        self.all += data
        return self.out.decode()

    async def until(self, text: str) -> None:
        """What was written since the last `until` has `text`; what precedes it is forgotten."""
        end = time.monotonic() + 10
        while text not in self.read():
            assert time.monotonic() < end, f"never saw {text!r} in {self.out.decode()!r}"
            assert self.child.poll() is None or text in self.read(), self.out.decode()
            await asyncio.sleep(0.02)
        self.out = self.out.decode().partition(text)[2].encode()

    async def type(self, keys: str) -> None:
        """After a while long enough to have read what is there."""
        await asyncio.sleep(GUARD_SECONDS + 0.1)
        os.write(self.master, keys.encode())

    async def ended(self) -> int:
        end = time.monotonic() + 10
        while self.child.poll() is None:
            self.read()
            assert time.monotonic() < end, f"still running: {self.out.decode()!r}"
            await asyncio.sleep(0.02)
        self.read()
        return self.child.returncode

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        for fd in (self.master, self.slave):
            if fd >= 0:
                os.close(fd)

    def restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before


def play(
    tmp_path: Path, scene: Callable[[ScriptedDaemon], Awaitable[None]], *asks: Ask
) -> ScriptedDaemon:
    daemon = ScriptedDaemon(tmp_path / "s", *asks)

    async def main() -> None:
        async with daemon:
            await scene(daemon)

    asyncio.run(main())
    return daemon


def live(id: int) -> Ask:
    return ask_to(id, created=time.time(), deadline=time.time() + 60)


def test_on_a_real_terminal_asks_are_answered_and_the_terminal_is_restored(tmp_path: Path) -> None:
    async def scene(daemon: ScriptedDaemon) -> None:
        tty = Terminal(daemon.path)
        try:
            await tty.until("192.0.2.1,")
            assert not tty.restored()
            await tty.type("\r")
            await tty.until("Return decides nothing")
            await tty.type("s")
            await tty.until("host=192.0.2.1\x1b[K")
            await tty.type("a")
            await tty.until("✓ allowed curl; rule 12: ")
            await tty.until("192.0.2.2,")
            await tty.type("d")
            await tty.until("✗ denied curl; rule ")
            await tty.until("listening as alice; 0 waiting")
            await tty.type("q")
            assert await tty.ended() == 0
            assert tty.restored()
            assert "\x1b[?25h" in tty.out.decode(), "the cursor is shown again"
        finally:
            tty.close()

    daemon = play(tmp_path, scene, live(1), live(2))
    assert [type(message) for message in daemon.received] == [Hello, Answer, Answer]
    scopes = [{scope.id: scope.conditions for scope in live(n).scopes} for n in (1, 2)]
    assert daemon.received[1:] == [
        Answer(1, Choice.ALLOW, "host", "forever", shown=scopes[0]["host"]),
        Answer(2, Choice.DENY, "connection", "forever", shown=scopes[1]["connection"]),
    ]


def test_keys_typed_ahead_of_an_ask_answer_nothing(tmp_path: Path) -> None:
    async def scene(daemon: ScriptedDaemon) -> None:
        tty = Terminal(daemon.path)
        try:
            await tty.until("0 waiting")
            os.write(tty.master, b"aaaa")
            daemon.tell(live(3))
            os.write(tty.master, b"ad")
            await tty.until("192.0.2.3,")
            await asyncio.sleep(0.5)
        finally:
            tty.close()

    assert [type(message) for message in play(tmp_path, scene).received] == [Hello]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_the_terminal_restored(
    tmp_path: Path, number: signal.Signals
) -> None:
    async def scene(daemon: ScriptedDaemon) -> None:
        tty = Terminal(daemon.path)
        try:
            await tty.until("192.0.2.1,")
            tty.child.send_signal(number)
            assert await tty.ended() == 128 + number
            assert tty.restored()
            assert "1 ask still waits: `arbiter pending`" in tty.out.decode()
        finally:
            tty.close()

    play(tmp_path, scene, live(1))


def test_ctrl_c_is_sigint_and_a_crash_restores_the_terminal_too(tmp_path: Path) -> None:
    async def scene(daemon: ScriptedDaemon) -> None:
        for args, keys, code in [((), "\x03", 130), (("crash",), "a", 1)]:
            tty = Terminal(daemon.path, *args)
            try:
                await tty.until("192.0.2.1,")
                await tty.type(keys)
                assert await tty.ended() == code
                assert tty.restored()
            finally:
                tty.close()

    play(tmp_path, scene, live(1))


def test_a_hangup_ends_it(tmp_path: Path) -> None:
    async def scene(daemon: ScriptedDaemon) -> None:
        tty = Terminal(daemon.path)
        try:
            await tty.until("192.0.2.1,")
            os.close(tty.slave)
            os.close(tty.master)
            tty.slave = tty.master = -1
            await asyncio.to_thread(tty.child.wait, 10)
            assert tty.child.returncode == 128 + signal.SIGHUP
        finally:
            tty.close()

    play(tmp_path, scene, live(1))


def test_suspended_it_gives_the_terminal_back_and_continued_it_asks_again(tmp_path: Path) -> None:
    async def scene(daemon: ScriptedDaemon) -> None:
        tty = Terminal(daemon.path)
        try:
            await tty.until("192.0.2.1,")
            tty.child.send_signal(signal.SIGTSTP)
            _, status = await asyncio.to_thread(os.waitpid, tty.child.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            tty.read()
            assert tty.restored()
            tty.out = b""
            await asyncio.sleep(0.1)
            assert daemon.received[-1] == Away(True), "nobody is there while it is stopped"
            tty.child.send_signal(signal.SIGCONT)
            await tty.until("192.0.2.1,")
            assert not tty.restored()
            await asyncio.sleep(0.1)
            assert daemon.received[-1] == Away(False)
        finally:
            tty.close()

    play(tmp_path, scene, live(1))


def test_with_the_daemon_in_its_terminal_it_is_not_suspended(tmp_path: Path) -> None:
    """The shell would have only the daemon's job back; and nothing would be decided meanwhile."""

    async def scene(daemon: ScriptedDaemon) -> None:
        tty = Terminal(daemon.path, ARBITER_PROMPT_OF=str(os.getpid()))
        try:
            await tty.until("192.0.2.1,")
            os.write(tty.master, b"\x1a")
            await tty.until("Ctrl-Z stops nothing")
            await tty.type("x")
            await tty.until("put off")
        finally:
            tty.close()

    assert not any(isinstance(m, Away) for m in play(tmp_path, scene, live(1)).received)


def test_a_resize_redraws_at_the_new_width(tmp_path: Path) -> None:
    async def scene(daemon: ScriptedDaemon) -> None:
        tty = Terminal(daemon.path)
        try:
            await tty.until("port=443 proto=tcp\x1b[K")
            tty.resize(50, 20)
            await tty.until("\x1b[2K\x1b[B")
            await tty.until("host=192.0.2.1\x1b[K")
            await tty.until("port=443 proto=tcp\x1b[K")
        finally:
            tty.close()

    play(tmp_path, scene, live(1))


def test_a_daemon_that_restarts_is_said_and_its_asks_come_back(tmp_path: Path) -> None:
    async def scene(daemon: ScriptedDaemon) -> None:
        tty = Terminal(daemon.path)
        try:
            await tty.until("192.0.2.1,")
            await daemon.stop()
            await tty.until("trying")  # the line breaks where the path of the socket ends
            await tty.until("not connected")
            await daemon.start()
            await tty.until("connected as alice")
            await tty.until("192.0.2.1,")
        finally:
            tty.close()

    play(tmp_path, scene, live(1))


def test_no_colour_dumb_terminals_and_other_locales_are_respected(tmp_path: Path) -> None:
    async def scene(daemon: ScriptedDaemon) -> None:
        for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}, {"LC_ALL": "C"}):
            tty = Terminal(daemon.path, **env)
            try:
                await tty.until("connected as")
                await tty.until("192.0.2.1")
                await tty.type("l")
                await tty.until("nothing is remembered")
                await tty.type("q")
                await tty.ended()
                out = tty.all.decode()
            finally:
                tty.close()
            assert ("\x1b[1m" in out) == ("LC_ALL" in env)
            assert ("\x1b" in out) == ("TERM" not in env)
            assert out.isascii() == ("LC_ALL" in env)
            assert "not connected" not in out

    play(tmp_path, scene, live(1))


def run_cli(path: str, **streams: int) -> subprocess.CompletedProcess[str]:
    code = "import asyncio, sys; from prompts.terminal import run; "
    code += "sys.exit(asyncio.run(run(sys.argv[1])))"
    return subprocess.run(
        [sys.executable, "-c", code, path], env={"PYTHONPATH": str(ROOT)}, timeout=20,
        stdin=streams.get("stdin", subprocess.DEVNULL), stdout=streams.get("stdout"),
        stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip


def test_an_answer_is_taken_back_a_snooze_begun_and_do_not_disturb_told(tmp_path: Path) -> None:
    async def scene(daemon: ScriptedDaemon) -> None:
        tty = Terminal(daemon.path)
        try:
            await tty.until("192.0.2.1,")
            await tty.type("a")
            await tty.until("✓ allowed curl; rule 12: ")
            await tty.type("U")
            await tty.until("1 alice: allowed curl; rule 12: ")
            await tty.type("1")
            await tty.until("listening as alice")
            await tty.type("z")
            await tty.until("1 deny 5 min")
            await tty.type("1")
            await tty.until("unasked for 5 min; z ends it")
            until = time.time() + 100
            daemon.tell(Snoozed((SnoozeView(1000, "alice", "deny", until, "alice"),)))
            await tty.until("denied unasked for 99 s; z ends it")
            await tty.until("denied unasked for 98 s; z ends it")
            await tty.type("w")
            await tty.until("do not disturb; 0 waiting")
            await tty.type("q")
            assert await tty.ended() == 0
        finally:
            tty.close()

    daemon = play(tmp_path, scene, live(1))
    assert daemon.received[2:] == [Undo(12), Snooze(Choice.DENY, 300), Away(True)]


def test_without_a_terminal_it_names_the_commands_that_need_none(tmp_path: Path) -> None:
    done = run_cli(str(tmp_path / "s"))
    assert done.returncode == 2
    assert "`arbiter pending`" in done.stderr
    assert "`arbiter answer`" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_daemon_it_names_the_socket_and_arbiter_run(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    try:
        done = run_cli(str(tmp_path / "s"), stdin=slave, stdout=slave)
    finally:
        os.close(master)
        os.close(slave)
    assert done.returncode == 3
    assert str(tmp_path / "s") in done.stderr
    assert "`arbiter run`" in done.stderr
