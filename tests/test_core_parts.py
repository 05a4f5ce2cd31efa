"""The parts of the core, each alone: what they keep, what they forget, and what they say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from playbook import ALICE, BOB, HERE, ROOT, START, app, example, owner, packet, process

from arbiter.answers import offered
from arbiter.asks import MAX_CLOSED, AskBook, OpenAsk, key_of
from arbiter.given import MAX_KEPT, GivenOnce
from arbiter.held import HeldPackets
from arbiter.judge import Judgement, answerer, judge, queries, subject
from arbiter.model import (
    ALLOW,
    DENY,
    Action,
    Ancestor,
    Decision,
    Hook,
    NoOwner,
    NoOwnerReason,
    Owner,
)
from arbiter.protocol import RefusedReason, WithdrawReason
from arbiter.rulebook import MAX_ENDED, RuleBook
from arbiter.rules import Entry, Index, Layer, LifetimeKind, parse

WGET = "/usr/bin/wget"
BOTH = owner(process(pid=1), process(WGET, 2))
DEPLOYED = replace(process(pid=3), ancestors=(Ancestor(300, app("/srv/deploy.sh")),))


def entry(id: int, line: str, process: tuple[int, int] | None = None) -> Entry:
    rule = parse(line)
    span = rule.lifetime.kind is LifetimeKind.SPAN
    expires = START.wall + rule.lifetime.seconds if span else None
    return Entry(id, rule, Layer.REMEMBERED, START.wall, "root", expires=expires, process=process)


# --- asks -----------------------------------------------------------------------------------


def opened(book: AskBook, dport: int = 443, who: Owner | NoOwner | None = None) -> OpenAsk:
    shown = example(packet(dport, dport=dport), who or owner())
    return book.open(*shown, created=START.wall, expires=START.mono, why="no rule")


def test_packets_of_other_holders_of_a_socket_are_another_question() -> None:
    held = packet(1)
    keys = {
        key_of(held, owner(process(pid=1))),
        key_of(held, BOTH),
        key_of(held, owner(process(WGET, 2))),
        key_of(held, NoOwner(NoOwnerReason.EXITED, uid=1000)),
    }
    assert len(keys) == 4


def test_packets_of_two_processes_of_one_app_are_one_question() -> None:
    assert key_of(packet(1), owner(process(pid=1))) == key_of(packet(2), owner(process(pid=2)))


def test_a_count_is_sent_while_it_is_small_and_then_at_each_doubling() -> None:
    book = AskBook(9, 9, 9)
    ask = opened(book)
    sent = []
    for count in range(1, 40):
        ask.waiting[count] = None
        if book.show(ask):
            sent.append(count)
    assert sent == [1, 2, 3, 4, 8, 16, 32]


def test_a_smaller_count_is_sent_only_while_it_is_small() -> None:
    book = AskBook(9, 9, 9)
    ask = opened(book)
    ask.waiting = dict.fromkeys(range(8))
    book.show(ask)
    sent = []
    while ask.waiting:
        ask.waiting.popitem()
        if book.show(ask):
            sent.append(len(ask.waiting))
    assert sent == [4, 3, 2, 1, 0]


def test_the_asks_that_ended_last_are_remembered_and_the_first_forgotten() -> None:
    book = AskBook(9, 9, 9)
    for _ in range(MAX_CLOSED + 1):
        book.withdraw(opened(book), WithdrawReason.EXPIRED, "nobody asks again")
    assert book.closed(1) is None
    for id in (2, MAX_CLOSED + 1):
        closed = book.closed(id)
        assert closed is not None
        assert closed.reason is RefusedReason.GONE


def test_each_bound_is_said_and_ends_with_the_asks_that_reached_it() -> None:
    book = AskBook(per_app=1, per_user=2, total=3)
    curl, other = opened(book), opened(book, 1, owner(process(WGET, 2)))
    key = key_of(packet(9, dport=9), owner())
    assert book.full(key) == "this program has 1 open asks already"
    third = key_of(packet(9, dport=9), owner(process("/usr/bin/nc", 3)))
    assert book.full(third) == "this user has 2 open asks already"
    opened(book, 2, owner(process(uid=1001, pid=4), uid=1001))
    bobs = key_of(packet(9), owner(process(WGET, 5, 1001), uid=1001))
    assert book.full(bobs) == "3 asks are open already"
    book.withdraw(other, WithdrawReason.EXPIRED, "")
    assert (book.full(third), book.full(bobs)) == ("", "")
    book.withdraw(curl, WithdrawReason.EXPIRED, "")
    assert book.full(key) == ""


def test_the_book_keeps_no_count_of_users_and_apps_without_asks() -> None:
    book = AskBook(9, 9, 9)
    for uid in range(1000, 1002):
        ask = opened(book, 443, owner(process(uid=uid), uid=uid))
        book.withdraw(ask, WithdrawReason.EXPIRED, "")
    assert not book._apps
    assert not book._users


# --- held packets ---------------------------------------------------------------------------


def test_what_was_let_go_leaves_nothing_behind() -> None:
    held = HeldPackets()
    for id in range(2000):
        held.wait(held.add(packet(id, sport=id), 0.0, 30.0), 1, id)
        held.pop(id)
    assert not held._flows
    assert not held._waiting
    assert len(held._heap) <= 65


def test_the_room_that_a_packet_took_is_free_again() -> None:
    held = HeldPackets()
    for id in (1, 2):
        held.wait(held.add(packet(id, sport=id), 0.0, 30.0), 1, 1000)
    held.pop(1)
    assert held.waiting_in_all == 1
    assert held.crowd(1000, 2)
    assert not held.crowd(1000, 4)
    held.pop(2)
    assert held.waiting_in_all == 0
    assert not held.crowd(1000, 2)


def test_a_packet_whose_owner_is_looked_up_takes_nobodys_room() -> None:
    held = HeldPackets()
    held.add(packet(1), 0.0, 30.0)
    held.pop(1)
    assert held.waiting_in_all == 0


def test_an_id_that_is_used_again_has_its_new_deadline_only() -> None:
    """The kernel counts packet ids from 1 again whenever the queue is bound."""
    held = HeldPackets()
    held.add(packet(1), 0.0, 10.0)
    held.pop(1)
    held.add(packet(1), 5.0, 20.0)
    assert held.next_deadline() == 20.0
    assert held.due(10.0) == []
    assert [one.packet.id for one in held.due(20.0)] == [1]


def test_an_id_that_is_used_again_with_the_same_deadline_is_due_once() -> None:
    held = HeldPackets()
    held.add(packet(1), 0.0, 10.0)
    held.pop(1)
    held.add(packet(1), 0.0, 10.0)
    assert len(held.due(10.0)) == 1


def test_the_first_deadline_is_known_however_many_packets_have_gone() -> None:
    """The heap is rebuilt on the way, from packets that came in no order of deadlines."""
    held = HeldPackets()
    for id in range(200):
        held.add(packet(id, sport=id), 0.0, 300.0 - id)
    for id in range(199, 49, -1):
        held.pop(id)
    assert held.next_deadline() == 251.0
    assert [one.packet.id for one in held.due(300.0)] == list(range(49, -1, -1))


@given(
    st.lists(st.tuples(st.integers(0, 200), st.floats(1, 100)), max_size=200),
    st.sets(st.integers(0, 200)),
    st.floats(0, 101),
)
def test_what_is_due_is_what_is_held_and_late(
    added: list[tuple[int, float]], gone: set[int], now: float
) -> None:
    held = HeldPackets()
    expected: dict[int, float] = {}
    for id, deadline in added:
        if id not in expected:
            held.add(packet(id, sport=id), 0.0, deadline)
            expected[id] = deadline
    for id in gone & set(expected):
        held.pop(id)
        del expected[id]
    assert held.next_deadline() == min(expected.values(), default=None)
    due = held.due(now)
    assert {one.packet.id for one in due} == {id for id, end in expected.items() if end <= now}
    assert [one.deadline for one in due] == sorted(one.deadline for one in due)


# --- answers for once -----------------------------------------------------------------------

FLOW = packet(1).flow
NEXT = packet(2, sport=40001).flow
KEY = key_of(packet(1), owner())
YES, NO = (ALLOW, ALICE), (DENY, ROOT)


def test_an_answer_serves_its_flow_for_five_seconds() -> None:
    given = GivenOnce()
    given.serve_flow(FLOW, KEY, YES, 100.0)
    assert given.take(NEXT, KEY, 101.0) is None
    assert given.take(FLOW, KEY._replace(uid=0), 101.0) is None
    assert given.take(FLOW, KEY, 104.9) == YES
    assert given.take(FLOW, KEY, 105.0) is None


def test_a_denied_flow_stays_denied_for_as_long_as_it_goes_on() -> None:
    given = GivenOnce()
    given.serve_flow(FLOW, KEY, NO, 100.0)
    for now in (104.0, 108.0, 112.0):
        assert given.take(FLOW, KEY, now) == NO
    assert given.take(FLOW, KEY, 117.0) is None


def test_an_allowed_flow_that_goes_on_is_not_served_for_ever() -> None:
    given = GivenOnce()
    given.serve_flow(FLOW, KEY, YES, 100.0)
    assert given.take(FLOW, KEY, 104.0) == YES
    assert given.take(FLOW, KEY, 106.0) is None


def test_a_late_answer_serves_one_flow_and_what_of_it_is_on_its_way() -> None:
    given = GivenOnce()
    given.serve_next(KEY, YES, until=200.0)
    assert given.take(FLOW, KEY, 150.0) == YES
    assert given.take(NEXT, KEY, 151.0) is None
    assert given.take(FLOW, KEY, 154.9) == YES


def test_a_late_answer_that_nobody_used_in_time_serves_nobody() -> None:
    given = GivenOnce()
    given.serve_next(KEY, YES, until=200.0)
    assert given.take(FLOW, KEY, 200.0) is None


def test_of_too_many_answers_the_oldest_are_forgotten() -> None:
    given = GivenOnce()
    keys = [KEY._replace(dport=port) for port in range(MAX_KEPT + 1)]
    for key in keys:
        given.serve_next(key, YES, until=200.0)
        given.serve_flow(FLOW, key, NO, 100.0)
    assert given.take(FLOW, keys[0], 101.0) is None
    assert given.take(NEXT, keys[0], 101.0) is None
    assert given.take(FLOW, keys[1], 101.0) == NO
    assert given.take(NEXT, keys[1], 101.0) == YES


def test_an_answer_that_is_given_again_is_not_among_the_oldest() -> None:
    given = GivenOnce()
    keys = [KEY._replace(dport=port) for port in range(MAX_KEPT)]
    for key in [*keys, keys[0], KEY._replace(dport=65535)]:
        given.serve_next(key, YES, until=200.0)
    assert given.take(FLOW, keys[0], 101.0) == YES
    assert given.take(FLOW, keys[1], 101.0) is None


# --- the rule book --------------------------------------------------------------------------


def test_a_rule_for_a_process_names_whom_to_watch() -> None:
    book = RuleBook()
    new = entry(1, "allow app=/usr/bin/curl for=process", (7, 70))
    assert book.change((new, entry(2, "allow proto=udp")), ()) == [(7, 70)]


def test_a_rule_that_was_taken_out_does_not_end_with_its_process() -> None:
    book = RuleBook()
    lines = [entry(id, "allow app=/usr/bin/curl for=process", (7, 70)) for id in (1, 2)]
    book.change(lines, ())
    book.change((), (1,))
    assert book.end_with((7, 70)) == (2,)
    assert book.end_with((7, 70)) == (), "a process ends once"


def test_a_question_names_the_rule_that_ended_last() -> None:
    book = RuleBook()
    book.change([entry(1, "allow app=/usr/bin/curl for=5s")], ())
    book.change([entry(2, "allow host=198.51.100.10 for=9s")], ())
    assert book.end_due(START.wall + 5) == (1,)
    assert (
        book.why_asked(packet(1), owner())
        == "rule 1 (allow app=/usr/bin/curl for=5s) ended: its time is over"
    )
    assert book.end_due(START.wall + 9) == (2,)
    assert book.why_asked(packet(1), owner()).startswith("rule 2 (")
    assert book.why_asked(packet(1, dport=80, daddr=HERE), owner()).startswith("rule 1 (")


def test_of_too_many_ended_rules_the_first_are_forgotten() -> None:
    book = RuleBook()
    for port in range(1, MAX_ENDED + 2):
        book.change([entry(port, f"allow port={port} for=process", (7, 70))], ())
        book.end_with((7, 70))
    assert book.why_asked(packet(1, dport=1), owner()) == "no rule decides it yet"
    for port in (2, MAX_ENDED + 1):
        why = book.why_asked(packet(1, dport=port), owner())
        assert why.startswith(f"rule {port} (")
        assert why.endswith("its program has exited")


def test_a_question_says_what_is_odd_about_a_process() -> None:
    odd = replace(process(WGET, 2), note="its executable was replaced or deleted")
    why = RuleBook().why_asked(packet(1), owner(process(pid=1), odd))
    assert why == "its executable was replaced or deleted"


def test_a_question_says_why_no_program_is_known() -> None:
    why = RuleBook().why_asked(packet(1), NoOwner(NoOwnerReason.EXITED))
    assert why == "no rule decides it, and its program is not known: exited"


# --- the judge ------------------------------------------------------------------------------


def test_a_shared_socket_goes_over_the_link_of_whichever_app_is_routed() -> None:
    rules = [entry(1, "allow app=/usr/bin/curl"), entry(2, f"route via=lte app={WGET}")]
    index = Index(rules)
    routed = Judgement(Decision(Action.ROUTE, ("lte",)), rules[1], True)
    swapped = owner(process(WGET, 2), process(pid=1))
    assert judge(index, packet(1), BOTH, START.wall) == routed
    assert judge(index, packet(1), swapped, START.wall) == routed


def test_of_two_routed_apps_the_first_names_the_link() -> None:
    index = Index(
        [entry(1, "route via=wifi app=/usr/bin/curl"), entry(2, f"route via=lte app={WGET}")]
    )
    judged = judge(index, packet(1), BOTH, START.wall)
    assert judged is not None
    assert judged.decision.via == ("wifi",)


@pytest.mark.parametrize("first", [process(pid=1), DEPLOYED])
def test_a_socket_shared_by_one_app_of_two_parents_needs_a_rule_for_each(first: object) -> None:
    both = owner(*sorted((process(pid=1), DEPLOYED), key=lambda one: one is not first))
    index = Index([entry(1, "allow parent=/srv/deploy.sh")])
    assert judge(index, packet(1), both, START.wall) is None
    assert subject(index, packet(1), both, START.wall) == process(pid=1)
    index.add(entry(2, "allow parent=/usr/bin/bash"))
    assert judge(index, packet(1), both, START.wall) is not None


def test_processes_of_one_app_and_parent_are_one_question_to_the_rules() -> None:
    (query,) = queries(packet(1), owner(process(pid=1), process(pid=2)))
    assert query.processes == ((1, 10), (2, 20))


@pytest.mark.parametrize("line", ["allow user=alice", "allow user=1000"])
def test_a_rule_of_a_user_holds_for_their_flows_without_a_known_program(line: str) -> None:
    index = Index([entry(1, line)])
    alices = NoOwner(NoOwnerReason.EXITED, uid=1000, user="alice")
    assert judge(index, packet(1), alices, START.wall) is not None
    assert judge(index, packet(1), NoOwner(NoOwnerReason.EXITED), START.wall) is None


@pytest.mark.parametrize(
    ("who", "uid"),
    [
        (owner(), 1000),
        (owner(process(uid=0), uid=0), 0),
        (owner(process(uid=0), uid=1000), None),
        (owner(process(uid=1000), process(WGET, 5, uid=0)), None),
        (owner(process(uid=1000), uid=0), None),
        (NoOwner(NoOwnerReason.EXITED, uid=1001), 1001),
        (NoOwner(NoOwnerReason.KERNEL), None),
    ],
)
def test_whose_flow_it_is_counts_every_process_and_the_socket(
    who: Owner | NoOwner, uid: int | None
) -> None:
    assert answerer(who) == uid
    user = "" if uid is None else who.user
    assert {(query.uid, query.user) for query in queries(packet(1), who)} == {(uid, user)}


# --- what is offered ------------------------------------------------------------------------


def offers(who: Owner | NoOwner, hook: Hook = Hook.OUT) -> list[str]:
    """The users and hooks in the rules that BOB's answer could make, as one text each."""
    held = replace(packet(1), hook=hook)
    ask = OpenAsk(1, *example(held, who), created=0.0, expires=0.0, why="")
    return [f"{rule.user} {rule.hook}" for rule in offered(ask, BOB).values()]


@pytest.mark.parametrize("name", ["", "1234"])
def test_a_user_without_a_usable_name_is_offered_rules_by_uid(name: str) -> None:
    """A name that is all digits would mean the user with that uid: somebody else."""
    who = replace(owner(process(uid=1001), uid=1001), user=name)
    assert set(offers(who)) == {"1001 None"}


def test_what_comes_in_is_offered_rules_for_what_comes_in() -> None:
    assert set(offers(owner(), Hook.IN)) == {"alice in"}
