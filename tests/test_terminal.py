"""The terminal prompt without a terminal: which keys answer a question, and when none does."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_daemon import ask_to, example_ask
from terminalscene import Scene, answer

from arbiter.protocol import Choice, Decided, Refused, RefusedReason, Scope
from prompts import machine as machine_module
from prompts.client import Lost
from prompts.keys import KeyDecoder
from prompts.machine import GUARD_SECONDS, HELD_SECONDS

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


def test_where_a_name_is_known_it_is_what_an_answer_is_about() -> None:
    scopes = (
        Scope("connection", "app=/usr/bin/curl host=192.0.2.7 port=443 proto=tcp"),
        Scope("name", "app=/usr/bin/curl host=www.example.org port=443 proto=tcp"),
    )
    scene = Scene(msgspec.structs.replace(example_ask(), scopes=scopes))
    assert "allow app=/usr/bin/curl host=www.example.org port=443 proto=tcp" in scene.text
    assert "2 of 2: this program, to this name by this port" in scene.text


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
        for sent in scene.sent[len(scene.sent) - 1 :]:
            if sent.ask in scene.machine.cards:
                scene.quickly(Decided(sent.ask, sent.decision, "alice", "tui", 1, "", None))
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
