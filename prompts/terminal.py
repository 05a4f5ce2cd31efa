"""`arbiter prompt terminal`: asks in the scroll-back of any terminal, keyboard only.

The I/O shell around `machine` (what happens) and `screen` (how it looks). The last few lines
are redrawn in place; everything above is ordinary output that scrolls away. Writing to a
terminal may block (a stuck ssh), so this runs in a process of its own, never in the daemon's.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from arbiter.protocol import Away, Role
from prompts.board import Board
from prompts.cards import Out, Quit, Say, Send, Style
from prompts.client import Client, ClientError, Event
from prompts.keys import PASTE_OFF, PASTE_ON, KeyDecoder
from prompts.lifeline import NOT_STOPPED, end_with_daemon
from prompts.screen import Line, Screen, draw, fold, paint, said, width_of

DONE, REFUSED, USAGE, UNREACHABLE = 0, 1, 2, 3
ESC_SECONDS = 0.1
"""How long after an Esc the rest of a key's sequence may come, over a slow line."""
_EXITS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"


def is_utf8(env: Mapping[str, str]) -> bool:
    """Whether the locale of the terminal's user is a UTF-8 one, by locale(7)'s order.

    Python itself sets LC_CTYPE=C.UTF-8 where the locale is C or unset (PEP 538): that does not
    count, because it says nothing of the terminal.
    """
    if env.get("LC_ALL"):
        name = env["LC_ALL"]
    elif env.get("LC_CTYPE") and (env["LC_CTYPE"] != "C.UTF-8" or env.get("LANG")):
        coerced = env["LC_CTYPE"] == "C.UTF-8" and env.get("LANG") in ("C", "POSIX")
        name = "" if coerced else env["LC_CTYPE"]
    else:
        name = env.get("LANG", "")
    return name.lower().replace("-", "").endswith("utf8")


