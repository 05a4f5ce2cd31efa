"""`arbiter run-via`: a program and its children over one link, without a rule left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import click

from arbiter import protocol
from arbiter.cli import complete
from arbiter.cli.common import daemon, fail, socket_option
from arbiter.protocol import Role

PR_SET_CHILD_SUBREAPER = 36
"""linux/prctl.h: orphans of the program become our children, so that they stay known as its."""
RETRY = 0.05
"""Seconds between tries to reach a daemon that was restarted. It listens some tenths of a second
before its rules are in force: who speaks then is known before the first connection is decided."""
FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Sent on to the program. SIGINT and SIGQUIT of a terminal reach it by themselves."""


@click.command("run-via", context_settings={"ignore_unknown_options": True})
@socket_option
@click.argument("link", shell_complete=complete.links)
@click.argument("argv", metavar="-- PROGRAM [ARG]...", nargs=-1, type=click.UNPROCESSED)
def run_via(socket_path: Path, link: str, argv: tuple[str, ...]) -> None:
    """Run PROGRAM so that it and its children connect over LINK only.

    It decides over which link, never whether: rules and questions go on as before, and where a
    rule routes elsewhere, the connection is refused. While the link is down they wait or are
    refused, as for every rule with via=LINK. It ends with the last of the program's processes;
    no rule is left behind. The exit code is the program's.
    """
    if not argv:
        fail("no program was given, as in: arbiter run-via lte -- curl https://example.org/", 2)
    with daemon(socket_path, "run-via") as connection:
        for _ in connection.asks():
            pass  # they come first, and are not for this command
        connection.send(protocol.RunVia(link))
        while not isinstance(reply := connection.receive(), protocol.Running):
            if isinstance(reply, protocol.Refused):
                fail(reply.text)
        if not reply.up:
            click.echo(f"arbiter: link {link} is down: nothing connects until it is up", err=True)
        keeper = threading.Thread(
            target=_keep, args=(connection.socket, socket_path, link), daemon=True
        )
        keeper.start()
        _run(argv)


def _keep(sock: socket.socket, path: Path, link: str) -> None:
    """Say it again to a daemon that was restarted: it forgot. Ends with the program."""
    while True:
        _listen(sock, link)
        sock.close()
        time.sleep(RETRY)  # it may hang up at once, and again
        sock = _again(path, link)


def _listen(sock: socket.socket, link: str) -> None:
    """Read until the daemon hangs up. One that has just begun does not know its links yet and
    refuses: say it again, or the program would go on over any link."""
    decoder = protocol.daemon_decoder()
    sock.settimeout(None)
    try:
        while data := sock.recv(65536):
            if any(isinstance(reply, protocol.Refused) for reply in decoder.feed(data)):
                time.sleep(RETRY)
                sock.sendall(protocol.encode(protocol.RunVia(link)))
    except OSError:
        return


def _again(path: Path, link: str) -> socket.socket:
    hello = protocol.encode(protocol.Hello(protocol.VERSION, Role.COMMAND, "arbiter run-via"))
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
            sock.sendall(hello + protocol.encode(protocol.RunVia(link)))
        except OSError:
            sock.close()
            time.sleep(RETRY)
        else:
            return sock


def _run(argv: tuple[str, ...]) -> NoReturn:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # A handler, not SIG_IGN: the program must not inherit that it ignores them.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, lambda *_: None)
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(number: int, _: object) -> None:
        if child is None:
            early.append(number)
        else:
            child.send_signal(number)

    # Before the program starts: one that came in between would end this process alone.
    for number in FORWARDED:
        signal.signal(number, forward)
    try:
        child = subprocess.Popen(argv)
    except FileNotFoundError:
        fail(f"{argv[0]}: there is no such program", 127)
    except OSError as error:
        fail(f"{argv[0]} cannot be run: {error.strerror}", 126)
    for came in early:
        child.send_signal(came)
    code = 0
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            sys.exit(code)
        if pid == child.pid:
            code = os.waitstatus_to_exitcode(status)
            code = 128 - code if code < 0 else code
            child.returncode = code  # it is reaped: nothing may be sent to its pid any more
            if sys.stderr is not None and sys.stderr.isatty() and _has_children():
                click.echo(
                    "arbiter: waiting for the processes that it left (Ctrl-C: do not)", err=True
                )
                signal.signal(signal.SIGINT, signal.SIG_DFL)


def _has_children() -> bool:
    try:
        return bool(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN: wait without saying so
        return False
