"""Frontends and a real daemon: whatever they send or do, nobody else is harmed by it.

One daemon for all of them; each test leaves no ask and no program behind.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from running import ARBITER, Arbiter, Connection, eventually, python

from arbiter import protocol
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6
from arbiter.protocol import Choice, RefusedReason, Role

NOBODY = pwd.getpwnam("nobody")
CURL = ("curl", "-sS", "-m", "15", f"http://{SERVER4}/")
CURL6 = ("curl", "-sS", "-m", "15", f"http://[{SERVER6}]/")
REAL_ROOT = Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A directory that everybody may pass: pytest's own are closed."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def shared(lab: Lab, home: Path) -> Iterator[Arbiter]:
    with Arbiter(lab, home, "-v") as running:
        yield running


@pytest.fixture
def arbiter(shared: Arbiter) -> Iterator[Arbiter]:
    yield shared
    shared.end_programs()
    # A rule withdraws what is left open. A late answer would be kept for the next try.
    shared.add("deny")
    eventually(lambda: shared.asks() == [])
    shared.forget()
    eventually(lambda: shared.status().rules == 0)


@contextmanager
def client(arbiter: Arbiter, role: Role = Role.COMMAND, *, nobody: bool = False) -> Iterator[Any]:
    """A connection with its asks; the kernel takes the effective uid at connect (unix(7))."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        if nobody:
            os.setegid(NOBODY.pw_gid)
            os.seteuid(NOBODY.pw_uid)
        try:
            sock.connect(str(arbiter.socket))
        finally:
            if nobody:
                os.seteuid(0)
                os.setegid(0)
        connection = Connection(sock)
        connection.send(protocol.Hello(protocol.VERSION, role, "test"))
        welcome = connection.receive()
        assert isinstance(welcome, protocol.Welcome)
        assert (welcome.user, welcome.admin) == (("nobody", False) if nobody else ("root", True))
        connection.asks = [connection.receive() for _ in range(welcome.asks)]
        yield connection


