"""`arbiter prompt exec`: what a program may say, and what becomes of one that does not."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from notifyserver import eventually
from scripted_daemon import ScriptedDaemon, ask_to, example_ask

from arbiter.model import TrafficClass
from arbiter.protocol import (
    Answer,
    Ask,
    Choice,
    Decided,
    Hello,
    Scope,
    Withdraw,
    WithdrawReason,
)
from prompts.program import keeper
from prompts.program.reply import SAID_LIMIT, Reply, ReplyError, answer, read

CONDITIONS = {scope.id: scope.conditions for scope in example_ask().scopes}

# --- what it may say ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        (b"allow", Reply(Choice.ALLOW)),
        (b"  deny scope=host for=2h\n", Reply(Choice.DENY, "host", "2h")),
        (b"route via=lte,any for=session class=bulk",
         Reply(Choice.ROUTE, "", "session", ("lte", "any"), TrafficClass.BULK)),
        (b'{"decision": "route", "via": ["lte"],\n "scope": "app", "for": "1h"}\n',
         Reply(Choice.ROUTE, "app", "1h", ("lte",))),
        (b'{"decision":"allow","class":"interactive"}',
         Reply(Choice.ALLOW, traffic=TrafficClass.INTERACTIVE)),
        (b"", None),
        (b" \n\n", None),
    ],
)  # fmt: skip
def test_a_decision_is_words_or_json_and_nothing_said_is_none(
    said: bytes, reply: Reply | None
) -> None:
    assert read(said) == reply


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"yes", "'yes' is no decision: it begins with allow, deny or route"),
        (b"Allow", "is no decision"),
        (b"allow\ndeny", "more than one line"),
        (b"allow scope", "'scope' is not one of"),
        (b"allow for=1h for=2h", "each once"),
        (b"allow scope=", "'scope=' is not one of"),
        (b"allow forever", "'forever' is not one of"),
        (b"allow app=/bin/sh", "unknown field `app`"),
        (b"allow decision=deny", "each once"),
        (b"allow lifetime=1h", "unknown field `lifetime`"),
        (b"allow class=fast", "is no decision"),
        (b'{"decision":"allow","shown":""}', "JSON that is no decision"),
        (b'{"decision":"allow"', "JSON that is no decision"),
        (b"a" * (SAID_LIMIT + 1), "more than 4096 bytes"),
        (b"\x1b[31mallow\x1b[0m", "is no decision"),
        (b"\xff", "is no decision"),
    ],
)
def test_anything_else_is_nonsense_and_says_what_is_wrong(said: bytes, why: str) -> None:
    with pytest.raises(ReplyError) as caught:
        read(said)
    assert why in caught.value.text
    assert caught.value.text.isprintable()


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_whatever_it_says_is_a_decision_nothing_or_nonsense(said: bytes) -> None:
    try:
        reply = read(said)
        if reply is not None:
            answer(example_ask(), reply)
    except ReplyError as error:
        assert error.text.isprintable()


@given(
    st.sampled_from(Choice),
    st.sampled_from(["", *CONDITIONS]),
    st.sampled_from(["once", "15m", "forever"]),
    st.lists(st.sampled_from(["lte", "wifi"]), max_size=2, unique=True),
)
def test_the_answer_is_what_was_said_with_the_conditions_of_the_ask(
    decision: Choice, scope: str, lifetime: str, via: list[str]
) -> None:
    words = [str(decision), f"for={lifetime}"]
    words += [f"scope={scope}"] if scope else []
    words += [f"via={','.join(via)}"] if via else []
    reply = read(" ".join(words).encode())
    assert reply is not None
    if bool(via) != (decision is Choice.ROUTE):
        with pytest.raises(ReplyError, match="only route"):
            answer(example_ask(), reply)
        return
    chosen = scope or "connection"
    made = answer(example_ask(), reply)
    assert made == Answer(7, decision, chosen, lifetime, tuple(via), CONDITIONS[chosen])


def test_a_scope_that_is_not_offered_and_a_class_for_deny_are_nonsense() -> None:
    with pytest.raises(ReplyError, match="not offered: connection, host, port, app, parent"):
        answer(example_ask(), Reply(Choice.ALLOW, "world"))
    with pytest.raises(ReplyError, match="no class"):
        answer(example_ask(), Reply(Choice.DENY, traffic=TrafficClass.BULK))


# --- running it -----------------------------------------------------------------------------


@dataclass
class Running:
    """A daemon, and `arbiter prompt exec` at it, in this process."""

    daemon: ScriptedDaemon
    said: list[str] = field(default_factory=list)
    complained: list[str] = field(default_factory=list)

    @property
    def answers(self) -> list[Answer]:
        return [m for m in self.daemon.received if isinstance(m, Answer)]


@asynccontextmanager
async def running(
    folder: Path, script: str, *asks: Ask, seconds: float = 5.0, at_once: int = 4
) -> AsyncIterator[Running]:
    program = folder / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    async with ScriptedDaemon(folder / "s", *asks) as daemon:
        made = Running(daemon)
        task = asyncio.create_task(
            keeper.run(
                daemon.path,
                [str(program)],
                seconds=seconds,
                at_once=at_once,
                say=made.said.append,
                complain=made.complained.append,
            )
        )
        yield made
        if not task.done():
            os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(task, 10) == 0


def play(scene: Callable[[], object]) -> None:
    asyncio.run(scene())  # type: ignore[arg-type]


def test_each_ask_is_one_run_with_the_ask_on_its_input(tmp_path: Path) -> None:
    async def scene() -> None:
        script = f"cat >> {tmp_path}/asked\necho deny scope=host for=2h"
        async with running(tmp_path, script, example_ask()) as made:
            await eventually(lambda: made.said)
            made.daemon.tell(ask_to(8))
            await eventually(lambda: len(made.said) == 2)
            assert made.answers[0] == Answer(
                7, Choice.DENY, "host", "2h", (), "app=/usr/bin/curl host=192.0.2.7"
            )
            assert made.said[0] == (
                "denied curl; rule 12: deny app=/usr/bin/curl host=192.0.2.7 for=2h"
            )
            lines = (tmp_path / "asked").read_text().splitlines()
            assert [json.loads(line)["id"] for line in lines] == [7, 8]
            assert msgspec.json.decode(lines[0], type=Ask) == example_ask()
            assert made.complained == []
            hello = made.daemon.received[0]
            assert isinstance(hello, Hello) and (hello.role, hello.name) == ("prompt", "exec")

    play(scene)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo allow; exit 3", "it ended with exit code 3"),
        ("echo allow; kill -9 $$", "it ended with signal 9"),
        ("echo allow; sleep 60", "it said nothing within 0.5 s (--timeout)"),
        ("sleep 60 & echo allow", "it said nothing within 0.5 s (--timeout)"),
        ("echo maybe", "'maybe' is no decision"),
        ("yes allow", "it said more than 4096 bytes"),
        ("echo allow scope=world", "scope 'world' is not offered"),
    ],
)
def test_a_program_that_fails_hangs_or_talks_nonsense_decides_nothing_and_it_is_said_once(
    tmp_path: Path, script: str, why: str
) -> None:
    async def scene() -> None:
        mark = f"echo x >> {tmp_path}/runs\n"
        async with running(tmp_path, mark + script, example_ask(), ask_to(8), seconds=0.5) as made:
            await eventually(lambda: made.complained)
            await eventually(lambda: (tmp_path / "runs").read_text() == "x\nx\n")
            await asyncio.sleep(0.7)
            assert len(made.complained) == 1
            assert why in made.complained[0]
            assert made.complained[0].startswith(f"{tmp_path}/program decided nothing: ")
            assert made.answers == []
            assert set(made.daemon.asks) == {7, 8}

    play(scene)


def test_what_was_run_leaves_no_pipe_open(tmp_path: Path) -> None:
    """Not even one of which too much came, or that a process of another session still has."""

    async def scene() -> None:
        # It says where it is once it has a session of its own.
        stray = f"echo $$ >> {tmp_path}/strays; touch {tmp_path}/$PPID; exec sleep 300"
        script = f"setsid sh -c '{stray}' &\nwhile [ ! -e {tmp_path}/$$ ]; do sleep 0.01; done\n"
        script += "yes allow"
        async with running(tmp_path, script, example_ask(), seconds=0.5) as made:
            await eventually(lambda: len(made.complained) == 1)
            before = len(os.listdir("/proc/self/fd"))
            for id in range(10, 15):
                made.daemon.tell(ask_to(id))
            strays = tmp_path / "strays"
            await eventually(lambda: len(strays.read_text().split()) == 6)
            await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)
            for pid in strays.read_text().split():
                os.kill(int(pid), signal.SIGKILL)

    play(scene)


def test_nothing_said_is_no_answer_and_no_trouble(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path, f"touch {tmp_path}/ran", example_ask()) as made:
            await eventually((tmp_path / "ran").exists)
            await asyncio.sleep(0.3)
            assert (made.answers, made.complained) == ([], [])

    play(scene)


def test_a_trouble_is_said_again_after_an_answer_was_understood(tmp_path: Path) -> None:
    async def scene() -> None:
        script = "grep -q '\"id\":8,' && echo allow || exit 1"
        async with running(tmp_path, script, ask_to(7)) as made:
            await eventually(lambda: len(made.complained) == 1)
            made.daemon.tell(ask_to(8))
            await eventually(lambda: made.answers)
            made.daemon.tell(ask_to(9))
            await eventually(lambda: len(made.complained) == 2)

    play(scene)


def test_of_many_asks_only_so_many_run_at_once_and_all_are_decided(tmp_path: Path) -> None:
    async def scene() -> None:
        script = f"cd {tmp_path}; mkdir run.$$; ls -d run.* | wc -l >> seen; sleep 0.2\n"
        script += "rmdir run.$$; echo allow"
        asks = [ask_to(id) for id in range(1, 9)]
        async with running(tmp_path, script, *asks, at_once=2) as made:
            await eventually(lambda: len(made.answers) == 8)
            seen = [int(line) for line in (tmp_path / "seen").read_text().split()]
            assert max(seen) == 2

    play(scene)


@pytest.mark.parametrize(
    "end",
    [Withdraw(7, WithdrawReason.EXITED), Decided(7, "allow", "bob", "tui", 1)],
)
def test_a_run_about_an_ask_that_ended_is_ended_with_its_children(
    tmp_path: Path, end: Withdraw | Decided
) -> None:
    async def scene() -> None:
        script = f"sleep 300 & echo $! > {tmp_path}/child.new\n"
        script += f"mv {tmp_path}/child.new {tmp_path}/child; wait; echo deny"
        async with running(tmp_path, script, example_ask(), seconds=60) as made:
            await eventually((tmp_path / "child").exists)
            child = int((tmp_path / "child").read_text())
            made.daemon.tell(end)
            await eventually(lambda: gone(child))
            assert (made.answers, made.said, made.complained) == ([], [], [])

    play(scene)


def gone(pid: int) -> bool:
    """It is no more, or a zombie that nobody waits for here."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_an_ask_that_changed_is_asked_anew_and_one_more_packet_is_not(tmp_path: Path) -> None:
    async def scene() -> None:
        script = f"echo x >> {tmp_path}/runs; sleep 0.4; echo deny"
        async with running(tmp_path, script, example_ask()) as made:
            await eventually((tmp_path / "runs").exists)
            made.daemon.tell(example_ask(waiting=5))
            await asyncio.sleep(0.1)
            assert (tmp_path / "runs").read_text() == "x\n"
            made.daemon.tell(example_ask(scopes=(Scope("connection", "app=/bin/other"),)))
            await eventually(lambda: made.answers)
            assert [sent.shown for sent in made.answers] == ["app=/bin/other"]
            assert (tmp_path / "runs").read_text() == "x\nx\n"

    play(scene)


