"""The loop of `arbiter prompt notify`: one inbox for the daemon, the bus and signals; one place
that shows."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping

import click

from arbiter.protocol import Role
from prompts.client import Client, ClientError, Event
from prompts.notify import opener
from prompts.notify.bus import (
    BusError,
    BusEvent,
    BusGone,
    Closed,
    Invoked,
    Notifications,
    Owner,
    Quiet,
    Token,
    session_address,
)
from prompts.notify.desk import Desk, Key, Open, Out
from prompts.notify.notes import Note, Server

DONE, REFUSED, USAGE, UNREACHABLE = 0, 1, 2, 3
PACE_SECONDS = 0.2
"""At least so long between two looks at what is to be shown: a burst of asks is one look."""
OPENED_SECONDS = 3.0
"""A terminal that fails within this time showed nothing."""
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 1.0, 60.0
"""Between two tries to find a notification server, where none comes by itself."""


class _Exit:
    """End with this exit code."""

    def __init__(self, code: int, text: str = "") -> None:
        self.code, self.text = code, text


class _Failed:
    """The full question could not be shown."""

    def __init__(self, text: str) -> None:
        self.text = text


_Item = _Failed | Event | BusEvent | ClientError | _Exit


class Shell:
    """Shows what the desk wants, and brings it clicks."""

    def __init__(
        self,
        client: Client,
        desk: Desk,
        launch: Callable[[], list[str]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.client, self.desk, self.clock = client, desk, clock
        self.inbox: asyncio.Queue[_Item] = asyncio.Queue()
        self.server: Notifications | None = None
        self._launch = launch
        self._able: Server | None = None
        self._shown: dict[Key, tuple[int, Note]] = {}
        self._token = ""
        self._retry_at, self._retry = 0.0, FIRST_RETRY_SECONDS
        self._again_at: float | None = None
        self._paced_until = 0.0
        self._opened: set[asyncio.Task[None]] = set()

    async def receive(self) -> None:
        """The daemon's messages into the inbox, until the client gives up."""
        try:
            async for event in self.client:
                self.inbox.put_nowait(event)
        except ClientError as error:
            self.inbox.put_nowait(error)

    async def loop(self, server: Notifications) -> _Exit:
        """Until a signal, the bus or the daemon ends it."""
        self.server = server
        await self._look()
        while True:
            item = await self._next()
            while item is not None:
                if isinstance(item, _Exit):
                    return item
                if isinstance(item, ClientError):
                    return _Exit(REFUSED, item.text)
                if isinstance(item, BusGone):
                    return _Exit(REFUSED, "the session bus has ended, and notifications with it")
                await self._handle(item)
                item = self.inbox.get_nowait() if not self.inbox.empty() else None
            if self._able is None and self.clock() >= self._retry_at:
                await self._look()
            if self.clock() >= self._paced_until:
                await self._show()
                self._paced_until = self.clock() + PACE_SECONDS
            else:
                self._again_at = self._paced_until

    async def _next(self) -> _Item | None:
        now = self.clock()
        times = [self.desk.wake(now), self._again_at]
        times += [self._retry_at] if self._able is None else []
        waits = [max(0.0, at - now) for at in times if at is not None]
        try:
            async with asyncio.timeout(min(waits, default=None)):
                return await self.inbox.get()
        except TimeoutError:
            return None

    async def _handle(self, item: _Failed | Event | BusEvent) -> None:
        now = self.clock()
        match item:
            case Owner():
                if self._able is None or self.server is None or item.owner != self.server.owner:
                    self._retry = FIRST_RETRY_SECONDS
                    await self._look()
            case Quiet():
                await self._perform(self.desk.serve(self._able, item.quiet))
            case Token():
                self._token = item.token
            case Invoked():
                if (key := self._key(item.id)) is not None:
                    await self._perform(self.desk.click(key, item.action, now))
            case Closed():
                if (key := self._key(item.id)) is not None:
                    del self._shown[key]
                    self.desk.closed(key, item.reason, now)
            case _Failed():
                self.desk.not_opened(item.text)
            case BusGone():
                pass  # `loop` ends by it
            case _:
                await self._perform(self.desk.event(item, now))

    def _key(self, number: int) -> Key | None:
        return next((key for key, (id, _) in self._shown.items() if id == number), None)

    async def _look(self) -> None:
        """A server came, went, or is to be found: everything is to be shown anew."""
        assert self.server is not None
        self._shown.clear()
        await self._perform(self.desk.serve(None))
        self._able = await self.server.look()
        if self._able is None:
            self._retry_at = self.clock() + self._retry
            self._retry = min(self._retry * 2, LAST_RETRY_SECONDS)
        else:
            self._retry = FIRST_RETRY_SECONDS
            await self._perform(self.desk.serve(self._able, self.server.quiet))

    async def _show(self) -> None:
        """Make what is there what the desk wants."""
        self._again_at = None
        if self.server is None or self._able is None:
            return
        now = self.clock()
        wanted = self.desk.wanted(now)
        for key in [key for key in self._shown if key not in wanted]:
            number, _ = self._shown.pop(key)
            await self.server.take_away(number)
        for key, note in wanted.items():
            number, there = self._shown.get(key, (0, None))
            if note == there:
                continue
            try:
                self._shown[key] = await self.server.show(note, self._able, number), note
            except BusError:
                # It is about to go, or overloaded: its owner changes, or it is tried again.
                self._again_at = self.clock() + FIRST_RETRY_SECONDS
                return
            self.desk.shown(key, self.clock())

    async def _perform(self, outs: list[Out]) -> None:
        for out in outs:
            if isinstance(out, Open):
                self._open()
                continue
            try:
                await self.client.send(out.message)
            except ClientError as error:
                self.desk.unsent(out.message, error.text)

    def _open(self) -> None:
        token, self._token = self._token, ""
        env = dict(os.environ) | ({"XDG_ACTIVATION_TOKEN": token} if token else {})
        try:
            argv = self._launch()
            pid = opener.start(argv, env)
        except (OSError, opener.OpenError) as error:
            self.desk.not_opened(str(error))
            return
        task = asyncio.create_task(self._watch(pid, argv[0]))
        self._opened.add(task)
        task.add_done_callback(self._opened.discard)

    async def _watch(self, pid: int, name: str) -> None:
        """Until it ends, or we do: it goes on without us."""
        began = self.clock()
        while (code := opener.ended(pid)) is None:
            early = self.clock() - began < OPENED_SECONDS
            await asyncio.sleep(0.1 if early else OPENED_SECONDS)
        if code and self.clock() - began < OPENED_SECONDS:
            self.inbox.put_nowait(_Failed(f"{name} ended with exit code {code}"))

    async def clear(self) -> None:
        """Leave nothing on the screen."""
        if self.server is not None:
            for number, _ in self._shown.values():
                await self.server.take_away(number)


