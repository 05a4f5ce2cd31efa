"""The full-screen prompt: what it promises about questions, on a make-believe terminal."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
from live_examples import connection, links
from scripted_daemon import ask_to
from textual.events import Click
from tui_scene import NOW, play, scene

from arbiter.protocol import (
    Answer,
    Ask,
    Away,
    Choice,
    Decided,
    Destination,
    Follow,
    Refused,
    RefusedReason,
    Scope,
    Snooze,
    SnoozeView,
    Undo,
    Withdraw,
    WithdrawReason,
)
from prompts import snoozing as snooze_module
from prompts.machine import GONE_SECONDS
from prompts.tui.parts import Tap

EVIL = "\x1b[31m[red]evil[/]\u202etxt\r\n<b>%s{0}[@click=app.quit]x[/]"


def waiting(id: int, **changes: object) -> Ask:
    return ask_to(id, created=NOW, deadline=NOW + 60 + id, **changes)


# --- answering ------------------------------------------------------------------------------


def test_a_question_is_shown_with_its_rule_and_answered_by_a_key(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, waiting(1)) as s:
            for text in (
                "curl, from deploy.sh, wants to connect to",
                "192.0.2.1, port 443 (https), tcp, internet",
                "why      no rule matches yet",
                "it says  curl: Fetches what you ask it for; if denied: the",
                "deny for 2 packets in",
                "rule     allow app=/usr/bin/curl host=192.0.2.1 port=443",
            ):
                assert text in s.text, text
            await s.press("a")
            [answer] = await s.sent(Answer)
            scope = waiting(1).scopes[0]
            shown = scope.conditions
            assert answer == Answer(1, Choice.ALLOW, "connection", "forever", (), shown)
            await s.sees("✓ allowed curl; rule 12: allow app=/usr/bin/curl host=192.0.2.1")
            await s.sees("listening as alice; 0 waiting")

    play(part())


def test_scope_lifetime_and_links_are_chosen_as_in_the_terminal(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, waiting(1), waiting(2)) as s:
            await s.press("s", "right", "L", "r")
            await s.sees("2 lte: down, 0.02 EUR/MB, 320 MB left of 500 MB/month,")
            await s.press("2", "0")
            await s.sees("rule     route via=lte,any app=/usr/bin/curl port=443 proto=tcp")
            assert s.app.pane is s.app.asks, "a digit chose a link, and no tab"
            await s.press("r")
            [answer] = await s.sent(Answer)
            assert (answer.scope, answer.lifetime, answer.via) == ("port", "boot", ("lte", "any"))
            await s.press("2")
            assert s.app.pane is not s.app.asks, "now it is a tab"

    play(part())


@pytest.mark.parametrize("key", ["enter", "space", "tab", "y", "o", "e", "escape", "ctrl+j"])
def test_no_key_pressed_by_accident_answers(tmp_path: Path, key: str) -> None:
    async def part() -> None:
        async with scene(tmp_path, waiting(1)) as s:
            await s.press(key, key, "enter")
            await s.settle()
            assert not s.received(Answer)

    play(part())


def test_what_is_pasted_answers_nothing(tmp_path: Path) -> None:
    from textual.events import Paste

    async def part() -> None:
        async with scene(tmp_path, waiting(1)) as s:
            await s.settle()
            s.app.post_message(Paste("aaa\n"))
            await s.sees("what is pasted answers nothing")
            assert not s.received(Answer)

    play(part())


def test_a_key_before_the_question_was_shown_does_not_answer_it(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path) as s:
            await s.settle()
            await s.tell(waiting(1))
            await s.quickly("a")
            await s.sees("that key came before you could read this")
            assert not s.received(Answer)
            await s.press("d")
            [answer] = await s.sent(Answer)
            assert answer.decision is Choice.DENY

    play(part())


def test_typing_fast_answers_one_question_and_not_the_next(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, *map(waiting, range(1, 6))) as s:
            await s.press("a")
            await s.quickly("a", "a", "a")
            await s.settle()
            assert [answer.ask for answer in s.received(Answer)] == [1]

    play(part())


def test_the_mouse_answers_once_even_if_it_clicks_twice(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, waiting(1), waiting(2)) as s:
            await s.click("allow ", after="means")
            await s.sees("192.0.2.2, port 443")
            s.now += 1
            [allow] = [tap for tap in s.app.query(Tap) if tap.key == "a"]
            allow.post_message(Click(allow, 0, 0, 0, 0, 1, False, False, False, chain=2))
            await s.settle()
            assert [(a.ask, a.decision) for a in s.received(Answer)] == [(1, Choice.ALLOW)]
            await s.click("d deny", after="means")
            answers = await s.sent(Answer, 2)
            assert (answers[1].ask, answers[1].decision) == (2, Choice.DENY)

    play(part())


def test_a_click_on_a_row_shows_its_question_and_decides_nothing(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, *map(waiting, range(1, 6))) as s:
            await s.click("192.0.2.4:443", times=2)
            await s.sees("192.0.2.4, port 443")
            await s.press("enter")
            assert not s.received(Answer)
            await s.press("up", "d")
            [answer] = await s.sent(Answer)
            assert answer.ask == 3

    play(part())


def test_a_key_on_another_tab_answers_nothing(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, waiting(1)) as s:
            for tab in ("2", "3", "5", "6"):
                await s.press(tab, "a", "d")
            assert s.app.pane is s.app.panes["Log"]
            await s.press("1")
            await s.quickly("a")
            await s.settle()
            assert not s.received(Answer), "the tab was just chosen"
            await s.press("a")
            await s.sent(Answer)

    play(part())


def test_a_key_in_a_box_over_the_question_answers_nothing(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, waiting(1)) as s:
            await s.press("i")
            await s.sees("everything about this question")
            await s.sees("/home/alice/deploy.sh")
            await s.press("a", "d", "enter")
            s.app._tick()
            s.now += 60
            await s.quickly("escape", "a")
            await s.settle()
            assert not s.received(Answer)
            await s.sees("came before you could read this")

    play(part())


def test_dismissed_is_not_denied(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, waiting(1)) as s:
            await s.press("x")
            await s.sees("put off, not denied")
            await s.sees("1 put off")
            assert not s.received(Answer)
            await s.press("u", "d")
            await s.sent(Answer)

    play(part())


def test_a_suggestion_is_marked_as_the_packages_words(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, waiting(1), size=(160, 34)) as s:
            line = "it says  curl: Fetches what you ask it for; if denied: the transfer fails;"
            assert line in s.text
            assert "it suggests allow" in s.text

    play(part())


# --- asks that change -----------------------------------------------------------------------


def test_an_ask_that_ends_says_why_and_no_row_moves(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, *map(waiting, range(1, 4))) as s:
            rows = [row.ask.id for row in s.sheet("asks").items]
            await s.tell(Withdraw(1, WithdrawReason.EXITED))
            await s.sees("withdrawn: the program has exited")
            assert [row.ask.id for row in s.sheet("asks").items] == rows
            assert s.app.machine.queue() == [2, 3]
            await s.quickly("a")
            assert not s.received(Answer), "that key was meant for what is gone"
            await s.tell(Decided(2, "deny", "bob", "web", 1, "deny app=/usr/bin/curl", 4))
            await s.sees("answered by bob from web: deny")
            s.now += GONE_SECONDS + 1
            await s.until(lambda: [r.ask.id for r in s.sheet("asks").items] == [3])

    play(part())


def test_a_stale_ask_says_that_an_answer_serves_the_next_try(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, waiting(1, stale=True, waiting=0), size=(140, 30)) as s:
            await s.sees("nothing waits now; an answer serves the next try")
            await s.sees("stale")

    play(part())


def test_a_question_that_waits_is_shown_before_stale_ones_and_rings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def part() -> None:
        stale = [waiting(id, stale=True, waiting=0) for id in (1, 2)]
        async with scene(tmp_path, *stale, size=(140, 30)) as s:
            rang: list[bool] = []
            monkeypatch.setattr(s.app, "bell", lambda: rang.append(True))
            await s.tell(waiting(3))
            await s.sees("stays open, but another packet waits now")
            assert rang == [True]
            s.now += GONE_SECONDS + 1
            await s.until(lambda: s.app.machine.current == 3 and s.app.machine.gone is None)
            assert [row.ask.id for row in s.sheet("asks").items] == [1, 2, 3]
            await s.tell(waiting(4))
            await s.until(lambda: s.app.machine.queue() == [1, 2, 3, 4])
            assert rang == [True], "one bell for all that wait"

    play(part())


def test_a_refusal_is_shown_and_the_question_stays(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, waiting(1)) as s:
            await s.tell(Refused(RefusedReason.RIGHT, "only bob may answer it", 1))
            await s.sees("refused: only bob may answer it")
            assert s.app.machine.queue() == [1]

    play(part())


def test_fifty_apps_at_once_stay_usable(tmp_path: Path) -> None:
    def of(id: int) -> Ask:
        ask = waiting(id)
        process = msgspec.structs.replace(
            ask.processes[0],
            app=msgspec.structs.replace(ask.processes[0].app, id=f"/bin/app{id}", name=f"app{id}"),
        )
        return msgspec.structs.replace(ask, processes=(process,))

    async def part() -> None:
        async with scene(tmp_path, *map(of, range(1, 51))) as s:
            assert "1 of 50 waiting" in s.text
            assert "1 Asks (50)" in s.text
            began = time.process_time()
            await s.quickly(*["down"] * 40)
            await s.sees("app41, from deploy.sh, wants")
            assert "app41" in s.text.split("\n")[20] or "app41" in s.text
            assert time.process_time() - began < 5
            await s.press("d")
            [answer] = await s.sent(Answer)
            assert answer.ask == 41
            await s.sees("app42, from deploy.sh, wants")

    play(part())


def test_five_hundred_changes_of_an_ask_are_one_question(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, waiting(1)) as s:
            ask = waiting(1)
            more = [msgspec.structs.replace(ask, waiting=n) for n in range(1, 501)]
            began = time.process_time()
            await s.tell(*more)
            assert time.process_time() - began < 5
            assert len(s.sheet("asks").items) == 1
            await s.sees("1 of 1 waiting")
            await s.sees("deny for 500 packets in")

    play(part())


# --- hostile strings ------------------------------------------------------------------------


def test_hostile_strings_are_text_everywhere(tmp_path: Path) -> None:
    ask = waiting(1)
    first = ask.processes[0]
    app = msgspec.structs.replace(first.app, id=EVIL, name=EVIL)
    process = msgspec.structs.replace(
        first, app=app, exe=EVIL, argv=(EVIL,), cwd=EVIL, note=EVIL, parents=(app,)
    )
    to = Destination("192.0.2.1", "tcp", 443, EVIL, EVIL, EVIL, (EVIL,))
    assert ask.advice is not None
    advice = msgspec.structs.replace(ask.advice, application=EVIL, purpose=EVIL, suggest=EVIL)
    link = msgspec.structs.replace(ask.links[0], name=EVIL, price=EVIL, budget=EVIL)
    evil = msgspec.structs.replace(
        ask, user=EVIL, processes=(process,), destination=to, why=EVIL, advice=advice,
        links=(link,), scopes=(Scope("connection", EVIL),),
    )  # fmt: skip
    told = msgspec.structs.replace(connection(1), app=app, destination=to, note=EVIL, rule=EVIL)
    state = {"name": EVIL, "interface": EVIL, "kind": EVIL, "price": EVIL, "budget": EVIL}

    async def part() -> None:
        async with scene(tmp_path, evil, followed=(links(state), told)) as s:
            for keys in (
                "",
                "r",
                "escape",
                "i",
                "escape",
                "2",
                "down",
                "enter",
                "escape",
                "3",
                "5",
                "6",
            ):
                if keys:
                    await s.press(keys)
                s.app._draw()
                await s.settle()
                assert not set(s.text) & set("\x1b\u202e\r"), keys
                # Markup would vanish from what is seen: it must be there as it was written.
                assert "[red]" in s.text or keys in ("6", "5"), (keys, s.text)
            await s.tell(Decided(1, EVIL, EVIL, EVIL, 1, EVIL, 3))
            await s.press("6")
            await s.sees("[red]evil[/]")
            assert s.app.is_running

    play(part())


# --- the daemon -----------------------------------------------------------------------------


def test_it_follows_and_comes_back_by_itself_with_the_asks_that_wait(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, waiting(1), followed=(links(), connection(1))) as s:
            await s.sent(Follow)
            await s.press("w")
            await s.sent(Away)
            await s.daemon.stop()
            await s.sees("NOT CONNECTED")
            assert "trying again" in s.text
            assert not s.app.machine.cards
            await s.quickly("d")
            assert not s.received(Answer)
            await s.daemon.start()
            await s.sees("1 waiting")
            await s.sent(Follow, 2)
            aways = await s.sent(Away, 2)
            assert [away.away for away in aways] == [True, True], "it is said again"

    play(part())


def test_an_answer_on_its_way_is_not_lost_silently(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, waiting(1)) as s:
            s.daemon._answer = lambda *_: None  # type: ignore[method-assign]
            await s.press("a")
            await s.sent(Answer)
            await s.daemon.stop()
            await s.sees("your answer on curl → 192.0.2.1:443 (https) may not have arrived")
            await s.daemon.start()
            await s.sees("1 of 1 waiting")

    play(part())


def test_a_daemon_that_refuses_for_good_ends_it_with_its_words(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path) as s:
            s.daemon.refuse = Refused(RefusedReason.VERSION, "another version: update this one")
            await s.daemon.stop()
            await s.daemon.start()
            await s.until(lambda: s.app.end)
            assert "another version" in s.app.end
            assert s.app.return_value == 1

    play(part())


# --- snooze, do not disturb, learning -------------------------------------------------------


def test_a_snooze_is_begun_seen_with_its_clock_and_ended(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path) as s:
            await s.press("z", "enter")
            assert not s.received(Snooze), "Return begins nothing"
            await s.press("2")
            assert await s.sent(Snooze) == [Snooze(Choice.DENY, 900.0)]
            await s.sees("what is new of alice is denied unasked for 15 min")
            await s.press("z")
            await s.sees("(by alice)")
            await s.press("0")
            assert (await s.sent(Snooze, 2))[1].seconds == 0
            await s.until(lambda: "unasked" not in s.text)

    play(part())


def test_a_snooze_of_all_users_is_for_admins() -> None:
    everyone = SnoozeView(None, "", "deny", 2.0, "root")
    own = SnoozeView(1000, "alice", "deny", 2.0, "alice")
    assert "7" not in dict(snooze_module.keys(admin=False))
    assert dict(snooze_module.keys(admin=True))["7"] == "deny 15 min for all users"
    assert snooze_module.message("8", []) == Snooze(Choice.ALLOW, 900.0, True)
    assert snooze_module.message("0", [everyone]) == Snooze(Choice.DENY, 0.0, True)
    assert snooze_module.message("0", [everyone, own]) == Snooze(Choice.DENY, 0.0, False)
    assert snooze_module.message(None, [own]) is None


def test_do_not_disturb_shows_no_question_and_answers_none(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, waiting(1)) as s:
            await s.press("w")
            assert await s.sent(Away) == [Away(True)]
            await s.sees("DO NOT DISTURB")
            assert "wants to connect" not in s.text
            await s.press("a", "d")
            await s.sees("do not disturb is on: w shows the questions again")
            assert not s.received(Answer)
            await s.press("w")
            assert (await s.sent(Away, 2))[1] == Away(False)
            await s.sees("wants to connect")

    play(part())


def test_learning_and_problems_are_seen(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path) as s:
            assert "mode ask" in s.text
            await s.sees("a problem: see 6 Log")
            s.daemon.status = msgspec.structs.replace(s.daemon.status, mode="observe", problems=())
            await s.tell(s.daemon.status)
            await s.sees("LEARNING: what is new passes and is recorded")
            assert "a problem" not in s.text
            await s.press("6")
            await s.sees("no answer from the resolver's log")

    play(part())


# --- the log --------------------------------------------------------------------------------


def test_an_own_answer_is_taken_back_after_a_yes(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, waiting(1)) as s:
            await s.press("a")
            await s.sees("rule 12")
            await s.press("6", "u")
            await s.sees("take this answer back?")
            await s.press("enter", "escape")
            assert not s.received(Undo), "Return and Esc take nothing back"
            await s.press("u", "y")
            assert await s.sent(Undo) == [Undo(12)]
            await s.sees("(taken back) allowed curl")
            await s.press("u")
            await s.sees("that is no answer of yours with a rule that is in force")

    play(part())


# --- the whole ------------------------------------------------------------------------------


def test_the_keys_are_listed_and_q_quits(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, waiting(1)) as s:
            await s.press("question_mark")
            await s.sees("a allow, d deny, r route over a link")
            await s.press("q")
            assert s.app.is_running, "a key in a box is for the box"
            await s.press("escape", "q")
            await s.until(lambda: s.ended)
            assert s.app.return_value == 0

    play(part())


@pytest.mark.parametrize("size", [(200, 60), (80, 24), (40, 12), (20, 5), (1, 1)])
def test_any_size_of_terminal_will_do(tmp_path: Path, size: tuple[int, int]) -> None:
    async def part() -> None:
        asks = [waiting(id) for id in range(1, 9)]
        async with scene(tmp_path, *asks, size=size, followed=(links(), connection(1))) as s:
            for tab in "234561":
                await s.quickly(tab)
                await s.settle()
            await s.quickly("question_mark")
            await s.settle()
            await s.quickly("escape")
            await s.pilot.resize_terminal(90, 30)
            await s.sees("wants to connect to")

    play(part())


def test_a_rule_that_does_not_fit_is_read_before_it_is_made(tmp_path: Path) -> None:
    long = waiting(1)
    conditions = f"app=/{'x' * 3000} host=192.0.2.1"
    scopes = tuple(msgspec.structs.replace(x, conditions=conditions) for x in long.scopes)

    async def part() -> None:
        async with scene(tmp_path, msgspec.structs.replace(long, scopes=scopes)) as s:
            await s.press("a")
            await s.sees("this rule is longer than the screen")
            assert not s.received(Answer)
            await s.press("i", "escape", "a")
            await s.sent(Answer)

    play(part())


def test_what_ended_leaves_the_list_after_a_while(tmp_path: Path) -> None:
    async def part() -> None:
        async with scene(tmp_path, waiting(1), waiting(2)) as s:
            await s.tell(Withdraw(1, WithdrawReason.RULE))
            assert len(s.sheet("asks").items) == 2
            s.now += GONE_SECONDS + 1
            await s.until(lambda: len(s.sheet("asks").items) == 1)
            await s.sees("1 of 1 waiting")

    play(part())
