"""The repeater over a real pipeline, whose kernel stands in here: tests/kernel/test_fastpath.py has
the real one."""

from __future__ import annotations

import errno
from typing import Any

from playbook import Playbook, process

from arbiter.events import (
    Event,
    Report,
)
from arbiter.kernel.elders import Elder
from arbiter.model import (
    Ancestor,
    Link,
    Process,
)
from arbiter.repeater import Repeater

CURL = "allow app=/usr/bin/curl"


OTHER = bytes((198, 51, 100, 77))


LTE = Link("lte", 2, "wwan0", index=3)


def inside(address: bytes, start: bytes, bits: int) -> bool:
    """Whether both begin with these bits."""
    width = 8 * len(start)
    both = (int.from_bytes(one) >> (width - bits) for one in (address, start))
    return len(address) == len(start) and len(set(both)) == 1


class Path:
    """What the fast path is told."""

    def __init__(self) -> None:
        self.taught: list[Any] = []
        self.calls: list[str] = []
        self.out: list[bytes | tuple[bytes, int]] = []
        self.room = 16
        self.refuses = False

    def leave_out(self, address: bytes, bits: int = 128) -> bool:
        if len(self.out) == self.room:
            return False
        self.out.append(address if bits == 128 else (address, bits))
        return True

    def left_out(self, address: bytes) -> bool:
        return any(
            inside(address, *((o, 8 * len(o)) if isinstance(o, bytes) else o)) for o in self.out
        )

    def mark(self) -> int:
        return 7

    def forget(self) -> None:
        self.calls.append("forget")

    def teach(self, mark: int, *what: Any) -> bool:
        assert mark == 7
        if not self.refuses:
            self.taught.append(what)
        return not self.refuses


class Queue:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.repeated: Any = None

    def go_by(self, path: Path, on_repeated: Any) -> None:
        self.repeated = on_repeated

    def settle(self) -> None:
        self._path.calls.append("settle")

    def mark(self, before: int, verdict: Any) -> int:
        return before | int(verdict.mark)


class Owners:
    def __init__(self) -> None:
        self.found: tuple[int, tuple[int, ...]] | None = (5, (100,))
        self.heard = 0

    def hear(self) -> None:
        self.heard += 1

    def place(self, pid: int) -> tuple[int, tuple[int, ...]] | None:
        return self.found


class Processes:
    def __init__(self) -> None:
        self.stat = "1 2 3 4"
        self.above: tuple[Ancestor, ...] | None = process().ancestors
        self.asked: list[tuple[int, int, int, Elder | None]] = []

    def ancestors(
        self, pid: int, parent: int, start: int, elder: Elder | None
    ) -> tuple[Ancestor, ...]:
        self.asked.append((pid, parent, start, elder))
        if self.above is None:
            raise OSError(errno.EMFILE, "too many")
        return self.above

    def image(self, process: Process) -> str:
        return self.stat


class Scene:
    def __init__(self, *rules: str) -> None:
        self.play = Playbook(*rules)
        self.path, self.owners, self.processes = Path(), Owners(), Processes()
        self.queue = Queue(self.path)
        self.events: list[Event] = []
        rooms: tuple[Any, Any, Any, Any] = (self.path, self.queue, self.owners, self.processes)
        self.repeater = Repeater(*rooms, self.play.pipeline, self.events.append)
        self._next = 1
        self.answer = True
        """Whether a verdict is given at once."""

    def decide(self, who: Any = None, **where: Any) -> Report:
        """A packet comes and is decided; the repeater hears of it as in the daemon."""
        id, self._next = self._next, self._next + 1
        self.repeater.packet_came(id)
        self.play.effects.clear()
        self.play.queue(id, who, **where)
        (report,) = [effect for effect in self.play.effects if isinstance(effect, Report)]
        self.repeater.decided(report)
        if self.answer:
            self.repeater.answered()
        return report
