"""Packed entries come back as they were, and what finds them loses and mixes up nothing."""

from __future__ import annotations

import tracemalloc
from array import array
from collections.abc import Hashable

import pytest
import rule_strategies as strategies
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec import structs
from test_rules_index import ChangedIndex

from arbiter.model import ALLOW, Action, Decision, Hook, TrafficClass
from arbiter.rules import (
    Entry,
    Index,
    Layer,
    Lifetime,
    LifetimeKind,
    Name,
    Query,
    Rule,
    packed,
    parse,
)
from arbiter.rules.cells import Cells
from arbiter.rules.packed import Packed
from arbiter.rules.shapes import Shape

SPAN = Lifetime(LifetimeKind.SPAN, 60)
EVERYTHING = Entry(
    id=-7,
    rule=Rule(
        Decision(Action.ROUTE, ("lte", "any"), TrafficClass.BULK),
        app="/usr/bin/\udcff curl",
        parent="/bin/sh",
        user="@wheel",
        host=Name("host.example"),
        ports=((1, 2), (80, 65535)),
        proto=17,
        hook=Hook.OUT,
        profile="home",
        network="ssid:Home",
        sim="89430123456789012345",
        roaming=False,
        metered=True,
        times=((0, 5),),
        lifetime=SPAN,
    ),
    layer=Layer.SHIPPED,
    created=1e9 + 0.5,
    by="file:/etc/x.toml:3",
    frontend="tui",
    expires=2e9,
    boot="b",
    session="s",
)


def test_every_field_comes_back() -> None:
    unset = [
        field.name
        for made in (EVERYTHING, EVERYTHING.rule)
        for field in structs.fields(made)
        if getattr(made, field.name) == field.default and field.name != "process"
    ]
    assert not unset, "a field of which this test would say nothing"
    kept = Packed()
    kept.add(EVERYTHING, 5)
    assert kept.get(-7) == EVERYTHING
    of_process = structs.replace(
        EVERYTHING,
        id=8,
        rule=EVERYTHING.rule.replace(lifetime=Lifetime(LifetimeKind.PROCESS)),
        expires=None,
        process=(4_000_000, 1 << 60),
    )
    kept.add(of_process, -6)
    assert kept.get(8) == of_process
    assert kept.under(5) == EVERYTHING


@given(strategies.rules(), st.integers(-(1 << 63), (1 << 63) - 1), st.floats(allow_nan=False))
def test_any_rule_comes_back(made: Rule, id: int, created: float) -> None:
    if made.lifetime.kind is LifetimeKind.ONCE:
        made = made.replace(lifetime=Lifetime(LifetimeKind.FOREVER))
    kind = made.lifetime.kind
    whole = Entry(
        id,
        made,
        Layer.ADMIN,
        created,
        made.app,
        expires=created if kind is LifetimeKind.SPAN else None,
        process=(1, 2) if kind is LifetimeKind.PROCESS else None,
    )
    kept = Packed()
    kept.add(whole, id ^ 1)
    back = kept.get(id)
    assert back == whole
    assert back is not None and hash(back.rule) == hash(made)


class Kept(RuleBasedStateMachine):
    """Packed entries beside a dict; ids and hashes that collide in the lowest bits."""

    numbers = st.sampled_from([*range(-3, 20), *(n << 40 for n in range(1, 8)), 1 << 62])

    def __init__(self) -> None:
        super().__init__()
        self.packed = Packed()
        self.held: dict[int, Entry] = {}

    @rule(id=numbers, user=st.sampled_from(["", "alice", "bob"]), app=st.text(max_size=9))
    def add(self, id: int, user: str, app: str) -> None:
        if id not in self.held:
            made = Entry(id, Rule(ALLOW, app=app, user=user), Layer.ADMIN, 1.0, "alice")
            self.packed.add(made, ~id)
            self.held[id] = made

    @rule(id=numbers)
    def remove(self, id: int) -> None:
        if self.held.pop(id, None) is not None:
            self.packed.remove(id)

    @invariant()
    def same(self) -> None:
        assert sorted(self.packed.ids()) == sorted(self.held)
        assert len(self.packed) == len(self.held)
        for id in (-3, 0, 5, 19, 1 << 40, 7 << 40, 1 << 62):
            assert self.packed.get(id) == self.packed.under(~id) == self.held.get(id)
            assert self.packed.has(id) == (id in self.held)

    def teardown(self) -> None:
        for id, made in list(self.held.items()):
            assert self.packed.get(id) == made
            self.packed.remove(id)
        assert not self.packed._frames._frames and not self.packed._frames._numbers


