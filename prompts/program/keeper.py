"""Runs the program for each ask: so many at a time, each for so long, each in a group of its own.

A program that fails, hangs or says nonsense answers nothing; the ask stays open for others. Each
such trouble is said once, until an answer was understood.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Callable, Iterator, Sequence
from typing import Self

from arbiter.protocol import (
    Ask,
    Decided,
    Notice,
    Refused,
    Role,
    Welcome,
    Withdraw,
    encode,
)
from prompts import choices, livewords, render
from prompts.client import Client, ClientError, Event, Lost, Unread
from prompts.program import reply
from prompts.render import tidy

DONE, REFUSED, UNREACHABLE = 0, 1, 3


class Keeper:
    """The asks, and the program's runs about them. `say` and `complain` get lines for a person."""

    def __init__(
        self,
        client: Client,
        argv: Sequence[str],
        *,
        seconds: float,
        at_once: int,
        say: Callable[[str], None],
        complain: Callable[[str], None],
    ) -> None:
        self.client, self.argv, self.seconds = client, list(argv), seconds
        self._say, self._complain = say, complain
        self._places = asyncio.Semaphore(at_once)
        self._asks: dict[int, Ask] = {}
        self._runs: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        """All runs that are not over, also those about asks that ended."""
        self._sent: set[int] = set()
        """Asks that were answered from here; no decision has come yet."""
        self._said: set[str] = set()
        self._env = os.environ | {"ARBITER_SOCKET": client.path}

    async def loop(self) -> None:
        """Until it is cancelled. Raises ClientError where the daemon wants us no more."""
        try:
            async for event in self.client:
                self._event(event)
        finally:
            await self._stop()

    def _event(self, event: Event) -> None:
        match event:
            case Welcome():
                if words := livewords.mode_words(event.mode):
                    self._complain(words)
            case Ask():
                self._ask(event)
            case Decided():
                ask = self._end(event.ask)
                if ask is not None and event.ask in self._sent:
                    self._say(render.result(ask, event))
                self._sent.discard(event.ask)
            case Withdraw():
                self._end(event.ask)
            case Refused():
                if event.ask is not None:
                    self._sent.discard(event.ask)
                self._complain(f"refused: {tidy(event.text)}")
            case Lost():
                self._complain(f"{tidy(event.text)}; trying again")
                for id in list(self._asks):
                    self._end(id)
                self._sent.clear()
            case Unread() | Notice():
                self._complain(tidy(event.text))
            case _:
                pass  # replies to what this frontend never sends

    def _ask(self, ask: Ask) -> None:
        old = self._asks.get(ask.id)
        self._asks[ask.id] = ask
        if old is not None and choices.subject(old) == choices.subject(ask):
            return  # one more packet: it has been asked about this
        self._kill(ask.id)
        task = asyncio.create_task(self._decide(ask), name=f"program for ask {ask.id}")
        self._runs[ask.id] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end(self, id: int) -> Ask | None:
        self._kill(id)
        return self._asks.pop(id, None)

    def _kill(self, id: int) -> None:
        task = self._runs.pop(id, None)
        if task is not None:
            task.cancel()

    async def _stop(self) -> None:
        """End all runs, and wait until each has cleaned up."""
        for id in list(self._runs):
            self._kill(id)
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _decide(self, ask: Ask) -> None:
        """One run; its answer, or its trouble."""
        try:
            async with self._places:
                output = await self._run(ask)
            said = reply.read(output)
            if said is None:
                return
            answer = reply.answer(ask, said)
        except (_RunError, reply.ReplyError) as error:
            self._trouble(error.text)
            return
        self._sent.add(ask.id)
        try:
            await self.client.send(answer)
        except ClientError as error:
            self._sent.discard(ask.id)
            self._trouble(f"not answered: {error.text}")
        else:
            self._said.clear()

    def _trouble(self, text: str) -> None:
        if text not in self._said and len(self._said) < _KINDS:
            self._said.add(text)
            self._complain(f"{tidy(self.argv[0])} decided nothing: {text}")

    async def _run(self, ask: Ask) -> bytes:
        """What the program says of an ask. Raises _RunError."""
        try:
            async with _Output() as output:
                with _input(encode(ask)) as stdin:
                    process = await asyncio.create_subprocess_exec(
                        *self.argv,
                        stdin=stdin,
                        stdout=output.writing,
                        env=self._env,
                        start_new_session=True,
                    )
                try:
                    async with asyncio.timeout(self.seconds):
                        said = await output.read()
                        if len(said) > reply.SAID_LIMIT:
                            return said  # too much, and there may be more: `reply.read` says so
                        code = await process.wait()
                finally:
                    await _reap(process)
        except TimeoutError as error:
            raise _RunError(f"it said nothing within {self.seconds:g} s (--timeout)") from error
        except OSError as error:
            raise _RunError(f"it cannot be started: {error.strerror or error}") from error
        if code:
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
            raise _RunError(f"it ended with {how}")
        return said


_KINDS = 20
"""Different troubles that are said; a program may invent new ones for ever."""


class _RunError(Exception):
    """The program did not run to its end."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


@contextlib.contextmanager
def _input(data: bytes) -> Iterator[int]:
    """A file in memory that holds the ask: nobody has to write while the program does not read."""
    file = os.memfd_create("ask")
    try:
        os.write(file, data)
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)


class _Output:
    """The program's standard output, as a pipe of ours.

    Not asyncio's: a process ends there only once its pipes do, which a stray child may hold.
    """

    async def __aenter__(self) -> Self:
        reading, self.writing = os.pipe()
        self._reader = asyncio.StreamReader(limit=reply.SAID_LIMIT)
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._reader), os.fdopen(reading, "rb", 0)
        )
        return self

    async def read(self) -> bytes:
        """All of it, or a bit more than may be said."""
        os.close(self.writing)
        self.writing = -1
        output = b""
        while len(output) <= reply.SAID_LIMIT and (
            data := await self._reader.read(reply.SAID_LIMIT)
        ):
            output += data
        return output

    async def __aexit__(self, *_: object) -> None:
        self._transport.close()
        if self.writing >= 0:
            os.close(self.writing)


async def _reap(process: Process) -> None:
    """End it and its children, who share its group, and wait for it."""
    with contextlib.suppress(ProcessLookupError):  # all of them have ended
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


async def run(
    socket_path: str,
    argv: Sequence[str],
    *,
    seconds: float,
    at_once: int,
    say: Callable[[str], None],
    complain: Callable[[str], None],
) -> int:
    """Let a program decide until SIGINT or SIGTERM: exit code 0.

    1 refused by the daemon, 3 the daemon cannot be reached.
    """
    try:
        client = await Client.connect(socket_path, "exec", Role.PROMPT)
    except ClientError as error:
        complain(error.text)
        return REFUSED if error.refused or error.final else UNREACHABLE
    keeper = Keeper(client, argv, seconds=seconds, at_once=at_once, say=say, complain=complain)
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(keeper.loop())
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        async with client:
            await task
    except ClientError as error:
        complain(error.text)
        return REFUSED
    except asyncio.CancelledError:
        pass  # by one of the signals
    return DONE
