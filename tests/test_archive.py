"""Records for clients: their own only, page by page, and within bounds whatever they ask."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from auditscene import CURL, DAY, FIREFOX, record, store_day

from arbiter import archive
from arbiter.archive import MAX_RECORDS, MAX_WAITING_PER_USER, Archive
from arbiter.model import Peer
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
    encode,
)
from arbiter.records import json_list
from arbiter.recordwords import KEYS
from arbiter.store import Store
from arbiter.store.rows import RECORD_COLUMNS
from arbiter.tariff import Price

ROOT, ALICE, BOB = Peer(0, "root", True), Peer(1000, "alice", False), Peer(1001, "bob", False)
PRICES = {"lte": Price(Decimal("0.02"), "EUR", "MB")}
Question = ReadRecords | SumRecords


class Client:
    """Asks an archive, and waits for what it is sent."""

    def __init__(self, database: Path, seconds: float = 20.0) -> None:
        self.got: list[tuple[int, DaemonMessage]] = []
        self.came = asyncio.Event()
        self.archive = Archive(database, self._sent, lambda: PRICES, seconds=seconds)

    def _sent(self, client: int, message: DaemonMessage) -> None:
        assert len(encode(message)) <= MAX_MESSAGE
        self.got.append((client, message))
        self.came.set()

    async def ask(self, question: Question, peer: Peer = ROOT, client: int = 1) -> DaemonMessage:
        self.archive.ask(client, peer, question)
        return await self.answer(question.request)

    async def answer(self, request: int) -> DaemonMessage:
        async with asyncio.timeout(30):
            while True:
                for _, message in self.got:
                    if getattr(message, "request", None) == request:
                        return message
                self.came.clear()
                await self.came.wait()


def with_client(
    database: Path, work: Callable[[Client], Awaitable[Any]], seconds: float = 20.0
) -> Any:
    async def main() -> Any:
        client = Client(database, seconds)
        try:
            return await work(client)
        finally:
            await client.archive.close()

    return asyncio.run(main(), debug=False)


def ask(database: Path, question: Question, peer: Peer = ROOT) -> DaemonMessage:
    reply: DaemonMessage = with_client(database, lambda client: client.ask(question, peer))
    return reply


def ids(reply: DaemonMessage) -> list[int]:
    assert isinstance(reply, Records), reply
    return [one["id"] for one in reply.records]


def refused(reply: DaemonMessage) -> tuple[RefusedReason, str]:
    assert isinstance(reply, Refused), reply
    return reply.reason, reply.text


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return store_day(tmp_path / "a.db")


# --- what is told ---------------------------------------------------------------------------


def test_records_come_newest_first_with_the_keys_of_the_command(db: Path) -> None:
    reply = ask(db, ReadRecords(1))
    assert ids(reply) == [6, 5, 4, 3, 2, 1]
    assert isinstance(reply, Records)
    assert not reply.more
    assert tuple(reply.records[0]) == KEYS
    assert reply.records[4]["names"] == ["a.tracker.example"]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"decision": "deny", "app": "firefox"}, [2]),
        ({"host": "*.tracker.example"}, [2]),
        ({"port": "1-443", "proto": "udp"}, [4]),
        ({"link": "lte"}, [3]),
        ({"user": "b*"}, [3]),
        ({"by": "bob", "reason": "answer"}, [3]),
        ({"rule": "3"}, [2]),
        ({"until": "2001-01-01"}, []),
        ({"since": "2001-01-01T08:00+01:00", "decision": "route"}, [3]),
    ],
)
def test_filters_are_those_of_the_command(
    db: Path, filters: dict[str, str], found: list[int]
) -> None:
    assert ids(ask(db, ReadRecords(1, RecordFilters(**filters)))) == found


def test_a_person_sees_records_of_their_own_processes_only(db: Path) -> None:
    assert ids(ask(db, ReadRecords(1), ALICE)) == [6, 2, 1]
    assert ids(ask(db, ReadRecords(1), BOB)) == [3]
    assert ids(ask(db, ReadRecords(1, after=0), BOB)) == [3]
    assert ids(ask(db, ReadRecords(1, RecordFilters(user="*")), BOB)) == [3]
    assert ids(ask(db, ReadRecords(1), Peer(1000, "bob", False))) == [], "another's old name"
    sums = ask(db, SumRecords(1, ("app",)), BOB)
    assert isinstance(sums, Sums)
    assert [(one["app"], one["connections"]) for one in sums.sums["app"]] == [(FIREFOX, 1)]
    reason, text = refused(ask(db, ReadRecords(1, RecordFilters(user="alice")), BOB))
    assert reason is RefusedReason.RIGHT
    assert text == "you see records of bob's processes; root and group arbiter see all"


@pytest.mark.parametrize("peer", [ROOT, ALICE], ids=["root", "alice"])
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_page_by_page_every_record_comes_once_whatever_the_clock_did(
    tmp_path: Path, peer: Peer, limit: int
) -> None:
    others = [record(at) for at in (60.0, -30.0, 60.0, 300.0)]
    db = store_day(tmp_path / "a.db", *others)
    whole = ids(ask(db, ReadRecords(1), peer))
    assert len(whole) == (10 if peer is ROOT else 7)

    async def pages(client: Client) -> list[int]:
        found: list[int] = []
        for request in range(2, 20):
            before = found[-1] if found else None
            reply = await client.ask(ReadRecords(request, limit=limit, before=before), peer)
            found += ids(reply)
            assert isinstance(reply, Records)
            assert len(reply.records) <= limit
            if not reply.more:
                return found
        raise AssertionError("it does not end")

    assert with_client(db, pages) == whole


def test_what_was_written_after_a_record_comes_in_that_order(db: Path) -> None:
    reply = ask(db, ReadRecords(1, after=3, limit=2))
    assert ids(reply) == [4, 5]
    assert isinstance(reply, Records)
    assert reply.more
    reply = ask(db, ReadRecords(1, after=6))
    assert ids(reply) == []
    assert isinstance(reply, Records)
    assert reply.last == 6
    bobs = ask(db, ReadRecords(1, RecordFilters(decision="deny", host="*.x.example")), BOB)
    assert isinstance(bobs, Records)
    assert (bobs.records, bobs.last) == ((), 6), "whose it is: there is where to go on"
    assert ids(ask(db, ReadRecords(1, after=1 << 70))) == []


def test_sums_have_names_and_what_they_cost(tmp_path: Path) -> None:
    big = record(400, link="lte", out_bytes=1_000_000, in_bytes=24_000_000)
    db = store_day(tmp_path / "a.db", big)
    reply = ask(db, SumRecords(1, ("destination", "link"), RecordFilters(app=CURL)))
    assert isinstance(reply, Sums)
    destination = reply.sums["destination"][0]
    assert destination["names"] == ["deb.debian.org"]
    assert (destination["daddr"], destination["connections"]) == ("203.0.113.1", 2)
    costs = {one["link"]: one["cost"] for one in reply.sums["link"]}
    assert costs == {"wifi": None, "lte": "0.50 EUR"}


# --- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "reason", "said"),
    [
        (ReadRecords(1, RecordFilters(since="soon")), "invalid", "since: 'soon' is no time"),
        (ReadRecords(1, RecordFilters(port="x")), "invalid", "port: "),
        (ReadRecords(1, RecordFilters(decision="drop")), "invalid", "is no decision: give"),
        (ReadRecords(1, RecordFilters(rule="x")), "invalid", "is no rule: give its number"),
        (ReadRecords(1, RecordFilters(reason="x")), "invalid", "give one of rule, answer"),
        (ReadRecords(1, RecordFilters(app="*" * 600)), "invalid", "512 characters"),
        (ReadRecords(1, RecordFilters(app="a\0b")), "invalid", "no NUL"),
        (ReadRecords(1, limit=0), "invalid", f"from 1 to {MAX_RECORDS}"),
        (ReadRecords(1, limit=MAX_RECORDS + 1), "invalid", f"from 1 to {MAX_RECORDS}"),
        (ReadRecords(1, before=99), "gone", "there is no record 99"),
        (ReadRecords(1, before=1 << 70), "gone", "there is no record"),
        (ReadRecords(1, before=-1), "gone", "there is no record -1"),
        (SumRecords(1, ("app", "shoe")), "invalid", "by: give some of decision"),
        (SumRecords(1, ()), "invalid", "by: give some of"),
    ],
)
def test_what_cannot_be_answered_is_said(
    db: Path, question: Question, reason: str, said: str
) -> None:
    found, text = refused(ask(db, question))
    assert found == reason
    assert said in text


def test_an_unknown_field_of_a_filter_is_malformed() -> None:
    with pytest.raises(msgspec.ValidationError, match="colour"):
        msgspec.json.decode(b'{"type":"read_records","request":1,"filters":{"colour":"red"}}',
                            type=ReadRecords)  # fmt: skip


def test_a_database_that_is_not_there_is_said_and_asked_for_again(tmp_path: Path) -> None:
    async def work(client: Client) -> DaemonMessage:
        reason, text = refused(await client.ask(ReadRecords(1)))
        assert reason is RefusedReason.INVALID
        assert "there is no such file" in text
        store_day(tmp_path / "a.db")
        return await client.ask(ReadRecords(2))

    assert len(ids(with_client(tmp_path / "a.db", work))) == 6


# --- bounds ---------------------------------------------------------------------------------


def test_records_too_long_for_a_message_come_on_more_pages_or_cut(tmp_path: Path) -> None:
    argv = json_list(["x" * 4000] * 6)
    db = store_day(tmp_path / "a.db", *(record(400.0 + n, argv=argv) for n in range(5)))
    reply = ask(db, ReadRecords(1))
    assert ids(reply) == [11, 10]
    assert isinstance(reply, Records)
    assert reply.more
    with Store.open(db) as store:
        store.record([record(500.0, argv=json_list(["ä" * 4000] * 400))])
    reply = ask(db, ReadRecords(1, limit=1))
    assert ids(reply) == [12]
    assert isinstance(reply, Records)
    assert reply.records[0]["argv"][-1] == "…"


def test_sums_too_long_for_a_message_are_fewer(tmp_path: Path) -> None:
    db = store_day(tmp_path / "a.db", *(record(n, app=f"/{n}" + "ü" * 4000) for n in range(200)))
    reply = ask(db, SumRecords(1, ("app",), limit=200))
    assert isinstance(reply, Sums)
    assert 50 < len(reply.sums["app"]) < 200


def test_a_client_asks_one_thing_at_a_time_and_a_user_a_few(db: Path) -> None:
    async def work(client: Client) -> None:
        first = client.ask(ReadRecords(1), ALICE, client=1)
        task = asyncio.ensure_future(first)
        await asyncio.sleep(0)  # it is asked,
        await asyncio.sleep(0)  # and no longer waits but is looked up
        reason, text = refused(await client.ask(ReadRecords(2), ALICE, client=1))
        assert (reason, text) == (RefusedReason.BUSY, "you have asked already: wait for that reply")
        for number in range(10, 10 + MAX_WAITING_PER_USER + 1):
            client.archive.ask(number, ALICE, ReadRecords(number))
        assert isinstance(await task, Records)
        told = [m for c, m in client.got if isinstance(m, Refused) and c > 1]
        assert [each.reason for each in told] == [RefusedReason.BUSY]
        assert "wait: try again" in told[0].text
        await client.answer(10 + MAX_WAITING_PER_USER - 1)
        assert isinstance(await client.ask(ReadRecords(3), ALICE, client=1), Records)

    with_client(db, work)


def test_users_take_turns(db: Path) -> None:
    async def work(client: Client) -> list[int]:
        for number in range(1, 5):
            client.archive.ask(number, ALICE, ReadRecords(number))
        client.archive.ask(5, BOB, ReadRecords(5))
        await client.answer(4)
        return [number for number, _ in client.got]

    order = with_client(db, work)
    assert sorted(order) == [1, 2, 3, 4, 5]
    assert order.index(5) == 1, "after one question of alice's, not after four"


MANY = 100_000


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many records of many apps and names, so that reading them all takes long."""
    db = store_day(tmp_path_factory.mktemp("crowded") / "a.db")
    odd = {
        "time": "decisions.time + i",
        "app": "'/usr/bin/' || (i % 50000)",
        "daddr": "'10.' || (i % 250) || '.1.1'",
        "names": "'[\"h' || i || '.example\"]'",
        "dport": "i % 60000",
    }
    columns = ", ".join(RECORD_COLUMNS)
    values = ", ".join(odd.get(column, column) for column in RECORD_COLUMNS)
    with sqlite3.connect(db) as raw:
        raw.execute(
            f"INSERT INTO decisions ({columns}) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL"  # ours
            f" SELECT i + 1 FROM n WHERE i < ?) SELECT {values} FROM n, decisions WHERE id = 1",
            (MANY,),
        )
    raw.close()
    return db


