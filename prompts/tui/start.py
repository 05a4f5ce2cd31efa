"""The beginning and the end of the full-screen prompt: terminal, signals, exit code."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys

from arbiter.protocol import Role
from prompts.client import Client, ClientError
from prompts.commands import Commands
from prompts.lifeline import end_with_daemon
from prompts.terminal import REFUSED, UNREACHABLE, USAGE, fail, farewell

_EXITS = (signal.SIGTERM, signal.SIGHUP)
_HANGUP = 128 + signal.SIGHUP
LOOK_SECONDS = 0.25
"""How often it is looked whether the terminal is still there: who is in another session than its
terminal gets no SIGHUP, and Textual would wait for ever to write to it."""


async def run(socket_path: str) -> int:
    """The full-screen prompt: asks, connections, apps, rules, links, log, until q or a signal.

    The exit code: 0 quit, 1 refused by the daemon, 2 not a terminal, 3 the daemon cannot be
    reached, 128 + number for a signal.
    """
    try:
        from prompts.tui.app import Tui
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("textual", "rich"):
            raise
        text = f"the full-screen prompt needs {error.name}: pip install 'nfarbiter[tui]'"
        return fail(REFUSED, f"{text}; `arbiter prompt terminal` works without")
    if not all(file is not None and file.isatty() for file in (sys.stdin, sys.stdout)):
        text = "the full-screen prompt needs a terminal, and standard input or output is none"
        return fail(USAGE, f"{text}; without one, `arbiter pending` lists the asks")
    if os.environ.get("TERM", "") in ("", "dumb"):
        text = "the full-screen prompt needs a terminal that can place text, and TERM says that"
        return fail(USAGE, f"{text} this one cannot; `arbiter prompt terminal` asks in any")
    try:
        client = await Client.connect(socket_path, "tui", Role.PROMPT)
    except ClientError as error:
        return fail(REFUSED if error.refused or error.final else UNREACHABLE, error.text)
    owned = end_with_daemon(os.environ)
    commands = Commands(socket_path)
    app = Tui(client, commands, owned=owned)
    loop = asyncio.get_running_loop()
    for number in _EXITS:
        loop.add_signal_handler(number, app.exit, 128 + number)
    looks = select.poll()
    looks.register(sys.stdin, 0)  # POLLHUP comes unasked, poll(2)

    def look() -> None:
        if looks.poll(0):
            app.exit(_HANGUP)
        else:
            loop.call_later(LOOK_SECONDS, look)

    look()
    try:
        async with client:
            code = await app.run_async()
    finally:
        await commands.close()
        for number in _EXITS:
            loop.remove_signal_handler(number)
    if code == _HANGUP:
        return code  # nobody reads what would be said
    if app.end:
        return fail(REFUSED, app.end)
    if not owned and app.machine.cards:
        sys.stdout.write(f"{farewell(len(app.machine.cards))}\n")
    return code or 0
