"""The terminal prompt without a terminal: scenes for the machine, golden screens, keys.

Long because it is one playbook language and all of its scenes; test_terminal_pty.py has the rest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_daemon import ask_to, example_ask

from arbiter.protocol import (
    Answer,
    AppView,
    Ask,
    Choice,
    Decided,
    Refused,
    RefusedReason,
    Scope,
    Welcome,
    Withdraw,
    WithdrawReason,
)
from prompts import machine as machine_module
from prompts import screen
from prompts.cards import Quit, Say, Send, Style
from prompts.client import Event, Lost
from prompts.keys import KeyDecoder
from prompts.machine import GONE_SECONDS, GUARD_SECONDS, HELD_SECONDS, Machine
from prompts.terminal import is_utf8

ROOT = Path(__file__).parent.parent
SCREENS = ROOT / "fixtures" / "screens"
NOW = 1700000000.0
WELCOME = Welcome(1, "0.1.0", "alice", False, "ask", "deny", 0)


def answer(
    decision: Choice,
    scope: str = "connection",
    lifetime: str = "forever",
    via: tuple[str, ...] = (),
    ask: Ask | None = None,
) -> Answer:
    """What the prompt sends for an ask, with the conditions it showed."""
    asked = ask or example_ask()
    shown = next(offer.conditions for offer in asked.scopes if offer.id == scope)
    return Answer(asked.id, decision, scope, lifetime, via, shown)


class Scene:
    """A playbook: events and keys in, what was said and sent out; the clock moves by itself.

    Between two steps the screen is drawn and a second passes, as for an unhurried person;
    `quickly` leaves both out.
    """

    def __init__(self, *asks: Ask, width: int = 80, height: int = 24) -> None:
        self.machine, self.now = Machine(), NOW
        self.width, self.height = width, height
        self.said: list[str] = []
        self.sent: list[Answer] = []
        self.quit = False
        self << WELCOME
        for ask in asks:
            self << ask

    def __lshift__(self, step: Event | str) -> Scene:
        self.draw()
        self.now += 1.0
        return self.quickly(step)

    def quickly(self, step: Event | str) -> Scene:
        self.machine.tick(self.now)
        machine, now = self.machine, self.now
        outs = machine.key(step, now) if isinstance(step, str) else machine.event(step, now)
        for out in outs:
            if isinstance(out, Say):
                self.said.append(out.text)
            elif isinstance(out, Send):
                assert isinstance(out.message, Answer)
                self.sent.append(out.message)
            else:
                assert isinstance(out, Quit)
                self.quit = True
        return self

    def wait(self, seconds: float) -> Scene:
        self.draw()
        self.now += seconds
        self.machine.tick(self.now)
        return self

    def draw(self, ascii_only: bool = False) -> list[str]:
        page = screen.draw(self.machine, self.width, self.height, self.now, ascii_only)
        self.machine.drawn(self.now, page.rule_cut)
        return [screen.paint(line, False) for line in page.lines]

    @property
    def text(self) -> str:
        return "\n".join(self.draw())

    def decided(
        self, id: int, decision: str = "allow", user: str = "alice", rule: str = ""
    ) -> Scene:
        return self << Decided(id, decision, user, "tui", 1, rule, 12 if rule else None)


# --- answering ------------------------------------------------------------------------------


def test_a_allows_with_the_narrowest_scope_and_says_what_is_remembered() -> None:
    scene = Scene(example_ask()) << "a"
    assert scene.sent == [answer(Choice.ALLOW)]
    scene.decided(7, rule=f"allow {example_ask().scopes[0].conditions}")
    assert scene.said[-1] == f"✓ allowed curl; rule 12: allow {example_ask().scopes[0].conditions}"
    assert scene.text == "listening as alice; 0 waiting; ? for help"


def test_the_answer_is_the_rule_that_was_shown() -> None:
    scene = Scene(example_ask()) << "s" << "L" << "L"
    shown = re.search(r"^rule +(.*)", scene.text, flags=re.M)
    assert shown is not None
    assert shown[1] == "allow app=/usr/bin/curl host=192.0.2.7 for=session"
    scene << "d"
    assert scene.sent == [answer(Choice.DENY, "host", "session")]


def test_an_answer_on_its_way_to_a_lost_daemon_is_not_lost_silently() -> None:
    scene = Scene(example_ask(7), ask_to(8)) << "a" << Lost("arbiter ended the connection")
    assert scene.said[-2:] == [
        "! arbiter ended the connection; trying again",
        "! your answer on curl → 192.0.2.7:443 (https) may not have arrived: "
        "it is asked again if not",
    ]


def test_an_ask_is_chosen_by_its_id_even_if_it_was_put_off() -> None:
    scene = Scene(example_ask(7), ask_to(8), ask_to(9)) << "x"
    assert scene.machine.current == 8
    scene.machine.choose(7)
    assert scene.machine.current == 7
    assert scene.machine.put_off == 0
    scene.machine.choose(99)
    assert scene.machine.current == 7
    scene.quickly("a")
    assert scene.sent == [], "it was not drawn yet"


def test_no_key_answers_what_is_hidden() -> None:
    scene = Scene(example_ask())
    scene.draw()
    scene.now += 1
    scene.machine.hidden()
    scene.quickly("a")
    assert scene.sent == []
    scene << "a"
    assert len(scene.sent) == 1


def test_a_rule_that_differs_from_what_was_shown_is_pointed_out() -> None:
    scene = Scene(example_ask()) << "a"
    scene.decided(7, rule="allow app=/usr/bin/curl")
    assert scene.said[-1] == "  remembered as: allow app=/usr/bin/curl"


def test_scope_goes_wider_round_and_stops_at_the_narrowest() -> None:
    scene = Scene(example_ask())
    card = scene.machine.card
    assert card is not None
    for key, scope in [("S", 0), ("s", 1), ("right", 2), ("left", 1), ("s", 2), ("s", 3), ("s", 4),
                       ("s", 0)]:  # fmt: skip
        scene << key
        assert card.scope == scope


def test_every_lifetime_can_be_chosen_and_shows_in_the_rule() -> None:
    scene, seen = Scene(example_ask()), []
    for _ in range(7):
        scene << "l"
        assert scene.machine.card
        seen.append(scene.machine.card.lifetime)
        rule = "none: nothing is remembered" if seen[-1] == "once" else f"for={seen[-1]}"
        assert seen[-1] == "forever" or rule in scene.text
    assert seen == ["once", "process", "15m", "1h", "session", "boot", "forever"]


def test_the_last_lifetime_answered_with_is_the_next_default_even_of_asks_that_waited() -> None:
    scene = Scene(ask_to(1), ask_to(2)) << "l" << "l" << "l" << "a"
    scene.decided(1)
    assert scene.machine.card
    assert (scene.machine.card.ask.id, scene.machine.card.lifetime) == (2, "15m")
    assert scene.machine.card.scope == 0


@pytest.mark.parametrize("key", ["enter", "A", "D", "y", "esc", "unknown", "up", "1", "\ufffd"])
def test_no_other_key_answers(key: str) -> None:
    assert (Scene(example_ask()) << key).sent == []


def test_return_says_which_keys_answer() -> None:
    assert (
        "Return decides nothing: a allows, d denies, r routes"
        in (Scene(example_ask()) << "enter").text
    )


@given(st.lists(st.sampled_from([*"sSlLnpiuxrt?0129\r", "enter", "paste", "esc", "left"])))
def test_nothing_but_a_d_and_r_ever_sends_an_answer(keys: list[str]) -> None:
    scene = Scene(ask_to(1, links=()), ask_to(2, links=()))
    for key in keys:
        scene << key
    assert scene.sent == []


def test_an_answer_is_sent_once_until_the_daemon_replied() -> None:
    scene = Scene(example_ask()) << "a" << "a" << "d"
    assert len(scene.sent) == 1
    scene << Refused(RefusedReason.INVALID, "that scope\x1b is not offered", 7) << "d"
    assert "! curl → 192.0.2.7:443 (https): refused: that scope\ufffd is not offered" in scene.said
    assert len(scene.sent) == 2


def test_an_answer_to_an_ask_that_is_gone_removes_it() -> None:
    scene = Scene(example_ask()) << "a" << Refused(RefusedReason.GONE, "no such ask", 7)
    assert scene.machine.card is None


def test_an_answer_that_could_not_be_sent_may_be_given_again() -> None:
    scene = Scene(example_ask()) << "a"
    scene.machine.unsent(scene.sent[0], "not connected")
    assert len((scene << "a").sent) == 2


# --- no accidents ---------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["a", "d"])
def test_keys_typed_before_the_ask_was_drawn_do_not_answer_it(key: str) -> None:
    scene = Scene().wait(5).quickly(example_ask()).quickly(key)
    assert scene.sent == []
    assert "press it again" in scene.text


def test_keys_within_the_guard_after_it_was_drawn_do_not_answer_and_later_ones_do() -> None:
    scene = Scene().quickly(example_ask())
    scene.wait(GUARD_SECONDS - 0.01).quickly("a")
    assert scene.sent == []
    scene.wait(0.02).quickly("a")
    assert len(scene.sent) == 1


def test_the_next_ask_after_an_answer_is_guarded_too() -> None:
    scene = Scene(ask_to(1), ask_to(2)) << "a"
    scene.quickly(Decided(1, "allow", "alice", "terminal", 1)).quickly("a")
    assert [answer.ask for answer in scene.sent] == [1]


@given(
    st.sampled_from("ad"),
    st.floats(0.2, HELD_SECONDS - 0.01),
    st.floats(0.01, 0.25),
    st.integers(1, 60),
)
def test_a_key_that_is_held_down_answers_one_ask_and_no_other(
    key: str, delay: float, rate: float, count: int
) -> None:
    """Whatever its keyboard's delay and rate, and however quick the daemon is."""
    scene = Scene(ask_to(7), ask_to(8), ask_to(9))
    scene << key
    for number in range(count):
        for answer in scene.sent[len(scene.sent) - 1 :]:
            if answer.ask in scene.machine.cards:
                scene.quickly(Decided(answer.ask, answer.decision, "alice", "tui", 1, "", None))
        scene.wait(delay if number == 0 else rate)
        scene.quickly(key)
    assert [answer.ask for answer in scene.sent] == [7]
    scene.wait(HELD_SECONDS)
    scene.quickly(key)
    assert [answer.ask for answer in scene.sent] == [7, 8], "let go, it is a key again"


