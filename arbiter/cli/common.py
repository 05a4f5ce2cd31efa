"""What the subcommands share: where things are, how they fail, a line to the daemon."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import msgspec

from arbiter import protocol
from arbiter.protocol import Refused, Role
from arbiter.rules import RuleError
from arbiter.rules.rule import is_number, user_fault

CONFIG = Path("/etc/arbiter")
STATE = Path("/var/lib/arbiter")
SOCKET = Path("/run/arbiter/arbiter.sock")
TIMEOUT = 10.0
"""Seconds that a command waits for the daemon."""
STARTING = 3.0
"""Seconds that a daemon may have its database while it has no socket: it starts, or ends."""

F = TypeVar("F", bound=Callable[..., Any])

socket_option = click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    default=SOCKET,
    envvar="ARBITER_SOCKET",
    show_default=True,
    show_envvar=True,
    help="The daemon's socket.",
)
db_option = click.option(
    "--db",
    type=click.Path(path_type=Path, readable=False),
    default=STATE / "arbiter.db",
    envvar="ARBITER_DB",
    show_default=True,
    show_envvar=True,
    help="The database; works with the daemon down, too.",
)


def config_option(text: str) -> Callable[[F], F]:
    """`--config`, with what the command reads there."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path, readable=False),
        default=CONFIG,
        envvar="ARBITER_CONFIG",
        show_default=True,
        show_envvar=True,
        help=text,
    )


COUNT = click.IntRange(1, 10**9)
"""How many lines somebody wants."""
json_option = click.option("--json", "as_json", is_flag=True, help="For programs: JSON.")


def one_line(_: click.Context, __: click.Parameter, words: tuple[str, ...]) -> str:
    """A rule line that the shell has split: quoting it is not asked of anybody."""
    return " ".join(words)


def on_terminal() -> bool:
    """Whether a person can read and type here; either may be closed."""
    return all(file is not None and file.isatty() for file in (sys.stdin, sys.stdout))


def fail(text: str, code: int = 1) -> NoReturn:
    """Say what is wrong, and end with exit code 1 (refused), 2 (usage) or 3 (unreachable)."""
    click.echo(f"arbiter: {text}", err=True)
    sys.exit(code)


