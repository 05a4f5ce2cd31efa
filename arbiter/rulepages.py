"""The rules of the store, read page by page into an index: what is new there, and what is gone."""

from __future__ import annotations

import asyncio
import logging
from array import array
from bisect import bisect_right
from collections.abc import Callable
from concurrent.futures import Future

from arbiter.rules import Entry, Index
from arbiter.store.inforce import Page

PAGE = 500
"""Rules that are read at a time: 5 ms of the loop."""
log = logging.getLogger("arbiter")


async def follow(
    index: Index,
    page: Callable[[int, int], Future[Page]],
    changed: Callable[[tuple[Entry, ...], tuple[int, ...]], None],
    *,
    first: bool,
) -> tuple[str, ...]:
    """Tell `changed` how the index differs from the store; gives what is wrong with unreadable
    rules. `page` reads at most so many after an id.

    A hundred thousand at once would take the loop's time, and much memory. At first each page comes
    in force as it is read. Later all is one change, when all is known. Raises StoreError.
    """
    # Those of policy files have negative ids, and are not the store's.
    known = array("q", sorted(id for id in index.ids() if id > 0))
    unreadable: dict[int, str] = {}
    added: list[Entry] = []
    removed: list[int] = []
    count = new = gone = 0
    after: int | None = 0
    while after is not None:
        found = await asyncio.wrap_future(page(after, PAGE))
        unreadable |= found.unreadable
        added += (entry for entry in found.entries if not index.holds(entry))
        # Of the ids that this page is about, those that are not there any more.
        high = len(known) if found.last is None else bisect_right(known, found.last)
        here = {entry.id for entry in found.entries}
        removed += (id for id in known[bisect_right(known, after) : high] if id not in here)
        count, after = count + len(found.entries), found.last
        if first or after is None:
            new, gone = new + len(added), gone + len(removed)
            if first or added or removed:
                changed(tuple(added), tuple(removed))
            added, removed = [], []
    if first or new or gone:
        log.info("rules: %d in force, %d new, %d gone", count, new, gone)
    return tuple(unreadable.values())