class Tty:
    """A terminal in raw-key mode between `enter` and `leave`, with a live area at its bottom."""

    def __init__(self, stdin: int, stdout: int, env: Mapping[str, str]) -> None:
        self._in, self._out = stdin, stdout
        self.dumb = env.get("TERM", "") in ("", "dumb")
        self.color = not self.dumb and not env.get("NO_COLOR")
        self.ascii_only = not is_utf8(env)
        self._saved: list[int | list[bytes | int]] | None = None
        self._live: tuple[Line, ...] = ()
        self._about: object = None

    def size(self) -> tuple[int, int]:
        """Columns and lines; 80x24 where the terminal does not know."""
        columns, lines = os.get_terminal_size(self._out)
        return columns or 80, lines or 24

    @contextmanager
    def mode(self) -> Iterator[None]:
        """Key mode for a while; whatever happens, the terminal is as before afterwards."""
        try:
            self.enter()
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """Keys one by one, without echo; Ctrl-C and Ctrl-Z still send their signals."""
        if self._saved is None:
            self._saved = termios.tcgetattr(self._in)
        now = termios.tcgetattr(self._in)
        now[3] &= ~(termios.ECHO | termios.ICANON)
        now[0] &= ~termios.IXON  # Ctrl-S would stop every later write, and us in it
        termios.tcsetattr(self._in, termios.TCSADRAIN, now)
        if not self.dumb:
            self._write(_HIDE + PASTE_ON)

    def leave(self) -> None:
        """Give the terminal back as it was. Does nothing if it has hung up or was not entered."""
        saved, self._saved = self._saved, None
        if saved is None:
            return
        try:
            if not self.dumb:
                self._write(self._erase() + _SHOW + PASTE_OFF)
            self._live = ()
        except OSError:
            pass  # hung up: nobody sees it; the settings below may still be shared with a shell
        try:
            termios.tcsetattr(self._in, termios.TCSADRAIN, saved)
        except termios.error:
            return  # hung up: a terminal that is gone has no settings to restore

    def say(self, lines: list[str]) -> None:
        """Lines for the scroll-back, above the live area."""
        if lines:
            text = "".join(f"{line}\r\n" for line in lines)
            self._write(text if self.dumb else self._erase() + text)
            self._live = () if not self.dumb else self._live

    def show(self, screen: Screen, about: object, again: bool = False) -> None:
        """Redraw the live area, if it differs. `about`: what it shows, for terminals without one.

        `again` redraws anyway: after a resize, or when something else wrote.
        """
        if self.dumb:
            old = self._live if about == self._about else ()
            lines = screen.lines if not old else screen.steady
            fresh = [paint(line, False) for line in lines if line not in old]
            self._live, self._about = screen.steady, about
            self._write("".join(f"{line}\r\n" for line in fresh))
        elif again or screen.lines != self._live:
            lines_text = [paint(line, self.color) + "\x1b[K" for line in screen.lines]
            # After a resize erase first: a row that was wrapped stays marked as such under what
            # is written over it, and the terminal would join it to the next at the next resize.
            start = self._erase() if again else self._top()
            self._write(start + "\r\n".join(lines_text) + "\x1b[J")
            self._live = screen.lines

    def _height(self) -> int:
        """Rows from the live area's first to the cursor's, which is in its last.

        Lines drawn on a wider terminal have been wrapped since: count what they take up now.
        """
        columns, lines = self.size()
        rows = sum(max(1, -(-width_of(line) // columns)) for line in self._live)
        return max(0, min(rows, lines) - 1)

    def _top(self) -> str:
        """To the first column of the live area's first row."""
        up = self._height()
        return f"\r\x1b[{up}A" if up else "\r"

    def _erase(self) -> str:
        """The same, with every row made empty on the way.

        Row by row: "erase below" from the screen's first row makes tmux keep a copy of it all in
        its history.
        """
        return self._top() + "\x1b[2K\x1b[B" * self._height() + "\x1b[2K" + self._top()

    def _write(self, text: str) -> None:
        data = text.encode("ascii" if self.ascii_only else "utf-8", "replace")
        while data:
            try:
                data = data[os.write(self._out, data) :]
            except BlockingIOError:  # someone who shares the terminal made it so
                select.select([], [self._out], [])


class _Resized:
    """The terminal has another size, or we are back from the background."""


class _Stop:
    """Ctrl-Z."""


class _Exit:
    """End with this exit code."""

    def __init__(self, code: int, text: str = "") -> None:
        self.code, self.text = code, text


_Item = bytes | Event | ClientError | _Resized | _Stop | _Exit


class _Prompt:
    """The loop: one inbox for keys, messages and signals; one place that draws."""

    def __init__(
        self, client: Client, tty: Tty, clock: Callable[[], float], owns_daemon: bool
    ) -> None:
        self.client, self.tty, self.clock = client, tty, clock
        self.owns_daemon = owns_daemon
        self.board, self.keys = Board(), KeyDecoder()
        self.inbox: asyncio.Queue[_Item] = asyncio.Queue()
        self._again = False

    async def receive(self) -> None:
        """Messages into the inbox, until the client gives up."""
        try:
            async for event in self.client:
                self.inbox.put_nowait(event)
        except ClientError as error:
            self.inbox.put_nowait(error)

    def readable(self, fd: int) -> None:
        """Typed bytes into the inbox; a terminal that hung up ends the prompt."""
        try:
            data = os.read(fd, 4096)
        except OSError:  # EIO: the terminal is gone (termios(3), hangup)
            data = b""
        self.inbox.put_nowait(data or _Exit(128 + signal.SIGHUP))
        if not data:
            asyncio.get_running_loop().remove_reader(fd)

    async def loop(self) -> _Exit:
        """Until the person, a signal or the daemon ends it."""
        while True:
            if self.inbox.empty():
                self._draw()
            item = await self._next()
            if isinstance(item, _Exit):
                return item
            if isinstance(item, ClientError):
                return _Exit(REFUSED, item.text)
            if isinstance(item, _Stop):
                await self._stop()
            for out in self._handle(item):
                if isinstance(out, Quit):
                    return _Exit(DONE)
                await self._perform(out)

    async def _next(self) -> _Item | None:
        now = self.clock()
        wake = self.board.wake(now)
        waits = [ESC_SECONDS] if self.keys.pending else []
        waits += [max(0.0, wake - now)] if wake is not None else []
        try:
            async with asyncio.timeout(min(waits, default=None)):
                return await self.inbox.get()
        except TimeoutError:
            return None

    def _handle(self, item: _Item | None) -> list[Out]:
        now = self.clock()
        if item is None or isinstance(item, bytes):
            self.board.tick(now)
            keys = self.keys.flush() if item is None else self.keys.feed(item)
            self._again |= "ctrl-l" in keys
            return [out for key in keys for out in self.board.key(key, now)]
        if isinstance(item, _Resized):
            self.tty.enter()
            self._again = True
        elif not isinstance(item, (ClientError, _Exit, _Stop)):
            return self.board.event(item, now)
        return []

    async def _stop(self) -> None:
        """Ctrl-Z: as long as it is stopped nobody is there to ask."""
        if self.owns_daemon:
            self.board.notice = NOT_STOPPED
            return
        away = self.board.away
        await self._perform(Send(Away(True)))
        self.tty.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self.tty.enter()
        self.board.machine.hidden()
        await self._perform(Send(Away(away)))

    async def _perform(self, out: Out) -> None:
        if isinstance(out, Say):
            self.tty.say(self._said(out))
        elif isinstance(out, Send):
            try:
                await self.client.send(out.message)
            except ClientError as error:
                for say in self.board.unsent(out.message, error.text):
                    await self._perform(say)

    def _draw(self) -> None:
        now = self.clock()
        board, machine = self.board, self.board.machine
        screen = draw(
            machine,
            *self.tty.size(),
            now,
            self.tty.ascii_only,
            beside=board.status(now),
            covered=board.covered,
        )
        about = (machine.current, machine.gone is None, board.mode, board.away)
        self.tty.show(screen, about, self._again)
        if not board.covered:
            machine.drawn(now, screen.rule_cut)
        self._again = False

    def farewell(self) -> list[str]:
        """What stays on the screen at the end."""
        waiting = len(self.board.machine.cards)
        if not waiting or self.owns_daemon:
            return []  # with the daemon its asks are gone
        return self._said(Say(farewell(waiting), Style.DIM))

    def _said(self, say: Say) -> list[str]:
        width, _ = self.tty.size()
        return said(say, width, self.tty.ascii_only, self.tty.color)


async def run(
    socket_path: str,
    *,
    stdin: int = 0,
    stdout: int = 1,
    env: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.time,
) -> int:
    """Ask on this terminal until q or a signal. The exit code: 0 quit, 1 refused by the daemon,
    2 not a terminal, 3 the daemon cannot be reached, 128 + number for a signal.

    Errors are told on stderr. The terminal's settings are restored however it ends.
    """
    if not (os.isatty(stdin) and os.isatty(stdout)):
        return fail(
            USAGE,
            "the terminal prompt needs a terminal, and standard input or output is none; "
            "without one, `arbiter pending` lists the asks and `arbiter answer` decides them",
        )
    try:
        client = await Client.connect(socket_path, "terminal", Role.PROMPT)
    except ClientError as error:
        return fail(REFUSED if error.refused or error.final else UNREACHABLE, error.text)
    tty = Tty(stdin, stdout, env)
    prompt = _Prompt(client, tty, clock, end_with_daemon(env))
    try:
        async with client:
            end = await _run(prompt, stdin)
    except (OSError, termios.error):  # nothing else here touches a file: the terminal is gone
        return 128 + signal.SIGHUP
    return fail(end.code, fold(end.text, tty.ascii_only)) if end.text else end.code


async def _run(prompt: _Prompt, stdin: int) -> _Exit:
    loop, inbox = asyncio.get_running_loop(), prompt.inbox
    inbox.put_nowait(await anext(prompt.client))  # the Welcome is there: draw nothing before it
    receiver = asyncio.create_task(prompt.receive())
    handlers: dict[int, _Item] = {sig: _Exit(128 + sig) for sig in _EXITS}
    handlers |= {signal.SIGWINCH: _Resized(), signal.SIGCONT: _Resized(), signal.SIGTSTP: _Stop()}
    for number, item in handlers.items():
        loop.add_signal_handler(number, inbox.put_nowait, item)
    try:
        with prompt.tty.mode():
            loop.add_reader(stdin, prompt.readable, stdin)
            end = await prompt.loop()
            prompt.tty.say(prompt.farewell())
            return end
    finally:
        loop.remove_reader(stdin)
        for number in handlers:
            loop.remove_signal_handler(number)
        receiver.cancel()
        await asyncio.wait([receiver])


def farewell(waiting: int) -> str:
    """What is said at the end, where asks still wait."""
    asks = "1 ask still waits" if waiting == 1 else f"{waiting} asks still wait"
    return f"{asks}: `arbiter pending` lists, `arbiter answer` decides"


def fail(code: int, text: str) -> int:
    """Say on stderr what is wrong; gives the exit code."""
    sys.stderr.write(f"arbiter prompt: {text}\n")
    return code
