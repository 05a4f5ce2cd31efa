"""The notification server on the session bus: its methods, its signals, its coming and going.

Only what its owner says counts: signals of others are not heard. A server that is not running is
started by the bus, where it knows how (D-Bus activation), as a desktop's own programs do it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dbus_fast import DBusFastError, Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.unpack import unpack_variants

from prompts.notify import notes
from prompts.notify.notes import Note, Server

NAME = "org.freedesktop.Notifications"
PATH = "/org/freedesktop/Notifications"
_DUNST = "org.dunstproject.cmd0"
_BUS, _BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_QUIET = ((NAME, "Inhibited"), (_DUNST, "paused"))
"""Properties that say that nothing is shown now: KDE's, and dunst's."""
CALL_SECONDS = 5.0
CAPABILITIES = {"actions", "body", "body-markup"}


class BusError(Exception):
    """No answer, or an error for one: `text` says of what."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


@dataclass(frozen=True)
class Owner:
    """The name has another owner, "" for none: ask `look` about it."""

    owner: str


@dataclass(frozen=True)
class Quiet:
    """The server shows nothing (do not disturb), or does again."""

    quiet: bool


@dataclass(frozen=True)
class Invoked:
    """An action of a notification was chosen."""

    id: int
    action: str


@dataclass(frozen=True)
class Closed:
    """A notification is gone. Reasons, by the specification: 1 expired, 2 dismissed, 3 by us."""

    id: int
    reason: int


@dataclass(frozen=True)
class Token:
    """What a program that is opened now shows to get the focus (XDG activation)."""

    id: int
    token: str


@dataclass(frozen=True)
class BusGone:
    """The session bus has ended."""


BusEvent = Owner | Quiet | Invoked | Closed | Token | BusGone


def session_address(env: Mapping[str, str], uid: int) -> str:
    """The session bus's address; "" where there is none. Under sudo it is where systemd has it."""
    runtime = env.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"
    usual = f"unix:path={runtime}/bus" if Path(runtime, "bus").exists() else ""
    return env.get("DBUS_SESSION_BUS_ADDRESS") or usual


