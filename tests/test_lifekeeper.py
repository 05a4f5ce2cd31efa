"""What the daemon makes of packets of one connection: one record, and the end is heard first."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from msgspec import structs
from playbook import START, owner, packet

from arbiter.events import Reason, Report
from arbiter.followers import Followers
from arbiter.lifekeeper import LifeKeeper
from arbiter.lives import Lives
from arbiter.memory import Memory
from arbiter.model import ACCEPTED, ALLOW, DENIED, DENY
from arbiter.server import Handler, Server
from arbiter.settings import Settings
from arbiter.usage import Counted

REPORT = Report(START.wall, packet(1, sport=1), owner(), ALLOW, Reason.RULE, verdict=ACCEPTED)
NEXT = structs.replace(REPORT, packet=packet(2, sport=1), wall=START.wall + 0.1)
GONE = Counted(packet(1, sport=1).flow, 7, 0, 60, 40, 1, 1)


def scene(
    path: Path,
    act: Callable[[LifeKeeper, Memory], None],
    ends: bool = False,
    untold: Sequence[Report] = (),
) -> list[Any]:
    """Id, count and state of all records after `act`. `ends`: conntrack has an end to tell.
    `untold`: decided, and heard of when it is asked for."""
    left = list(untold)

    async def run() -> None:
        memory, lives = Memory(path, lambda event: None, Settings()), Lives()
        server = Server(path.with_name("socket"), cast(Handler, None), admins=frozenset())
        followers = Followers(server, lives, tuple, lambda watched: None)
        keeper = LifeKeeper(
            *(lives, memory, followers),
            lambda: keeper.ended(GONE) if ends else None,
            lambda: keeper.decided(left.pop(0), "") if left else None,
        )
        await keeper.begin()
        act(keeper, memory)
        await memory.close()

    asyncio.run(run())
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT id, count, state FROM decisions ORDER BY id").fetchall()


def test_packets_of_one_connection_are_one_record(tmp_path: Path) -> None:
    def act(keeper: LifeKeeper, memory: Memory) -> None:
        for report in (REPORT, NEXT, NEXT):
            keeper.decided(report, "")

    assert scene(tmp_path / "a.db", act) == [(1, 3, "open")]


def test_what_was_decided_before_an_end_and_is_heard_of_after_it_is_of_that_connection(
    tmp_path: Path,
) -> None:
    def act(keeper: LifeKeeper, memory: Memory) -> None:
        keeper.decided(REPORT, "")
        keeper.ended(GONE)

    assert scene(tmp_path / "a.db", act, untold=[NEXT]) == [(1, 2, "closed")]
    assert scene(tmp_path / "b.db", act) == [(1, 1, "closed")]


def test_also_where_it_is_on_its_way_to_the_disk_already(tmp_path: Path) -> None:
    def act(keeper: LifeKeeper, memory: Memory) -> None:
        keeper.decided(REPORT, "")
        memory.when_written(lambda: None)
        for _ in range(2):
            keeper.decided(NEXT, "")

    assert scene(tmp_path / "a.db", act) == [(1, 3, "open")]


def test_what_has_a_record_of_its_own_on_disk_keeps_it(tmp_path: Path) -> None:
    def act(keeper: LifeKeeper, memory: Memory) -> None:
        keeper.decided(REPORT, "")
        id = memory.reserve()
        memory.write_first([(id, NEXT, "")])
        memory.known(NEXT.packet.id, id)
        keeper.decided(NEXT, "")

    assert scene(tmp_path / "a.db", act) == [(1, 1, "unknown"), (2, 1, "open")]


def test_what_was_refused_together_is_one_record_and_has_no_state(tmp_path: Path) -> None:
    def act(keeper: LifeKeeper, memory: Memory) -> None:
        for id in (1, 2):
            held = packet(id, sport=1)
            refused = structs.replace(REPORT, packet=held, verdict=DENIED, decision=DENY)
            keeper.decided(structs.replace(refused, waited=1.0), "")
            memory.when_written(lambda: None)
        keeper.decided(REPORT, "")

    assert scene(tmp_path / "a.db", act) == [(1, 2, ""), (2, 1, "open")]


def test_an_end_that_the_kernel_has_told_is_heard_before_the_next_packet(tmp_path: Path) -> None:
    def act(keeper: LifeKeeper, memory: Memory) -> None:
        keeper.decided(REPORT, "")
        keeper.decided(NEXT, "")

    assert scene(tmp_path / "a.db", act, ends=True) == [(1, 1, "closed"), (2, 1, "open")]
