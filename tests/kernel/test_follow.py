"""What those who follow hear of real connections: the real daemon, kernel and programs."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from running import ARBITER, Arbiter, Prompt, eventually, forget_closed

from arbiter import protocol
from arbiter.lab import Lab
from arbiter.lab.config import LTE, SERVER4, SERVER6

M = TypeVar("M")


@pytest.fixture
def arbiter(clean_lab: Lab, tmp_path: Path) -> Iterator[Arbiter]:
    with Arbiter(clean_lab, tmp_path) as running:
        yield running


class Follower(Prompt):
    """A prompt that follows, too."""

    def __enter__(self) -> Follower:
        super().__enter__()
        self.connection.send(protocol.Follow())
        return self

    def all(self, kind: type[M]) -> list[M]:
        return [message for message in tuple(self.messages) if isinstance(message, kind)]

    def connections(self, **fields: Any) -> list[protocol.Connection]:
        return [
            message
            for message in self.all(protocol.Connection)
            if all(getattr(message, name) == value for name, value in fields.items())
        ]


@pytest.mark.parametrize("server", [SERVER4, SERVER6])
def test_a_connection_is_told_with_its_bytes_as_it_runs_and_at_its_end(
    arbiter: Arbiter, server: str
) -> None:
    arbiter.add("route via=lte host=internet")
    forget_closed(arbiter.lab)
    with Follower(arbiter) as follower:
        echo = arbiter.echo(server)
        [told] = eventually(lambda: follower.connections(pid=echo.program.pid))
        assert (told.destination.address, told.link, told.passes) == (server, "lte", True)
        assert (told.decision, told.reason, told.rule_id) == ("route via=lte", "rule", 1)
        echo.send(400_000)

        def moved() -> list[protocol.Moved]:
            return [
                each
                for traffic in follower.all(protocol.Traffic)
                for each in traffic.connections
                if each.id == told.id and each.sent > 400_000 and each.received > 400_000
            ]

        eventually(moved)
        # Whoever comes later is told of what runs, with what it carried so far.
        with Follower(arbiter) as late:
            [again] = eventually(lambda: late.connections(id=told.id))
            assert again.sent > 400_000
        echo.end()
        [closed] = eventually(
            lambda: [each for each in follower.all(protocol.Closed) if each.id == told.id]
        )
        assert 400_000 < closed.sent < 440_000


def test_refusals_and_links_are_told(arbiter: Arbiter) -> None:
    arbiter.add(f"deny host={SERVER4}")
    with Follower(arbiter) as follower:
        assert arbiter.run("curl", "-sS", "-m", "5", f"http://{SERVER4}/")[0] == 7
        [told] = eventually(lambda: follower.connections(reason="rule"))
        assert (told.passes, told.link, told.app and told.app.id) == (False, "", "/usr/bin/curl")
        [links] = eventually(lambda: follower.all(protocol.Links))
        assert {link.name: link.default for link in links.links} == {"wifi": True, "lte": False}
        arbiter.lab.run(["ip", "link", "set", LTE.interface, "down"])
        down = eventually(lambda: follower.all(protocol.Links)[1:])[-1]
        assert {link.name: link.up for link in down.links} == {"wifi": True, "lte": False}


@contextmanager
def command(arbiter: Arbiter, *argv: str) -> Iterator[subprocess.Popen[str]]:
    process = arbiter.lab.popen(
        [*ARBITER, *argv], stdout=subprocess.PIPE, text=True, env=arbiter.command_environment()
    )
    try:
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_the_command_says_everything_and_is_nobody_to_ask(arbiter: Arbiter) -> None:
    with command(arbiter, "events", "--json") as json_lines, command(arbiter, "events") as words:
        assert json_lines.stdout is not None and words.stdout is not None
        assert json.loads(json_lines.stdout.readline())["type"] == "links"
        assert "links: " in words.stdout.readline()
        program = arbiter.program("curl", "-sS", "-m", "9", f"http://{SERVER4}/")
        ask = json.loads(json_lines.stdout.readline())
        assert (ask["type"], ask["destination"]["address"]) == ("ask", SERVER4)
        assert arbiter.status().prompts == 0
        arbiter.answer("allow")
        assert program.wait(10) == 0
        kinds = {json.loads(json_lines.stdout.readline())["type"] for _ in range(2)}
        assert kinds == {"connection", "decided"}
        lines = [words.stdout.readline() for _ in range(3)]
        assert f"wants to {SERVER4} port 80 tcp" in lines[0]
        assert any(f"allow curl → {SERVER4} port 80 tcp over wifi" in line for line in lines)
        assert any("ask 1: allow by root (arbiter answer)" in line for line in lines)
