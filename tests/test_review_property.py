"""The promise of test_pipeline_property, with links that go, cost, and are asked about."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from examples import examples
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from playbook import ALICE, ROOT, Playbook
from test_pipeline_property import DEADLINE, Promise

from arbiter.events import Notify, Report, RunVia, SetVerdict
from arbiter.model import DENIED, DROPPED, MARK_LINK, MARK_LINK_SHIFT, Action, Link, OverBudget
from arbiter.model import Spent as Budget
from arbiter.settings import Fallback, LinkDown, WhenAbsent

LINES = (
    "route via=lte app=/usr/bin/curl",
    "route via=lte,wifi proto=udp for=5s",
    "route via=metered host=internet",
    "route via=unmetered,any user=alice",
    "allow app=/usr/bin/wget metered=no",
    "deny app=/usr/bin/curl roaming=yes",
)


class LinkPromise(Promise):
    """Whatever links, budgets and runs do. `link_down` differs by subclass."""

    down = LinkDown.WAIT

    def __init__(self) -> None:
        super().__init__()
        self.play = Playbook(
            *LINES[:2],
            deadline=DEADLINE,
            ask_ttl=60.0,
            asks_per_app=2,
            asks_per_user=4,
            asks_total=6,
            packets_per_flow=3,
            packets_held=8,
            link_down=self.down,
            fallback=Fallback.ALLOW,
            when_absent=WhenAbsent.PASS,
        )
        self.play.store = False

    def collect(self) -> None:
        given = {e.packet_id: e.verdict for e in self.play.effects if isinstance(e, SetVerdict)}
        links = {link.number: link for link in self.play.pipeline.links.values()}
        for effect in self.play.effects:
            if isinstance(effect, Notify):
                assert effect.uid is None or re.search(
                    r"^(a connection|[^ ]+) (waits|was refused): ", effect.text
                )
            if not isinstance(effect, Report):
                continue
            verdict = given[effect.packet.id]
            assert verdict == effect.verdict
            via = effect.decision.via
            strict = effect.decision.action is Action.ROUTE and "any" not in via
            if strict and verdict not in (DENIED, DROPPED):
                link = links[(verdict.mark & MARK_LINK) >> MARK_LINK_SHIFT]
                classes = {True: "metered", False: "unmetered", None: ""}
                assert {link.name, classes[link.metered]} & set(via)
        super().collect()

    # Only in the class above: here settings stay as they are.
    other_settings = None  # type: ignore[assignment]

    @rule(line=st.sampled_from(LINES), removed=st.lists(st.integers(1, 12), max_size=2))
    def rules_of_links_change(self, line: str, removed: list[int]) -> None:
        self.play.rules(line, removed=tuple(removed))

    @rule(
        up=st.booleans(),
        there=st.booleans(),
        metered=st.sampled_from([True, False, None]),
        then=st.sampled_from([None, *OverBudget]),
        ago=st.sampled_from([-5.0, 0.0, 5.0]),
        index=st.sampled_from([0, 2]),
    )
    def links_cost(
        self, up: bool, there: bool, metered: bool | None, then: Any, ago: float, index: int
    ) -> None:
        spent = then and Budget(self.play.now.wall - ago, then, "all used")
        lte = Link("lte", 2, "wwan0", up, index=3, metered=metered, spent=spent)
        wifi = Link("wifi", 1, "wlan0", index=index, metered=False, roaming=not up)
        self.play.links(wifi, *([lte] if there else []))

    @rule(
        pid=st.sampled_from([100, 1, 4300]),
        via=st.sampled_from(["lte", "wifi", "x"]),
        peer=st.sampled_from([ALICE, ROOT]),
    )
    def somebody_runs_via(self, pid: int, via: str, peer: Any) -> None:
        self.play.send(RunVia(self.play.now, 1, peer, (pid, pid * 10), via))

    @precondition(lambda self: self.play.pipeline._for_link)
    @rule()
    def the_rule_that_waits_is_gone(self) -> None:
        self.play.rules(removed=tuple(range(1, 30)))

    @invariant()
    def each_held_packet_waits_for_one_open_ask_or_its_owner(self) -> None:
        pipeline = self.play.pipeline
        waiting = Counter(id for ask in pipeline.asks for id in ask.waiting)
        waiting.update(list(pipeline._for_link))
        assert all(count == 1 for count in waiting.values())
        owned = {held.packet.id for held in pipeline.held if held.owner is not None}
        assert owned == set(waiting)
        assert +pipeline._told == Counter(pipeline._for_link.values())


class AskPromise(LinkPromise):
    down = LinkDown.ASK


LinkPromise.TestCase.settings = settings(
    max_examples=examples(60), stateful_step_count=40, deadline=None
)
AskPromise.TestCase.settings = LinkPromise.TestCase.settings
TestLinkPromise = LinkPromise.TestCase
TestAskPromise = AskPromise.TestCase
