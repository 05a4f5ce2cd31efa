"""The evidence of an open database: its chains, their checkpoints, and whether they hold."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

from arbiter.store.chain import CHAINS, end_of
from arbiter.store.checkpoints import Checkpoint, Point, checkpoint, checkpoints
from arbiter.store.errors import explained
from arbiter.store.transaction import writing
from arbiter.store.verify import Verified, verify


class Evidence:
    """The chains of one open database. Every method raises StoreError."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db, self._path = connection, path

    def checkpoint(self, why: str, now: float) -> list[Checkpoint]:
        """Write down where each chain has come to, if it went on; gives what is new."""
        with writing(self._db, self._path, "cannot write a checkpoint", durable=True):
            made = [checkpoint(self._db, chain, why, now) for chain in CHAINS]
        return [one for one in made if one is not None]

    def checkpoints(self) -> list[Checkpoint]:
        """All there are."""
        with explained(self._path, "cannot read the checkpoints"):
            return [one for chain in CHAINS for one in checkpoints(self._db, chain)]

    def size(self) -> int:
        """How many rows `verify` will tell of, about."""
        with explained(self._path, "cannot read the records"):
            ends = [end_of(self._db, chain) for chain in CHAINS]
        return sum(end.last for end in ends if end is not None)

    def verify(
        self,
        outside: Iterable[Point] = (),
        tick: Callable[[int], None] = lambda rows: None,
        stage: Callable[[str], None] = lambda what: None,
    ) -> Verified:
        """Whether it holds, as `verify.verify`."""
        return verify(self._db, self._path, outside, tick, stage)
