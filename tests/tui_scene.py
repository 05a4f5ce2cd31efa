"""The full-screen prompt on a make-believe terminal, with a scripted daemon, for its tests."""

from __future__ import annotations

import asyncio
import string
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from scripted_daemon import ScriptedDaemon
from textual._context import visible_screen_stack
from textual.events import Key
from textual.keys import _character_to_key
from textual.message_pump import MessagePump
from textual.pilot import Pilot
from textual.widgets import Input

from arbiter.protocol import Ask, DaemonMessage
from prompts.client import Client
from prompts.commands import Commands, Done
from prompts.machine import GUARD_SECONDS, HELD_SECONDS
from prompts.tui.app import Tui
from prompts.tui.sheet import Sheet

M = TypeVar("M")
NOW = 1700000000.0
READ_SECONDS = max(GUARD_SECONDS, HELD_SECONDS) + 0.1


class FakeCommands(Commands):
    """Commands that were run, and what each gives: the longest known beginning counts."""

    def __init__(self, **given: Done) -> None:
        super().__init__("/nowhere")
        self.run_with: list[tuple[str, ...]] = []
        self.given = {name.replace("_", " "): done for name, done in given.items()}

    async def run(self, *argv: str) -> Done:
        self.run_with.append(argv)
        line = " ".join(argv)
        known = [name for name in self.given if line.startswith(name)]
        return self.given[max(known, key=len)] if known else Done(0, "[]", "")


_TYPED = frozenset((*string.printable, "delete", "backspace"))


class Person:
    """Somebody at the prompt, who sees what is on the screen and is in no hurry."""

    def __init__(self, client: Client, commands: Commands) -> None:
        self.app = Tui(client, commands, self.clock)
        self.pilot: Pilot[int]

    def clock(self) -> float:
        """The time that the prompt goes by."""
        return time.time()

    async def pause(self) -> None:
        """As long as it takes to read what is new, and to mean a key."""
        await asyncio.sleep(READ_SECONDS)

    @property
    def text(self) -> str:
        """What the terminal shows, line by line.

        A box draws what is below it from this variable; without it a blank, which it then keeps.
        """
        visible_screen_stack.set(self.app._background_screens)
        strips = self.app.screen._compositor.render_strips(self.app.size)
        return "\n".join(strip.text.rstrip() for strip in strips)

    @property
    def ended(self) -> bool:
        """The prompt has begun to end."""
        return self.app._exit

    async def press(self, *keys: str) -> None:
        """Unhurriedly: each key is meant for what is seen. What is typed into a field is not."""
        for key in keys:
            await self.settle()
            if not (isinstance(self.app.focused, Input) and key in _TYPED):
                await self.pause()
            await self.quickly(key)

    async def quickly(self, *keys: str) -> None:
        """At once. Textual's own `press` waits for the process to do nothing."""
        for key in keys:
            name = _character_to_key(key) if len(key) == 1 else key
            char = key if len(key) == 1 else None
            event = Key(name, char)
            event.set_sender(self.app)
            self.app.post_message(event)
            await self.settle()

    async def settle(self) -> None:
        """Until what was sent is handled, and drawn."""
        for _ in range(3):
            for node in (self.app, self.app.screen, self.app.focused):
                if node is not None and node.is_running:
                    await self._reached(node)
            await asyncio.sleep(0)

    async def _reached(self, node: MessagePump) -> None:
        """Until a node has come to what we ask of it now: it did everything before."""
        done = asyncio.Event()
        if not node.call_after_refresh(done.set):
            return
        waiter = asyncio.ensure_future(done.wait())
        while not (self.ended or waiter.done()):
            await asyncio.wait([waiter], timeout=0.05)
        waiter.cancel()

    async def click(self, word: str, times: int = 1, after: str = "") -> None:
        """On a word, where it stands on the screen (below the line that has `after`)."""
        await self.settle()
        await self.pause()
        await self.click_quickly(word, times, after)

    async def click_quickly(self, word: str, times: int = 1, after: str = "") -> None:
        lines = self.text.split("\n")
        start = next(i for i, line in enumerate(lines) if after in line) if after else 0
        for y, line in enumerate(lines[start:], start):
            if word in line:
                await self.pilot.click(offset=(line.index(word), y), times=times)
                return
        raise AssertionError(f"{word!r} is not on the screen:\n{self.text}")

    async def until(self, look: Callable[[], Any], what: str = "") -> None:
        """Wait for what has to happen."""
        end = time.monotonic() + 30  # a shared machine has its moments
        while not look():
            if self.app._exception is not None:
                raise self.app._exception
            assert time.monotonic() < end, f"waited in vain {what}:\n{self.text}"
            await asyncio.sleep(0.02)

    async def sees(self, text: str) -> None:
        await self.until(lambda: text in self.text, f"for {text!r}")

    def sheet(self, name: str) -> Sheet[Any]:
        found: Sheet[Any] = self.app.query_one(f"#{name}", Sheet)
        return found


class Scene(Person):
    """With a scripted daemon, and a clock that stands still but for the person's pauses."""

    def __init__(self, daemon: ScriptedDaemon, client: Client, commands: FakeCommands) -> None:
        self.now = NOW
        super().__init__(client, commands)
        self.daemon, self.commands = daemon, commands

    def clock(self) -> float:
        return self.now

    async def pause(self) -> None:
        self.now += GUARD_SECONDS + 0.1

    async def tell(self, *messages: DaemonMessage) -> None:
        """From the daemon, and until it was heard."""
        version = self.app.feed.version + len(messages)
        for message in messages:
            self.daemon.tell(message)
        await self.until(lambda: self.app.feed.version >= version, "to be heard")
        await self.settle()

    def received(self, kind: type[M]) -> list[M]:
        return [message for message in self.daemon.received if isinstance(message, kind)]

    async def sent(self, kind: type[M], count: int = 1) -> list[M]:
        """So many messages of a kind, once the daemon has them."""
        await self.until(lambda: len(self.received(kind)) >= count, f"for {kind.__name__}")
        return self.received(kind)


@asynccontextmanager
async def scene(
    path: Path,
    *asks: Ask,
    size: tuple[int, int] = (110, 34),
    followed: tuple[DaemonMessage, ...] = (),
    commands: FakeCommands | None = None,
) -> AsyncIterator[Scene]:
    """A prompt that is connected and drawn."""
    async with ScriptedDaemon(path / "s", *asks) as daemon:
        daemon.followed = list(followed)
        async with await Client.connect(str(path / "s"), "tui") as client:
            person = Scene(daemon, client, commands or FakeCommands())
            daemon.clock = person.clock
            async with person.app.run_test(size=size) as person.pilot:
                wanted = 2 + len(asks) + len(followed)  # the welcome and the status, too
                await person.until(lambda: person.app.feed.version >= wanted, "to begin")
                await person.settle()
                yield person


def play(part: Coroutine[Any, Any, None]) -> None:
    """Run a scene to its end; one that hangs fails."""

    async def timed() -> None:
        async with asyncio.timeout(120):
            await part

    asyncio.run(timed())
