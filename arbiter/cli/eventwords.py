"""What happens, in sentences for people. Pure: it remembers what it said of connections."""

from __future__ import annotations

from arbiter import protocol
from arbiter.budgets import size_text
from arbiter.protocol import clean

MAX_KNOWN = 8192
"""Connections whose words are kept for their end; the oldest are forgotten first."""


class Words:
    """Sentences for messages, in the order in which these come."""

    def __init__(self) -> None:
        self._connections: dict[int, str] = {}
        self._links: dict[str, protocol.LinkState] = {}

    def of(self, message: protocol.DaemonMessage) -> str:
        """The sentence; "" for what needs none."""
        match message:
            case protocol.Ask():
                return f"ask {message.id}: {asker(message)} wants to {where(message.destination)}"
            case protocol.Decided():
                rule = f", remembered: {message.rule}" if message.rule else ""
                who = f"{message.user} ({message.frontend})"
                return clean(f"ask {message.ask}: {message.decision} by {who}{rule}")
            case protocol.Withdraw():
                return clean(f"ask {message.ask} needs no answer: {message.text}")
            case protocol.Notice():
                return clean(message.text)
            case protocol.Connection():
                return self._connection(message)
            case protocol.Closed():
                what = self._connections.pop(message.id, "")
                sums = f"{size_text(message.sent)} sent, {size_text(message.received)} received"
                return f"closed {what}: {sums}" if what else ""
            case protocol.Links():
                return self._link(message)
            case protocol.Refused():
                return clean(message.text)
        return ""

    def _connection(self, message: protocol.Connection) -> str:
        app = message.app.name if message.app is not None else f"({message.no_owner})"
        what = clean(f"{app} → {where(message.destination)}")
        if message.passes:
            self._connections[message.id] = what
            if len(self._connections) > MAX_KNOWN:
                del self._connections[next(iter(self._connections))]
        why = f"rule {message.rule_id}" if message.rule_id is not None else message.reason
        over = f" over {message.link}" if message.link else ""
        note = f"; {message.note}" if message.note else ""
        done = message.decision if message.passes else "deny"
        return f"{done} {what}{over} ({clean(why + note)})"

    def _link(self, message: protocol.Links) -> str:
        before, self._links = self._links, {link.name: link for link in message.links}
        if not before:
            return "links: " + ", ".join(
                f"{name}{'' if link.up else ' (down)'}" for name, link in self._links.items()
            )
        return ""  # what changes about links is a notice, too


def asker(ask: protocol.Ask) -> str:
    """Who asks: its name and pid, or why nobody is known."""
    if not ask.processes:
        return f"({ask.no_owner})"
    first = ask.processes[0]
    return f"{first.app.name} ({first.pid})"


def where(destination: protocol.Destination) -> str:
    """`deb.example (192.0.2.7) port 443 tcp`."""
    if not destination.proto:
        return "a packet that cannot be read"
    address = destination.address
    place = f"{destination.name} ({address})" if destination.name else address
    port = f" port {destination.port}" if destination.port else ""
    return f"{place}{port} {destination.proto}"
