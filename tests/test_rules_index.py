"""The index of rules finds what the definition finds, after any change, and quickly."""

from __future__ import annotations

import pytest
import rule_strategies as strategies
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from rulescene import NOW, entry, naive, query

from arbiter.rules import Entry, Index, Query
from arbiter.rules.index import MEMO


@settings(max_examples=examples(200), deadline=None)
@given(
    st.lists(strategies.small_entries(st.integers(1, 60)), max_size=30),
    st.lists(strategies.small_queries(), min_size=1, max_size=6),
    st.sampled_from([50.0, 150.0, 200.0, 250.0, 350.0]),
)
def test_the_index_finds_what_the_definition_finds(
    entries: list[Entry], queries: list[Query], now: float
) -> None:
    index = Index(entries)
    last = {each.id: each for each in entries}
    assert len(index) == len(last)
    for asked in queries:
        expected = naive(last.values(), asked, now)
        assert index.lookup(asked, now) == (expected[0] if expected else None)
        match = index.explain(asked, now)
        assert ([match.entry, *match.beaten] if match else []) == expected
        assert match is None or match.why.isprintable()
    for asked in queries:
        # Forwards and, as when a clock is set, backwards: what is remembered must not be old.
        for later in (now, 50.0, 350.0, 200.0, now):
            expected = naive(last.values(), asked, later)
            assert index.lookup(asked, later) == (expected[0] if expected else None)


class ChangedIndex(RuleBasedStateMachine):
    """An index that is changed in place, beside a plain dict of what it should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.index = Index()
        self.held: dict[int, Entry] = {}
        self.asked: tuple[Query, ...] = ()

    @rule(made=strategies.small_entries(st.integers(1, 12)))
    def add(self, made: Entry) -> None:
        self.look_again(200.0)
        self.index.add(made)
        self.held[made.id] = made
        self.look_again(200.0)

    @rule(id=st.integers(1, 13))
    def remove(self, id: int) -> None:
        self.look_again(50.0)
        self.index.remove(id)
        self.held.pop(id, None)
        self.look_again(50.0)

    @rule(asked=strategies.small_queries(), now=st.sampled_from([50.0, 200.0, 350.0]))
    def look(self, asked: Query, now: float) -> None:
        self.asked = (*self.asked[-4:], asked)
        self.looked(asked, now)

    def look_again(self, now: float) -> None:
        for asked in self.asked:
            self.looked(asked, now)

    def looked(self, asked: Query, now: float) -> None:
        expected = naive(self.held.values(), asked, now)
        assert self.index.lookup(asked, now) == (expected[0] if expected else None)
        match = self.index.explain(asked, now)
        assert ([match.entry, *match.beaten] if match else []) == expected

    @invariant()
    def holds_what_was_put_in(self) -> None:
        assert {each.id: each for each in self.index} == self.held
        times = sorted(each.expires for each in self.index if each.expires is not None)
        assert self.index.next_expiry() == (times[0] if times else None)
        assert [each.expires for each in self.index.expired(200.0)] == [
            t for t in times if t <= 200
        ]

    def teardown(self) -> None:
        for id in self.held:
            assert self.index.get(id) == self.held[id]
            assert id in self.index
            self.index.remove(id)
            assert id not in self.index
        assert len(self.index) == 0
        assert not self.index._shapes, "an empty shape would slow down every look-up"
        assert not any(family.shapes for family in self.index._slots.families.values())


TestChangedIndex = ChangedIndex.TestCase
TestChangedIndex.settings = settings(
    deadline=None, max_examples=examples(60), stateful_step_count=30
)


def test_a_change_is_in_the_next_answer() -> None:
    index = Index()
    for made in (entry(1, "allow"), entry(2, "deny app=/usr/bin/curl")):
        index.lookup(query(), NOW)
        index.add(made)
        assert index.lookup(query(), NOW) == made
    index.remove(2)
    assert index.lookup(query(), NOW) == entry(1, "allow")
    index.remove(1)
    assert index.lookup(query(), NOW) is None


def test_the_memo_answers_again_and_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index([entry(1, "allow app=/usr/bin/curl"), entry(2, "deny for=1h", created=NOW)])
    searched: list[Query] = []
    search = index._search

    def counted(asked: Query, now: float) -> Entry | None:
        searched.append(asked)
        return search(asked, now)

    monkeypatch.setattr(index, "_search", counted)
    for _ in range(3):
        index.lookup(query(), NOW)
        index.lookup(query(app=""), NOW)
    none = query(app="", processes=())
    assert searched == [query(processes=()), none, none, none]
    index.lookup(query(processes=((8, 80),)), NOW)
    assert len(searched) == 4, "another process of the same program asks the same"
    index.remove(2)
    index.lookup(query(), NOW)
    assert len(searched) == 5
    index.add(entry(3, "deny app=/usr/bin/curl for=process", process=(8, 80)))
    for process in ((7, 70), (8, 80)):
        index.lookup(query(processes=(process,)), NOW)
    assert searched[5:] == [query(), query(processes=((8, 80),))], "until a rule is one process's"
    index.remove(3)
    for port in range(3 * MEMO):
        index.lookup(query(port=port), NOW)
        assert len(index._memo) <= MEMO


def test_a_narrow_range_wins_over_a_wide_one_of_a_shape_that_is_asked_first() -> None:
    wide, narrow = entry(1, "allow port=1-1023 proto=tcp"), entry(2, "deny port=443-444")
    assert Index([wide, narrow]).lookup(query(), NOW) == narrow


def test_ranges_of_any_size_cost_one_shape() -> None:
    index = Index(entry(i, f"allow app=/bin/{i} port=1-{i}") for i in range(2, 200))
    assert len(index._shapes) == 1


class CountedKeys(str):
    """An app that counts how often a dict asks for its hash."""

    hashed = 0

    def __hash__(self) -> int:
        type(self).hashed += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other)


def test_a_lookup_asks_as_often_for_ten_thousand_rules_as_for_ten() -> None:
    asked_for = []
    for count in (10, 10_000):
        lines = (
            f"allow app=/bin/{i // 2}" + (" host=10.1.2.3 port=443 proto=tcp" if i % 2 else "")
            for i in range(count)
        )
        index = Index(entry(id, line) for id, line in enumerate(lines, 1))
        for app in ("/bin/3", "/bin/none"):
            CountedKeys.hashed = 0
            index.lookup(query(app=CountedKeys(app)), NOW)
            asked_for.append(CountedKeys.hashed)
    # The memo asks twice; a shape once, and the second is not asked where the first has it.
    assert asked_for == [3, 4, 3, 4]
