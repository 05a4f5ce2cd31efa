"""What those who follow are told: connections, what they carry, links. Pure."""

from __future__ import annotations

from msgspec import Struct

from arbiter.protocol.views import AppView, Destination, LinkState


class Connection(Struct, frozen=True, tag="connection", tag_field="type"):
    """A connection was decided. `passes`: it may go on, and `traffic` and `closed` follow."""

    id: int
    """Its number, and that of its record: `arbiter explain --record`, `arbiter audit`."""
    time: float
    """Epoch seconds of the decision."""
    user: str
    uid: int | None
    app: AppView | None
    """None where there is no owner, and `no_owner` says why."""
    pid: int | None
    source: str
    """Address; `sport` 0 where there is none."""
    sport: int
    destination: Destination
    passes: bool
    decision: str
    """`allow`, `deny`, or `route via=lte`."""
    reason: str
    """rule, answer, deadline, observe, ...: docs/protocol.md has all."""
    link: str = ""
    """The link it leaves over; "" for none."""
    rule: str = ""
    """The rule that decided, in its one-line form; "" for none."""
    rule_id: int | None = None
    by: str = ""
    """Who answered, or made the rule."""
    note: str = ""
    no_owner: str = ""
    sent: int = 0
    """Bytes so far, as the link carries them."""
    received: int = 0


class Moved(Struct, frozen=True):
    """What a connection has carried so far, in bytes."""

    id: int
    sent: int
    received: int


class Traffic(Struct, frozen=True, tag="traffic", tag_field="type"):
    """Connections that carried more since the last time."""

    time: float
    """Epoch seconds."""
    connections: tuple[Moved, ...]


class Closed(Struct, frozen=True, tag="closed", tag_field="type"):
    """A connection has ended, with what it carried in all."""

    id: int
    time: float
    """Epoch seconds."""
    sent: int
    received: int


class Links(Struct, frozen=True, tag="links", tag_field="type"):
    """All links, as they are now."""

    links: tuple[LinkState, ...]