class Notifications:
    """The server, whoever it is now. `told` gets every event, in the event loop."""

    def __init__(self, bus: MessageBus, told: Callable[[BusEvent], None]) -> None:
        self._bus, self._told = bus, told
        self.owner = ""
        """Its unique name; "" as long as `look` has found none."""
        self._quiet: dict[str, bool] = {}
        self._end: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, address: str, told: Callable[[BusEvent], None]) -> Notifications:
        """Connect to a session bus. Raises BusError."""
        bus = MessageBus(bus_address=address)
        server = cls(bus, told)
        bus.add_message_handler(server._heard)
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await bus.connect()
        except (OSError, EOFError, DBusFastError) as error:
            raise BusError(f"the session bus at {address} does not answer: {error}") from error
        server._end = asyncio.create_task(server._until_end(), name="end of the session bus")
        rules = (
            f"type='signal',sender='{NAME}',path='{PATH}'",
            f"type='signal',sender='{_BUS}',member='NameOwnerChanged',arg0='{NAME}'",
        )
        for rule in rules:
            await server._call(_BUS, _BUS_PATH, _BUS, "AddMatch", "s", rule)
        return server

    async def close(self) -> None:
        """Hang up."""
        self._bus.disconnect()
        if self._end is not None:
            await asyncio.wait([self._end])

    # --- methods ----------------------------------------------------------------------------

    async def look(self) -> Server | None:
        """Find the server, or have it started, and ask what it can; None where there is none."""
        self.owner, self._quiet = "", {}
        with contextlib.suppress(BusError):  # where it runs, or comes later by itself, it need not
            await self._call(_BUS, _BUS_PATH, _BUS, "StartServiceByName", "su", NAME, 0)
        try:
            owner = await self._call(_BUS, _BUS_PATH, _BUS, "GetNameOwner", "s", NAME)
            able = await self._call(str(owner), PATH, NAME, "GetCapabilities")
        except BusError:
            return None
        self.owner = str(owner)
        for interface, name in _QUIET:
            with contextlib.suppress(BusError):  # most servers have neither
                value = await self._call(
                    self.owner, PATH, _PROPERTIES, "Get", "ss", interface, name
                )
                self._quiet[name] = value is True
        found = set(able) if isinstance(able, list) else set()
        return Server("actions" in found, "body" in found, "body-markup" in found)

    @property
    def quiet(self) -> bool:
        """Whether the server shows nothing now."""
        return any(self._quiet.values())

    async def show(self, note: Note, server: Server, replaces: int = 0) -> int:
        """Show or replace a notification; its number. Raises BusError."""
        hints = {
            "urgency": Variant("y", int(note.urgency)),
            "category": Variant("s", "network"),
            "desktop-entry": Variant("s", "arbiter-notify"),
        }
        if note.transient:
            hints["transient"] = Variant("b", True)
        body = (
            *("arbiter", replaces, "dialog-question"),
            *(notes.summary_for(note, server), notes.body_for(note, server)),
            *(notes.actions_for(note, server), hints, note.expires),
        )
        number = await self._call(self.owner, PATH, NAME, "Notify", "susssasa{sv}i", *body)
        if not isinstance(number, int):
            raise BusError("Notify gave no number")
        return number

    async def take_away(self, number: int) -> None:
        """Close a notification; that it is gone already is as good."""
        with contextlib.suppress(BusError):
            await self._call(self.owner, PATH, NAME, "CloseNotification", "u", number)

    async def _call(
        self, to: str, path: str, interface: str, member: str, signature: str = "", *body: object
    ) -> object:
        """The first value of the answer, variants unpacked. Raises BusError."""
        message = Message(
            destination=to,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
        )
        try:
            async with asyncio.timeout(CALL_SECONDS):
                reply = await self._bus.call(message)
        except TimeoutError as error:
            raise BusError(f"no answer to {member} within {CALL_SECONDS:g} s") from error
        except (OSError, EOFError, DBusFastError) as error:
            raise BusError(f"{member}: {error}") from error
        if reply is None or reply.message_type is not MessageType.METHOD_RETURN:
            raise BusError(f"{member}: {reply.error_name if reply else 'the bus went away'}")
        return unpack_variants(reply.body[0]) if reply.body else None

    # --- signals ----------------------------------------------------------------------------

    def _heard(self, message: Message) -> bool:
        if message.message_type is MessageType.SIGNAL:
            event = self._event(message)
            if event is not None:
                self._told(event)
        return message.message_type is MessageType.METHOD_CALL  # "handled": no answer goes out

    def _event(self, message: Message) -> BusEvent | None:
        body = message.body
        if message.sender == _BUS and message.member == "NameOwnerChanged":
            return Owner(str(body[2])) if body[:1] == [NAME] else None
        if not self.owner or message.sender != self.owner:
            return None
        match message.interface, message.member, body:
            case (interface, "ActionInvoked", [int(id), str(action)]) if interface == NAME:
                return Invoked(id, action)
            case (interface, "NotificationClosed", [int(id), int(reason)]) if interface == NAME:
                return Closed(id, reason)
            case (interface, "ActivationToken", [int(id), str(token)]) if interface == NAME:
                return Token(id, token)
            case (interface, "PropertiesChanged", [str(), dict(changed), *_]) if (
                interface == _PROPERTIES
            ):
                before = self.quiet
                for _, name in _QUIET:
                    if name in changed:
                        self._quiet[name] = unpack_variants(changed[name]) is True
                return Quiet(self.quiet) if self.quiet != before else None
        return None

    async def _until_end(self) -> None:
        # How it was lost makes no difference: an end of file, a reset, a malformed message.
        with contextlib.suppress(OSError, EOFError, DBusFastError):
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        self._told(BusGone())
