"""Answers: every wrong one is refused with its reason, and a right one means what was shown."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from playbook import ALICE, BOB, ROOT, START, example, owner, packet, process

from arbiter import protocol
from arbiter.answers import AnswerError, check_open, offered, read
from arbiter.asks import AskBook, OpenAsk, State
from arbiter.model import (
    DENY,
    Action,
    Ancestor,
    App,
    AppKind,
    Decision,
    Hook,
    Link,
    NoOwner,
    NoOwnerReason,
    Owner,
)
from arbiter.protocol import Choice, RefusedReason
from arbiter.rules import Query, conditions, parse, why_not

LINKS = {"wifi": Link("wifi", 1, "wlan0"), "lte": Link("lte", 2, "wwan0", up=False)}


def open_ask(who: Owner | NoOwner | None = None, /, **where: Any) -> OpenAsk:
    shown = example(packet(1, **where), who or owner())
    return OpenAsk(7, *shown, created=START.wall, expires=START.mono + 600, why="no rule")


def book() -> tuple[AskBook, OpenAsk]:
    """One open ask of alice's, with id 1."""
    asks = AskBook(9, 9, 9)
    shown = example(packet(1), owner())
    ask = asks.open(*shown, created=START.wall, expires=START.mono + 600, why="no rule")
    return asks, ask


def answer(decision: str = "allow", **fields: Any) -> protocol.Answer:
    return protocol.Answer(7, Choice(decision), **fields)


def refusal(ask: OpenAsk, message: protocol.Answer, peer: Any = ALICE) -> AnswerError:
    with pytest.raises(AnswerError) as caught:
        read(ask, message, peer, LINKS)
    text = str(caught.value)
    assert text.isprintable() and len(text) < 1000, "it is shown to people"
    return caught.value


# --- whether it may be answered -------------------------------------------------------------


def test_an_ask_that_never_was_is_gone_and_the_next_step_is_named() -> None:
    with pytest.raises(AnswerError, match=r"no ask 99; `arbiter pending`") as caught:
        check_open(book()[0], 99, ALICE)
    assert caught.value.reason is RefusedReason.GONE


def test_an_ask_that_was_answered_says_by_whom_and_how() -> None:
    asks, ask = book()
    ask.peer, ask.answer = ROOT, DENY
    asks.settle(ask, released=0)
    with pytest.raises(AnswerError, match=r"ask 1 is closed: root has answered.*deny") as caught:
        check_open(asks, 1, ALICE)
    assert caught.value.reason is RefusedReason.ANSWERED


def test_an_ask_that_was_withdrawn_is_gone_and_says_why() -> None:
    asks, ask = book()
    asks.withdraw(ask, protocol.WithdrawReason.EXITED, "curl has exited")
    with pytest.raises(AnswerError, match=r"ask 1 is closed:.*curl has exited") as caught:
        check_open(asks, 1, ALICE)
    assert caught.value.reason is RefusedReason.GONE


def test_another_users_ask_may_not_be_answered_and_whose_it_is_is_said() -> None:
    asks, ask = book()
    with pytest.raises(AnswerError, match=r"alice, and you are bob") as caught:
        check_open(asks, 1, BOB)
    assert caught.value.reason is RefusedReason.RIGHT
    assert check_open(asks, 1, ALICE) is ask
    assert check_open(asks, 1, ROOT) is ask


@pytest.mark.parametrize(
    "who",
    [
        NoOwner(NoOwnerReason.KERNEL),
        owner(process(uid=0), uid=1000),  # a set-uid program that alice started
        owner(process(uid=1000), process("/usr/bin/su", 5, uid=0)),
    ],
    ids=["nobody knows the user", "set-uid program", "shared with a process of root"],
)
def test_what_is_not_wholly_ones_own_only_admins_answer(who: Owner | NoOwner) -> None:
    asks = AskBook(9, 9, 9)
    shown = example(packet(1), who)
    ask = asks.open(*shown, created=START.wall, expires=START.mono + 600, why="no rule")
    with pytest.raises(AnswerError) as caught:
        check_open(asks, 1, ALICE)
    assert caught.value.reason is RefusedReason.RIGHT
    assert check_open(asks, 1, ROOT) is ask


def test_an_answer_whose_rule_is_being_stored_is_the_only_one() -> None:
    asks, ask = book()
    ask.state, ask.peer = State.STORING, ROOT
    with pytest.raises(AnswerError, match="root has answered ask 1") as caught:
        check_open(asks, 1, ALICE)
    assert caught.value.reason is RefusedReason.ANSWERED


def test_who_may_not_answer_does_not_learn_that_somebody_else_just_did() -> None:
    asks, ask = book()
    ask.state, ask.peer = State.STORING, ROOT
    with pytest.raises(AnswerError) as caught:
        check_open(asks, 1, BOB)
    assert caught.value.reason is RefusedReason.RIGHT


