"""Connections that began while nobody decided: what becomes of each, and what the pipeline says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from playbook import NO_SOCKET, NOBODY, Playbook, older, owner, process

from arbiter.events import Cut, Event, OlderFound, Reason, Report
from arbiter.model import DENIED, DENY, Link, NoOwner, NoOwnerReason, Owner
from arbiter.older import Fate, Older, fate, gone

WIREGUARD = NoOwner(NoOwnerReason.KERNEL, 0, "root")


# --- what becomes of each -------------------------------------------------------------------

owners = st.one_of(
    st.builds(owner),
    st.builds(
        NoOwner,
        st.sampled_from(NoOwnerReason),
        st.sampled_from([None, 0, 1000]),
        established=st.booleans(),
        tunnels=st.sampled_from([(), (5,)]),
    ),
)
entries = st.builds(
    older,
    st.sampled_from([1, 6, 17, 47, 50, 132, 253]),
    denied=st.booleans(),
    over=st.booleans(),
    needed=st.booleans(),
)


@given(one=entries, who=owners, denied=st.booleans())
def test_what_becomes_of_any_entry(one: Older, who: Owner | NoOwner, denied: bool) -> None:
    what = fate(one, who, denied)
    if what is Fate.DENIED:
        assert denied and not one.denied and not one.over and not gone(one.packet, who)
    if what is Fate.FORGOTTEN:
        assert not one.needed
        assert gone(one.packet, who) or (one.denied and not denied)
    if not one.denied and not denied and not gone(one.packet, who):
        assert what is Fate.STAYS, "what no rule denies is never cut"
    if denied and not one.over and not gone(one.packet, who):
        assert one.denied or what is Fate.DENIED, "what a rule denies never goes on"
    if gone(one.packet, who) and not one.needed and not one.denied:
        assert what is Fate.FORGOTTEN, "nobody goes on by it"


def test_what_was_denied_is_not_opened_to_the_other_sides_next_datagram() -> None:
    assert fate(older(17, denied=True), NO_SOCKET, False) is Fate.STAYS
    assert fate(older(6, denied=True), NO_SOCKET, False) is Fate.FORGOTTEN
    assert fate(older(17, denied=True), owner(), False) is Fate.FORGOTTEN
    assert fate(older(17, denied=True), owner(), True) is Fate.STAYS


@given(one=entries, who=owners, denied=st.booleans())
def test_what_has_no_entry_is_ended_or_stays(
    one: Older, who: Owner | NoOwner, denied: bool
) -> None:
    what = fate(replace(one, untracked=True), who, denied)
    cut = denied and not gone(one.packet, who)
    assert what is (Fate.DENIED if cut else Fate.STAYS)


@pytest.mark.parametrize(
    ("proto", "who", "is_gone"),
    [
        (17, NO_SOCKET, True),
        (17, NoOwner(NoOwnerReason.NO_SOCKET), True),
        (17, NoOwner(NoOwnerReason.EXITED, 1000), True),
        (6, NoOwner(NoOwnerReason.EXITED, 1000, established=True), False),
        (17, WIREGUARD, False),
        (17, owner(), False),
        (47, NOBODY, False),
        (50, NOBODY, False),
        (253, NOBODY, True),
        (1, NOBODY, True),
        (253, NoOwner(NoOwnerReason.KERNEL, tunnels=(4,)), False),
        (17, NoOwner(NoOwnerReason.HIDDEN), False),
        (17, NoOwner(NoOwnerReason.UNSUPPORTED), False),
        (17, NoOwner(NoOwnerReason.AMBIGUOUS), False),
    ],
)
def test_what_has_no_socket_any_more(proto: int, who: Owner | NoOwner, is_gone: bool) -> None:
    assert gone(older(proto).packet, who) is is_gone


# --- the pipeline ---------------------------------------------------------------------------


def found(play: Playbook, who: Owner | NoOwner, *, denied: bool = False, proto: int = 6) -> Event:
    return OlderFound(play.now, older(proto).packet, who, denied)


@pytest.mark.parametrize("proto", [1, 6, 17, 253])
def test_what_a_rule_denies_is_cut_and_recorded(proto: int) -> None:
    play = Playbook("deny app=/usr/bin/curl")
    play.send(found(play, owner(established=proto == 6), proto=proto))
    report = play.take(Cut).report
    play.end()
    assert (report.decision, report.reason, report.verdict) == (DENY, Reason.RULE, DENIED)
    assert report.note == "begun while arbiter was away"
    assert report.rule is not None
    assert play.pipeline.counters == {"cut": 1}, "no packet, no verdict"


def test_what_is_refused_already_is_counted_once() -> None:
    play = Playbook("deny app=/usr/bin/curl")
    play.send(found(play, owner(), denied=True))
    assert isinstance(play.take(Cut).report, Report)
    assert not play.pipeline.counters


@pytest.mark.parametrize(
    "rules", [(), ("allow app=/usr/bin/curl",), ("route via=lte app=/usr/bin/curl",)]
)
@pytest.mark.parametrize("mode", ["ask", "enforce", "observe"])
@pytest.mark.parametrize("who", [owner(), NO_SOCKET, WIREGUARD], ids=["curl", "none", "kernel"])
def test_what_no_rule_denies_is_neither_asked_nor_cut_nor_recorded(
    rules: tuple[str, ...], mode: str, who: Owner | NoOwner
) -> None:
    play = Playbook(*rules, mode=mode, fallback="deny")
    play.links(Link("lte", 2, "wwan0", up=False))
    play.effects.clear()
    for proto in (1, 6, 17):
        play.send(found(play, who, proto=proto))
    play.end()
    assert not play.pipeline.counters
    assert play.pipeline.next_wake(play.now) is None


def test_a_shared_socket_is_cut_where_one_of_its_apps_may_not() -> None:
    play = Playbook("deny app=/usr/bin/nc")
    play.send(found(play, owner(process(), process("/usr/bin/nc", pid=5))))
    assert play.take(Cut)
