"""The records for clients that read them: of whose processes, in which order, within bounds.

A thread of its own reads, over a connection that cannot write, one question at a time: each has
SECONDS, users take turns, and after each the thread rests as long as it worked. So whoever asks
for everything, again and again, neither delays a packet nor fills the memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, structs

from arbiter.model import Peer
from arbiter.moments import read_moment
from arbiter.priority import give_way
from arbiter.protocol import (
    MAX_MESSAGE,
    DaemonMessage,
    ReadRecords,
    RecordFilters,
    Records,
    Refused,
    RefusedReason,
    SumRecords,
    Sums,
    clean,
)
from arbiter.recordwords import as_object
from arbiter.store import Store, StoreError
from arbiter.store.errors import TooLongError
from arbiter.store.filters import Filter, Wanted
from arbiter.store.filterwords import FilterError, wanted_by
from arbiter.store.groupwords import GROUPS, group_object
from arbiter.tariff import Price, cost

SECONDS = 2.0
"""How long the database may take for one question."""
MAX_RECORDS = 200
"""Records, or lines of a list of sums, that one question may ask for."""
MAX_WAITING, MAX_WAITING_PER_USER = 64, 8
"""Questions that wait; a client has one at a time."""
IDLE = 30.0
"""Seconds without a question after which the database is closed."""
MAX_FILTER = 512
"""Characters of a filter."""
ROOM = MAX_MESSAGE - 512
"""Bytes of a message for the records in it."""
_SHORT, _FEW = 256, 16
Question = ReadRecords | SumRecords


class _RefusalError(Exception):
    def __init__(self, reason: RefusedReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class _Job(Struct, frozen=True):
    client: int
    peer: Peer
    question: Question


class Archive:
    """Ask it in the event loop; `send` gets the reply. `prices` are those of links, by name."""

    def __init__(
        self,
        database: Path,
        send: Callable[[int, DaemonMessage], None],
        prices: Callable[[], Mapping[str, Price]],
        *,
        seconds: float = SECONDS,
    ) -> None:
        self._reader = _Reader(database, seconds)
        self._send, self._prices = send, prices
        self._waiting: dict[int, deque[_Job]] = {}
        """By uid, in the order in which users are served."""
        self._asking: set[int] = set()
        """Clients whose question waits, or is looked up."""
        self._came = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "archive", initializer=give_way)
        self._task: asyncio.Task[None] | None = None

    def ask(self, client: int, peer: Peer, question: Question) -> None:
        """Reply to a client's question, now or later."""
        theirs = self._waiting.get(peer.uid, ())
        waiting = sum(map(len, self._waiting.values()))
        text = ""
        if client in self._asking:
            text = "you have asked already: wait for that reply"
        elif len(theirs) >= MAX_WAITING_PER_USER or waiting >= MAX_WAITING:
            text = f"{waiting} questions about records wait: try again"
        if text:
            refused = Refused(RefusedReason.BUSY, text, request=question.request)
            self._send(client, refused)
            return
        self._asking.add(client)
        self._waiting.setdefault(peer.uid, deque()).append(_Job(client, peer, question))
        self._came.set()
        if self._task is None:
            self._task = asyncio.create_task(self._work())
            self._task.add_done_callback(_not_silent)

    async def close(self) -> None:
        """Answer nothing more, and close the database."""
        self._reader.stopped = True  # what is being read ends at once
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await asyncio.get_running_loop().run_in_executor(self._thread, self._reader.close)
        self._thread.shutdown()

    async def _work(self) -> None:
        """Answer what waits, and what comes; close the database while nothing does."""
        loop = asyncio.get_running_loop()
        while True:
            job = self._next()
            if job is None:
                await self._quiet()
                continue
            began = loop.time()
            reply = await loop.run_in_executor(
                self._thread, self._reader.reply, job, self._prices(), time.time()
            )
            self._asking.discard(job.client)
            self._send(job.client, reply)
            await asyncio.sleep(loop.time() - began)

    async def _quiet(self) -> None:
        """Until something is asked."""
        self._came.clear()
        try:
            async with asyncio.timeout(IDLE):
                await self._came.wait()
        except TimeoutError:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._reader.close)
            await self._came.wait()

    def _next(self) -> _Job | None:
        """The first question of the user who was served longest ago."""
        for uid in self._waiting:
            theirs = self._waiting.pop(uid)
            job = theirs.popleft()
            if theirs:
                self._waiting[uid] = theirs
            return job
        return None


class _Reader:
    """In the archive's thread: questions to replies."""

    def __init__(self, database: Path, seconds: float) -> None:
        self._database, self._seconds = database, seconds
        self._store: Store | None = None
        self.stopped = False

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def reply(self, job: _Job, prices: Mapping[str, Price], now: float) -> DaemonMessage:
        """What the client is told. Raises nothing that a client can bring about."""
        question = job.question
        try:
            wanted = _wanted(job.peer, question.filters, now)
            if not 1 <= question.limit <= MAX_RECORDS:
                text = f"limit {question.limit}: it is from 1 to {MAX_RECORDS}"
                raise _RefusalError(RefusedReason.INVALID, text)
            if self._store is None:
                self._store = Store.open(self._database, readonly=True)
            end = time.monotonic() + self._seconds
            with self._store.until(lambda: self.stopped or time.monotonic() > end):
                if isinstance(question, ReadRecords):
                    return _records(self._store, question, wanted)
                return _sums(self._store, question, wanted, prices)
        except _RefusalError as refusal:
            reason, text = refusal.reason, str(refusal)
        except TooLongError:
            reason = RefusedReason.TOO_LONG
            text = f"this takes more than {self._seconds:g} s: narrow it down, by app or time"
        except StoreError as error:
            reason, text = RefusedReason.INVALID, clean(str(error))
        return Refused(reason, clean(text), request=question.request)