def start(arbiter: Arbiter, *argv: str, user: str | None = None) -> subprocess.Popen[str]:
    program: subprocess.Popen[str] = arbiter.lab.popen(
        argv, user=user, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    arbiter.programs.append(program)
    return program


def refused(connection: Connection, reason: RefusedReason) -> str:
    message = connection.receive()
    assert isinstance(message, protocol.Refused), message
    assert message.reason is reason, message
    return message.text


def gone(connection: Connection) -> bool:
    """The daemon has ended the connection; what it said before is skipped."""
    try:
        while connection.sock.recv(1 << 20):
            pass
    except ConnectionResetError:
        pass
    return True


# --- whose ask ------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL_ROOT, reason="KERNEL TEST NOT RUN: a user namespace has no nobody")
def test_a_user_reads_the_records_of_its_own_programs_only(arbiter: Arbiter) -> None:
    arbiter.add("deny")
    began = time.time()
    for user in (None, "nobody"):
        assert start(arbiter, *CURL, user=user).wait(15) == 7

    def read(connection: Connection, **filters: str) -> list[str]:
        since = datetime.fromtimestamp(began).astimezone().isoformat()
        only = protocol.RecordFilters(since=since, app="curl", **filters)
        connection.send(protocol.ReadRecords(7, only))
        reply = connection.receive()
        assert isinstance(reply, protocol.Records), reply
        assert reply.request == 7
        return [record["user"] for record in reply.records]

    with client(arbiter) as roots, client(arbiter, nobody=True) as own:
        eventually(lambda: read(roots) == ["nobody", "root"])
        assert read(own) == ["nobody"]
        assert read(own, user="*") == ["nobody"]
        own.send(protocol.ReadRecords(8, protocol.RecordFilters(user="root")))
        assert "you see records of nobody's processes" in refused(own, RefusedReason.RIGHT)


@pytest.mark.skipif(not REAL_ROOT, reason="KERNEL TEST NOT RUN: a user namespace has no nobody")
def test_what_a_rule_says_that_cannot_be_read_is_told_to_admins_only(arbiter: Arbiter) -> None:
    arbiter.add("deny app=/home/ada/private user=root")
    with closing(sqlite3.connect(arbiter.home / "state" / "arbiter.db")) as hand, hand:
        hand.execute("UPDATE rules SET line = line || ' prot=1' WHERE line LIKE '%/ada/%'")
        (bad,) = hand.execute("SELECT id FROM rules WHERE line LIKE '%prot=%'").fetchone()

    def problems(connection: Connection) -> str:
        connection.send(protocol.Query())
        reply = connection.receive()
        assert isinstance(reply, protocol.Status), reply
        return "\n".join(reply.problems)

    arbiter.add("deny port=1")  # the daemon reads all of them again
    with client(arbiter) as roots, client(arbiter, nobody=True) as own:
        assert "/home/ada/private" in problems(roots)
        told = problems(own)
        assert "1 rules or profiles cannot be read" in told
        assert "/home/ada" not in told and "prot" not in told
    removed = arbiter.ran("rules", "remove", str(bad))
    assert removed.returncode == 0, removed.stderr


@pytest.mark.skipif(not REAL_ROOT, reason="KERNEL TEST NOT RUN: a user namespace has no nobody")
def test_a_user_answers_for_its_own_programs_and_sees_no_others(arbiter: Arbiter) -> None:
    roots, own = start(arbiter, *CURL), start(arbiter, *CURL6, user="nobody")
    eventually(lambda: len(arbiter.asks()) == 2)
    asks = {ask["user"]: ask for ask in arbiter.asks()}
    with client(arbiter, Role.PROMPT, nobody=True) as nobody:
        (ask,) = nobody.asks
        assert ask.id == asks["nobody"]["id"]
        assert all("user=nobody" in scope.conditions for scope in ask.scopes)

        nobody.send(protocol.Answer(asks["root"]["id"], Choice.ALLOW, "app", "forever"))
        assert "root" in refused(nobody, RefusedReason.RIGHT)
        nobody.send(protocol.Answer(ask.id, Choice.ALLOW, "destination", "forever"))
        refused(nobody, RefusedReason.INVALID)
        nobody.send(protocol.Changed())
        refused(nobody, RefusedReason.RIGHT)

        nobody.send(protocol.Answer(ask.id, Choice.ALLOW, "app", "forever"))
        decided = nobody.receive()
        assert isinstance(decided, protocol.Decided)
        assert decided.rule == "allow app=/usr/bin/curl user=nobody"
        assert decided.user == "nobody"
    assert own.wait(15) == 0
    assert roots.poll() is None, "nobody's rule is about nobody's programs"
    assert [ask["user"] for ask in arbiter.asks()] == ["root"]
    assert arbiter.rules() == ["allow app=/usr/bin/curl user=nobody"]


def test_who_answered_takes_it_back_and_what_was_replaced_returns(arbiter: Arbiter) -> None:
    own = start(arbiter, *CURL, user="nobody")
    eventually(arbiter.asks)
    with client(arbiter, Role.PROMPT, nobody=True) as nobody, client(arbiter) as root:
        (ask,) = nobody.asks
        nobody.send(protocol.Answer(ask.id, Choice.ALLOW, "app", "forever"))
        decided = nobody.receive()
        assert isinstance(decided, protocol.Decided) and decided.rule_id is not None
        assert own.wait(15) == 0
        assert start(arbiter, *CURL, user="nobody").wait(15) == 0
        arbiter.add("deny port=1")
        (roots,) = (r["id"] for r in arbiter.json("rules", "list") if r["by"] == "root")
        nobody.send(protocol.Undo(roots))
        assert "root made it" in refused(nobody, RefusedReason.INVALID)
        nobody.send(protocol.Undo(decided.rule_id))
        assert nobody.receive() == protocol.Undone(decided.rule_id)
        assert arbiter.rules() == ["deny port=1"]
        again = start(arbiter, *CURL, user="nobody")
        asked = nobody.receive()
        assert isinstance(asked, protocol.Ask) and asked.processes[0].pid == again.pid
        root.send(protocol.Undo(roots))
        while not isinstance(message := root.receive(), protocol.Undone):
            assert isinstance(message, protocol.Ask | protocol.Decided)
    assert arbiter.rules() == []


def test_a_snooze_is_about_its_own_users_programs_and_a_visible_end(arbiter: Arbiter) -> None:
    with client(arbiter, Role.PROMPT, nobody=True) as nobody:
        nobody.send(protocol.Snooze(Choice.DENY, 60))
        told = nobody.receive()
        assert isinstance(told, protocol.Snoozed)
        (view,) = told.snoozes
        assert (view.user, view.decision, view.by) == ("nobody", "deny", "nobody")
        assert 0 < view.until - time.time() <= 60
        assert start(arbiter, *CURL, user="nobody").wait(5) == 7, "refused at once"
        roots = start(arbiter, *CURL)
        assert arbiter.ask()["processes"][0]["pid"] == roots.pid
        nobody.send(protocol.Snooze(Choice.ALLOW, 60, everyone=True))
        refused(nobody, RefusedReason.RIGHT)
        nobody.send(protocol.Snooze(Choice.ALLOW, 1))
        assert nobody.receive().snoozes[0].decision == "allow"
        assert start(arbiter, *CURL, user="nobody").wait(15) == 0
        assert nobody.receive() == protocol.Snoozed(()), "its end is told"


# --- exactly once ---------------------------------------------------------------------------


@pytest.mark.parametrize("lifetime", ["once", "forever"])
def test_of_two_answers_at_once_one_decides_and_the_other_learns_who_was_first(
    arbiter: Arbiter, lifetime: str
) -> None:
    program = start(arbiter, *CURL)
    id = str(arbiter.ask()["id"])
    env = arbiter.lab.environment() | {"ARBITER_SOCKET": str(arbiter.socket)}
    rivals = {
        decision: arbiter.lab.popen(
            [*ARBITER, "answer", id, decision, "--for", lifetime],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        for decision in ("allow", "deny")
    }
    done = {decision: rival.communicate(timeout=20) for decision, rival in rivals.items()}
    codes = {decision: rival.returncode for decision, rival in rivals.items()}
    assert sorted(codes.values()) == [0, 1], (codes, done)
    winner, loser = sorted(codes, key=codes.__getitem__)
    assert done[winner][0].startswith(f"{winner}: 1 waiting packet")
    assert "root has answered" in done[loser][1] and done[loser][0] == ""
    assert (program.wait(15) == 0) is (winner == "allow")
    if lifetime == "forever":
        (rule,) = arbiter.rules()
        assert rule.startswith(winner)


@pytest.mark.skipif(not REAL_ROOT, reason="KERNEL TEST NOT RUN: a user namespace has no nobody")
def test_of_two_people_the_other_learns_by_whom_and_with_what_it_was_answered(
    arbiter: Arbiter,
) -> None:
    with (
        client(arbiter, Role.PROMPT) as root,
        client(arbiter, Role.PROMPT, nobody=True) as nobody,
    ):
        program = start(arbiter, *CURL, user="nobody")
        asked = nobody.receive()
        assert isinstance(asked, protocol.Ask) and root.receive().id == asked.id
        nobody.send(protocol.Answer(asked.id, Choice.ALLOW, "connection", "1h"))
        for each in (nobody, root):
            while not isinstance(told := each.receive(), protocol.Decided):
                assert isinstance(told, protocol.Ask)
            assert (told.user, told.frontend, told.decision) == ("nobody", "test", "allow")
            assert "user=nobody" in told.rule and told.rule.endswith("for=1h")
        root.send(protocol.Answer(asked.id, Choice.DENY))
        assert "nobody has answered" in refused(root, RefusedReason.ANSWERED)
        assert program.wait(15) == 0


# --- bad frontends --------------------------------------------------------------------------


def test_answers_that_cannot_be_carried_out_leave_the_ask_as_it_was(arbiter: Arbiter) -> None:
    program = start(arbiter, *CURL)
    ask = arbiter.ask()
    good = protocol.Answer(ask["id"], Choice.ALLOW)
    with client(arbiter) as connection:
        for bad, reason in (
            (protocol.Answer(ask["id"] + 99, Choice.ALLOW), RefusedReason.GONE),
            (protocol.Answer(10**30, Choice.ALLOW), RefusedReason.GONE),
            (protocol.Answer(-1, Choice.ALLOW), RefusedReason.GONE),
            (protocol.Answer(ask["id"], Choice.ALLOW, "world"), RefusedReason.INVALID),
            (protocol.Answer(ask["id"], Choice.ALLOW, "app", "ever"), RefusedReason.INVALID),
            (
                protocol.Answer(ask["id"], Choice.ROUTE, via=("no-such-link",)),
                RefusedReason.INVALID,
            ),
        ):
            connection.send(bad)
            refused(connection, reason)
        assert [a["id"] for a in arbiter.asks()] == [ask["id"]]
        assert program.poll() is None, "it is held still"
        connection.send(good)
        assert isinstance(connection.receive(), protocol.Decided)
        connection.send(good)
        assert "root has answered" in refused(connection, RefusedReason.ANSWERED)
    assert program.wait(15) == 0
    assert arbiter.rules() == []


def test_garbage_floods_and_deaf_clients_delay_nobody(arbiter: Arbiter) -> None:
    with (
        client(arbiter) as huge,
        client(arbiter) as flood,
        client(arbiter, Role.PROMPT) as deaf,
        client(arbiter, Role.PROMPT) as prompt,
    ):
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            huge.sock.sendall(b"x" * 10_000_000)
        flood.sock.sendall(b"\xff[\n" * 20_000)
        deaf.sock.sendall(b'{"type":"answer","ask":')
        program = start(arbiter, *CURL)
        ask = prompt.receive()
        prompt.send(protocol.Answer(ask.id, Choice.ALLOW))
        assert program.wait(10) == 0
        assert gone(huge) and gone(flood)
    arbiter.status()


def test_an_ask_outlives_a_prompt_that_is_killed(arbiter: Arbiter) -> None:
    code = (
        "import socket,sys\n"
        "s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        """s.sendall(b'{"type":"hello","version":1,"role":"prompt","name":"victim"}\\n')\n"""
        "print(s.recv(100), flush=True)\n"
        "while s.recv(65536): pass\n"
    )
    victim = start(arbiter, *python(code, str(arbiter.socket)))
    assert victim.stdout is not None and "welcome" in victim.stdout.readline()
    before = arbiter.status().prompts
    program = start(arbiter, *CURL)
    id = arbiter.ask()["id"]
    victim.kill()
    eventually(lambda: arbiter.status().prompts == before - 1)
    assert arbiter.ask()["id"] == id
    assert program.poll() is None
    arbiter.answer("allow")
    assert program.wait(15) == 0


# --- hostile programs -----------------------------------------------------------------------

EVIL = "x\x1b[31m\n\u202egpj.\u2066\\a b\"' =#\U000e0041[bold]"
HUGE = """
import os, socket, sys
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
for _ in range(30):
    if not (child := os.fork()):
        break
if child:
    sock.settimeout(10)
    sock.connect((sys.argv[1], 7))
    print("connected", flush=True)
else:
    os.read(0, 1)
"""


def test_hostile_names_reach_neither_the_ask_nor_the_list_nor_the_log(
    arbiter: Arbiter, home: Path
) -> None:
    folder = home / EVIL
    folder.mkdir(exist_ok=True)
    program_file, script = folder / EVIL, folder / f"{EVIL}.py"
    shutil.copy("/usr/bin/curl", program_file)
    script.write_text("import socket,sys; socket.create_connection((sys.argv[1],7),15)")
    raw = os.fsdecode(b"\xff\xfe\x9b31m")
    programs = (
        (str(program_file), "-sS", "-m", "15", "-A", EVIL + raw, f"http://{SERVER4}/"),
        (sys.executable, str(script), SERVER6, EVIL),
    )
    for argv in programs:
        program = start(arbiter, *argv)
        ask = arbiter.ask()
        texts = json.dumps(ask, ensure_ascii=False)
        assert texts.isprintable(), ascii(texts)
        assert "gpj" in ask["processes"][0]["app"]["id"]
        done = arbiter.ran("pending")
        assert len(done.stdout.splitlines()) == 2, "a name broke the line"
        assert all(line.isprintable() for line in done.stdout.splitlines())
        assert "[bold]" in done.stdout, "a name was read as markup"

        arbiter.answer("allow", "--for", "forever", "--scope", "app")
        output, code = program.communicate(timeout=15)[0], program.returncode
        assert code == 0, output
        assert arbiter.run(*argv)[0] == 0, "the remembered rule means the same program"
        assert arbiter.asks() == []
    listed = arbiter.ran("rules", "list").stdout.splitlines()
    assert len(listed) == 3 and all(line.isprintable() for line in listed)
    log = (arbiter.home / "log").read_text(errors="surrogateescape")
    assert all(line.isprintable() for line in log.splitlines()), ascii(log)


@pytest.mark.skipif(not REAL_ROOT, reason="KERNEL TEST NOT RUN: a user namespace has no nobody")
def test_no_program_can_make_an_ask_that_ends_the_prompts_it_goes_to(arbiter: Arbiter) -> None:
    """Thirty processes hold its socket, each with a command line of 1.5 MB."""
    with client(arbiter, Role.PROMPT) as prompt:
        program = arbiter.lab.popen(
            python(HUGE, SERVER4, *["\U0001f600" * 30_000] * 12),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        arbiter.programs.append(program)
        ask = prompt.receive()
        assert isinstance(ask, protocol.Ask)
        assert len(protocol.encode(ask)) <= protocol.MAX_MESSAGE
        assert "more processes hold this socket" in ask.why
        prompt.send(protocol.Answer(ask.id, Choice.ALLOW))
        while not isinstance(message := prompt.receive(), protocol.Decided):
            assert isinstance(message, protocol.Ask)
        assert program.stdout is not None
        assert program.stdout.readline() == "connected\n"


# --- the end --------------------------------------------------------------------------------


def test_clients_are_told_when_the_daemon_stops_and_served_when_it_is_back(
    arbiter: Arbiter,
) -> None:
    with client(arbiter, Role.PROMPT) as prompt, client(arbiter) as command:
        program = start(arbiter, *CURL)
        ask = prompt.receive()
        assert arbiter.stop() == 0
        message = prompt.receive()
        while isinstance(message, protocol.Ask):
            message = prompt.receive()
        assert isinstance(message, protocol.Withdraw)
        assert (message.ask, message.reason) == (ask.id, protocol.WithdrawReason.STOPPING)
        assert gone(prompt) and gone(command)
        assert not arbiter.socket.exists()
        assert arbiter.ran("status").returncode == 3
        program.kill()
    arbiter.start()
    assert arbiter.status().prompts == 0
