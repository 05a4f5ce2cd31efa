"""Scenes of the lives of asks: how long, what each shows, while its rule is stored, how many.

Each scene is here because a change of the core that breaks its promise went unseen before.
"""

from __future__ import annotations

import pytest
from playbook import (
    ALICE,
    AS_ROOT,
    BOTH,
    ROOT,
    START,
    WGET,
    Playbook,
    deployed,
    only_ask,
    owner,
    process,
    said,
    verdict,
)

from arbiter.events import (
    Announce,
    FindOwner,
    Reason,
    Report,
    Retire,
    RulesChanged,
    SetVerdict,
    ShowAsk,
    Tick,
    WatchProcess,
    WithdrawAsk,
)
from arbiter.model import ACCEPTED, DENIED, DROPPED, Link, Now
from arbiter.settings import Fallback, WhenUnattended

# --- how long an ask lives ------------------------------------------------------------------


def test_each_new_packet_puts_off_the_end_of_its_ask() -> None:
    play = Playbook(deadline=10.0, ask_ttl=100.0)
    play.queue(1).wait(90)
    play.queue(2, sport=2).skip()
    play.wait(99)
    assert not play.all(WithdrawAsk)
    play.wait(1)
    assert [effect.ask for effect in play.all(WithdrawAsk)] == [1]


def test_an_ask_that_a_packet_waits_for_does_not_expire() -> None:
    play = Playbook(deadline=100.0, ask_ttl=10.0)
    play.queue(1).skip()
    play.send(Tick(Now(START.mono + 50, START.wall + 50))).end()
    assert only_ask(play).waiting == {1: None}
    assert play.pipeline.next_wake(play.now) == START.mono + 100


def test_an_ask_whose_rule_is_being_stored_does_not_expire() -> None:
    play = Playbook(deadline=10.0, ask_ttl=20.0)
    play.store = False
    play.queue(1).answer(1, "allow", lifetime="forever").wait(11).skip()
    play.send(Tick(Now(START.mono + 99, START.wall + 99))).end()
    play.stored()
    assert play.take(Announce).message.rule_id == 1


def test_an_ask_whose_rule_is_being_stored_wakes_nobody() -> None:
    """A tick would find nothing to do, and be due again at once, for as long as the disk takes."""
    play = Playbook(deadline=10.0, ask_ttl=20.0)
    play.store = False
    play.queue(1).answer(1, "allow", lifetime="forever").wait(11)
    assert only_ask(play).stale
    assert play.pipeline.next_wake(play.now) is None


def test_a_stale_ask_and_the_end_of_a_rule_wake_exactly_when_they_are_due() -> None:
    play = Playbook(deadline=10.0, ask_ttl=20.0)
    play.rules(f"allow app={WGET} for=15s")
    play.queue(1)
    assert play.pipeline.next_wake(play.now) == START.mono + 10
    play.wait(10)
    assert play.pipeline.next_wake(play.now) == START.mono + 15
    play.wait(5)
    assert play.pipeline.next_wake(play.now) == START.mono + 20


# --- what an ask shows ----------------------------------------------------------------------


def test_an_ask_that_is_joined_again_forgets_who_had_exited() -> None:
    play = Playbook()
    play.queue(1).exits(4242)
    assert only_ask(play).note == "curl has exited"
    play.queue(2, owner(process(pid=5000)), sport=2)
    assert only_ask(play).note == ""


def test_an_ask_that_is_joined_again_shows_who_waits_now_and_until_when() -> None:
    play = Playbook(deadline=10.0)
    play.queue(1, owner(process(pid=1))).wait(25)
    play.queue(2, owner(process(pid=2)), sport=2)
    ask = only_ask(play)
    assert (ask.example.packet.id, ask.example.owner) == (2, owner(process(pid=2)))
    assert ask.example.subject == process(pid=2)
    assert ask.deadline == START.wall + 35


def test_a_joining_packet_leaves_the_example_and_the_deadline_of_the_first() -> None:
    play = Playbook(deadline=10.0)
    play.queue(1).wait(5)
    play.queue(2, sport=2)
    assert (only_ask(play).example.packet.id, only_ask(play).deadline) == (1, START.wall + 10)


