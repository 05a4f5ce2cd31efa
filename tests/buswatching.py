"""A FactsWatch under test: what it told, and how to wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from arbiter.bus import FactsWatch
from arbiter.bus.follow import Pace
from arbiter.netfacts import NetFacts

SWIFT = Pace(quiet=0.02, longest=0.2, grace=0.2, retry=0.02, retry_most=0.1, unanswered=0.2)


class Told:
    """What a watch told, and until when to wait for it."""

    def __init__(self, address: str, pace: Pace, limit: float) -> None:
        self.changes: list[Mapping[str, NetFacts]] = []
        self.problems: list[str] = []
        self.watch = FactsWatch(
            self.changes.append, self.problems.append, address=address, pace=pace, limit=limit
        )

    def __getitem__(self, interface: str) -> NetFacts:
        return self.changes[-1].get(interface, NetFacts())

    @property
    def problem(self) -> str:
        return self.problems[-1] if self.problems else ""

    @property
    def reads(self) -> list[int]:
        return [follower.reads for follower in self.watch._followers.values()]

    async def until(self, predicate: Callable[[], object], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not predicate():
            assert time.monotonic() < deadline, f"{self.changes[-1:]}; {self.problems}"
            await asyncio.sleep(0.005)


@asynccontextmanager
async def watching(address: str, pace: Pace = SWIFT, limit: float = 5.0) -> AsyncIterator[Told]:
    told = Told(address, pace, limit)
    await told.watch.start()
    try:
        yield told
    finally:
        await told.watch.close()


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await scene()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left over: {left}"

    asyncio.run(whole())