# --- what it decides ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"scope": "everything"}, r"'everything' is not offered by ask 7: choose connection, host"),
        ({"scope": "destination"}, "not offered"),  # for all users: for admins only
        ({"scope": ""}, "not offered"),
        ({"lifetime": "always"}, "'always'.*is no lifetime"),
        ({"lifetime": ""}, "is no lifetime"),
        ({"lifetime": "-5m"}, "is no lifetime"),
        ({"lifetime": "99999999999999h"}, "is too long"),
        ({"lifetime": "0s"}, "is no lifetime"),
        ({"lifetime": "\u0661\u0665m"}, "is no lifetime"),
        ({"via": ("wifi",)}, "allow takes no links; say route via=wifi"),
        ({"decision": "deny", "via": ("wifi",)}, "deny takes no links"),
        ({"decision": "route"}, "route needs a link: route via=NAME"),
        ({"decision": "route", "via": ("vpn",)}, r"no link 'vpn' \(known: lte, wifi\)"),
        ({"decision": "route", "via": ("wifi", "vpn")}, "no link 'vpn'"),
        ({"decision": "route", "via": ("",)}, "no link ''"),
        ({"decision": "route", "via": ("wifi", "wifi")}, "named once"),
        ({"decision": "route", "via": ("any", "wifi")}, '"any" comes last'),
    ],
)
def test_an_answer_that_cannot_be_carried_out_is_invalid_and_says_why(
    fields: dict[str, Any], says: str
) -> None:
    error = refusal(open_ask(), answer(**fields))
    assert error.reason is RefusedReason.INVALID
    assert re.search(says, str(error)), str(error)


HOSTILE = st.text(
    st.sampled_from("a\x00\x1b\n\r\u202e\u2066\ud800\udcff[]\U000e0001 =\"'\\"), max_size=4000
)


@given(HOSTILE, HOSTILE, st.lists(HOSTILE, max_size=4), st.sampled_from(Choice))
def test_whatever_an_answer_says_the_refusal_can_be_shown_and_sent(
    scope: str, lifetime: str, via: list[str], decision: Choice
) -> None:
    message = protocol.Answer(7, decision, scope, lifetime, tuple(via))
    error = refusal(open_ask(), message)
    assert error.reason is RefusedReason.INVALID
    sent = protocol.encode(protocol.Refused(error.reason, str(error), 7))
    assert len(sent) < protocol.MAX_MESSAGE


def test_the_links_of_a_route_are_taken_in_their_order_up_or_not() -> None:
    chosen = read(open_ask(), answer("route", via=("lte", "wifi", "any")), ALICE, LINKS)
    assert chosen.decision == Decision(Action.ROUTE, ("lte", "wifi", "any"))
    assert chosen.rule is None


def test_once_makes_no_rule_and_every_other_lifetime_makes_the_one_that_was_shown() -> None:
    ask = open_ask()
    assert read(ask, answer("deny"), ALICE, LINKS) == (DENY, None, None)
    shown = {id: conditions(rule) for id, rule in offered(ask, ALICE).items()}
    for scope, text in shown.items():
        for lifetime in ("15m", "session", "boot", "forever"):
            chosen = read(ask, answer("deny", scope=scope, lifetime=lifetime), ALICE, LINKS)
            end = "" if lifetime == "forever" else f" for={lifetime}"
            assert chosen.rule == parse(f"deny {text}{end}")
            assert chosen.process is None


def test_until_it_exits_names_the_process_that_was_shown() -> None:
    ask = open_ask(owner(process(pid=50), process("/usr/bin/wget", 60)))
    chosen = read(ask, answer(lifetime="process"), ALICE, LINKS)
    assert chosen.process == (50, 500)


def test_until_it_exits_is_refused_where_no_process_is_known() -> None:
    error = refusal(
        open_ask(NoOwner(NoOwnerReason.EXITED, 1000, "alice")), answer(lifetime="process")
    )
    assert error.reason is RefusedReason.INVALID and "process" in str(error)


@given(
    st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16),
    st.integers(0, 65535),
    st.sampled_from((1, 6, 17, 58, 132, 47, 255)),
    st.sampled_from((ALICE, ROOT)),
    st.sampled_from(Hook),
)
def test_every_rule_that_is_offered_matches_what_it_was_offered_for(
    daddr: bytes, port: int, proto: int, peer: Any, hook: Hook
) -> None:
    ask = open_ask(daddr=daddr, dport=port, proto=proto)
    held = msgspec.structs.replace(ask.example.packet, hook=hook)
    ask.example = ask.example._replace(packet=held)
    rules = offered(ask, peer)
    assert rules
    for rule in rules.values():
        query = Query(
            app="/usr/bin/curl",
            parents=("/usr/bin/bash",),
            uid=1000,
            user="alice",
            daddr=daddr,
            dport=port,
            proto=proto,
            hook=hook,
        )
        assert why_not(rule, query) is None
        assert parse(f"allow {conditions(rule)}") == rule
        if peer is ALICE:
            assert rule.user == "alice", "a user's rules are about that user only"


# --- names too long for a rule --------------------------------------------------------------

UNREADABLE = "/" + "\udcff" * 4095
"""The worst path the kernel gives: each byte an escape of seven characters."""


def monster() -> Owner:
    program = App(UNREADABLE, AppKind.PATH, "\ufffd")
    parent = Ancestor(9, App(f"script:{UNREADABLE}:{UNREADABLE}", AppKind.SCRIPT, "x"))
    one = msgspec.structs.replace(process(), app=program, exe=UNREADABLE, ancestors=(parent,))
    return owner(one)


def test_a_rule_too_long_to_read_is_not_offered_and_an_answer_for_once_still_counts() -> None:
    ask = open_ask(monster())
    assert offered(ask, ALICE) == {}
    assert list(offered(ask, ROOT)) == ["destination"]
    assert read(ask, answer("deny"), ALICE, LINKS) == (DENY, None, None)
    error = refusal(ask, answer(lifetime="forever"))
    assert error.reason is RefusedReason.INVALID and "once" in str(error)


def test_a_long_but_ordinary_path_is_offered_whole() -> None:
    path = "/" + "d" * 4000
    ask = open_ask(owner(process(path)))
    assert offered(ask, ALICE)["app"].app == path