def _wanted(peer: Peer, filters: RecordFilters, now: float) -> Wanted:
    """The filters, and that they are of this peer's own processes."""
    given = {name: text for name, text in structs.asdict(filters).items() if text is not None}
    for name, text in given.items():
        if len(text) > MAX_FILTER or "\0" in text:
            text = f"{name}: a filter has {MAX_FILTER} characters at most, and no NUL"
            raise _RefusalError(RefusedReason.INVALID, text)
    times: dict[str, Any] = {}
    for name in ("since", "until"):
        if name in given:
            try:
                times[name] = read_moment(given.pop(name), now)
            except ValueError as error:
                raise _RefusalError(RefusedReason.INVALID, f"{name}: {error}") from None
    try:
        wanted = wanted_by(**times, **given)
    except FilterError as error:
        raise _RefusalError(RefusedReason.INVALID, f"{error.name}: {error}") from None
    if peer.admin:
        return wanted
    whose = filters.user
    if whose is not None and "*" not in whose and whose != peer.user:
        text = f"you see records of {peer.user}'s processes; root and group arbiter see all"
        raise _RefusalError(RefusedReason.RIGHT, text)
    # The name leads, by its index; the number decides: names change.
    mine = Filter("user", (peer.user,))
    return structs.replace(wanted, filters=(*wanted.filters, mine), uid=peer.uid)


def _records(store: Store, question: ReadRecords, wanted: Wanted) -> Records:
    newest = store.records.last()  # first: what is written meanwhile must not be missed
    limit = question.limit + 1
    if question.after is not None:
        found = store.records.after(wanted, min(question.after, _MAX_ID), limit)
    else:
        if question.before is not None:
            wanted = structs.replace(wanted, before=_place(store, question.before))
        found = store.records.latest(wanted, limit)[::-1]
    fitting = _fitting(as_object(kept.id, kept.record) for kept in found[: question.limit])
    last = newest.id if newest is not None else 0
    return Records(question.request, fitting, len(fitting) < len(found), last)


_MAX_ID = (1 << 63) - 1


def _place(store: Store, id: int) -> tuple[float, int]:
    kept = store.records.one(id) if 0 < id <= _MAX_ID else None
    if kept is None:
        text = f"there is no record {id} (any more): begin with the newest"
        raise _RefusalError(RefusedReason.GONE, text)
    return kept.record.time, id


def _fitting(objects: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """As many as fit into a message, but one at least: shortened, if need be."""
    out: list[dict[str, Any]] = []
    room = ROOM
    for one in objects:
        size = len(msgspec.json.encode(one)) + 1
        if size > room and not out:
            one = {key: _shortened(value) for key, value in one.items()}
            size = len(msgspec.json.encode(one)) + 1
        room -= size
        if room < 0:
            break
        out.append(one)
    return tuple(out)


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value, _SHORT)
    if isinstance(value, list):
        more = ["…"] if len(value) > _FEW else []
        return [clean(text, _SHORT) for text in value[:_FEW]] + more
    return value


def _sums(store: Store, question: SumRecords, wanted: Wanted, prices: Mapping[str, Price]) -> Sums:
    unknown = [name for name in question.by if name not in GROUPS]
    if unknown or not question.by:
        text = f"by: give some of {', '.join(GROUPS)}"
        raise _RefusalError(RefusedReason.INVALID, text)
    by = {name: GROUPS[name] for name in question.by}
    found = store.records.grouped(wanted, by, question.limit)
    room = ROOM // len(by)
    sums: dict[str, tuple[dict[str, Any], ...]] = {}
    for name, groups in found.items():
        objects = [group_object(group, by[name]) for group in groups]
        if name == "link":
            for one in objects:
                one["cost"] = _cost(one, prices.get(one["link"]))
        sums[name] = tuple(_some(objects, room))
    return Sums(question.request, sums)


def _some(objects: list[dict[str, Any]], room: int) -> Iterable[dict[str, Any]]:
    """The first ones, as far as there is room, with short texts."""
    for one in objects:
        one = {key: _shortened(value) for key, value in one.items()}
        room -= len(msgspec.json.encode(one)) + 1
        if room < 0:
            return
        yield one


def _cost(sums: Mapping[str, Any], price: Price | None) -> str | None:
    """What the bytes cost at the link's price of today; None where it has none."""
    size = sums["sent"] + sums["received"]
    if price is None or not 0 <= size < 1 << 64:
        return None
    return f"{cost(size, price):.2f} {price.currency}"


def _not_silent(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        context = {"message": "in the archive", "exception": error}
        task.get_loop().call_exception_handler(context)
