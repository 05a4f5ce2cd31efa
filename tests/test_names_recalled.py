"""What decision records still know of names, as the next start takes it up."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from test_store_lives import record

from arbiter.dnswire import Answers
from arbiter.events import Event, HostsRead, NamesLearned
from arbiter.kernel.filewatch import FileWatch
from arbiter.namekeeper import RECALLED, NameKeeper
from arbiter.names import GRACE, NameCache
from arbiter.records import json_list
from arbiter.store import ClosedError, Store
from arbiter.store.records import LookedUp

A, B = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])


def test_records_tell_the_newest_names_of_each_address_the_newest_last(tmp_path: Path) -> None:
    six = "2001:db8::1"
    rows = [
        record(1, daddr="192.0.2.1", names=json_list(["early.example"])),
        record(5, daddr="192.0.2.1", names=json_list(["b.example", "a.example"])),
        record(6, daddr=six, names=json_list(["six.example"])),
        record(7, daddr="192.0.2.1", names=json_list(["b.example", "a.example"])),
        record(8, daddr="192.0.2.9", names="[]"),
    ]
    with Store.open(tmp_path / "a.db") as store:
        for row in rows:
            store.record([row])
        assert store.records.looked_up(5, 10) == [
            LookedUp(6, socket.inet_pton(socket.AF_INET6, six), ("six.example",)),
            LookedUp(7, A, ("b.example", "a.example")),
        ]
        assert [one.time for one in store.records.looked_up(0, 2)] == [6, 7]


@pytest.mark.parametrize(
    ("address", "names"),
    [
        ("nowhere", '["a.example"]'),
        ("", '["a.example"]'),
        ("192.0.2.1", "{"),
        ("192.0.2.1", "[7]"),
        ("192.0.2.1", "[" * 5000),
        ("192.0.2.1", '["A.example", "a b", "192.0.2.7", "", "\\u001b[1m", "\\ud800", "x\\n"]'),
    ],
)
def test_what_no_answer_could_have_said_is_left_out(
    tmp_path: Path, address: str, names: str
) -> None:
    with Store.open(tmp_path / "a.db") as store:
        store.record([record(5, daddr=address, names=names)])
        store.record([record(6, daddr="192.0.2.2", names='["a.example", "A B"]')])
        assert store.records.looked_up(0, 10) == [LookedUp(6, B, ("a.example",))]


def started(found: Sequence[LookedUp] | Exception) -> tuple[list[Event], tuple[str, ...]]:
    """What the keeper tells at its start, and its problems; the test runs without its queue."""
    told: list[Event] = []

    async def looked_up(since: float, limit: int) -> Sequence[LookedUp]:
        assert (round(time.time() - since), limit) == (round(GRACE), RECALLED)
        if isinstance(found, Exception):
            raise found
        return found

    async def run() -> tuple[str, ...]:
        keeper = NameKeeper(65535, frozenset, told.append)
        await keeper.start(looked_up)
        problems = keeper.problems()
        keeper.close()
        return problems

    return told, asyncio.run(run())


def test_they_are_answers_of_that_time_and_kept_for_an_hour_from_then() -> None:
    ago = 1000.0
    at = time.time()
    events, _ = started(
        [
            LookedUp(at - ago, A, ("new.example", "old.example")),
            LookedUp(at + 99, B, ("b.example",)),
        ]
    )
    learned = [event for event in events if isinstance(event, NamesLearned)]
    assert isinstance(events[0], HostsRead) and len(learned) == 3
    cache, mono = NameCache(), time.monotonic()
    for event in learned:
        found: Answers = event.answers
        cache.learn(found.name, found.addresses, found.ttl, event.now.mono)
    assert cache.names_of(A, mono) == ("new.example", "old.example")
    assert cache.names_of(A, mono + GRACE - ago - 9)
    assert not cache.names_of(A, mono + GRACE - ago + 9)
    assert cache.names_of(B, mono) and not cache.names_of(B, mono + GRACE + 9)


def test_records_that_cannot_be_read_are_a_problem_and_no_end() -> None:
    error = ClosedError("cannot read the decisions", Path("a.db"), "it is closed", "start again")
    events, problems = started(error)
    assert len(events) == 1
    assert any("names from before the start are not known" in text for text in problems)


def test_without_inotify_it_is_said_how_late_changes_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_: FileWatch) -> None:
        raise OSError(24, "inotify_init1: Too many open files")

    monkeypatch.setattr(FileWatch, "start", full)
    events, problems = started([])
    assert isinstance(events[0], HostsRead)
    assert any("/etc/hosts count up to 30 s late: [Errno 24] inotify" in text for text in problems)