SLOW = (
    SumRecords(0, ("app", "destination", "exe"), limit=MAX_RECORDS),
    ReadRecords(0, RecordFilters(host="*.none.example", app="*a*b*c*d*e*f*g*")),
)


@pytest.mark.parametrize("question", SLOW, ids=["sums", "patterns"])
def test_what_takes_too_long_is_ended(crowded: Path, question: Question) -> None:
    async def work(client: Client) -> None:
        reason, text = refused(await client.ask(question))
        assert reason is RefusedReason.TOO_LONG
        assert text == "this takes more than 0.15 s: narrow it down, by app or time"
        for request in range(7, 40):  # on a busy machine a quick one may take so long, too
            again = await client.ask(ReadRecords(request, RecordFilters(app=FIREFOX)))
            if not isinstance(again, Refused):
                break
        assert ids(again) == [3, 2], "the next one has its own time"

    with_client(crowded, work, seconds=0.15)


def test_a_flood_of_questions_leaves_the_event_loop_its_time(crowded: Path) -> None:
    """The event loop decides packets: its turns must come in time whatever is asked."""

    async def work(client: Client) -> tuple[list[float], int]:
        late: list[float] = []
        end = time.monotonic() + 3
        request = 0
        while time.monotonic() < end:
            for number in range(16):
                request += 1
                client.archive.ask(
                    number, ALICE if number % 2 else BOB,
                    msgspec.structs.replace(SLOW[number % 2], request=request),
                )  # fmt: skip
            before = time.monotonic()
            await asyncio.sleep(0.002)
            late.append(time.monotonic() - before - 0.002)
        busy = [m for _, m in client.got if isinstance(m, Refused) and m.reason == "busy"]
        assert len(client.archive._asking) <= 16
        return sorted(late), len(busy)

    late, busy = with_client(crowded, work, seconds=1.0)
    assert busy > 1000
    assert late[len(late) // 2] < 0.03, "half the turns come in time"
    assert late[int(len(late) * 0.99)] < 0.25


def test_looking_for_what_is_new_costs_little_by_any_filter(crowded: Path) -> None:
    async def work(client: Client) -> None:
        filters = RecordFilters(host="*.none.example", app="*a*b*c*d*e*f*g*")
        last = MANY + len(DAY)
        for request in range(1, 30):
            reply = await client.ask(ReadRecords(request, filters, after=last))
            assert isinstance(reply, Records), reply
            assert (reply.records, reply.last) == ((), last)

    with_client(crowded, work, seconds=0.05)


def test_the_thread_rests_as_long_as_it_worked(crowded: Path) -> None:
    async def work(client: Client) -> int:
        end = time.monotonic() + 1.2
        request = 0
        while time.monotonic() < end:
            request += 1
            await client.ask(msgspec.structs.replace(SLOW[1], request=request))
        return request

    assert with_client(crowded, work, seconds=0.05) <= 13


def test_it_ends_at_once_while_it_reads(crowded: Path) -> None:
    async def work(client: Client) -> None:
        client.archive._reader.stopped = True  # as `close` does, before it waits for the thread
        reason, _ = refused(await client.ask(SLOW[0]))
        assert reason is RefusedReason.TOO_LONG

    with_client(crowded, work)


def test_the_database_is_closed_while_nobody_asks(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "IDLE", 0.05)

    async def work(client: Client) -> DaemonMessage:
        await client.ask(ReadRecords(1))
        assert client.archive._reader._store is not None
        for _ in range(500):
            if client.archive._reader._store is None:
                break
            await asyncio.sleep(0.01)
        assert client.archive._reader._store is None
        return await client.ask(ReadRecords(2))

    assert len(ids(with_client(db, work))) == len(DAY)
