"""Several questions in the terminal prompt: which is shown, who answers elsewhere, and time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_daemon import ask_to, example_ask
from terminalscene import NOW, WELCOME, Scene, answer

from arbiter.protocol import Ask, Choice, Decided, Refused, RefusedReason, Withdraw, WithdrawReason
from prompts.client import Lost
from prompts.machine import GONE_SECONDS

# --- several asks ---------------------------------------------------------------------------


def test_a_new_ask_waits_behind_and_the_shown_one_stays() -> None:
    scene = Scene(ask_to(1))
    before = scene.text.splitlines()
    scene.quickly(ask_to(2))
    after = scene.text.splitlines()
    assert after[1:12] == before[1:12]
    assert (before[0].count("1 of 1"), after[0].count("1 of 2")) == (1, 1)


def test_n_and_p_go_round_and_choices_made_for_an_ask_stay_with_it() -> None:
    scene = Scene(ask_to(1), ask_to(2), ask_to(3)) << "s" << "n" << "n" << "n"
    assert scene.machine.card is scene.machine.cards[1]
    assert scene.machine.cards[1].scope == 1
    scene << "p"
    assert "3 of 3 waiting" in scene.text
    assert "192.0.2.3" in scene.text


@pytest.mark.parametrize("key", ["x", "space"])
def test_decide_later_sends_nothing_and_u_brings_it_back(key: str) -> None:
    scene = Scene(ask_to(1), ask_to(2)) << key << key
    assert scene.sent == []
    assert "0 waiting, 2 put off (u shows them)" in scene.text
    scene << ask_to(1, waiting=5)
    assert scene.machine.card is None, "another packet does not bring it back"
    assert "1 of 2 waiting" in (scene << "u").text


def test_the_shown_ask_answered_elsewhere_says_so_before_going_on_and_keys_hit_nothing() -> None:
    scene = Scene(ask_to(1), ask_to(2)).decided(1, user="bob")
    assert "answered by bob from tui: allow" in scene.text
    assert scene.said[-1] == "· curl → 192.0.2.1:443 (https): answered by bob from tui: allow"
    scene << "a"
    assert scene.sent == []
    assert "192.0.2.2" in scene.text
    assert [answer.ask for answer in (scene << "a").sent] == [2]


def test_it_goes_on_by_itself_and_the_next_ask_is_guarded_from_then() -> None:
    scene = Scene(ask_to(1), ask_to(2)) << Withdraw(1, WithdrawReason.EXITED)
    assert scene.machine.wake(scene.now) == scene.now + GONE_SECONDS
    scene.wait(GONE_SECONDS).quickly("a")
    assert scene.sent == []
    assert len((scene << "a").sent) == 1


def test_another_ask_withdrawn_leaves_the_shown_one_alone() -> None:
    scene = Scene(ask_to(1), ask_to(2)) << Withdraw(2, WithdrawReason.RULE, "rule 4 decides it now")
    assert scene.said[-1].endswith("withdrawn: rule 4 decides it now")
    assert scene.machine.gone is None
    assert "1 of 1 waiting" in scene.text


def test_somebody_faster_wins_and_our_refusal_is_shown() -> None:
    scene = (Scene(example_ask()) << "d").decided(7, "allow", "bob")
    assert scene.said[-1].endswith("answered by bob from tui: allow")
    scene << Refused(RefusedReason.ANSWERED, "bob was faster", 7)
    assert scene.said[-1] == "! refused: bob was faster"


def test_a_lost_daemon_is_said_and_open_asks_come_again() -> None:
    scene = Scene(ask_to(1), ask_to(2)) << "a" << Lost("arbiter at /s ended the connection")
    assert scene.said[-2] == "! arbiter at /s ended the connection; trying again"
    assert scene.text == "not connected; trying again; q quits"
    scene << WELCOME << ask_to(1) << "d"
    assert scene.sent[-1] == answer(Choice.DENY, ask=ask_to(1))


# --- what waits comes before what does not --------------------------------------------------


def over(id: int) -> Ask:
    """An ask whose packets got the fallback."""
    return ask_to(id, stale=True, waiting=0)


def test_a_question_that_waits_takes_the_place_of_one_for_which_nothing_waits() -> None:
    scene = Scene(over(1), over(2))
    scene << ask_to(3) << "i"  # the stale one was being read: the key is not for the new one
    assert "ask " not in "\n".join(scene.said)
    scene << "a"
    assert scene.sent == [answer(Choice.ALLOW, ask=ask_to(3))]


def test_it_says_why_and_after_a_while_goes_on_by_itself() -> None:
    scene = Scene(over(1)) << ask_to(3)
    assert "stays open, but another packet waits now" in scene.text
    scene.quickly("a")
    assert not scene.sent, "that key was meant for what was there before"
    scene.quickly("a")
    assert not scene.sent, "nobody could have read it"
    scene = Scene(over(1)) << ask_to(3)
    scene.wait(GONE_SECONDS)
    assert "192.0.2.3, port 443" in scene.text and scene.machine.queue() == [1, 3]


def test_of_many_at_once_the_first_that_waits_is_shown() -> None:
    scene = Scene()
    for id in (1, 2, 3, 4):
        scene.quickly(over(id) if id < 3 else ask_to(id))  # as after a welcome
    assert scene.machine.current == 3 and scene.machine.gone is None
    scene << "x"
    assert scene.machine.current == 4
    scene << "x"
    assert scene.machine.current == 1, "then what does not wait"


def test_a_question_whose_program_tries_again_waits_again() -> None:
    scene = Scene(over(1), over(2)) << ask_to(2)
    scene.wait(GONE_SECONDS)
    assert scene.machine.current == 2


def test_when_the_shown_one_ends_the_next_that_waits_is_shown() -> None:
    scene = Scene(ask_to(1), over(2), ask_to(3)) << Withdraw(1, WithdrawReason.EXITED)
    scene.wait(GONE_SECONDS)
    assert scene.machine.current == 3
    scene = Scene(ask_to(1), over(2), over(3)) << Withdraw(1, WithdrawReason.EXITED)
    scene << ask_to(4)
    scene.wait(GONE_SECONDS)
    assert scene.machine.current == 4


def test_after_an_answer_the_next_that_waits_is_shown_at_once() -> None:
    scene = Scene(ask_to(1), over(2), ask_to(3)) << "a"
    scene << Decided(1, "allow", "alice", "terminal", 1)
    assert scene.machine.current == 3


def test_a_question_that_waits_is_not_left_for_another() -> None:
    scene = Scene(ask_to(1)) << ask_to(2)
    assert scene.machine.current == 1 and scene.machine.gone is None


def test_who_goes_to_a_stale_question_is_not_sent_back_by_more_packets_of_the_same() -> None:
    scene = Scene(over(1)) << ask_to(2)
    scene.wait(GONE_SECONDS) << "p" << ask_to(2, waiting=5)
    assert scene.machine.current == 1 and scene.machine.gone is None


def test_an_answer_on_its_way_keeps_its_question() -> None:
    scene = Scene(over(1)) << "a" << ask_to(2)
    assert scene.machine.current == 1 and scene.machine.gone is None
    scene << Decided(1, "allow", "alice", "terminal", 0)
    assert scene.machine.current == 2


def test_what_was_put_off_does_not_come_back_by_itself() -> None:
    scene = Scene(over(1), ask_to(2))
    scene.wait(GONE_SECONDS) << "x" << ask_to(2)
    assert scene.machine.current == 1 and scene.machine.gone is None


# --- time -----------------------------------------------------------------------------------


def test_nothing_wakes_up_while_nothing_is_asked_or_nothing_waits() -> None:
    assert Scene().machine.wake(NOW) is None
    assert Scene(example_ask(stale=True)).machine.wake(NOW) is None
    assert Scene(example_ask()).machine.wake(NOW + 60) is None


@given(st.floats(0, 29.99))
def test_the_countdown_wakes_at_most_about_once_a_second_and_never_late(after: float) -> None:
    scene = Scene(example_ask())
    wake = scene.machine.wake(NOW + after)
    assert wake is not None
    assert 0.04 < wake - (NOW + after) <= 1.001


def test_the_countdown_ticks_to_the_fallback() -> None:
    scene = Scene(example_ask())
    scene.now = NOW + 20
    assert "deny for 2 packets in 10 s" in scene.text
    scene.now = scene.machine.wake(scene.now) or 0
    assert "deny for 2 packets in 9 s" in scene.text
    scene.now = NOW + 30
    assert "deny by now; an answer serves the next try" in scene.text