async def run(
    socket_path: str,
    *,
    lifetime: str,
    wanted: str = "auto",
    wait: bool = False,
    env: Mapping[str, str] = os.environ,
) -> int:
    """Ask by notifications until SIGINT or SIGTERM (exit code 0).

    1 refused by the daemon, or the bus has ended; 2 no session bus; 3 the daemon cannot be reached.
    """
    address = session_address(env, os.getuid())
    if not address:
        return _fail(
            USAGE,
            "there is no session bus: DBUS_SESSION_BUS_ADDRESS is not set. Start this in your "
            "desktop session; without a desktop, `arbiter prompt terminal` asks in a terminal",
        )
    try:
        client = await Client.connect(socket_path, "notify", Role.PROMPT, wait=wait)
    except ClientError as error:
        return _fail(REFUSED if error.refused or error.final else UNREACHABLE, error.text)

    def launch() -> list[str]:
        return opener.command(wanted, socket_path, env, shutil.which, opener.prompts_here())

    shell = Shell(client, Desk(lifetime), launch)
    async with client:
        try:
            server = await Notifications.connect(address, shell.inbox.put_nowait)
        except BusError as error:
            return _fail(USAGE, error.text)
        end = await _until_end(shell, server)
    return _fail(end.code, end.text) if end.text else end.code


async def _until_end(shell: Shell, server: Notifications) -> _Exit:
    loop = asyncio.get_running_loop()
    receiver = asyncio.create_task(shell.receive())
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, shell.inbox.put_nowait, _Exit(DONE))
    try:
        end = await shell.loop(server)
        await shell.clear()
        return end
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
        receiver.cancel()
        await asyncio.wait([receiver])
        await server.close()


def _fail(code: int, text: str) -> int:
    click.echo(f"arbiter prompt: {text}", err=True)
    return code
