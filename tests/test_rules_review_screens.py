"""The screens of `arbiter rules review`: as drawn, on low terminals, of hostile names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import ROOT
from hypothesis import given
from hypothesis import strategies as st
from reviewscene import CURL, Scene, record
from rule_strategies import UNHURRIED, texts

from arbiter.cli.reviewcards import LEAST_WIDTH, draw
from arbiter.cli.reviewstate import Card, Review
from arbiter.model import Hook
from arbiter.protocol import clean
from arbiter.rules import format_rule
from arbiter.rules.propose import propose
from arbiter.rules.seen import Program, Seen

SCREENS = ROOT / "fixtures" / "screens" / "review"


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "s.db")


@pytest.mark.parametrize("keys", ["", "a", "ab", "ax", "w", "wa", "sss"])
@pytest.mark.parametrize(("width", "height"), [(40, 12), (40, 14), (40, 16), (80, 12)])
def test_on_a_low_terminal_head_and_rule_stay(
    scene: Scene, keys: str, width: int, height: int
) -> None:
    text = scene.press(keys).screen(width, height)
    assert len(text.splitlines()) < height
    assert text.startswith(f"-- program {scene.review.card_at + 1} of 3 ")
    assert scene.review.card.program.app in text.splitlines()[1]
    words = " ".join(text.split())
    if keys != "w" or height > 14:  # else what a wider rule is warned of needs the room
        assert "user alice; " in words and "connections to " in words
        assert "> " in text or (keys, height) == ("ab", 12)
    assert ("it matches 38 of this program's 41 connections" in words) == (keys == "w")
    assert format_rule(scene.review.item.rule) in words
    assert scene.review.message[:20] in words
    assert "a allow" in words and "? help" in words


def test_a_card_has_the_name_in_letters_unless_they_deceive(tmp_path: Path) -> None:
    seen = record(CURL, "192.0.2.5", 80, "xn--bcher-kva.example")
    text = Scene(tmp_path / "a.db", seen).screen()
    assert "host=xn--bcher-kva.example port=80" in text and "\n       (bücher.example)\n" in text
    twin = record(CURL, "192.0.2.5", 80, "xn--80ak6aa92e.com")
    assert "(" not in Scene(tmp_path / "b.db", twin).screen().partition("rule   ")[2]


@pytest.mark.parametrize(
    ("name", "keys", "width", "height"),
    [
        ("review", "", 80, 24),
        ("review-wider", "wa", 80, 24),
        ("review-sum", "sssw", 80, 24),
        ("review-narrow", "a", 40, 16),
        ("review-help", "?", 80, 24),
    ],
)
def test_screens_look_as_drawn(scene: Scene, name: str, keys: str, width: int, height: int) -> None:
    shown = scene.press(keys).screen(width, height) + "\n"
    path = SCREENS / f"{name}.txt"
    if os.environ.get("ARBITER_WRITE_SCREENS"):
        path.write_text(shown)
    assert path.read_text() == shown, "look at it, then run with ARBITER_WRITE_SCREENS=1"


hostile = texts | st.just("\x1b[2J\u202e")
sights = st.builds(
    Seen,
    daddr=st.binary(min_size=4, max_size=4),
    dport=st.integers(0, 65535),
    proto=st.sampled_from([6, 17, 1]),
    hook=st.just(Hook.OUT),
    names=st.lists(hostile, max_size=2).map(tuple),
    count=st.integers(1, 10**12),
    last=st.floats(allow_nan=False),
)


@UNHURRIED
@given(
    st.builds(
        Program,
        app=hostile,
        user=st.just(""),
        users=st.lists(hostile, max_size=2).map(tuple),
        parents=st.lists(st.tuples(hostile, st.integers(1, 9)), max_size=4).map(tuple),
        seen=st.lists(sights, min_size=1, max_size=20).map(tuple),
    ),
    st.text("wnsb?", max_size=8),
    st.integers(1, 200),
    st.integers(1, 60),
)
def test_nothing_of_what_programs_chose_reaches_the_terminal(
    program: Program, keys: str, width: int, height: int
) -> None:
    review = Review([Card(program, propose(program))])
    for key in keys:
        review.key(key)
    lines = draw(review, width, height)
    for line in lines:
        assert clean(line.text, 10_000) == line.text, line
        assert len(line.text) <= max(width - 1, LEAST_WIDTH), line
    if not review.help:
        shown = "".join(line.text for line in lines).replace(" ", "")
        rule = format_rule(review.item.rule).replace(" ", "")
        assert rule in shown.replace("rule", "", 1) or rule in shown, "whole, wherever it is broken"