def stdout_is_gone() -> None:
    """Writes to nowhere from now on: Python would flush once more at exit, and complain again."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def fail_rule(error: RuleError, line: str) -> NoReturn:
    """Show a bad rule line with a mark under the place, and end with exit code 2."""
    shown = error.pretty(line).replace("\n", "\n  ")
    fail(f"this is no rule:\n  {shown}\nsee docs/rules.md", 2)


def show_json(value: object) -> None:
    """Pretty JSON of messages and plain values."""
    click.echo(json.dumps(msgspec.to_builtins(value), indent=2, ensure_ascii=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table for people: as wide as the terminal, and unwrapped where there is none."""
    if sys.stdout is None:
        return  # started with stdout closed: nobody reads
    cells = [[protocol.clean(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        _plain_table([columns, *cells])
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in cells:
        out.add_row(*map(Text, row))  # Text, not markup: a path may hold [brackets]
    Console(highlight=False).print(out)


def _plain_table(rows: Sequence[Sequence[str]]) -> None:
    """For grep: a row is one line, never wrapped; 100,000 of them take no minute."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)
        )
        click.echo("  ".join(padded).rstrip())


class Daemon:
    """A blocking connection to the daemon, for commands that ask one thing and leave."""

    def __init__(self, sock: socket.socket, path: Path) -> None:
        self.socket = sock
        self._path = path
        self._decoder = protocol.daemon_decoder()
        self._messages: list[protocol.DaemonMessage] = []
        self._answered = False
        self.welcome: protocol.Welcome

    def send(self, message: protocol.ClientMessage) -> None:
        """Send one message. If the daemon has hung up, its last word, read next, says why."""
        self._answered |= isinstance(message, protocol.Answer)
        try:
            self.socket.sendall(protocol.encode(message))
        except (BrokenPipeError, ConnectionResetError):
            return
        except OSError as error:
            fail(f"the daemon at {self._path} does not listen: {error.strerror or error}", 3)

    def receive(self) -> protocol.DaemonMessage:
        """The next message; ends the program if there is none in time."""
        while not self._messages:
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                text = f"the daemon at {self._path} did not reply within {TIMEOUT:.0f} s"
                fail(f"{text}: {self._so()}", 3)
            except OSError as error:
                fail(f"the daemon at {self._path} is gone: {error.strerror or error}", 3)
            if not data:
                fail(f"the daemon at {self._path} ended the connection", 3)
            for message in self._decoder.feed(data):
                if isinstance(message, protocol.ProtocolError):
                    fail(f"the daemon at {self._path} speaks another protocol: {message.text}", 3)
                self._messages.append(message)
        return self._messages.pop(0)

    def _so(self) -> str:
        """What the person is to do whose command gives up."""
        if self._answered:
            return "it has the answer, and may carry it out yet; `arbiter pending` shows if it did"
        return "it is stopped or has too much to do, and was told nothing; try again"

    def asks(self) -> Iterator[protocol.Ask]:
        """The open asks that the daemon sends after its welcome."""
        for _ in range(self.welcome.asks):
            message = self.receive()
            if isinstance(message, protocol.Ask):
                yield message


@contextmanager
def daemon(path: Path, name: str, role: Role = Role.COMMAND) -> Iterator[Daemon]:
    """A connection that has said hello; ends the program with code 3 if there is no daemon."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(TIMEOUT)
        try:
            sock.connect(str(path))
        except OSError as error:
            why = "it is no socket" if path.is_file() else error.strerror or error
            fail(
                f"no daemon answers at {path} ({why}): is `arbiter run` on? If it was killed and "
                "new connections are blocked: sudo arbiter rescue",
                3,
            )
        connection = Daemon(sock, path)
        connection.send(protocol.Hello(protocol.VERSION, role, f"arbiter {name}"))
        message = connection.receive()
        if isinstance(message, Refused):
            fail(message.text, 3)
        if not isinstance(message, protocol.Welcome):
            fail(f"what listens at {path} is not arbiter", 3)
        connection.welcome = message
        yield connection


def in_force(path: Path, db: Path) -> None:
    """Have a running daemon read the rules that were changed, and wait until they decide.

    Nothing if none runs: it reads them when it starts. What keeps them from being in force is
    said, and does not end the program: they are stored.
    """
    problem = put_in_force(path, db)
    if problem:
        shown = protocol.clean(problem)
        click.echo(f"arbiter: the change is stored, and not in force yet: {shown}", err=True)


def put_in_force(path: Path, db: Path) -> str:
    """The same without a word: gives what keeps the rules from being in force, "" if nothing."""
    decoder = protocol.daemon_decoder()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(TIMEOUT)
        until = time.monotonic() + STARTING
        while True:
            try:
                sock.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if not _in_use(db):
                    return ""  # no daemon
            except OSError as error:
                return f"the daemon at {path} cannot be reached: {error.strerror or error}"
            if time.monotonic() > until:
                return (
                    f"a daemon has this database, and does not answer at {path}: name its socket "
                    "by --socket or ARBITER_SOCKET, or send the daemon SIGHUP"
                )
            time.sleep(0.1)
        try:
            hello = protocol.Hello(protocol.VERSION, Role.COMMAND, "arbiter rules")
            sock.sendall(protocol.encode(hello) + protocol.encode(protocol.Changed()))
            while data := sock.recv(65536):
                for message in decoder.feed(data):
                    if isinstance(message, protocol.InForce):
                        return message.problem
                    if isinstance(message, protocol.ProtocolError | Refused):
                        return message.text
        except OSError as error:
            return f"the daemon at {path} did not say that it read it: {error.strerror or error}"
    return f"the daemon at {path} ended the connection; it reads the rules when it starts"


def _in_use(db: Path) -> bool:
    """Whether a daemon runs with the directory of this database: it holds the lock there.

    By proc_locks(5): a try to take the lock could be in the way of a daemon that starts just now.
    False also where that cannot be told (no such file, another file system's numbers).
    """
    try:
        found = (db.resolve().parent / "lock").stat()
        locks = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return False
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
    return any(
        " FLOCK " in line and f" {device}:{found.st_ino} " in line for line in locks.splitlines()
    )


def person() -> tuple[str, int]:
    """Who runs this command: name and uid, of the one who called sudo where there was one."""
    import pwd

    uid = int(os.environ["SUDO_UID"]) if _sudo() else os.getuid()
    try:
        return pwd.getpwuid(uid).pw_name, uid
    except KeyError:
        return str(uid), uid


def sudo_uid() -> int | None:
    """The uid of the person who called sudo; None without sudo."""
    return int(os.environ["SUDO_UID"]) if _sudo() else None


def _sudo() -> bool:
    # Only root can be believed about who called sudo.
    text = os.environ.get("SUDO_UID", "")
    return os.geteuid() == 0 and is_number(text) and not user_fault(text)