def test_after_a_deadline_the_ask_shows_the_deadline_of_who_still_waits() -> None:
    play = Playbook(deadline=10.0)
    play.queue(1).wait(5)
    play.queue(2, sport=2).wait(5).skip()
    assert only_ask(play).waiting == {2: None}
    assert only_ask(play).deadline == START.wall + 15


def test_another_deadline_is_told_even_where_the_count_alone_would_not_be() -> None:
    play = Playbook(deadline=10.0)
    play.queue(1).wait(5)
    for id in range(2, 10):
        play.queue(id, sport=id)
    play.skip().wait(5)  # 8 were told last, and 8 wait now
    assert [effect.ask for effect in play.all(ShowAsk)] == [1]


def test_when_the_shown_packet_is_decided_the_ask_shows_one_that_waits() -> None:
    play = Playbook()
    play.queue(1)
    play.queue(2, deployed(2), sport=2).skip()
    play.rules("allow parent=/usr/bin/bash") >> verdict(1, ACCEPTED) >> Report >> ShowAsk(1)
    play.end()
    assert only_ask(play).example.packet.id == 2


def test_when_the_shown_program_exits_the_ask_shows_one_that_waits() -> None:
    play = Playbook()
    play.queue(1, owner(process(pid=1)))
    play.queue(2, owner(process(pid=2)), sport=2).skip()
    play.exits(1) >> verdict(1, DROPPED) >> Report >> ShowAsk(1)
    assert only_ask(play).example.packet.id == 2
    assert only_ask(play).note == "", "the program that it shows runs"


def test_when_a_rule_decides_one_app_of_a_shared_socket_the_ask_is_about_the_other() -> None:
    play = Playbook()
    play.queue(1, BOTH).skip()
    assert only_ask(play).example.subject == process(pid=1)
    play.rules("allow app=/usr/bin/curl") >> ShowAsk(1)
    play.end()
    assert only_ask(play).example.subject == process(WGET, 2)


def test_a_change_of_links_tries_again_what_waits() -> None:
    play = Playbook()
    play.rules("allow app=/usr/bin/curl for=5s").queue(1, BOTH).wait(6).skip()
    play.links(Link("lte", 2, "wwan0")) >> ShowAsk(1)
    assert only_ask(play).example.subject == process(pid=1), "curl's rule is over"


# --- while a rule is being stored -----------------------------------------------------------


def test_a_change_of_rules_leaves_an_answered_ask_to_its_answer() -> None:
    play = Playbook()
    play.store = False
    play.queue(1).answer(1, "allow", lifetime="forever").skip()
    play.rules("allow app=/usr/bin/curl").end()
    play.stored() >> verdict(1, ACCEPTED) >> Report
    assert play.take(Announce).message.released == 1


def test_an_answered_handshake_goes_though_its_program_exits_meanwhile() -> None:
    """Whether it had exited before the answer is not known: the answer was first."""
    play = Playbook()
    play.store = False
    play.queue(1).answer(1, "allow", lifetime="forever").skip()
    play.exits(4242)
    assert not play.all(SetVerdict)
    play.stored() >> verdict(1, ACCEPTED) >> Report >> Announce


def test_a_deny_made_while_an_answer_is_stored_holds_at_the_deadline_too() -> None:
    """`_retry` leaves an ask that is being stored alone, so the deadline must ask the rules."""
    play = Playbook(deadline=10.0, fallback=Fallback.ALLOW)
    play.store = False
    play.queue(1).answer(1, "allow", scope="app", lifetime="forever").skip()
    play.rules("deny app=/usr/bin/curl host=198.51.100.10").wait(10)
    assert play.all(SetVerdict) == [verdict(1, DENIED)]


@pytest.mark.parametrize("how", ["decided", "exited"])
def test_when_the_first_packet_goes_the_ask_shows_the_deadline_of_the_next(how: str) -> None:
    play = Playbook(deadline=10.0)
    play.queue(1).wait(5)
    play.queue(2, deployed(2), sport=2)
    if how == "decided":
        play.rules("allow parent=/usr/bin/bash")
    else:
        play.exits(4242)
    assert only_ask(play).waiting == {2: None}
    assert only_ask(play).deadline == START.wall + 15


