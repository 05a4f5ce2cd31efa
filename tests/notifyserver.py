"""A notification server for tests: on a real bus, with the capabilities that a test wants.

It keeps what it shows in `notes`, by number, and says on the bus what a person would make it say.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dbus_fast import Message, MessageType, RequestNameReply, Variant
from dbus_fast.aio import MessageBus

from prompts.notify.bus import NAME, PATH

PROPERTIES = "org.freedesktop.DBus.Properties"


@dataclass
class Shown:
    """One notification as its server was told to show it."""

    summary: str
    body: str
    actions: list[str]
    hints: dict[str, Variant]
    expires: int

    @property
    def keys(self) -> dict[str, str]:
        """label → key; the click on the notification itself is not a button."""
        pairs = zip(self.actions[::2], self.actions[1::2], strict=True)
        return {label: key for key, label in pairs if key != "default"}


@dataclass
class NotifyServer:
    """Owns the name between `start` and `stop`.

    As a program (`notifyserver.py ADDRESS FILE`) it writes each summary that it is to show.
    """

    address: str
    capabilities: tuple[str, ...] = ("actions", "body", "body-markup")
    notes: dict[int, Shown] = field(default_factory=dict)
    calls: int = 0
    inhibited: bool = False
    closes_on_click: bool = True
    log: Path | None = None
    senders: list[str] = field(default_factory=list)
    """Who had something shown, by unique name."""
    _next: int = 0

    async def start(self) -> None:
        self.bus = await MessageBus(bus_address=self.address).connect()
        self.bus.add_message_handler(self._answer)
        assert await self.bus.request_name(NAME) is RequestNameReply.PRIMARY_OWNER

    def stop(self) -> None:
        """As after a crash: nothing is said, and what was shown is gone."""
        self.notes.clear()
        self.bus.disconnect()

    def _answer(self, message: Message) -> Message | bool | None:
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        match message.member:
            case "GetCapabilities":
                return Message.new_method_return(message, "as", [list(self.capabilities)])
            case "Get" if message.body == [NAME, "Inhibited"]:
                return Message.new_method_return(message, "v", [Variant("b", self.inhibited)])
            case "Notify":
                _, replaces, _, summary, body, actions, hints, expires = message.body
                self.calls += 1
                self.senders.append(message.sender or "")
                self._next += 0 if replaces in self.notes else 1
                number = replaces if replaces in self.notes else self._next
                self.notes[number] = Shown(summary, body, actions, hints, expires)
                if self.log is not None:
                    with self.log.open("a") as out:
                        out.write(f"{summary}\n")
                return Message.new_method_return(message, "u", [number])
            case "CloseNotification":
                self.close(message.body[0], 3)
                return Message.new_method_return(message)
        return None

    def say(self, interface: str, member: str, signature: str, *body: object) -> None:
        signal = Message.new_signal(PATH, interface, member, signature, list(body))
        self.bus.send(signal)

    # --- what a person does -----------------------------------------------------------------

    def press(self, number: int, key: str) -> None:
        self.say(NAME, "ActivationToken", "us", number, "token-1")
        self.say(NAME, "ActionInvoked", "us", number, key)
        if self.closes_on_click:
            self.close(number, 2)

    def close(self, number: int, reason: int = 2) -> None:
        if self.notes.pop(number, None) is not None:
            self.say(NAME, "NotificationClosed", "uu", number, reason)

    def inhibit(self, inhibited: bool) -> None:
        changed = {"Inhibited": Variant("b", inhibited)}
        self.say(PROPERTIES, "PropertiesChanged", "sa{sv}as", NAME, changed, [])

    # --- what a test looks for --------------------------------------------------------------

    def find(self, *parts: str) -> int:
        """The number of the notification that says all of this; 0 for none."""
        for number, note in self.notes.items():
            text = f"{note.summary}\n{note.body}\n{note.actions}"
            if all(part in text for part in parts):
                return number
        return 0

    async def until(self, *parts: str) -> int:
        await eventually(lambda: self.find(*parts), f"{parts} in {self.notes}")
        return self.find(*parts)


async def eventually(look: Callable[[], object], what: str = "", seconds: float = 8.0) -> None:
    end = asyncio.get_running_loop().time() + seconds
    while not look():
        assert asyncio.get_running_loop().time() < end, f"waited in vain for {what}"
        await asyncio.sleep(0.01)


async def _main(address: str, log: str) -> None:
    server = NotifyServer(address, log=Path(log))
    await server.start()
    with contextlib.suppress(EOFError, OSError):
        await server.bus.wait_for_disconnect()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