def test_the_daemons_restart_is_said_and_its_asks_are_asked_again(tmp_path: Path) -> None:
    async def scene() -> None:
        async with running(tmp_path, "echo allow", example_ask()) as made:
            await eventually(lambda: made.said)
            await made.daemon.stop()
            await eventually(lambda: made.complained)
            assert made.complained[0].endswith("ended the connection; trying again")
            made.daemon.asks[8] = ask_to(8)
            await made.daemon.start()
            await eventually(lambda: len(made.said) == 2)

    play(scene)


# --- the command ----------------------------------------------------------------------------


def command(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-P", "-m", "arbiter", "prompt", "exec", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)


def test_what_cannot_work_is_said_at_once(tmp_path: Path) -> None:
    path = ("--socket", str(tmp_path / "s"))
    done = command(*path, "--", "no-such-program-here")
    assert (done.returncode, done.stderr) == (
        2,
        "arbiter prompt: there is no program 'no-such-program-here': check its path\n",
    )
    done = command(*path, "--", "cat")
    assert done.returncode == 3
    assert "Is arbiter running?" in done.stderr
    assert command(*path).returncode == 2


def test_the_programs_own_options_are_its_own_and_sigint_ends_it_well(tmp_path: Path) -> None:
    async def scene() -> None:
        async with ScriptedDaemon(tmp_path / "s", example_ask()) as daemon:
            argv = [sys.executable, "-P", "-m", "arbiter", "prompt", "exec", "--socket"]
            argv += [daemon.path, "--", "sh", "-c", 'echo "$0"', "deny for=15m"]
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(*argv, stdout=pipe, stderr=pipe)
            assert process.stdout is not None
            line = await asyncio.wait_for(process.stdout.readline(), 20)
            assert line.startswith(b"denied curl; rule 12: deny app=/usr/bin/curl host=192.0.2.7")
            process.send_signal(signal.SIGINT)
            out, err = await asyncio.wait_for(process.communicate(), 10)
            assert (process.returncode, out, err) == (0, b"", b"")

    play(scene)


# --- the document ---------------------------------------------------------------------------

DOC = (Path(__file__).parent.parent / "docs" / "exec.md").read_text()


@pytest.mark.parametrize("said", re.findall(r"^\| `(.*?)` \|", DOC, flags=re.M))
def test_every_decision_in_the_document_is_one(said: str) -> None:
    reply = read(said.encode())
    assert reply is not None
    assert answer(example_ask(), reply)


@pytest.mark.skipif(shutil.which("jq") is None, reason="NOT RUN: no jq")
def test_the_shell_program_in_the_document_runs_and_decides(tmp_path: Path) -> None:
    [source] = re.findall(r"```sh\n(#!/bin/sh\n.*?)```", DOC, flags=re.S)
    assert source.count("\n") <= 11
    lan = msgspec.structs.replace(example_ask().destination, scope="lan")
    other = msgspec.structs.replace(example_ask().destination, port=22)

    async def scene() -> None:
        asks = (example_ask(7), example_ask(8, destination=other), example_ask(9, destination=lan))
        async with running(tmp_path, source.partition("\n")[2], *asks) as made:
            await eventually(lambda: len(made.answers) == 2)
            await asyncio.sleep(0.5)
            told = {sent.ask: (sent.decision, sent.scope, sent.lifetime) for sent in made.answers}
            assert told == {
                7: (Choice.ALLOW, "port", "1h"),
                8: (Choice.DENY, "connection", "once"),
            }
            assert made.complained == []

    play(scene)
