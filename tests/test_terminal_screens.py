"""The terminal prompt's screens: golden ones, and any question on a screen of any size."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_daemon import ask_to, example_ask
from terminalscene import NOW, Scene

from arbiter.protocol import AppView, Scope
from prompts import screen
from prompts.cards import Say, Style
from prompts.terminal import is_utf8

ROOT = Path(__file__).parent.parent
SCREENS = ROOT / "fixtures" / "screens"


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
    """With ARBITER_WRITE_SCREENS=1 this test writes them anew; read the diff."""
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
