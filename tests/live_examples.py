"""Messages of `follow` for tests of frontends: the examples of fixtures/messages, with changes."""

from __future__ import annotations

from typing import Any

import msgspec
from scripted_daemon import MESSAGES

from arbiter.protocol import AppView, Connection, Links, LinkState, Moved, Traffic


def connection(id: int = 12, **changes: Any) -> Connection:
    """The connection of connection.json; `app` and `host` may be names."""
    told = msgspec.json.decode((MESSAGES / "connection.json").read_bytes(), type=Connection)
    if isinstance(name := changes.pop("app", told.app), str):
        changes["app"] = AppView(f"/usr/bin/{name}", "path", name)
    if (host := changes.pop("host", None)) is not None:
        changes["destination"] = msgspec.structs.replace(told.destination, name=host)
    return msgspec.structs.replace(told, id=id, **changes)


def traffic(time: float, *moved: tuple[int, int, int]) -> Traffic:
    return Traffic(time, tuple(Moved(*each) for each in moved))


def links(*changes: dict[str, Any]) -> Links:
    """The links of links.json; with changes, one link each."""
    told = msgspec.json.decode((MESSAGES / "links.json").read_bytes(), type=Links)
    first: LinkState = told.links[0]
    if not changes:
        return told
    return Links(tuple(msgspec.structs.replace(first, **each) for each in changes))
