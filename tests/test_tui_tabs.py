"""The other tabs of the full-screen prompt: connections, apps, rules, links."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_examples import connection, links, traffic
from tui_scene import NOW, FakeCommands, Scene, play, scene

from arbiter.protocol import Closed, Links
from prompts.cards import Style
from prompts.commands import FAILED, Commands, Done
from prompts.tui.apps import rules_of
from prompts.tui.links import bar, spark
from prompts.tui.monthly import Month
from prompts.tui.rules import RulesPane, ends, last_step
from prompts.tui.sheet import Column, fit

RULES = [
    {"id": 3, "rule": "allow app=/usr/bin/curl host=192.0.2.7 port=443", "by": "alice",
     "frontend": "tui", "layer": "remembered", "created": NOW, "expires": None, "process": None},
    {"id": 5, "rule": "deny app=/usr/bin/wget for=1h", "by": "root", "frontend": "cli",
     "layer": "remembered", "created": NOW, "expires": NOW + 3600, "process": None},
]  # fmt: skip
USAGE = [
    {"month": "2023-11", "link": "lte", "app": "/usr/bin/curl", "sent_bytes": 2_000_000,
     "received_bytes": 30_000_000, "connections": 4, "cost": "0.64", "currency": "EUR"},
    {"month": "2023-11", "link": "wifi", "app": "/usr/bin/curl", "sent_bytes": 1,
     "received_bytes": 0, "connections": 1, "cost": None, "currency": None},
    {"month": "2023-11", "link": "lte", "app": "/usr/bin/ssh", "sent_bytes": 500_000,
     "received_bytes": 500_000, "connections": 1, "cost": "0.02", "currency": "EUR"},
]  # fmt: skip


def out(value: object, code: int = 0, said: str = "") -> Done:
    return Done(code, json.dumps(value), said)


def commands(**given: Done) -> FakeCommands:
    return FakeCommands(**{"rules list": out(RULES), "links usage": out(USAGE)} | given)


async def drawn(s: Scene) -> None:
    """What has come since is drawn."""
    await s.settle()
    s.app._draw()
    await s.settle()


# --- connections ----------------------------------------------------------------------------


def names(s: Scene) -> list[str]:
    return [live.told.app.name for live in s.sheet("connections").items]


def chosen(s: Scene) -> int | None:
    live = s.sheet("connections").chosen
    return None if live is None else live.told.id


def test_connections_come_in_with_program_name_link_bytes_and_why(tmp_path: Path) -> None:
    told = connection(1, time=NOW)

    async def part() -> None:
        async with scene(tmp_path, followed=(told,), size=(150, 24)) as s:
            await s.press("2")
            await s.tell(traffic(s.now, (1, 5_000, 900_000)))
            await drawn(s)
            [line] = [line for line in s.text.split("\n") if "deb.example" in line]
            for text in ("curl", "deb.example:443", "lte", "5.0 kB", "900 kB", "route via=lte",
                         "rule 11 of alice"):  # fmt: skip
                assert text in line, text
            await s.press("down", "enter")
            for text in ("/usr/bin/curl", "4711", "192.0.2.7:443 (https, deb.example)",
                         "rule 11 of alice: route via=lte app=/usr/bin/curl", "runs"):  # fmt: skip
                assert text in s.text, text

    play(part())


def test_rows_stay_under_the_cursor_until_it_is_let_go(tmp_path: Path) -> None:
    told = [connection(n, app=f"app{n}", time=NOW + n) for n in (1, 2, 3)]

    async def part() -> None:
        async with scene(tmp_path, followed=tuple(told)) as s:
            await s.press("2")
            assert names(s) == ["app3", "app2", "app1"]
            await s.press("down", "down")
            assert chosen(s) == 2
            await s.tell(connection(4, app="app4"), Closed(3, s.now, 7, 7))
            await s.tell(traffic(s.now, (1, 10**9, 10**9)))
            await drawn(s)
            assert names(s) == ["app3", "app2", "app1"]
            assert chosen(s) == 2
            assert "1 new (Esc shows them)" in s.text
            assert "1.0 GB" in s.text, "what they carry is told all the same"
            await s.press("escape")
            await drawn(s)
            assert names(s) == ["app4", "app3", "app2", "app1"]
            assert chosen(s) is None

    play(part())


def test_connections_are_found_by_words_and_ordered_by_bytes(tmp_path: Path) -> None:
    told = (
        connection(1, app="curl", link="lte", host="a.example"),
        connection(2, app="wget", link="wifi", host="b.example", passes=False, rule="deny"),
        connection(3, app="curl", link="wifi", host="c.example"),
    )

    async def part() -> None:
        async with scene(tmp_path, followed=(*told, traffic(NOW, (1, 10, 99)))) as s:
            await s.press("2", "slash", *"CURL link=wi")
            await drawn(s)
            assert [live.told.id for live in s.sheet("connections").items] == [3]
            await s.press("enter", "o")
            assert "by bytes" in s.text
            await s.press("slash", "escape")
            await drawn(s)
            assert [live.told.id for live in s.sheet("connections").items] == [1, 3, 2]
            await s.click("time")
            assert "by time" in s.text
            assert [live.told.id for live in s.sheet("connections").items] == [3, 2, 1]

    play(part())


def test_digits_and_letters_in_a_filter_are_only_text(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, followed=(connection(1),)) as s:
            await s.press("2", "slash", *"1q?wz3")
            assert s.app.is_running
            assert s.app.pane is s.app.panes["Connections"]
            assert not s.app.away
            assert s.app.panes["Connections"].filter.value == "1q?wz3"  # type: ignore[attr-defined]

    play(part())


def test_a_busy_machine_leaves_the_prompt_at_ease(tmp_path: Path) -> None:
    """8,192 connections and 100 traffic messages a second cost less than the second."""
    many = tuple(connection(n, app=f"app{n % 99}", time=NOW) for n in range(1, 8193))
    moves = [
        traffic(NOW + k / 100, *((1 + (k * 300 + i) % 8192, k * 9, k * 99) for i in range(300)))
        for k in range(1, 101)
    ]

    async def part() -> None:
        async with scene(tmp_path, followed=many[:100]) as s:
            for told in many:
                s.app.feed.event(told, NOW)
            await s.press("2", "o")
            began = time.process_time()
            for move in moves:
                await s.app.heard(move)
            for _ in range(2):  # as often as in a second
                await drawn(s)
            assert time.process_time() - began < 1.0
            assert len(s.sheet("connections").items) == 8192
            await s.press("end")
            assert s.sheet("connections").chosen is s.sheet("connections").items[-1]

    play(part())


# --- apps -----------------------------------------------------------------------------------


def test_an_apps_page_tells_destinations_links_bytes_cost_and_rules(tmp_path: Path) -> None:
    told = (
        connection(1, host="a.example", link="lte"),
        connection(2, host="b.example", link="wifi", passes=False, decision="deny"),
        connection(3, app="wget", host="c.example"),
    )
    given = commands()

    async def part() -> None:
        moved = traffic(NOW, (1, 1000, 2000))
        async with scene(tmp_path, followed=(*told, moved), commands=given) as s:
            await s.press("3", "down", "down")
            await s.until(lambda: len(given.run_with) == 2)
            await drawn(s)
            for text in (
                "2 connections, 1 run, 1 refused",
                "1.0 kB sent, 2.0 kB received",
                "a.example:443",
                "over lte: 1.0 kB sent, 2.0 kB received",
                "1 refused",
                "2.0 MB sent, 30 MB received, 0.64 EUR",
                "allow app=/usr/bin/curl host=192.0.2.7 port=443",
            ):
                assert text in s.text, text
            assert "c.example" not in s.text
            assert "for=1h" not in s.text, "that rule is wget's"
            await s.press("down")
            await drawn(s)
            assert "0.02 EUR" in s.text, "ssh connected earlier this month"

    play(part())


def test_an_apps_page_says_why_the_month_is_not_known(tmp_path: Path) -> None:
    given = commands(links_usage=Done(1, "", "the database cannot be read: not yours"))

    async def part() -> None:
        async with scene(tmp_path, followed=(connection(1),), commands=given) as s:
            await s.press("3")
            await s.sees("month    the database cannot be read: not yours")

    play(part())


def test_rules_name_an_app_exactly() -> None:
    rows: list[dict[str, Any]] = [
        {"rule": 'deny app="/opt/my app" host=lan'},
        {"rule": "allow app=/usr/bin/curl parent=/usr/bin/make"},
        {"rule": "allow app=/usr/bin/curlie"},
    ]
    assert rules_of("/opt/my app", rows) == ['deny app="/opt/my app" host=lan']
    assert rules_of("/usr/bin/curl", rows) == ["allow app=/usr/bin/curl parent=/usr/bin/make"]
    assert rules_of("/usr/bin/make", rows) == ["allow app=/usr/bin/curl parent=/usr/bin/make"]


KEYS = st.sampled_from(["app", "link", "sent_bytes", "received_bytes", "cost", "currency"])


@given(st.lists(st.dictionaries(KEYS, st.none() | st.booleans() | st.integers() | st.text())))
def test_a_month_of_any_rows_is_a_month(rows: list[dict[str, Any]]) -> None:
    month = Month(rows)
    for id in month.apps:
        assert month.of_app(id).words


# --- rules ----------------------------------------------------------------------------------


class SlowCommands(FakeCommands):
    """As on a busy machine: commands end when they may."""

    def __init__(self, **given: Done) -> None:
        super().__init__(**given)
        self.may_end = asyncio.Event()

    async def run(self, *argv: str) -> Done:
        await self.may_end.wait()
        return await super().run(*argv)


def test_until_they_are_read_it_is_not_said_that_there_are_no_rules(tmp_path: Path) -> None:
    async def part() -> None:
        slow = SlowCommands(rules_list=out(RULES))
        async with scene(tmp_path, commands=slow, size=(150, 24)) as s:
            await s.press("4")
            await s.sees("reading the rules")
            s.app.query_one(RulesPane).resized()
            await drawn(s)
            assert "no rules" not in s.text and "0 of 0" not in s.text
            slow.may_end.set()
            await s.sees("2 of 2 rules")

    play(part())


def test_rules_are_listed_searched_and_told_of(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, commands=commands(), size=(150, 24)) as s:
            await s.press("4")
            await s.sees("2 of 2 rules")
            assert "deny app=/usr/bin/wget for=1h" in s.text
            await s.press("slash", *"deny", "enter")
            assert [row["id"] for row in s.sheet("rules").items] == [5]
            await s.press("down", "enter")
            await s.sees("a rule")
            await s.press("escape", "slash", "escape")
            assert len(s.sheet("rules").items) == 2

    play(part())


def test_a_rule_is_added_and_what_is_refused_is_said_where_it_is_written(tmp_path: Path) -> None:
    given = commands(rules_add=Done(2, "", "this is no rule:\n  allow ap=x\n        ^ app=?"))

    async def part() -> None:
        async with scene(tmp_path, commands=given) as s:
            await s.press("4", "a", "enter")
            assert not [argv for argv in given.run_with if argv[1] == "add"]
            await s.press(*"allow ap=x", "enter")
            await s.sees("this is no rule:")
            given.given["rules add"] = Done(0, "rule 7: allow app=x\n", "")
            await s.press("backspace", *"y", "enter")
            await s.sees("rule 7: allow app=x")
            added = [argv for argv in given.run_with if argv[1] == "add"]
            assert added == [
                ("rules", "add", "--", "allow ap=x"),
                ("rules", "add", "--", "allow ap=y"),
            ]
            assert given.run_with[-1] == ("rules", "list", "--json"), "it is read again"

    play(part())


def test_a_rule_is_edited_in_one_step(tmp_path: Path) -> None:
    given = commands(rules_add=Done(0, "rule 8, in place of rule 5: deny app=/usr/bin/wget\n", ""))

    async def part() -> None:
        async with scene(tmp_path, commands=given) as s:
            await s.press("4", "e")
            await s.sees("choose a rule first")
            await s.press("down", "down", "e")
            await s.sees("in place of rule 5: deny app=/usr/bin/wget for=1h")
            await s.press(*["backspace"] * len(" for=1h"), "enter")
            await s.sees("rule 8, in place of rule 5")
            line = "deny app=/usr/bin/wget"
            assert ("rules", "add", "--instead-of", "5", "--", line) in given.run_with

    play(part())


def test_a_rule_is_removed_after_a_yes_and_no_key_by_accident(tmp_path: Path) -> None:
    given = commands(rules_remove=Done(0, "removed rule 3: allow …\n", ""))

    async def part() -> None:
        async with scene(tmp_path, commands=given) as s:
            await s.press("4", "down", "x")
            await s.sees("remove rule 3?")
            await s.press("enter", "space", "x", "escape")
            assert not [argv for argv in given.run_with if argv[1] == "remove"]
            await s.press("x")
            await s.click("y remove")
            await s.sees("removed rule 3")
            assert ("rules", "remove", "3") in given.run_with

    play(part())


def test_a_refused_change_says_why(tmp_path: Path) -> None:
    said = "the database is not writable by alice: ask an admin"
    given = commands(rules_remove=Done(1, "", said))

    async def part() -> None:
        async with scene(tmp_path, commands=given) as s:
            await s.press("4", "down", "x", "y")
            await s.sees(said)

    play(part())


def test_an_undo_shows_what_it_takes_back_first(tmp_path: Path) -> None:
    step: dict[str, Any] = {"step": 4, "time": NOW, "by": "alice", "undone": False, "undoes": None,
                            "changes": [{"change": "retired", "reason": "removed",
                                         "rule_id": 2, "rule": "deny port=1"}]}  # fmt: skip
    done = Done(0, "undone: step 4\n  rule 9, as rule 2 was: deny port=1\n", "")
    given = commands(rules_history=out([step]), rules_undo=done)

    async def part() -> None:
        async with scene(tmp_path, commands=given) as s:
            await s.press("4", "u")
            await s.sees("comes back  deny port=1")
            await s.press("y")
            await s.sees("rule 9, as rule 2 was: deny port=1")
            assert ("rules", "undo", "4") in given.run_with

    play(part())


def test_the_last_step_is_the_one_that_undo_would_take() -> None:
    def step(id: int, reason: str = "remembered", **more: object) -> dict[str, Any]:
        changes = [{"change": "added", "reason": reason, "rule_id": 1, "rule": ""}]
        return {"step": id, "undone": False, "undoes": None, "changes": changes} | more

    undo = step(4, "undo of step 3", undoes=3)
    cut = step(6, whole=False)
    steps = [step(1), step(2, whole=True), step(3, undone=True), undo, step(5, "expired"), cut]
    found = last_step(steps)
    assert found is not None
    assert found["step"] == 2
    assert last_step([]) is None


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"expires": None, "process": [1, 2], "rule": ""}, "with its program"),
        ({"expires": None, "process": None, "rule": "deny for=session"}, "with arbiter"),
        ({"expires": None, "process": None, "rule": "deny for=boot"}, "at reboot"),
        ({"expires": None, "process": None, "rule": "deny"}, "never"),
    ],
)
def test_when_a_rule_ends(row: dict[str, Any], text: str) -> None:
    assert ends(row) == text


# --- links ----------------------------------------------------------------------------------


def test_links_show_state_price_budget_cost_and_what_they_carry(tmp_path: Path) -> None:
    lte = {"name": "lte", "left": 100_000_000, "default": False}
    wifi = {"name": "wifi", "up": False, "kind": "wifi", "metered": None, "price": "", "budget": "",
            "left": None, "month": 0}  # fmt: skip
    told = connection(1, link="lte", time=NOW)

    async def part() -> None:
        given = commands()
        async with scene(tmp_path, followed=(links(lte, wifi), told), commands=given) as s:
            await s.press("5")
            for second in range(1, 30):
                s.now = NOW + second
                await s.tell(traffic(s.now, (1, 1000 * second, 50_000 * second)))
            s.now = NOW + 30
            await drawn(s)
            assert "█" in s.text
            for text in (
                "100 MB left",
                "0.02 EUR/MB",
                "down, wifi",
                "50 kB/s at most",
                "88 MB, 0.66 EUR",
                "received: 50 kB/s now",
                "sent: 1.0 kB/s now",
            ):
                await s.sees(text)
            await s.press("down", "down")
            await drawn(s)
            await s.sees("received: nothing now")
            await s.tell(Links(()))
            await s.press("escape")
            await drawn(s)
            assert "no link is known" in s.text

    play(part())


@pytest.mark.parametrize(
    ("left", "budget", "text", "style"),
    [
        (None, "", "", Style.PLAIN),
        (500_000_000, "500 MB/month", "░░░░░░░░ 500 MB left", Style.PLAIN),
        (250_000_000, "500 MB/month", "████░░░░ 250 MB left", Style.PLAIN),
        (10_000_000, "500 MB/month", "████████ 10 MB left", Style.WARN),
        (0, "1.5 GB/day", "████████ used up", Style.BAD),
        (5, "strange", "5 bytes left", Style.PLAIN),
    ],
)
def test_a_budgets_bar(left: int | None, budget: str, text: str, style: Style) -> None:
    [link] = links({"left": left, "budget": budget}).links
    assert bar(link, 8) == (text, style)


@given(st.lists(st.floats(0, 1e12), max_size=40))
def test_a_spark_has_a_bar_for_each_value(values: list[float]) -> None:
    drawn_bars = spark(values)
    assert len(drawn_bars) == (len(values) if max(values, default=0) > 0 else 0)
    assert set(drawn_bars) <= set(" ▁▂▃▄▅▆▇█")


# --- the sheet, the commands ----------------------------------------------------------------


@given(
    st.lists(
        st.builds(Column, st.just("x"), st.integers(1, 20), st.integers(0, 3), st.booleans(),
                  st.integers(0, 5)),
        min_size=1, max_size=8,
    ),
    st.integers(0, 200),
)  # fmt: skip
def test_columns_fit_or_only_those_that_must_stay_do(columns: list[Column], width: int) -> None:
    shown = fit(columns, width)
    taken = sum(room + 1 for _, room in shown) - 1
    assert taken <= width or all(columns[i].drop == 0 for i, _ in shown)
    assert all(room >= columns[i].width for i, room in shown)
    assert [i for i, _ in shown] == sorted(i for i, _ in shown)
    if any(columns[i].share for i, _ in shown) and taken <= width:
        assert taken == width, "what is left over is shared out"


def test_a_command_is_run_as_this_user_without_a_shell(tmp_path: Path) -> None:
    async def part() -> None:
        run = Commands(str(tmp_path / "none")).run
        db, line = ("--db", str(tmp_path / "a.db")), 'allow app="/opt/$(id) ; x" port=1'
        done = await run("rules", "add", *db, "--", line)
        assert done.code == 0, done
        done = await run("rules", "list", *db, "--json")
        assert [row["rule"] for row in done.rows()] == [line]
        done = await run("rules", "add", *db, "--", "--help")
        assert done.code == 2
        assert "this is no rule" in done.said
        assert not done.rows()

    play(part())


def test_a_command_that_cannot_be_run_or_hangs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import prompts.commands as module

    async def part() -> None:
        monkeypatch.setattr(module, "SECONDS", 0.01)
        done = await Commands("/none").run("rules", "list")
        assert (done.code, done.said) == (FAILED, "`arbiter rules` took more than 0.01 s")
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        done = await Commands("/none").run("rules", "list")
        assert done.code == FAILED
        assert "arbiter cannot be run" in done.said

    play(part())


def test_a_command_that_is_left_is_ended_and_leaves_no_pipe_open() -> None:
    """Leaving the prompt cancels it. An open pipe is a ResourceWarning, and that is an error."""

    async def part() -> None:
        commands = Commands("/none")
        task = asyncio.ensure_future(commands.run("links", "--watch"))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.sleep(0.001)
        task.cancel()  # while it is being ended
        await asyncio.wait([task])
        assert task.cancelled()
        await commands.close()

    play(part())
    gc.collect()


def test_rows_of_a_list_that_is_none() -> None:
    assert Done(0, "", "").rows() == []
    assert Done(0, "{", "").rows() == []
    assert Done(0, '[1, {"a": 1}]', "").rows() == [{"a": 1}]
    assert Done(0, '{"a": 1}', "").rows() == [{"a": 1}]
    assert msgspec.json.encode(Done(0, "", "").rows()) == b"[]"