TestKept = Kept.TestCase
TestKept.settings = settings(deadline=None, max_examples=examples(60), stateful_step_count=40)


def _few_hashes(shape: Shape, key: Hashable) -> int:
    return hash((shape.number, key)) % 3


class CollidingIndex(ChangedIndex):
    """Hashes of which there are three: everything must be right all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(Shape, "hash", _few_hashes)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.patch.undo()


TestCollidingIndex = CollidingIndex.TestCase
TestCollidingIndex.settings = settings(
    deadline=None, max_examples=examples(40), stateful_step_count=30
)


@given(st.lists(st.integers(0, 40), max_size=60))
def test_cells_find_what_is_there_and_nothing_else(steps: list[int]) -> None:
    keys = array("q", [n << 4 if n % 3 else ~n for n in range(41)])
    cells, there = Cells(keys), set[int]()
    for place in steps:  # each step takes out what is in, and puts in what is not
        if place in there:
            cells.remove(keys[place])
        else:
            cells.add(place)
        there ^= {place}
        for n, key in enumerate(keys):
            assert cells.find(key) == (n if n in there else -1)


def test_what_is_gone_takes_no_room_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_WASTE", 100)
    kept = Packed()
    for round in range(50):
        for id in range(20):
            kept.add(Entry(id, parse(f"allow port={id}"), Layer.ADMIN, 1.0, "alice"), id + 1000)
        for id in range(20 if round < 49 else 17):
            kept.remove(id)
    assert len(kept._ids) == 20, "places are used again"
    assert len(kept._data) < 1000
    assert [entry.rule.ports for id in (17, 18, 19) if (entry := kept.get(id))] == [
        ((17, 17),),
        ((18, 18),),
        ((19, 19),),
    ]


def test_what_was_asked_for_is_forgotten_with_its_rule() -> None:
    """Of a shape that stays: the other rule has it, too."""
    index = Index()
    for id, app in enumerate(("/bin/a", "/bin/b"), 1):
        index.add(Entry(id, parse(f"allow app={app}"), Layer.ADMIN, 1.0, "alice"))
    asked = Query("/bin/a", (), None, "", bytes(4), 1, 6)
    assert (found := index.lookup(asked, 1.0)) is not None and found.id == 1
    index.remove(1)
    assert index.lookup(asked, 1.0) is None
    index.add(Entry(3, parse("deny app=/bin/a"), Layer.ADMIN, 1.0, "alice"))
    assert (found := index.lookup(asked, 1.0)) is not None and found.id == 3


def test_a_rule_of_very_many_takes_little_memory() -> None:
    lines = (
        f"allow app=/usr/lib/program{n}/bin/program{n} host=host{n}.example.org port=443 proto=tcp"
        for n in range(5000)
    )
    entries = [
        Entry(id, parse(line), Layer.REMEMBERED, 1e9 + id, "alice", "cli")
        for id, line in enumerate(lines)
    ]
    index = Index()
    tracemalloc.start()
    try:
        for made in entries:
            index.add(made)
        taken = tracemalloc.get_traced_memory()[0] / len(entries)
    finally:
        tracemalloc.stop()
    assert taken < 200, f"{taken:.0f} bytes a rule"