# --- processes ------------------------------------------------------------------------------


def test_a_shared_handshake_waits_on_while_one_of_its_processes_lives() -> None:
    play = Playbook()
    play.queue(1, BOTH).skip()
    play.exits(1).end()
    assert only_ask(play).note == ""
    play.exits(2) >> verdict(1, DROPPED) >> Report >> ShowAsk(1)


def test_a_loaded_rule_for_a_process_is_watched_and_ends_with_it() -> None:
    play = Playbook()
    entry = play.entry("allow app=/usr/bin/curl for=process", process=(4242, 42420))
    play.send(RulesChanged(play.now, (entry,), ())) >> WatchProcess(4242, 42420)
    play.end()
    play.exits(4242) >> Retire((entry.id,), "its program has exited")
    play.end()
    play.queue(1, owner(process(pid=4242))) >> FindOwner >> WatchProcess >> ShowAsk(1)


def test_with_nobody_who_may_answer_there_the_setting_decides() -> None:
    """The socket is alice's, but its process has root's rights: only admins may answer."""
    play = Playbook(when_unattended=WhenUnattended.FALLBACK)
    play.prompts(ALICE)
    play.queue(1, AS_ROOT)
    assert said(play)[1].reason is Reason.UNATTENDED
    play.prompts(ROOT)
    play.queue(2, AS_ROOT, sport=2)
    assert not play.all(SetVerdict)


def test_with_nobody_there_it_may_be_observed_and_the_question_stays() -> None:
    play = Playbook(when_unattended="observe", fallback="deny").prompts()
    play.queue(1)
    report = said(play)[1]
    assert (report.reason, report.verdict) == (Reason.UNATTENDED, ACCEPTED)
    assert len(play.pipeline.asks) == 1


# --- bounds ---------------------------------------------------------------------------------


def test_one_user_cannot_flood_the_person_with_questions_of_many_programs() -> None:
    play = Playbook(asks_per_user=2)
    for id in range(1, 4):
        play.queue(id, owner(process(f"/usr/bin/app{id}", id)))
    report = said(play)[3]
    assert report.reason is Reason.OVERFLOW
    assert report.note == "not asked: this user has 2 open asks already"
    play.queue(4, owner(process(uid=1001, pid=9), uid=1001))
    assert play.all(ShowAsk), "another user is asked"


def test_all_users_together_have_a_bound_of_asks() -> None:
    play = Playbook(asks_per_app=1, asks_per_user=1, asks_total=2)
    for id, uid in enumerate((1000, 1001, 0), start=1):
        play.queue(id, owner(process(uid=uid, pid=id), uid=uid))
    assert said(play)[3].note == "not asked: 2 asks are open already"


def test_nobodys_ask_gives_way_to_another_users() -> None:
    play = Playbook(asks_total=1, deadline=10.0)
    play.queue(1).wait(11).skip()
    play.queue(2, owner(process(uid=1001, pid=2), uid=1001))
    assert not play.all(WithdrawAsk)
    assert only_ask(play).id == 1


def test_an_ask_whose_rule_is_being_stored_does_not_give_way() -> None:
    play = Playbook(asks_per_app=1, deadline=10.0)
    play.store = False
    play.queue(1).answer(1, "allow", lifetime="forever").wait(11).skip()
    play.queue(2, dport=80)
    assert not play.all(WithdrawAsk)
    play.stored()
    assert [effect.message.ask for effect in play.all(Announce)] == [1]


def test_an_answered_ask_makes_room_for_the_next_of_its_user() -> None:
    play = Playbook(asks_per_app=1, asks_per_user=1, asks_total=1)
    for id in range(1, 5):
        play.queue(id, dport=id).answer(id, "allow")
    assert [report.reason for report in said(play).values()] == [Reason.ANSWER] * 4


def test_a_packet_that_went_makes_room_for_the_next_of_its_user() -> None:
    play = Playbook(packets_held=2)
    for id in range(1, 5):
        play.queue(id, dport=id).answer(id, "allow")
    assert [report.reason for report in said(play).values()] == [Reason.ANSWER] * 4