def test_an_ask_that_changed_under_the_reader_is_guarded_again() -> None:
    scene = Scene(example_ask()) << "s"
    scene.draw()
    changed = msgspec.structs.replace(example_ask(), scopes=(Scope("connection", "app=/bin/evil"),))
    assert scene.quickly(changed).quickly("a").sent == []
    more = msgspec.structs.replace(changed, waiting=3)
    assert len((scene << more).quickly("a").sent) == 1, "one more packet is no other question"


def test_a_clock_set_back_does_not_lock_the_keys() -> None:
    scene = Scene(example_ask()).wait(1)
    scene.now -= 3600
    scene << "a"
    assert len(scene.sent) == 1


def test_what_is_pasted_answers_nothing() -> None:
    keys = KeyDecoder().feed(b"\x1b[200~aaaa\x1b[Bdd\x1b[201~")
    assert keys == ["paste"]
    assert (Scene(example_ask()) << "paste").sent == []


def test_a_rule_longer_than_the_screen_must_be_read_first() -> None:
    scopes = (Scope("connection", f"app=/{'x/' * 900} host=192.0.2.7"),)
    scene = Scene(msgspec.structs.replace(example_ask(), scopes=scopes), height=12) << "a"
    assert scene.sent == []
    assert "i shows all of it" in scene.text
    scene << "i" << "a"
    assert any(scopes[0].conditions in line for line in scene.said)
    assert len(scene.sent) == 1


