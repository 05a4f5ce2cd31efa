"""The full-screen prompt with the real daemon: what a person sees and does is so in the kernel."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from running import Arbiter
from tui_scene import Person, play

from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6
from prompts.client import Client
from prompts.commands import Commands

LTE_FILE = '[link]\nname = "lte"\nmatch = { interface = "wwan*" }\nprice = "0.02 EUR/MB"\n'


@pytest.fixture
def arbiter(clean_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Arbiter]:
    with Arbiter(clean_lab, tmp_path, links={"lte.toml": LTE_FILE}) as running:
        for name, value in running.command_environment().items():
            if name.startswith("ARBITER_"):
                monkeypatch.setenv(name, value)
        monkeypatch.setenv("ARBITER_CONFIG", str(tmp_path / "config"))
        yield running


@asynccontextmanager
async def person(arbiter: Arbiter) -> AsyncIterator[Person]:
    path = str(arbiter.socket)
    async with await Client.connect(path, "tui") as client:
        commands = Commands(path)
        someone = Person(client, commands)
        async with someone.app.run_test(size=(150, 36)) as someone.pilot:
            await someone.sees("listening as root")
            yield someone
        await commands.close()


async def ended(*programs: object) -> list[str]:
    return [(await asyncio.to_thread(p.communicate, timeout=20))[0] for p in programs]  # type: ignore[attr-defined]


async def listed(p: Person, *ids: int) -> None:
    await p.until(lambda: [row["id"] for row in p.sheet("rules").items] == [*ids])


def test_what_is_answered_seen_and_taken_back_is_so(arbiter: Arbiter) -> None:
    async def part() -> None:
        async with person(arbiter) as p:
            four = arbiter.program("curl", "-sS", "-m", "30", f"http://{SERVER4}/")
            await p.sees("curl, from")
            await p.sees(f"{SERVER4}, port 80 (http), tcp, internet")
            await p.press("r")
            await p.sees("lte: 0.02 EUR/MB")
            await p.press("2", "r")
            await p.sees("✓ routed curl; rule 1: route via=lte app=/usr/bin/curl")
            [said] = await ended(four)
            assert "link=lte" in said

            six = arbiter.program("curl", "-sS", "-m", "30", f"http://[{SERVER6}]/")
            await p.sees(f"{SERVER6}, port 80")
            await p.press("d")
            [said] = await ended(six)
            assert "link=" not in said
            assert six.returncode == 7, "refused at once"

            await p.press("2", "down")
            await p.sees("rule 2 of root")
            await p.press("down", "enter")
            await p.sees("rule 1 of root: route via=lte app=/usr/bin/curl")
            await p.press("escape", "6", "u", "y")
            await p.sees("(taken back) denied curl")
            await p.until(lambda: len(arbiter.rules()) == 1)

    play(part())


def test_rules_are_changed_from_their_tab(arbiter: Arbiter) -> None:
    async def part() -> None:
        async with person(arbiter) as p:
            await p.press("4")
            await p.sees("no rules are remembered")
            await p.press("a", *"allow host=lan portt=1", "enter")
            await p.sees("this is no rule")
            await p.press("escape", "a", *f"deny host={SERVER4}", "enter")
            await p.sees(f"rule 1: deny host={SERVER4}")
            await listed(p, 1)
            code, _, _ = await asyncio.to_thread(arbiter.run, "curl", "-sS", f"http://{SERVER4}/")
            assert code == 7, "it is in force"
            await p.press("down", "e", "home", *["delete"] * len("deny"), *"allow", "enter")
            await p.sees(f"rule 2, in place of rule 1: allow host={SERVER4}")
            code, out, _ = await asyncio.to_thread(arbiter.run, "curl", "-sS", f"http://{SERVER4}/")
            assert (code, "link=wifi" in out) == (0, True)
            await listed(p, 2)
            await p.press("down", "x", "y")
            await p.sees("removed rule 2")
            await listed(p)
            await p.press("u")
            await p.sees(f"comes back  allow host={SERVER4}")
            await p.press("y")
            await p.until(lambda: arbiter.rules() == [f"allow host={SERVER4}"])

    play(part())


def test_links_and_apps_show_what_was_really_carried(arbiter: Arbiter) -> None:
    arbiter.add("route via=lte host=internet")

    async def part() -> None:
        async with person(arbiter) as p:
            echo = arbiter.echo(SERVER4)
            await asyncio.to_thread(echo.send, 2_000_000)
            await p.press("5")
            await p.until(lambda: p.app.feed.flows.get("lte") is not None, "for traffic over lte")
            await p.press("down", "down")
            await p.sees("lte, interface wwan0")
            await p.sees("0.02 EUR/MB")
            await p.press("3")
            await p.sees("2.1 MB sent, 2.1 MB received")
            assert f"{SERVER4}:7" in p.text
            assert "over lte" in p.text
            await asyncio.to_thread(echo.end)

    play(part())


def test_a_daemon_that_is_killed_and_started_again_is_met_again(arbiter: Arbiter) -> None:
    async def part() -> None:
        async with person(arbiter) as p:
            arbiter.stop(signal.SIGKILL)
            await p.sees("NOT CONNECTED, trying again")
            await asyncio.to_thread(arbiter.start)
            await p.sees("listening as root")
            curl = arbiter.program("curl", "-sS", "-m", "30", f"http://{SERVER4}/")
            await p.sees("curl, from")
            await p.press("a")
            [said] = await ended(curl)
            assert "link=wifi" in said
            await p.press("2")
            await p.sees(f"{SERVER4}:80")

    play(part())
