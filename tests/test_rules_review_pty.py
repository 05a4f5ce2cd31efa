"""`arbiter rules review` on a real terminal: keys become rules on disk, and can be undone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from reviewscene import CURL, DEB, FIREFOX, store_week

from arbiter.cli.reviewterminal import GUARD
from arbiter.rules import format_rule, parse
from arbiter.store import Store

ROOT = Path(__file__).parent.parent
CHILD = """
import fcntl, pwd, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
pwd.getpwall = list
from arbiter.cli import main
main()
"""


class Terminal:
    """`arbiter rules ...` in a child, on a pty of its own."""

    def __init__(self, home: Path, *argv: str) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(80, 24)
        self.before = termios.tcgetattr(self.slave)
        self.out = ""
        environment = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERM": "xterm", "LANG": "C.UTF-8",
            "ARBITER_DB": str(home / "a.db"), "ARBITER_SOCKET": str(home / "socket"),
            "ARBITER_CONFIG": str(home), "SUDO_UID": "0",
        }  # fmt: skip
        self.child = subprocess.Popen(
            [sys.executable, "-c", CHILD, "rules", *argv], stdin=self.slave, stdout=self.slave,
            stderr=self.slave, start_new_session=True, env=environment,
        )  # fmt: skip
        os.set_blocking(self.master, False)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self) -> str:
        with contextlib.suppress(BlockingIOError):  # nothing new
            self.out += os.read(self.master, 65536).decode()
        return self.out

    def until(self, text: str) -> None:
        """Wait for `text`; what precedes it is forgotten."""
        end = time.monotonic() + 15
        while text not in self.read():
            assert time.monotonic() < end, f"never saw {text!r} in {self.out!r}"
            assert self.child.poll() is None or text in self.read(), self.out
            time.sleep(0.02)
        self.out = self.out.partition(text)[2]

    def type(self, keys: str) -> None:
        """Once there was time to read what is shown."""
        time.sleep(GUARD + 0.2)
        os.write(self.master, keys.encode())

    def ended(self) -> int:
        end = time.monotonic() + 15
        while self.child.poll() is None:
            self.read()
            assert time.monotonic() < end, f"still running: {self.out!r}"
            time.sleep(0.02)
        self.read()
        return self.child.returncode

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    store_week(tmp_path / "a.db")
    return tmp_path


@pytest.fixture
def terminal(home: Path) -> Iterator[Terminal]:
    made = Terminal(home, "review")
    try:
        made.until("rule   ")
        yield made
    finally:
        made.close()


def rules(home: Path) -> list[str]:
    with Store.open(home / "a.db", readonly=True) as store:
        assert all(entry.frontend == "review" for entry in store.rules(0.0, "", None))
        return [format_rule(entry.rule) for entry in store.rules(0.0, "", None)]


def command(home: Path, *argv: str) -> str:
    env = os.environ | {"ARBITER_DB": str(home / "a.db"), "ARBITER_SOCKET": str(home / "socket")}
    run = [sys.executable, "-m", "arbiter", *argv]
    done = subprocess.run(run, capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_keys_become_rules_that_can_be_undone(home: Path, terminal: Terminal) -> None:
    terminal.type("a")
    terminal.until("+ allow host=deb.debian.org")
    terminal.until("rule   ")
    assert rules(home) == [DEB], "at once, not at the end"
    terminal.type("d")
    terminal.until("x deny host=www.debian.org")
    terminal.type("w")
    terminal.until("> ")
    terminal.type("A")
    terminal.until(FIREFOX)
    terminal.type("q")
    assert terminal.ended() == 0
    assert "2 allowed, 1 denied, 0 skipped; 2 proposals left" in terminal.out
    assert len(rules(home)) == 3
    assert "host=192.168.1.0/24" in command(home, "rules", "undo")
    assert rules(home) == [DEB, f"deny app={CURL} host=www.debian.org port=443 proto=tcp"]
    command(home, "rules", "undo")
    assert rules(home) == [DEB]


def test_the_terminal_is_as_it_was_whatever_ends_it(home: Path, terminal: Terminal) -> None:
    assert termios.tcgetattr(terminal.slave) != terminal.before
    terminal.type("\x03")
    assert terminal.ended() == 0
    assert "5 proposals left" in terminal.out
    assert termios.tcgetattr(terminal.slave) == terminal.before
    other = Terminal(home, "review")
    try:
        other.until("rule   ")
        time.sleep(GUARD + 0.2)
        other.child.send_signal(signal.SIGTERM)
        assert other.ended() == 0
        assert termios.tcgetattr(other.slave) == other.before
        assert "\x1b[?2004l\x1b[?1049l" in other.out, "pastes are plain, and the screen is back"
    finally:
        other.close()


def test_return_and_what_is_pasted_decide_nothing(home: Path, terminal: Terminal) -> None:
    terminal.type("\r")
    terminal.until("Return decides nothing")
    terminal.type("aaaa")
    terminal.until("pasted")
    terminal.type("\x1b[200~a")
    terminal.until("pasted")
    terminal.type("a")
    terminal.until("pasted")
    terminal.type("A\x1b[201~")
    terminal.until("pasted")
    assert rules(home) == []
    terminal.type("a")
    terminal.until("+ allow")
    assert rules(home) == [DEB], "after the paste keys count again"


def test_what_is_typed_before_the_next_can_be_read_is_forgotten(
    home: Path, terminal: Terminal
) -> None:
    terminal.type("a")
    terminal.until("+ allow host=deb.debian.org")
    os.write(terminal.master, b"a")  # a held key, or a double press
    time.sleep(GUARD + 0.3)
    terminal.type("q")
    assert terminal.ended() == 0
    assert rules(home) == [DEB]


def test_a_rule_can_be_taken_back(home: Path, terminal: Terminal) -> None:
    terminal.type("a")
    terminal.until("+ allow host=deb.debian.org")
    terminal.type("b")
    terminal.until("rule 1 is in force")
    terminal.type("s")
    terminal.until("rule   ")
    terminal.type("q")
    assert terminal.ended() == 0
    assert rules(home) == []


def test_what_is_undone_in_another_terminal_is_shown_and_counted(
    home: Path, terminal: Terminal
) -> None:
    terminal.type("A")
    terminal.until(FIREFOX)
    terminal.type("b")
    terminal.until("rule 3 is in force")
    command(home, "rules", "undo")
    terminal.until("0 of 3 decided")
    terminal.until("rule   ")
    terminal.type("q")
    assert terminal.ended() == 0
    assert "in force" not in terminal.out
    assert "0 allowed, 0 denied, 0 skipped; 5 proposals left" in terminal.out


def test_a_key_pressed_as_another_decides_does_not_overrule_that(
    home: Path, terminal: Terminal
) -> None:
    time.sleep(GUARD + 0.2)
    with Store.open(home / "a.db") as store:
        rule = parse(DEB.replace("allow", "deny"))
        store.remember(rule, by="bob", frontend="review", created=time.time())
        os.write(terminal.master, b"a")
    terminal.until("x deny host=deb.debian.org")
    terminal.type("q")
    assert terminal.ended() == 0
    assert rules(home) == [format_rule(rule)]


def test_of_two_reviews_the_first_shows_what_the_second_decides(
    home: Path, terminal: Terminal
) -> None:
    other = Terminal(home, "review")
    try:
        other.until("rule   ")
        terminal.type("a")
        terminal.until("+ allow host=deb.debian.org")
        other.until("+ allow host=deb.debian.org")
        other.type("s")
        other.until("rule   ")
        other.type("d")
        terminal.until("x deny host=deb.debian.org")
        other.type("q")
        assert other.ended() == 0
    finally:
        other.close()
    terminal.type("q")
    assert terminal.ended() == 0
    assert "0 allowed, 1 denied, 0 skipped; 4 proposals left" in terminal.out


def test_another_size_is_drawn_anew(terminal: Terminal) -> None:
    terminal.resize(50, 30)
    terminal.until(f"-- program 1 of 3 {13 * '-'} 0 of 3 decided --")


def test_a_database_that_cannot_be_written_is_said_and_nothing_is_lost(
    home: Path, terminal: Terminal
) -> None:
    with Store.open(home / "a.db") as other:
        other._db.execute("BEGIN EXCLUSIVE")
        terminal.type("a")
        terminal.until("nothing was remembered: cannot import the rules")
        other._db.execute("ROLLBACK")
    terminal.type("a")
    terminal.until("+ allow host=deb.debian.org")
    assert rules(home) == [DEB]


def test_a_daemon_that_does_not_take_the_rule_is_said(home: Path, terminal: Terminal) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "socket"))
        listener.listen()
        terminal.type("a")
        listener.settimeout(15)
        listener.accept()[0].close()
        terminal.until("it is stored, and not in force yet: the daemon at")
    assert rules(home) == [DEB]


def test_with_stdin_elsewhere_it_is_a_list(home: Path) -> None:
    assert "nothing" not in command(home, "rules", "review", "--config", str(home))