# --- routes ---------------------------------------------------------------------------------


def test_route_takes_links_in_the_order_of_their_digits_with_any_last() -> None:
    scene = Scene(example_ask()) << "r" << "2" << "0" << "1"
    assert "route via=lte,wifi,any app=/usr/bin/curl" in scene.text
    assert "2 lte: down, 0.02 EUR/MB" in scene.text
    scene << "2" << "r"
    assert scene.sent == [answer(Choice.ROUTE, via=("wifi", "any"))]


def test_allow_about_a_spent_budget_means_the_link_that_it_is_about() -> None:
    asked = msgspec.structs.replace(
        example_ask(), obstacle=True, via=("lte",), why="lte is over its budget: 600 MB used"
    )
    scene = Scene(asked)
    assert "route via=lte app=/usr/bin/curl" in scene.text
    scene << "a"
    assert scene.sent == [answer(Choice.ROUTE, lifetime="1h", via=("lte",), ask=asked)]
    assert scene.machine.lifetime == "forever"  # what was chosen for others stays


def test_route_needs_a_link_and_is_not_offered_without_links() -> None:
    assert "press its digit" in (Scene(example_ask()) << "r" << "r").text
    scene = Scene(example_ask(links=())) << "r"
    assert "no links" in scene.text
    assert "r route" not in scene.text


