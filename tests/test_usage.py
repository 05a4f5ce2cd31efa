"""The ledger: what was used is told once, whatever comes in whatever order, and gets lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from arbiter import usage
from arbiter.budgets import summed
from arbiter.model import Flow
from arbiter.usage import (
    Account,
    Batch,
    Counted,
    Key,
    Ledger,
    OpenFlow,
    Pending,
    Used,
    day_of,
    delta,
    on_wire,
    plus,
)

BERLIN = ZoneInfo("Europe/Berlin")
NOON = 1_785_492_000.0  # 2026-07-31 12:00 in Berlin
CURL = Account("/usr/bin/curl", "alice", "lte", "8943")
WGET = Account("/usr/bin/wget", "bob", "wifi")


def flow(sport: int = 4000, proto: int = 6) -> Flow:
    return Flow(proto, bytes([10, 0, 0, 2]), sport, bytes([198, 51, 100, 10]), 443)


def entry(
    sport: int = 4000, out: int = 0, back: int = 0, *, id: int = 1, link: int = 2, started: int = 0
) -> Counted:
    """Counters of packets of 100 bytes."""
    mark = 0x20000000 | link << 24
    return Counted(flow(sport), id, mark, out * 100, back * 100, out, back, started)


def unknown(number: int) -> Account:
    return Account(link=f"link{number}")


def ledger(bound: int = 100) -> Ledger:
    return Ledger(unknown, BERLIN, bound=bound)


def told(rows: tuple[Used, ...]) -> list[tuple[Account, int, int, int]]:
    return [(used.account, used.out_bytes, used.in_bytes, used.connections) for used in rows]


# --- joining --------------------------------------------------------------------------------


def test_a_short_flow_is_told_at_its_end_and_a_long_one_at_each_read() -> None:
    book = ledger()
    book.opened(flow(1), CURL)
    book.opened(flow(2), WGET)
    assert told(book.ended(entry(1, 3, 4), NOON)) == [(CURL, 300, 400, 1)]
    assert told(book.read([entry(2, 5, 6)], NOON)) == [(WGET, 500, 600, 1)]
    assert book.read([entry(2, 5, 6)], NOON) == ()
    assert told(book.read([entry(2, 7, 6)], NOON)) == [(WGET, 200, 0, 0)]
    assert told(book.ended(entry(2, 7, 9), NOON)) == [(WGET, 0, 300, 0)]


def test_one_read_tells_each_account_once() -> None:
    book = ledger()
    for sport in (1, 2, 3):
        book.opened(flow(sport), CURL)
    (used,) = book.read([entry(sport, 1, 2) for sport in (1, 2, 3)], NOON)
    assert used == Used(CURL, "2026-07-31", 300, 600, 3, 6, 3)


def test_what_nobody_opened_counts_for_the_link_of_its_mark() -> None:
    book = ledger()
    assert told(book.read([entry(1, 1, link=3)], NOON)) == [(Account(link="link3"), 100, 0, 1)]
    assert told(book.ended(entry(2, 1, link=0), NOON)) == [(Account(link="link0"), 100, 0, 1)]


def test_the_same_ports_again_are_another_connection_with_its_own_account() -> None:
    book = ledger()
    book.opened(flow(), CURL)
    book.read([entry(out=9, id=1)], NOON)
    book.opened(flow(), WGET)
    assert told(book.read([entry(out=10, id=1), entry(out=2, id=2)], NOON)) == [
        (CURL, 100, 0, 0),
        (WGET, 200, 0, 1),
    ]
    assert told(book.ended(entry(out=11, id=1), NOON)) == [(CURL, 100, 0, 0)]
    assert told(book.ended(entry(out=4, id=2), NOON)) == [(WGET, 200, 0, 0)]


def test_the_next_flow_may_be_opened_before_the_end_of_the_last_is_told() -> None:
    book = ledger()
    book.opened(flow(), CURL)
    book.opened(flow(), CURL)
    assert told(book.ended(entry(out=1, id=1), NOON)) == [(CURL, 100, 0, 1)]
    assert told(book.ended(entry(out=2, id=2), NOON)) == [(CURL, 200, 0, 1)]


@pytest.mark.parametrize("again", [entry(out=3, id=1), entry(out=9, id=1, started=8)])
def test_an_id_that_comes_again_is_known_by_its_counters_or_its_start(again: Counted) -> None:
    book = ledger()
    book.opened(flow(), CURL)
    book.read([entry(out=9, id=1, started=7 if again.started else 0)], NOON)
    book.opened(flow(), WGET)
    ((account, size, _, connections),) = told(book.read([again], NOON))
    assert (account, size, connections) == (WGET, again.out_bytes, 1)


def test_an_account_goes_with_its_entry() -> None:
    book = ledger()
    book.opened(flow(), CURL)
    book.read([entry(out=1)], NOON)
    book.ended(entry(out=2), NOON)
    assert len(book) == 0
    assert told(book.ended(entry(out=1, id=2), NOON)) == [(Account(link="link2"), 100, 0, 1)]


def test_an_end_is_remembered_for_the_dump_on_its_way_only() -> None:
    book = ledger()
    book.ended(entry(out=5), NOON)
    book.read([], NOON)
    assert told(book.read([entry(out=6)], NOON)) == [(Account(link="link2"), 600, 0, 1)]


def test_two_entries_that_share_a_flow_do_not_restart_each_other() -> None:
    """Two GRE tunnels of one pair of hosts, or two conntrack zones."""
    book = ledger()
    total = 0
    for turn in range(1, 6):
        for used in book.read([entry(out=turn, id=1), entry(out=10 * turn, id=2)], NOON):
            total += used.out_bytes
    assert total == (5 + 50) * 100


def test_a_dump_older_than_an_end_does_not_bring_the_flow_back() -> None:
    book = ledger()
    book.opened(flow(), CURL)
    dump = [entry(out=5)]
    book.ended(entry(out=6), NOON)
    assert book.read(dump, NOON) == ()
    assert len(book) == 0
    assert book.take().open == ()


def test_what_is_told_between_the_steps_of_a_dump_holds() -> None:
    book = ledger()
    for sport in (1, 2, 3, 4, 5):
        book.opened(flow(sport), CURL)
    steps = book.reading([entry(sport, 1) for sport in (1, 2, 3, 4, 5)], NOON)
    assert told(next(steps)) == [(CURL, 200, 0, 2)]
    assert told(book.ended(entry(1, 3), NOON)) == [(CURL, 200, 0, 0)]
    assert told(book.ended(entry(5, 3), NOON)) == [(CURL, 300, 0, 1)]
    book.opened(flow(2), WGET)
    assert [told(some) for some in steps] == [[(CURL, 200, 0, 2)], []]
    assert {kept.counted.flow.sport for kept in book.take().open} == {2, 3, 4}
    assert told(book.read([entry(2, 9, id=2)], NOON)) == [(WGET, 900, 0, 1)]


def test_a_flow_missing_in_one_dump_is_not_told_again_and_in_two_is_gone() -> None:
    book = ledger()
    book.opened(flow(), CURL)
    book.read([entry(out=5)], NOON)
    assert book.read([], NOON) == ()
    assert told(book.read([entry(out=6)], NOON)) == [(CURL, 100, 0, 0)]
    book.take()
    book.read([], NOON)
    assert book.take().closed == ()
    book.read([], NOON)
    assert (len(book), book.take().closed) == (0, (entry().key,))


def test_an_account_waits_for_its_entry_over_some_reads_and_not_for_ever() -> None:
    book = ledger()
    book.opened(flow(1), CURL)
    book.read([], NOON)
    book.read([], NOON)
    assert told(book.read([entry(1, 1)], NOON)) == [(CURL, 100, 0, 1)]
    book.opened(flow(2), CURL)
    for _ in range(usage.UNSEEN):
        book.read([], NOON)
    assert told(book.read([entry(2, 1)], NOON)) == [(Account(link="link2"), 100, 0, 1)]


# --- bounds ---------------------------------------------------------------------------------


def test_too_many_opened_flows_lose_the_oldest_ones_app_and_no_bytes() -> None:
    book = ledger(bound=2)
    for sport in (1, 2, 3):
        book.opened(flow(sport), CURL)
    assert [told(book.ended(entry(sport, 1), NOON))[0][0].app for sport in (1, 2, 3)] == [
        "",
        CURL.app,
        CURL.app,
    ]


def test_too_many_live_flows_are_counted_when_they_end() -> None:
    book = ledger(bound=2)
    everything = [entry(sport, sport) for sport in (1, 2, 3, 4)]
    total = sum(used.out_bytes for used in book.read(everything, NOON))
    assert (len(book), book.crowded) == (2, 2)
    total += sum(used.out_bytes for used in book.read(everything, NOON))
    for last in everything:
        total += sum(used.out_bytes for used in book.ended(last, NOON))
    assert total == (1 + 2 + 3 + 4) * 100


def test_a_flow_that_found_no_room_keeps_its_account() -> None:
    book = ledger(bound=2)
    everything = [entry(sport, 1) for sport in (1, 2, 3)]
    book.opened(flow(3), CURL)
    for _ in range(usage.UNSEEN + 2):
        book.read(everything, NOON)
    assert told(book.ended(entry(3, 4), NOON)) == [(CURL, 400, 0, 1)]


def test_too_many_accounts_that_wait_keep_their_link_and_lose_their_app(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(usage, "MAX_USED", 2)
    waiting = Pending()
    for number in range(10):
        waiting.use(Used(Account(f"/app{number}", "u", "lte", "8943"), "2026-07-31", 1))
    rows = waiting.take().used
    assert len(rows) == 3
    assert rows[2] == Used(Account("", "", "lte", "8943"), "2026-07-31", 8)


# --- days -----------------------------------------------------------------------------------


def test_what_is_used_counts_for_the_local_day_on_which_it_was_read() -> None:
    book = ledger()
    midnight = NOON + 12 * 3600
    days = [
        *book.read([entry(out=1)], midnight - 1),
        *book.read([entry(out=2)], midnight),
        *book.ended(entry(out=4), midnight + 86_400),
    ]
    assert [(used.day, used.out_bytes) for used in days] == [
        ("2026-07-31", 100),
        ("2026-08-01", 100),
        ("2026-08-02", 200),
    ]
    book.zone = UTC
    assert book.ended(entry(2, 1), midnight)[0].day == "2026-07-31"


def test_a_zone_may_be_an_offset_and_summer_time_is_the_zones() -> None:
    assert day_of(NOON, 2 * 3600) == day_of(NOON, BERLIN) == "2026-07-31"
    winter = NOON - 200 * 86_400 + 11.5 * 3600  # 22:30 in Berlin, 23:30 in summer time
    assert day_of(winter + 3600, BERLIN) == day_of(winter, BERLIN) != day_of(winter + 3600, 7200)


# --- on the wire ----------------------------------------------------------------------------


def test_packets_that_a_link_can_carry_count_as_they_are() -> None:
    assert on_wire(flow(), 150_000, 100) == (150_000, 100)
    assert on_wire(flow(), 0, 0) == (0, 0)


@pytest.mark.parametrize(
    ("proto", "v6", "header"), [(6, False, 40), (6, True, 60), (17, False, 28), (1, False, 20)]
)
def test_a_large_send_counts_with_the_headers_it_is_cut_into(
    proto: int, v6: bool, header: int
) -> None:
    size = 16 if v6 else 4
    assert on_wire(Flow(proto, bytes(size), 1, bytes(size), 2), 15_000, 1) == (
        15_000 + 9 * header,
        10,
    )


@given(st.lists(st.integers(40, 65_535), max_size=20), st.integers(0, 20))
def test_on_wire_only_grows_as_packets_come(sizes: list[int], cut: int) -> None:
    before = on_wire(flow(), sum(sizes[:cut]), len(sizes[:cut]))
    after = on_wire(flow(), sum(sizes), len(sizes))
    assert before[0] <= after[0]
    assert before[1] <= after[1]
    assert sum(sizes) <= after[0] <= sum(sizes) * 1.03


@given(st.tuples(*[st.integers(0, 1 << 64)] * 4), st.tuples(*[st.integers(0, 1 << 64)] * 4))
def test_no_two_readings_give_a_negative_figure(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    first, second = (Counted(flow(), 1, 0, *figures) for figures in (a, b))
    used = delta(CURL, "", second, first)
    assert min(used.out_bytes, used.in_bytes, used.out_packets, used.in_packets) >= 0


# --- what waits -----------------------------------------------------------------------------

KEYS = [entry(sport).key for sport in range(4)]
batches = st.lists(
    st.builds(
        Batch,
        used=st.lists(
            st.builds(Used, st.sampled_from([CURL, WGET]), st.just("d"), st.integers(0, 9))
        ).map(tuple),
        open=st.lists(
            st.builds(
                OpenFlow,
                st.sampled_from([CURL, WGET]),
                st.builds(entry, st.sampled_from([0, 1]), st.integers(0, 9)),
            ),
            unique_by=lambda kept: kept.counted.key,
        ).map(tuple),
        closed=st.lists(st.sampled_from(KEYS[2:]), unique=True).map(tuple),
    )
)


class Table:
    """What a database holds after batches were written, one transaction each."""

    def __init__(self) -> None:
        self.used: dict[tuple[Account, str], Used] = {}
        self.open: dict[Key, OpenFlow] = {}

    def write(self, batch: Batch) -> None:
        for used in batch.used:
            key = (used.account, used.day)
            self.used[key] = plus(self.used[key], used) if key in self.used else used
        for kept in batch.open:
            self.open[kept.counted.key] = kept
        for closed in batch.closed:
            self.open.pop(closed, None)


@given(batches, batches)
def test_merged_batches_write_what_they_would_have_written_one_by_one(
    batches: list[Batch], more: list[Batch]
) -> None:
    one_by_one, merged, waiting = Table(), Table(), Pending()
    # The keys change sides, so that flows are opened, closed and opened again.
    for batch in [*batches, *(turned(batch) for batch in more)]:
        one_by_one.write(batch)
        waiting.add(batch)
    merged.write(waiting.take())
    assert (merged.used, merged.open) == (one_by_one.used, one_by_one.open)
    assert not waiting


def turned(batch: Batch) -> Batch:
    opened = tuple(
        OpenFlow(CURL, entry(sport, 1)) for sport, key in enumerate(KEYS) if key in batch.closed
    )
    return Batch(batch.used, opened, tuple(kept.counted.key for kept in batch.open))


def test_rows_are_added_up_by_any_field_the_largest_first() -> None:
    rows = [
        Used(CURL, "2026-07-30", 1, 2, 1, 1, 1),
        Used(CURL, "2026-07-31", 10, 20, 1, 1, 1),
        Used(WGET, "2026-07-31", 500, 0, 4, 0, 2),
    ]
    assert summed(rows, "link") == {
        ("wifi",): Used(Account(link="wifi"), "", 500, 0, 4, 0, 2),
        ("lte",): Used(Account(link="lte"), "", 11, 22, 2, 2, 2),
    }
    assert list(summed(rows, "link")) == [("wifi",), ("lte",)]
    assert list(summed(rows, "day", "app")) == [
        ("2026-07-31", "/usr/bin/wget"),
        ("2026-07-31", "/usr/bin/curl"),
        ("2026-07-30", "/usr/bin/curl"),
    ]
    assert summed([], "app") == {}


# --- everything at once ---------------------------------------------------------------------


class Lives(RuleBasedStateMachine):
    """A kernel with entries that grow and end, a ledger, and a database; anything may get lost.

    `seen` is, per entry, the last counters that anybody told the ledger, `safe` those that were
    stored; what the database and the ledger's telling sum up to must be exactly these.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.book = Ledger(unknown, BERLIN, bound=1000)
        self.unsent = 0
        self.alive: dict[int, Counted] = {}
        self.heard: set[int] = set()
        self.seen: dict[int, Counted] = {}
        self.safe: dict[int, Counted] = {}
        self.events: list[Counted] = []
        self.dumped: list[Counted] | None = None
        self.left: list[Counted] = []
        self.steps: Iterator[tuple[Used, ...]] | None = None
        self.absent: Counter[int] = Counter()
        self.ids = 0

    # the kernel

    @rule(port=st.integers(1, 3))
    def begin(self, port: int) -> None:
        """A new entry; that of the same flow, if any, ends first, as in the kernel."""
        if self.dumped and any(
            e.flow == flow(port) and e.id not in self.alive for e in self.dumped
        ):
            return  # whose the one in the dump was cannot be told, if its end got lost
        for id in [id for id, old in self.alive.items() if old.flow == flow(port)]:
            self.end(id, heard=True)
        self.hear()  # an end that is told after the next verdict counts for that one's account
        self.add(port)
        self.book.opened(flow(port), Account(f"app{self.ids}"))

    @rule()
    def find(self) -> None:
        """An entry that an earlier run decided."""
        self.add(1000 + self.ids)

    def add(self, port: int) -> None:
        self.ids += 1
        self.alive[self.ids] = entry(port, 1, 0, id=self.ids)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), out=st.integers(0, 9), back=st.integers(0, 9), size=st.integers(40, 9000))
    def carry(self, data: st.DataObject, out: int, back: int, size: int) -> None:
        id = data.draw(st.sampled_from(sorted(self.alive)))
        old = self.alive[id]
        self.alive[id] = Counted(
            old.flow,
            id,
            old.mark,
            old.out_bytes + out * size,
            old.in_bytes + back * size,
            old.out_packets + out,
            old.in_packets + back,
        )

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), heard=st.booleans())
    def finish(self, data: st.DataObject, heard: bool) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.alive))), heard)

    def end(self, id: int, heard: bool) -> None:
        last = self.alive.pop(id)
        if heard:
            self.events.append(last)

    # what arbiter sees

    @precondition(lambda self: self.dumped is None)
    @rule(data=st.data())
    def dump(self, data: st.DataObject) -> None:
        """A dump is taken, and told later; it may miss an entry, but not twice in a row."""
        found = []
        for id, now in self.alive.items():
            if not self.absent[id] and data.draw(st.integers(0, 9)) == 9:
                self.absent[id] = 1
                continue
            self.absent[id] = 0
            found.append(now)
        self.dumped = found

    @precondition(lambda self: self.dumped is not None)
    @rule(steps=st.integers(1, 3))
    def tell_dump(self, steps: int) -> None:
        """Some of it, or all: anything else may happen in between, except to entries told."""
        assert self.dumped is not None
        if self.steps is None:
            self.steps = self.book.reading(list(self.dumped), NOON)
            self.left = list(self.dumped)
        for _ in range(steps):
            for now in self.left[: usage.STEP]:
                if now.id not in self.heard:
                    self.seen[now.id] = now
            self.left = self.left[usage.STEP :]
            some = next(self.steps, None)
            if some is None:
                self.steps = self.dumped = None
                return
            for used in some:
                self.check(used)

    @rule()
    def hear(self) -> None:
        for last in self.events:
            for used in self.book.ended(last, NOON):
                self.check(used)
            self.seen[last.id] = last
            self.heard.add(last.id)
        self.events = []

    # the database, and its loss

    @rule()
    def store(self) -> None:
        self.table.write(self.book.take())
        self.unsent = 0
        self.safe = dict(self.seen)

    @rule()
    def crash(self) -> None:
        """What was not stored is gone; events that nobody heard, too."""
        self.book = Ledger(unknown, BERLIN, bound=1000)
        self.book.restore(self.table.open.values())
        self.unsent = 0
        self.events, self.dumped, self.steps = [], None, None
        self.absent.clear()
        self.seen = dict(self.safe)

    def check(self, used: Used) -> None:
        assert min(used.out_bytes, used.in_bytes, used.out_packets, used.in_packets) >= 0
        self.unsent += used.out_bytes + used.in_bytes

    @invariant()
    def nothing_is_lost_or_counted_twice(self) -> None:
        stored = sum(used.out_bytes + used.in_bytes for used in self.table.used.values())
        assert stored == total(self.safe)
        assert stored + self.unsent == total(self.seen)

    @invariant()
    def nobody_pays_for_another(self) -> None:
        for used in self.table.used.values():
            if used.account.app:
                id = int(used.account.app.removeprefix("app"))
                assert used.out_bytes + used.in_bytes <= total({id: self.safe[id]})
                assert used.connections <= 1


def total(entries: dict[int, Counted]) -> int:
    return sum(
        on_wire(e.flow, e.out_bytes, e.out_packets)[0]
        + on_wire(e.flow, e.in_bytes, e.in_packets)[0]
        for e in entries.values()
    )


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "STEP", 2)


TestLives = Lives.TestCase
