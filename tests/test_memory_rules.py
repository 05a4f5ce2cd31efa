"""The index is what the store says, however many pages the reading takes and what changed since."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from pathlib import Path

import pytest

from arbiter import rulepages
from arbiter.events import Event, RulesChanged
from arbiter.memory import Memory
from arbiter.rules import Entry, Index, Layer, parse
from arbiter.settings import Settings
from arbiter.store import Store

FILES = Entry(-3, parse("deny port=3"), Layer.ADMIN, 1.0, "file:/etc/x.toml:1")


class Reader:
    """A memory whose changes of rules come into an index, as the pipeline's do."""

    def __init__(self, path: Path) -> None:
        self.path, self.index = path, Index([FILES])
        self.memory = Memory(path, self.hear, Settings())
        self.changes: list[RulesChanged] = []

    def hear(self, event: Event) -> None:
        if isinstance(event, RulesChanged):
            self.changes.append(event)
            for id in event.removed:
                self.index.remove(id)
            for entry in event.added:
                self.index.add(entry)

    async def load(self, *, first: bool = False) -> list[RulesChanged]:
        """Gives the changes that it told, after a look whether the index is right."""
        self.changes = []
        assert await self.memory.load(self.index, first=first) == ""
        with Store.open(self.path) as store:
            in_force = store.rules(time.time(), self.memory._boot, self.memory._session)
            assert self.memory.unreadable == store.unreadable
        assert {one.id: one for one in self.index} == {one.id: one for one in (*in_force, FILES)}
        return self.changes


def add(path: Path, *ports: int) -> list[int]:
    with Store.open(path) as store:
        return [
            store.remember(parse(f"allow port={port}"), by="alice", created=1.0).entry.id
            for port in ports
        ]


def remove(path: Path, *ids: int) -> None:
    with Store.open(path) as store:
        for id in ids:
            assert store.remove(id, "alice", at=2.0)


@pytest.mark.parametrize("page", [1, 2, 3, 500])
def test_the_index_follows_the_store_page_by_page(
    tmp_path: Path, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rulepages, "PAGE", page)
    path = tmp_path / "arbiter.db"

    async def scene() -> None:
        ids = add(path, *range(10, 17))
        reader = Reader(path)
        try:
            told = await reader.load(first=True)
            assert len(told) == 7 // page + 1, "the last page is told by being short"
            assert await reader.load() == [], "nothing has changed"
            remove(path, ids[0], ids[3], ids[6])
            add(path, 20)
            (told_once,) = await reader.load()
            assert sorted(told_once.removed) == [ids[0], ids[3], ids[6]]
            assert [one.rule.ports for one in told_once.added] == [((20, 20),)]
            remove(path, ids[1])
            assert [change.removed for change in await reader.load()] == [(ids[1],)]
            remove(path, *(one.id for one in reader.index if one.id > 0))
            await reader.load()
            assert [one.id for one in reader.index] == [FILES.id]
        finally:
            await reader.memory.close()

    asyncio.run(scene())


@pytest.mark.parametrize("page", [1, 2, 500])
def test_what_cannot_be_read_is_told_of_every_page_and_put_out_of_force(
    tmp_path: Path,
    page: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(rulepages, "PAGE", page)
    path = tmp_path / "arbiter.db"

    async def scene() -> None:
        ids = add(path, *range(10, 15))
        reader = Reader(path)
        try:
            await reader.load(first=True)
            connection = sqlite3.connect(path)
            for id in (ids[0], ids[4]):
                connection.execute("UPDATE rules SET line = 'allow prot=1' WHERE id = ?", (id,))
            connection.commit()
            connection.close()
            add(path, 30)  # a change that is told, as each of arbiter's own is
            (told,) = await reader.load()
            assert sorted(told.removed) == [ids[0], ids[4]]
            told_of = [text.split()[3] for text in reader.memory.unreadable]
            assert told_of == [f"{ids[0]}:", f"{ids[4]}:"]
        finally:
            await reader.memory.close()

    with caplog.at_level(logging.ERROR):
        asyncio.run(scene())
    assert caplog.text.count("cannot read rule") >= 2