def test_while_links_are_chosen_a_and_d_decide_nothing_until_escape() -> None:
    scene = Scene(example_ask()) << "r" << "1" << "a" << "9"
    assert scene.sent == []
    assert "there is no link 9" in scene.text
    assert (scene << "esc" << "a").sent == [answer(Choice.ALLOW)]


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


# --- screens --------------------------------------------------------------------------------


def golden_scenes() -> dict[str, Callable[[], list[str]]]:
    replaced = example_ask().processes[0]
    replaced = msgspec.structs.replace(replaced, note="its executable was replaced or deleted")
    many = [ask_to(id) for id in range(1, 6)]
    return {
        "one": lambda: Scene(example_ask()).draw(),
        "five-scope-and-span": lambda: (Scene(*many) << "n" << "s" << "l" << "l" << "l").draw(),
        "five-60x20": lambda: (Scene(*many, width=60, height=20) << "x").draw(),
        "route": lambda: (Scene(example_ask()) << "r" << "2" << "0").draw(),
        "replaced": lambda: Scene(example_ask(processes=(replaced,))).draw(),
        "no-owner": lambda: Scene(example_ask(processes=(), no_owner="exited")).draw(),
        "ascii": lambda: Scene(example_ask()).draw(ascii_only=True),
        "low": lambda: Scene(example_ask(), height=10).draw(),
        "narrow": lambda: Scene(example_ask(), width=30).draw(),
        "once": lambda: (Scene(example_ask()) << "l" << "enter").draw(),
        "gone": lambda: Scene(*many).decided(1, user="bob").draw(),
    }


@pytest.mark.parametrize("name", sorted(golden_scenes()))
def test_screen_is_as_in_fixtures(name: str) -> None:
    """`ARBITER_WRITE_SCREENS=1 pytest tests/test_terminal.py` writes them anew; read the diff."""
    path, text = SCREENS / f"{name}.txt", "\n".join(golden_scenes()[name]()) + "\n"
    if os.environ.get("ARBITER_WRITE_SCREENS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_every_golden_file_has_its_scene() -> None:
    terminal = {path.stem for path in SCREENS.glob("*.txt") if not path.stem.startswith("tui-")}
    assert terminal == set(golden_scenes())


HOSTILE = st.text(alphabet=st.characters() | st.sampled_from("\x1b\x9b\n\u202e界 "), max_size=200)


@given(HOSTILE, st.integers(1, 120), st.integers(1, 40), st.booleans())
def test_any_ask_fits_any_screen_and_lets_no_escape_through(
    text: str, width: int, height: int, ascii_only: bool
) -> None:
    process = example_ask().processes[0]
    process = msgspec.structs.replace(
        process, app=AppView(text, text, text), argv=(text,), note=text
    )
    ask = example_ask(processes=(process,), why=text, scopes=(Scope("connection", text),))
    page = screen.draw(Scene(ask).machine, width, height, NOW, ascii_only)
    assert len(page.lines) <= max(1, height - 1)
    for line in page.lines:
        painted = screen.paint(line, color=False)
        assert "\x1b" not in painted
        assert painted.isprintable()
        assert screen.width_of(line) <= max(width - 1, 10)
        assert painted.isascii() or not ascii_only


@pytest.mark.parametrize("height", range(8, 40))
def test_question_and_rule_stay_however_low_the_screen(height: int) -> None:
    scene = Scene(example_ask(), height=height)
    assert "wants to connect to" in scene.text
    assert "port=443 proto=tcp" in scene.text


@given(st.text(alphabet="ab 界\u0301", max_size=80), st.integers(2, 30))
def test_wrapping_loses_nothing_and_keeps_the_width(text: str, width: int) -> None:
    lines = screen.wrap(text, width)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(screen.columns(line) <= width for line in lines)


@given(st.text(st.sampled_from("ab 文é\u0301=/"), max_size=90), st.integers(1, 60))
def test_the_scroll_back_is_broken_by_columns_and_only_between_words(text: str, width: int) -> None:
    lines = screen.said(Say(text), width, False, False)
    assert " ".join(lines).split() == text.split()
    room = max(width - 1, 20)
    assert all(screen.columns(line) <= room or len(line.split()) == 1 for line in lines)


def test_colour_is_only_where_asked_for_and_ends_on_its_line() -> None:
    line: screen.Line = (("x\x1b[0m", Style.BAD), ("y", Style.PLAIN))
    assert screen.paint(line, color=True) == "\x1b[31mx\ufffd[0m\x1b[0my"
    assert screen.paint(line, color=False) == "x\ufffd[0my"


@pytest.mark.parametrize(
    ("env", "utf8"),
    [
        ({}, False),
        ({"LANG": "en_US.UTF-8"}, True),
        ({"LANG": "de_DE.utf8"}, True),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "C"}, False),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, False),
        ({"LC_CTYPE": "C.UTF-8"}, False),
        ({"LANG": "de_DE.ISO-8859-1", "LC_CTYPE": "de_DE.UTF-8"}, True),
        ({"LC_ALL": "C.UTF-8"}, True),
    ],
)
def test_locale(env: dict[str, str], utf8: bool) -> None:
    assert is_utf8(env) is utf8


