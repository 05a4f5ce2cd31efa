"""Golden screens of the full-screen prompt: fixtures/screens/tui-*.txt.

`ARBITER_WRITE_SCREENS=1` writes them anew; look at the difference.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_examples import connection, links, traffic
from scripted_daemon import ask_to
from test_tui_tabs import RULES, USAGE, commands, drawn, out
from tui_scene import NOW, Scene, play, scene

from arbiter.protocol import Ask, DaemonMessage

SCREENS = Path(__file__).parent.parent / "fixtures" / "screens"
WIDE, USUAL = (120, 32), (80, 24)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The screens show this machine's time: everywhere the same here."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def asks() -> list[Ask]:
    return [ask_to(id, created=NOW, deadline=NOW + 25 + id) for id in (7, 8, 9)]


def told() -> tuple[DaemonMessage, ...]:
    wifi = {"name": "wifi", "interface": "wlan0", "kind": "wifi", "default": True}
    free = {"metered": False, "price": "", "budget": "", "left": None, "month": 2_100_000_000}
    deny = {"decision": "deny", "passes": False, "rule": "deny app=/usr/bin/wget", "rule_id": 5}
    older = {"decision": "allow", "reason": "older", "rule": "", "rule_id": None, "by": ""}
    moves = [(NOW - 10 + n, (1, 900 * n, 40_000 * n * n), (3, 50 * n, 90 * n)) for n in range(10)]
    return (
        links({"name": "lte"}, wifi | free),
        connection(1, time=NOW - 60),
        connection(2, app="wget", host="ads.example", link="", time=NOW - 30, **deny),
        connection(3, app="ssh", host="home.example", link="wifi", time=NOW - 20, **older),
        *(traffic(time, *moved) for time, *moved in moves),
    )


async def _asks(s: Scene) -> None:
    await s.press("s")


async def _route(s: Scene) -> None:
    await s.press("r", "2", "0")


async def _snooze(s: Scene) -> None:
    await s.press("z")


async def _help(s: Scene) -> None:
    await s.press("question_mark")


def _tab(*keys: str) -> Callable[[Scene], Coroutine[Any, Any, None]]:
    async def steps(s: Scene) -> None:
        await s.press(*keys)
        if keys[0] in "345":
            reads = {"3": 2, "4": 1, "5": 1}[keys[0]]
            await s.until(lambda: len(s.commands.run_with) >= reads)

    return steps


async def _log(s: Scene) -> None:
    await s.press("a")
    await s.sees("rule 12")
    await s.press("6")


STEPS = [
    ("asks", WIDE, _asks),
    ("asks-80x24", USUAL, _asks),
    ("route", WIDE, _route),
    ("snooze", USUAL, _snooze),
    ("help", WIDE, _help),
    ("connections", WIDE, _tab("2")),
    ("connections-80x24", USUAL, _tab("2")),
    ("connection", WIDE, _tab("2", "down", "enter")),
    ("apps", WIDE, _tab("3", "down", "down", "down")),
    ("rules", WIDE, _tab("4", "down")),
    ("rules-remove", WIDE, _tab("4", "down", "x")),
    ("links", WIDE, _tab("5")),
    ("log", WIDE, _log),
]


def test_every_screen_has_its_steps() -> None:
    assert {path.stem for path in SCREENS.glob("tui-*")} == {f"tui-{name}" for name, _, _ in STEPS}


@pytest.mark.parametrize(("name", "size", "steps"), STEPS, ids=[name for name, _, _ in STEPS])
def test_the_screen_is_as_it_was_drawn(
    tmp_path: Path, name: str, size: tuple[int, int], steps: Callable[..., Any]
) -> None:
    async def part() -> None:
        given = commands(rules_list=out(RULES), links_usage=out(USAGE))
        async with scene(tmp_path, *asks(), followed=told(), commands=given, size=size) as s:
            await steps(s)
            await drawn(s)
            shown = s.text.rstrip("\n") + "\n"
        path = SCREENS / f"tui-{name}.txt"
        if os.environ.get("ARBITER_WRITE_SCREENS"):
            path.write_text(shown)
        assert shown == path.read_text(), f"{path.name} differs; ARBITER_WRITE_SCREENS=1 writes it"

    play(part())


def test_the_question_fills_its_room_without_waiting_for_a_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keys are laid out after it was drawn first, and leave it another room then."""
    monkeypatch.setattr("prompts.tui.app.TICK_SECONDS", 3600)

    async def part() -> None:
        async with scene(tmp_path, *asks(), followed=told(), size=USUAL) as s:
            assert len(s.app.asks.words._lines) >= s.app.asks.words.size.height - 2
            assert "program  /usr/bin/curl" in s.text

    play(part())


def test_a_look_at_the_screen_does_not_change_it(tmp_path: Path) -> None:
    """What is below a box is drawn once and kept: it must be drawn as the terminal gets it."""

    async def part() -> None:
        async with scene(tmp_path, *asks(), size=WIDE) as s:
            await s.press("question_mark")
            await s.sees("Everywhere")
            shown = s.text
            s.app.screen.refresh()
            assert s.text == shown

    play(part())
