"""Questions about records over a client that somebody else iterates: each gets its own reply."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from arbiter.protocol import (
    ClientMessage,
    ReadRecords,
    Records,
    Refused,
    RefusedReason,
    SumRecords,
    Sums,
)
from prompts import reading
from prompts.client import ClientError, Lost
from prompts.reading import Reading


class Scene:
    def __init__(self) -> None:
        self.sent: list[ClientMessage] = []
        self.reading = Reading(self._send)

    async def _send(self, message: ClientMessage) -> None:
        self.sent.append(message)

    async def asks(self, work: Awaitable[Any]) -> asyncio.Future[Any]:
        """Begin it, and let it go as far as it can."""
        task = asyncio.ensure_future(work)
        for _ in range(5):
            await asyncio.sleep(0)
        return task


def scene(play: Callable[[Scene], Awaitable[None]]) -> None:
    async def main() -> None:
        await play(Scene())

    asyncio.run(main())


def test_one_question_is_out_at_a_time_and_each_gets_its_reply() -> None:
    async def play(scene: Scene) -> None:
        first = await scene.asks(scene.reading.records(ReadRecords(0)))
        second = await scene.asks(scene.reading.sums(SumRecords(0, ("app",))))
        assert scene.sent == [ReadRecords(1)]
        assert scene.reading.event(Records(1, (), False, 9))
        assert await first == Records(1, (), False, 9)
        for _ in range(5):
            await asyncio.sleep(0)
        assert scene.sent[1:] == [SumRecords(2, ("app",))]
        assert scene.reading.event(Records(1, (), True, 9)), "late: for nobody, and nobody else's"
        assert not second.done()
        assert scene.reading.event(Sums(2, {}))
        assert await second == Sums(2, {})
        assert scene.reading.event(Sums(2, {})), "twice: harmless"

    scene(play)


def test_a_refusal_is_an_error_and_others_refusals_are_others_business() -> None:
    async def play(scene: Scene) -> None:
        task = await scene.asks(scene.reading.records(ReadRecords(0)))
        assert not scene.reading.event(Refused(RefusedReason.GONE, "no ask", 7))
        refused = Refused(RefusedReason.RIGHT, "not yours", request=1)
        assert scene.reading.event(refused)
        with pytest.raises(ClientError, match="not yours") as error:
            await task
        assert error.value.refused is refused

    scene(play)


def test_a_lost_connection_ends_the_question_and_is_told_to_others_too() -> None:
    async def play(scene: Scene) -> None:
        task = await scene.asks(scene.reading.records(ReadRecords(0)))
        assert not scene.reading.event(Lost("gone"))
        with pytest.raises(ClientError, match="gone"):
            await task
        assert not scene.reading.event(Lost("gone")), "with no question, either"

    scene(play)


def test_no_reply_ends_the_question_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SECONDS", 0.05)

    async def play(scene: Scene) -> None:
        with pytest.raises(ClientError, match="narrow it down"):
            await scene.reading.records(ReadRecords(0))
        task = await scene.asks(scene.reading.records(ReadRecords(0)))
        assert scene.reading.event(Records(1, (), True, 9)), "of the first, at last"
        assert scene.reading.event(Records(2, (), False, 9))
        assert await task == Records(2, (), False, 9)

    scene(play)


def test_a_reply_of_another_kind_is_no_reply() -> None:
    async def play(scene: Scene) -> None:
        task = await scene.asks(scene.reading.records(ReadRecords(0)))
        scene.reading.event(Sums(1, {}))
        with pytest.raises(ClientError, match="something else than records"):
            await task

    scene(play)
