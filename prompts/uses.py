"""What was carried since this frontend follows: by app and destination, by link and second. Pure.

Bounded: the apps and places that were used longest ago give way.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from arbiter.protocol import AppView, Connection, Destination

MAX_APPS = 512
MAX_PLACES = 128
"""Destinations of one app."""
HISTORY_SECONDS = 600


class Flow:
    """Bytes over a link, second by second, for the last HISTORY_SECONDS."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int, int]] = deque()

    def add(self, time: float, sent: int, received: int) -> None:
        """So many bytes were seen to have gone at `time` (epoch seconds)."""
        second = int(time)
        if self._seconds and self._seconds[-1][0] >= second:
            # A clock that was set back: what is late counts for the last second there is.
            last, before, came = self._seconds.pop()
            second, sent, received = last, before + sent, came + received
        self._seconds.append((second, sent, received))
        while self._seconds[0][0] <= second - HISTORY_SECONDS:
            self._seconds.popleft()

    def series(self, now: float, points: int, step: int) -> tuple[list[float], list[float]]:
        """Bytes a second, sent and received: `points` spans of `step` seconds, the newest last.

        Spans begin at multiples of `step`, so that what is drawn does not change but moves; the
        one that runs is left out: it is not over.
        """
        sent, received = [0.0] * points, [0.0] * points
        for second, out, came in self._seconds:
            back = int(now) // step - 1 - second // step
            if 0 <= back < points:
                sent[points - 1 - back] += out / step
                received[points - 1 - back] += came / step
        return sent, received


@dataclass(slots=True, eq=False)
class Place:
    """Where an app connected to, and over which link; bytes and numbers since we follow."""

    to: Destination
    link: str
    connections: int = 0
    refused: int = 0
    sent: int = 0
    received: int = 0
    last: float = 0.0
    """Epoch seconds of the newest connection."""


@dataclass(slots=True, eq=False)
class AppUse:
    """An app, and what it did since we follow. `app.id` is "" where no program was known."""

    app: AppView
    places: dict[tuple[str, int, str, str], Place] = field(default_factory=dict)
    running: int = 0
    connections: int = 0
    refused: int = 0
    sent: int = 0
    received: int = 0
    last: float = 0.0


NOBODY = AppView("", "", "")
"""The app of connections without an owner."""


class Apps:
    """Every app by its id, the one that connected longest ago first."""

    def __init__(self) -> None:
        self.known: dict[str, AppUse] = {}

    def opened(self, told: Connection) -> None:
        """A connection was decided; what it carried before we followed counts, too."""
        app = told.app or NOBODY
        use = self.known.pop(app.id, None) or AppUse(app)
        self.known[app.id] = use
        place = self._place(use, told)
        for counted in (use, place):
            counted.connections += 1
            counted.refused += not told.passes
            counted.sent += told.sent
            counted.received += told.received
            counted.last = told.time
        use.running += told.passes
        if len(self.known) > MAX_APPS:
            idle = (id for id, each in self.known.items() if not each.running)
            del self.known[next(idle, next(iter(self.known)))]

    def moved(self, told: Connection, sent: int, received: int) -> None:
        """It carried so many bytes more."""
        use = self.known.get((told.app or NOBODY).id)
        if use is None:
            return  # it gave way: it is counted again with its next connection
        place = use.places.get(_key(told))
        for counted in (use, place):
            if counted is not None:
                counted.sent += sent
                counted.received += received

    def ended(self, told: Connection) -> None:
        """It carries nothing any more, or is no longer followed."""
        use = self.known.get((told.app or NOBODY).id)
        if use is not None and use.running:
            use.running -= 1

    def _place(self, use: AppUse, told: Connection) -> Place:
        key = _key(told)
        place = use.places.pop(key, None) or Place(told.destination, told.link)
        use.places[key] = place
        if len(use.places) > MAX_PLACES:
            del use.places[next(iter(use.places))]
        return place


def _key(told: Connection) -> tuple[str, int, str, str]:
    to = told.destination
    return to.name or to.address, to.port, to.proto, told.link
