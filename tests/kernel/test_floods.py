"""Floods of questions, and frontends that do not keep up: nobody waits for them, nothing grows.

What must hold of issue 5, with the real daemon, real programs and real prompts.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from onterminal import READ_SECONDS, OnTerminal
from running import Arbiter, Connection, eventually, python

from arbiter import protocol
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6
from arbiter.protocol import Choice, Role
from arbiter.server import RATE

MANY = """
import selectors, socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
began, wait = time.monotonic(), selectors.DefaultSelector()
for _ in range(500):
    one = socket.socket(family)
    one.setblocking(False)
    one.connect_ex((sys.argv[1], 7))
    wait.register(one, selectors.EVENT_WRITE)
print(time.monotonic() - began, flush=True)
good = 0
while wait.get_map():
    for key, _ in wait.select(60):
        good += key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        wait.unregister(key.fileobj)
print(good, flush=True)
"""
PORTS = f"""
import socket, time
for port in range(1, 65):
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.sendto(b"x", ({SERVER4!r}, port))
    globals()[f"s{{port}}"] = one
time.sleep(300)
"""


@pytest.fixture
def arbiter(clean_lab: Lab, tmp_path: Path) -> Iterator[Arbiter]:
    """In a lab of its own: a port that a test before had, and conntrack knows yet, is not asked."""
    with Arbiter(clean_lab, tmp_path, settings="deadline = 120.0\n") as running:
        yield running


def resident(arbiter: Arbiter) -> int:
    """Bytes of memory that the daemon has."""
    assert arbiter.process is not None
    status = Path(f"/proc/{arbiter.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def line_of(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    return program.stdout.readline().strip()


@pytest.mark.parametrize("server", [SERVER4, SERVER6])
def test_500_connections_of_an_app_in_a_second_are_one_question(
    arbiter: Arbiter, server: str
) -> None:
    with arbiter.connection(Role.WATCH) as watch, OnTerminal(arbiter, "terminal") as prompt:
        prompt.sees("listening as root")
        program = arbiter.program(*python(MANY, server))
        seconds = float(line_of(program))
        try:
            eventually(lambda: arbiter.status().held >= 500, 20)
        except AssertionError as error:
            raise AssertionError(f"{error}: {arbiter.status()}, {arbiter.asks()}") from None
        prompt.sees("for 256 packets in")  # told as it doubles
        assert "of 2 waiting" not in prompt.said
        (ask,) = arbiter.asks()
        time.sleep(READ_SECONDS)
        prompt.key("a")
        assert line_of(program) == "500"
        prompt.sees("✓ allowed")
        told = []
        while not isinstance(message := watch.receive(), protocol.Decided):
            told.append(message)
        assert {m.id for m in told if isinstance(m, protocol.Ask)} == {ask["id"]}
        assert len(told) < 20, "what only counts is told as it doubles"
        assert message.released == 500
    sys.stdout.write(f"500 connections in {seconds:.2f} s: {len(told)} messages\n")


def scripts(folder: Path, count: int, text: str) -> list[Path]:
    made = [folder / f"program{number:02}" for number in range(count)]
    for script in made:
        script.write_text(text)
    return made


def test_of_50_apps_at_once_a_key_decides_the_one_that_is_shown(
    arbiter: Arbiter, tmp_path: Path
) -> None:
    """In two prompts at the same time: first answer wins, and the other says who it was."""
    text = f"exec 3<>/dev/tcp/{SERVER4}/7 && read -r -t 60 line <&3 && echo $line\n"
    first, *others = scripts(tmp_path, 50, text)
    with OnTerminal(arbiter, "terminal") as terminal, OnTerminal(arbiter, "tui") as tui:
        for prompt in (terminal, tui):
            prompt.sees("listening as root")
        began = arbiter.program("bash", str(first))
        for prompt in (terminal, tui):
            prompt.sees("program00")
        programs = [arbiter.program("bash", str(script)) for script in others]
        eventually(lambda: len(arbiter.asks()) == 50, 30)
        for prompt in (terminal, tui):
            prompt.sees("of 50 waiting")
        time.sleep(READ_SECONDS)
        terminal.key("a")
        assert "link=wifi" in line_of(began), "the first one is shown still"
        tui.sees("terminal")
        tui.sees("answered by root from terminal: allow")
        assert all(program.poll() is None for program in programs)
        assert len(arbiter.asks()) == 49
        assert len(arbiter.rules()) == 1
        tui.sees("of 49 waiting")
        time.sleep(READ_SECONDS + 3)  # what ended under one's eyes says so for a while
        before = len(tui.said)
        tui.key("d")
        tui.sees("✗ denied", before)
        terminal.sees("answered by root from tui: deny")
        eventually(lambda: len(arbiter.asks()) == 48)


def test_a_prompt_that_stands_still_delays_nobody_and_comes_back_by_itself(
    arbiter: Arbiter, tmp_path: Path
) -> None:
    """A stopped prompt is cut off when too much waits for it; then it connects again, alone."""
    (script,) = scripts(tmp_path, 1, PORTS)
    with OnTerminal(arbiter, "terminal") as stuck, arbiter.connection(Role.PROMPT) as prompt:
        stuck.sees("listening as root")
        stuck.process.send_signal(signal.SIGSTOP)
        slowest, rounds = 0.0, 0
        while arbiter.status().prompts == 2:
            rounds += 1
            assert rounds < 30, "it is never cut off"
            program = arbiter.program(sys.executable, str(script))
            eventually(lambda: arbiter.status().asks >= 32, 20)
            for ask in arbiter.asks():
                began = time.monotonic()
                prompt.send(protocol.Answer(ask["id"], Choice.ALLOW))
                while not isinstance(message := prompt.receive(), protocol.Decided):
                    assert isinstance(message, protocol.Ask), message
                slowest = max(slowest, time.monotonic() - began)
                time.sleep(1.2 / RATE)
            program.kill()
        assert slowest < 2, "the others are served at once"
        arbiter.add("deny proto=udp")  # what is left of them is no question any more
        eventually(lambda: arbiter.status().asks == 0)
        last = arbiter.program("curl", "-sS", "-m", "30", f"http://{SERVER4}/")
        eventually(arbiter.asks)
        seen = len(stuck.said)
        stuck.process.send_signal(signal.SIGCONT)
        stuck.sees("trying again", seen)
        stuck.sees("curl", seen)
        stuck.sees("port 80 (http)", seen)
        time.sleep(READ_SECONDS)
        stuck.key("a")
        assert "link=wifi" in last.communicate(timeout=20)[0]


def test_a_frontend_that_dies_in_the_middle_of_an_answer_has_answered_nothing(
    arbiter: Arbiter,
) -> None:
    program = arbiter.program("curl", "-sS", "-m", "30", f"http://{SERVER4}/")
    id = arbiter.ask()["id"]
    line = protocol.encode(protocol.Answer(id, Choice.ALLOW))
    for cut in (1, len(line) // 2, len(line) - 1):
        with arbiter.connection(Role.PROMPT) as dying:
            dying.sock.sendall(line[:cut])
            dying.sock.shutdown(socket.SHUT_WR)
    eventually(lambda: arbiter.status().prompts == 0)
    assert [ask["id"] for ask in arbiter.asks()] == [id]
    assert program.poll() is None and arbiter.rules() == []
    arbiter.answer("allow")
    assert "link=wifi" in program.communicate(timeout=20)[0]


def test_the_daemons_memory_stays_bounded_under_floods(arbiter: Arbiter, tmp_path: Path) -> None:
    """More questions than there may be, again and again, and as many prompts as one user may have
    that do not read a byte of them."""
    floods = scripts(tmp_path, 9, PORTS)
    before, after = resident(arbiter), []
    with ExitStack() as stack:
        deaf = [stack.enter_context(arbiter.connection(Role.PROMPT)) for _ in range(20)]
        for _ in range(3):
            programs = [arbiter.program(sys.executable, str(script)) for script in floods]
            eventually(lambda: arbiter.status().asks == 512, 40)
            eventually(lambda: arbiter.counter("by_overflow") > 0, 20)
            arbiter.add("deny proto=udp")
            eventually(lambda: arbiter.status().asks == 0, 20)
            for program in programs:
                program.kill()
            (rule,) = arbiter.json("rules", "list")
            assert arbiter.ran("rules", "remove", str(rule["id"])).returncode == 0
            eventually(lambda: arbiter.status().rules == 0)
            after.append(resident(arbiter))
        assert gone(deaf[0]), "what nobody reads is not kept for ever"
        assert arbiter.status().prompts < 20
    grown = [(now - before) / 1e6 for now in after]
    shown = ", ".join(f"{mb:.1f}" for mb in grown)
    sys.stdout.write(f"three floods of 576 questions, 20 deaf prompts: {shown} MB more\n")
    assert max(grown) < 60, "20 times what is kept for a client, and the questions"
    assert grown[-1] - grown[-2] < 4, "it does not grow with every flood"


def gone(connection: Connection) -> bool:
    """The daemon has ended it."""
    try:
        while connection.sock.recv(1 << 20):
            pass
    except ConnectionResetError:
        pass
    return True
