"""The keyboard prompt beside its asks: snoozes with their clock, do not disturb, taking back."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_daemon import ask_to, example_ask

from arbiter.protocol import (
    Answer,
    Ask,
    Away,
    Choice,
    ClientMessage,
    Decided,
    Snooze,
    Snoozed,
    SnoozeView,
    Undo,
    Undone,
    Welcome,
)
from prompts import screen
from prompts.board import Board, Mode
from prompts.cards import Say, Send
from prompts.client import Event, Lost
from prompts.machine import HELP

NOW = 1700000000.0
WELCOME = Welcome(1, "0.1.0", "alice", False, "ask", "deny", 0)
OWN = SnoozeView(1000, "alice", "deny", NOW + 600, "alice")


class Scene:
    """Events and keys in; what was said, sent and shown out. A second between two steps."""

    def __init__(self, *asks: Ask, welcome: Welcome = WELCOME, height: int = 30) -> None:
        self.board, self.now, self.height = Board(), NOW, height
        self.said: list[str] = []
        self.sent: list[ClientMessage] = []
        self << welcome
        for ask in asks:
            self << ask

    def __lshift__(self, step: Event | str) -> Scene:
        self.text()
        self.now += 1.0
        return self.quickly(step)

    def quickly(self, step: Event | str) -> Scene:
        self.board.tick(self.now)
        board, now = self.board, self.now
        outs = board.key(step, now) if isinstance(step, str) else board.event(step, now)
        for out in outs:
            if isinstance(out, Say):
                self.said.append(out.text)
            elif isinstance(out, Send):
                self.sent.append(out.message)
        return self

    def text(self) -> str:
        """As the terminal draws it."""
        board = self.board
        page = screen.draw(
            board.machine,
            80,
            self.height,
            self.now,
            beside=board.status(self.now),
            covered=board.covered,
        )
        if not board.covered:
            board.machine.drawn(self.now, page.rule_cut)
        return "\n".join(screen.paint(line, False) for line in page.lines)


def allowed(id: int, rule_id: int | None, user: str = "alice") -> Decided:
    rule = f"allow app=/usr/bin/curl host=192.0.2.{id}" if rule_id else ""
    return Decided(id, "allow", user, "terminal", 1, rule, rule_id)


# --- taking back ----------------------------------------------------------------------------


def test_own_answers_that_made_a_rule_are_listed_newest_first_and_taken_back_by_digit() -> None:
    scene = Scene(*(ask_to(id) for id in (1, 2, 3, 4)))
    scene << allowed(1, 11) << allowed(2, None) << allowed(3, 13) << allowed(4, 14, "bob") << "U"
    assert scene.said[-2:] == [
        "  1 alice: allowed curl; rule 13: allow app=/usr/bin/curl host=192.0.2.3",
        "  2 alice: allowed curl; rule 11: allow app=/usr/bin/curl host=192.0.2.1",
    ]
    assert "take which of these back?" in scene.text()
    scene << "2"
    assert scene.sent == [Undo(11)]
    scene << Undone(11, ("deny app=/usr/bin/curl",))
    assert scene.said[-1].startswith("· taken back: rule 11 is gone; in force again: deny app=")
    scene << "h"
    assert scene.said[-4].startswith("  (taken back) alice: allowed curl; rule 11")
    assert scene.said[-2].startswith("  alice: allowed curl; rule 13")
    scene << "U" << "2"
    assert scene.sent == [Undo(11)], "there is no second one any more"


@pytest.mark.parametrize("key", ["3", "0", "enter", "esc", "a", "U", "paste", "\u0661", "\u00b2"])
def test_every_other_key_takes_nothing_back_and_answers_nothing(key: str) -> None:
    scene = Scene(ask_to(1), ask_to(2)) << allowed(1, 11) << "U" << key
    assert scene.sent == []
    assert scene.board.mode is Mode.ASKS
    assert "nothing was taken back" in scene.text()


def test_without_answers_there_is_nothing_to_take_back() -> None:
    scene = Scene(example_ask()) << "U"
    assert "there is no answer to take back" in scene.text()
    assert (scene << "a").sent != []
    assert "nothing was decided yet" in (Scene() << "h").text()


# --- snoozes --------------------------------------------------------------------------------


def test_a_snooze_is_begun_by_z_and_a_digit_and_shown_with_its_clock() -> None:
    scene = Scene() << "z"
    assert "1 deny 5 min" in scene.text()
    assert "for all users" not in scene.text()
    scene << "2"
    assert scene.sent == [Snooze(Choice.DENY, 900)]
    scene << Snoozed((OWN,))
    assert "what is new of alice is denied unasked, by alice; z ends it" in scene.said[-1]
    assert "denied unasked for 9 min; z ends it" in scene.text()
    scene.now = OWN.until - 5
    assert "denied unasked for 5 s; z ends it" in scene.text()
    assert scene.board.wake(scene.now) == scene.now + 1
    scene << Snoozed(())
    assert scene.said[-1] == "· the snooze has ended: questions are asked again"
    assert "unasked" not in scene.text()


def test_a_snooze_is_ended_by_z_and_0() -> None:
    scene = Scene(welcome=msgspec.structs.replace(WELCOME, snoozes=(OWN,))) << "z" << "0"
    assert scene.sent == [Snooze(Choice.DENY, 0)]


def test_only_an_admin_may_snooze_for_everybody() -> None:
    assert (Scene() << "z" << "7").sent == []
    admin = Scene(welcome=msgspec.structs.replace(WELCOME, admin=True)) << "z"
    assert "7 deny 15 min for all users" in admin.text()
    assert (admin << "7").sent == [Snooze(Choice.DENY, 900, True)]


@given(st.lists(st.sampled_from(["enter", "esc", "a", "d", "r", "y", "8", "9", "paste", "\r"])))
def test_no_other_key_begins_a_snooze_or_answers_in_its_place(keys: list[str]) -> None:
    scene = Scene(example_ask())
    for key in keys:
        scene << "z"
        scene.quickly(key)
        scene.quickly("a")
    assert scene.sent == [], "what is shown again is to be read first"


def test_the_question_stays_under_a_snooze_that_began_elsewhere() -> None:
    scene = Scene(example_ask()) << Snoozed((OWN,))
    assert "wants to connect to" in scene.text()
    assert (scene << "d").sent != []


# --- do not disturb -------------------------------------------------------------------------


def test_do_not_disturb_is_told_hides_the_question_and_takes_no_answer() -> None:
    scene = Scene(example_ask()) << "w"
    assert scene.sent == [Away(True)]
    assert scene.text() == "do not disturb; 1 waiting; w shows them, q quits"
    scene << "a" << "d" << ask_to(8)
    assert scene.sent == [Away(True)]
    assert "do not disturb; 2 waiting" in scene.text()
    scene << "w"
    assert scene.sent == [Away(True), Away(False)]
    scene.quickly("a")
    assert len(scene.sent) == 2, "the question is to be read first"
    assert isinstance((scene << "a").sent[-1], Answer)


def test_a_daemon_that_is_back_is_told_of_do_not_disturb_again() -> None:
    scene = Scene() << "w" << Lost("gone") << WELCOME
    assert scene.sent == [Away(True), Away(True)]
    assert scene.board.unsent(Away(True), "not connected") == []


# --- modes, help, screens -------------------------------------------------------------------


def test_learning_is_shown_as_long_as_it_is_on() -> None:
    scene = Scene(welcome=msgspec.structs.replace(WELCOME, mode="observe"))
    assert "arbiter is learning" in scene.text()
    assert any("arbiter is learning" in line for line in scene.said)
    assert "learning" not in Scene().text()


def test_help_has_these_keys_too() -> None:
    scene = Scene() << "?"
    text = "\n".join(scene.said)
    assert all(line in text for line in HELP)
    for key in ("U:", "z:", "w:", "h:"):
        assert key in text


def test_while_links_are_chosen_these_keys_do_nothing_of_theirs() -> None:
    scene = Scene(example_ask()) << "r"
    for key in "zwUh":
        scene << key
        assert (scene.sent, scene.board.mode, scene.board.away) == ([], Mode.ASKS, False)
        assert scene.board.machine.picking


@pytest.mark.parametrize("height", range(2, 30))
def test_on_a_low_screen_the_question_and_the_rule_stay(height: int) -> None:
    scene = Scene(example_ask(), height=height) << Snoozed((OWN,))
    lines = scene.text().splitlines()
    assert len(lines) <= max(height - 1, 1)
    if height >= 12:
        assert "wants to connect to" in scene.text()
        assert "rule " in scene.text()


def test_hostile_words_of_a_snooze_are_no_escapes() -> None:
    hostile = SnoozeView(None, "", "allow\x1b[2J", NOW + 60, "\u202eecila\x1b]0;x\x07")
    scene = Scene() << Snoozed((hostile,))
    assert "\x1b" not in scene.text() + "".join(scene.said)
    assert "\u202e" not in "".join(scene.said)


def test_every_key_is_documented() -> None:
    text = (Path(__file__).parent.parent / "docs" / "terminal.md").read_text()
    for key in "adrsSlLnpxuihUzwq?":
        assert f"`{key}`" in text, key
