"""What leaves the daemon for the sinks that arbiter.toml names. In the loop; it never waits."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from msgspec import structs

from arbiter.auditsettings import parse_syslog
from arbiter.kernel import firewall
from arbiter.records import Progress, State
from arbiter.settings import Settings
from arbiter.sinks import Decided, Ended, Journald, JsonLines, Sink, Syslog, Target
from arbiter.store import Kept

MAX_OPEN = 4096
"""Open connections whose records are kept for their end; of older ones only their sums are told."""
log = logging.getLogger("arbiter")

Make = Callable[[], Kept]


class Made:
    """A record that is made at most once, in the thread that wants it first."""

    __slots__ = ("_kept", "_make", "count", "follows", "id", "written")

    def __init__(self, id: int, make: Make, follows: bool, written: bool = False) -> None:
        self.id, self._make = id, make
        self._kept: Kept | None = None
        self.follows = follows
        """Whether it will have an end."""
        self.written = written
        """Whether it is in the database already."""
        self.count = 1
        """Packets that it stands for; changed only until it is handed over."""

    def __call__(self) -> Kept:
        """The record. Two threads at once may make it twice, which does no harm."""
        if self._kept is None:
            kept = self._make()
            if self.count > 1:
                kept = Kept(kept.id, structs.replace(kept.record, count=self.count))
            self._kept = kept
        return self._kept


class Outbox:
    """Every sink, and the records of open connections while there is one."""

    def __init__(self, settings: Settings) -> None:
        mark = firewall.Plan(mask=settings.mark_base).decided
        self.sinks = [Sink(target, log.warning) for target in targets(settings, mark)]
        self._open: OrderedDict[int, Make] = OrderedDict()

    def decided(self, records: Iterable[Made]) -> None:
        """Connections were decided."""
        if not self.sinks:
            return
        found = list(records)
        for made in found:
            if made.follows:
                self._open[made.id] = made
                if len(self._open) > MAX_OPEN:
                    self._open.popitem(last=False)
        for sink in self.sinks:
            sink.give([partial(_decided, made) for made in found])

    def progress(self, progress: Iterable[Progress]) -> None:
        """What connections came to. Only ends are told: sums that grow are the database's."""
        if not self.sinks:
            return
        now = time.time()
        ended = [
            partial(_ended, one, now, self._open.pop(one.id, None))
            for one in progress
            if one.state in (State.CLOSED, State.UNKNOWN)
        ]
        if ended:
            for sink in self.sinks:
                sink.give(ended)

    def problems(self) -> tuple[str, ...]:
        """What is wrong with the sinks now, each with its next step."""
        return tuple(problem for sink in self.sinks for problem in sink.problems())

    def close(self) -> None:
        """Pass on what waits, for some seconds at most; call it in a thread."""
        for sink in self.sinks:
            sink.close()
        for problem in self.problems():
            log.warning("%s", problem)


def targets(settings: Settings, mark: int) -> list[Target]:
    """The targets that the settings name. `mark`: for arbiter's own packets."""
    audit = settings.audit
    found: list[Target] = []
    if audit.json_lines:
        found.append(JsonLines(Path(audit.json_lines)))
    if audit.journald:
        found.append(Journald())
    if audit.syslog:
        found.append(Syslog(parse_syslog(audit.syslog), mark))
    return found


def _decided(make: Make) -> Decided:
    kept = make()
    return Decided(kept.id, kept.record)


def _ended(progress: Progress, now: float, make: Make | None) -> Ended:
    if make is None:
        return Ended(progress, now)
    fields = {name: value for name, value in structs.asdict(progress).items() if value is not None}
    del fields["id"]
    return Ended(progress, now, structs.replace(make().record, **fields))