# --- keys -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"aD\r\n", ["a", "D", "enter", "enter"]),
        (b"\x1b[C\x1bOD", ["right", "left"]),
        (b"\x1b[1;5Aa", ["unknown", "a"]),
        (b"\x1ba", ["unknown"]),
        ("äa".encode(), ["ä", "a"]),
        (b"\xffa", ["\ufffd", "a"]),
        (b"\x04\x7f ", ["ctrl-d", "backspace", "space"]),
    ],
)
def test_keys_are_the_same_however_the_bytes_arrive(data: bytes, keys: list[str]) -> None:
    assert KeyDecoder().feed(data) == keys
    slow = KeyDecoder()
    assert [key for byte in data for key in slow.feed(bytes([byte]))] == keys


def test_a_lone_escape_is_the_escape_key_after_a_while() -> None:
    decoder = KeyDecoder()
    assert decoder.feed(b"\x1b") == []
    assert decoder.pending
    assert (decoder.flush(), decoder.flush()) == (["esc"], [])


@given(st.binary(max_size=100), st.integers(1, 20))
def test_a_paste_never_becomes_keys(content: bytes, size: int) -> None:
    content = content.replace(b"\x1b[201~", b"")
    data = b"\x1b[200~" + content + b"\x1b[201~"
    if data.index(b"\x1b[201~") != len(data) - 6:
        return  # the content's end and the end mark made an earlier end mark
    decoder = KeyDecoder()
    keys = [k for i in range(0, len(data), size) for k in decoder.feed(data[i : i + size])]
    assert keys == ["paste"]


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_any_bytes_give_keys_and_bounded_state(chunks: list[bytes]) -> None:
    decoder = KeyDecoder()
    for chunk in chunks:
        assert all(isinstance(key, str) and key for key in decoder.feed(chunk))
        assert len(decoder._rest) < 32


def test_help_names_every_key() -> None:
    text = " ".join(machine_module.HELP)
    for key in ("a allow", "d deny", "r route", "s or Right", "S or Left", "l or Up", "L or Down",
                "n next", "p previous", "x or Space", "u:", "i:", "?:", "q:"):  # fmt: skip
        assert key in text


def test_where_a_name_is_known_it_is_what_an_answer_is_about() -> None:
    scopes = (
        Scope("connection", "app=/usr/bin/curl host=192.0.2.7 port=443 proto=tcp"),
        Scope("name", "app=/usr/bin/curl host=www.example.org port=443 proto=tcp"),
    )
    scene = Scene(msgspec.structs.replace(example_ask(), scopes=scopes))
    assert "allow app=/usr/bin/curl host=www.example.org port=443 proto=tcp" in scene.text
    assert "2 of 2: this program, to this name by this port" in scene.text
