"""The commands: exit codes 0 to 3, an error that names the next step, never a traceback.

One file although long: a table of what people can get wrong, through one way to run a command.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_daemon import ScriptedDaemon, ask_to, example_ask, example_status

from arbiter import cli, protocol
from arbiter.cli import common
from arbiter.protocol import RefusedReason
from arbiter.startup import lock_state
from arbiter.store import Store

ROOT = Path(__file__).parent.parent


class Done(NamedTuple):
    code: int
    out: str
    err: str


def finished(argv: tuple[str, ...], **kwargs: Any) -> Done:
    """In a process of its own."""
    settings: dict[str, Any] = {"capture_output": True, "timeout": 60, "cwd": ROOT} | kwargs
    done = subprocess.run([sys.executable, "-m", "arbiter", *argv], **settings)
    texts = [(text or b"").decode(errors="replace") for text in (done.stdout, done.stderr)]
    return checked(Done(done.returncode, *texts))


def checked(done: Done) -> Done:
    assert done.code in (0, 1, 2, 3), done
    assert "Traceback" not in done.err, done.err
    assert "Exception" not in done.err, done.err
    if done.code:
        assert done.err or done.out, "a failure says something"
    return done


@pytest.fixture
def arbiter(tmp_path: Path) -> Callable[..., Done]:
    """Run a command in this process, on a database and socket of this test."""

    def run(*argv: str) -> Done:
        env = {"ARBITER_DB": str(tmp_path / "a.db"), "ARBITER_SOCKET": str(tmp_path / "socket")}
        done = CliRunner(env=env).invoke(cli.cli, argv, prog_name="arbiter")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return checked(Done(done.exit_code, done.stdout, done.stderr))

    return run


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    """A scripted daemon in a thread, with asks 7 and 8 open."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running = ScriptedDaemon(tmp_path / "socket", example_ask(7), ask_to(8))
    asyncio.run_coroutine_threadsafe(running.start(), loop).result(5)
    try:
        yield running
    finally:
        asyncio.run_coroutine_threadsafe(running.stop(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


def answering(path: Path, *replies: bytes) -> threading.Thread:
    """Somebody who listens on `path` for one client and says this, each part to one message."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with listener, listener.accept()[0] as sock:
            for reply in replies:
                sock.recv(65536)
                sock.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


# --- no daemon ------------------------------------------------------------------------------

NEEDS_DAEMON = (("pending",), ("status",), ("answer", "1", "allow"), ("pending", "--json"))


@pytest.mark.parametrize("argv", NEEDS_DAEMON, ids=" ".join)
def test_without_a_daemon_the_exit_code_is_3_and_the_next_step_is_named(
    arbiter: Callable[..., Done], argv: tuple[str, ...]
) -> None:
    done = arbiter(*argv)
    assert done.code == 3
    assert "no daemon answers at" in done.err and "`arbiter run`" in done.err
    assert done.out == ""


def test_what_is_no_daemons_socket_is_unreachable_too(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    (tmp_path / "plain").write_text("x")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    for name in ("plain", "dead", "no/such/dir", "x" * 200, "."):
        done = arbiter("status", "--socket", str(tmp_path / name))
        assert done.code == 3, name
        assert "None" not in done.err, "why is always said"


STATUS = protocol.encode(example_status())
WELCOME = protocol.encode(protocol.Welcome(1, "0", "root", True, "ask", "deny", 0))


@pytest.mark.parametrize(
    ("said", "code", "text"),
    [
        (b"220 smtp ready\r\n", 3, "another protocol"),
        (b"\xff\xfe\x00\n", 3, "another protocol"),
        (b"", 3, "ended the connection"),
        (STATUS, 3, "is not arbiter"),
        (protocol.encode(protocol.Refused(RefusedReason.BUSY, "too many")), 3, "too many"),
    ],
)
def test_whoever_else_listens_there_is_said_to_be_no_daemon(
    arbiter: Callable[..., Done], tmp_path: Path, said: bytes, code: int, text: str
) -> None:
    thread = answering(tmp_path / "socket", said)
    done = arbiter("status")
    thread.join(5)
    assert done.code == code and text in done.err


def test_a_daemon_that_hung_up_before_hello_is_still_heard(tmp_path: Path) -> None:
    """It refuses a connection too many at once; the reason must not be lost to EPIPE."""
    left, right = socket.socketpair()
    with left:
        left.settimeout(5)
        right.sendall(protocol.encode(protocol.Refused(RefusedReason.BUSY, "too many")))
        right.close()
        connection = common.Daemon(left, tmp_path)
        connection.send(protocol.Query())
        assert connection.receive() == protocol.Refused(RefusedReason.BUSY, "too many")


def test_a_daemon_that_says_nothing_is_given_up(
    arbiter: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "TIMEOUT", 0.2)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "socket"))
        silent.listen()
        done = arbiter("pending")
    assert done.code == 3 and "did not reply" in done.err


def test_a_refusal_in_place_of_the_status_ends_the_command(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    refused = protocol.encode(protocol.Refused(RefusedReason.BUSY, "not now"))
    thread = answering(tmp_path / "socket", WELCOME, refused)
    done = arbiter("status")
    thread.join(5)
    assert done.code == 1 and "not now" in done.err


# --- pending and status ---------------------------------------------------------------------


def test_pending_lists_every_ask_as_json_with_the_keys_of_the_protocol(
    arbiter: Callable[..., Done], daemon: ScriptedDaemon
) -> None:
    done = arbiter("pending", "--json")
    assert done.code == 0
    assert json.loads(done.out) == [
        json.loads(protocol.encode(ask)) for ask in daemon.asks.values()
    ]
    assert json.loads(done.out)[0]["id"] == 7


def test_pending_says_who_where_and_which_scopes(
    arbiter: Callable[..., Done], daemon: ScriptedDaemon
) -> None:
    ask = daemon.asks[8]
    to = msgspec.structs.replace(ask.destination, address="2001:db8::8")
    daemon.asks[8] = msgspec.structs.replace(ask, destination=to)
    done = arbiter("pending")
    head, seven, eight = done.out.splitlines()
    assert head.split() == ["id", "who", "user", "where", "waiting", "scopes"]
    assert seven.startswith("7 ") and "curl" in seven and "192.0.2.7:" in seven
    assert "[2001:db8::8]:" in eight and "connection" in eight


def test_pending_quotes_a_name_that_could_pass_for_other_words(
    arbiter: Callable[..., Done], daemon: ScriptedDaemon
) -> None:
    first = daemon.asks[8].processes[0]
    app = msgspec.structs.replace(first.app, name="apt, from systemd")
    first = msgspec.structs.replace(first, app=app, parents=(app,))
    daemon.asks[8] = msgspec.structs.replace(daemon.asks[8], processes=(first,))
    assert f'"{app.name}" ({first.pid}, from "{app.name}")' in arbiter("pending").out


def test_nothing_pending_is_said_in_words_and_as_an_empty_array(
    arbiter: Callable[..., Done], daemon: ScriptedDaemon
) -> None:
    daemon.asks.clear()
    assert arbiter("pending") == (0, "nothing waits for an answer\n", "")
    assert json.loads(arbiter("pending", "--json").out) == []


def test_hostile_names_and_brackets_are_shown_as_text(
    arbiter: Callable[..., Done], daemon: ScriptedDaemon
) -> None:
    """The daemon cleans them; the command trusts nobody, and rich must not read [markup]."""
    ask = daemon.asks[7]
    app = protocol.AppView("/x", "path", "[bold red]\x1b[2J\u202eevil\nname[/bold red]")
    process = msgspec.structs.replace(ask.processes[0], app=app)
    daemon.asks[7] = msgspec.structs.replace(ask, processes=(process,), user="\x1b]0;x\x07")
    done = arbiter("pending")
    assert "[bold red]\ufffd[2J\ufffdevil\ufffdname[/bold red]" in done.out
    assert len(done.out.splitlines()) == 3
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", done.out)


def test_status_is_one_object_with_stable_keys_and_a_table_for_people(
    arbiter: Callable[..., Done], daemon: ScriptedDaemon
) -> None:
    shown = json.loads(arbiter("status", "--json").out)
    assert shown == json.loads(STATUS)
    assert set(shown) == {
        *("type", "mode", "fallback", "backend", "when_absent", "queue", "uptime", "rules"),
        *("asks", "held", "prompts", "counters", "profile", "problems"),
    }
    done = arbiter("status")
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()][:4] == [
        "mode",
        "firewall",
        "up",
        "rules",
    ]


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("ask", "ask; without an answer: deny"),
        ("enforce", "enforce; without a rule: deny"),
        ("observe", "observe; what no rule decides is let go, and recorded"),
    ],
)
def test_the_mode_says_what_becomes_of_what_no_rule_decides(
    arbiter: Callable[..., Done], daemon: ScriptedDaemon, mode: str, text: str
) -> None:
    daemon.status = msgspec.structs.replace(daemon.status, mode=mode, fallback="deny")
    assert arbiter("status").out.splitlines()[0].split(None, 1)[1] == text


# --- answer ---------------------------------------------------------------------------------


def test_an_answer_is_carried_out_and_the_rule_is_said(
    arbiter: Callable[..., Done], daemon: ScriptedDaemon
) -> None:
    done = arbiter("answer", "7", "route via=lte,any", "--scope", "app", "--for", "15m")
    assert done.code == 0 and "rule 12: route via=lte,any " in done.out
    sent = [message for message in daemon.received if isinstance(message, protocol.Answer)]
    choice = protocol.Choice.ROUTE
    assert sent == [protocol.Answer(7, choice, "app", "15m", ("lte", "any"))]
    done = arbiter("answer", "8", "deny", "--json")
    assert json.loads(done.out)["decision"] == "deny" and done.code == 0


def test_without_a_scope_the_narrowest_that_is_offered_is_meant(
    arbiter: Callable[..., Done], daemon: ScriptedDaemon
) -> None:
    """What has no owner is offered no `connection`."""
    ask = daemon.asks[7]
    daemon.asks[7] = msgspec.structs.replace(ask, scopes=ask.scopes[1:])
    done = arbiter("answer", "7", "deny")
    assert done.code == 0 and re.search(r"deny: .* (was|were) refused", done.out)
    done = arbiter("answer", "8", "allow")
    assert done.code == 0 and re.search(r"allow: .* went (its|their) way", done.out)
    sent = [message for message in daemon.received if isinstance(message, protocol.Answer)]
    assert [message.scope for message in sent] == [ask.scopes[1].id, "connection"]


def test_an_ask_that_is_gone_is_refused_with_exit_code_1(
    arbiter: Callable[..., Done], daemon: ScriptedDaemon
) -> None:
    done = arbiter("answer", "99", "allow")
    assert done.code == 1 and "ask 99 is not open" in done.err
    done = arbiter("answer", "99", "allow", "--json")
    assert done.code == 1 and json.loads(done.out)["reason"] == "gone"
    assert json.loads(done.out)["ask"] == 99


DECIDED = protocol.Decided(7, "allow", "bob", "arbiter answer", 1)
REFUSED = protocol.Refused(RefusedReason.ANSWERED, "bob has answered it already: allow", 7)


def test_another_ones_answer_is_never_taken_for_our_own(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    """Both get `decided`; who was second gets `refused` behind it, and must say so."""
    replies = protocol.encode(DECIDED) + protocol.encode(REFUSED) + STATUS
    thread = answering(tmp_path / "socket", WELCOME, replies)
    done = arbiter("answer", "7", "deny")
    thread.join(5)
    assert done.code == 1 and "bob has answered it already" in done.err
    assert done.out == ""


@pytest.mark.parametrize("late", [True, False], ids=["after a look at the disk", "at once"])
def test_our_own_answer_is_recognised_whenever_it_is_carried_out(
    arbiter: Callable[..., Done], tmp_path: Path, late: bool
) -> None:
    decided = protocol.encode(DECIDED)
    replies = STATUS + decided if late else decided + STATUS
    thread = answering(tmp_path / "socket", WELCOME, replies)
    done = arbiter("answer", "7", "allow")
    thread.join(5)
    assert done.code == 0 and done.out.startswith("allow: 1 waiting packet")


def test_a_decision_that_could_not_be_remembered_is_a_failure_in_json_too(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    problem = msgspec.structs.replace(DECIDED, problem="no space left")
    for options in ((), ("--json",)):
        path = tmp_path / "socket"
        path.unlink(missing_ok=True)
        thread = answering(path, WELCOME, protocol.encode(problem) + STATUS)
        done = arbiter("answer", "7", "allow", *options)
        thread.join(5)
        assert done.code == 1 and "no space left" in done.err


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (("7", "alow"), "did you mean allow?"),
        (("7", "route"), "did you mean route via=any?"),
        (("7", "allow app=/x"), "--scope"),
        (("7", "allow for=1h"), "--scope"),
        (("7", "deny class=bulk"), "class"),
        (("x", "allow"), "'x' is not a valid integer"),
        (("0", "allow"), "not in the range"),
        (("99999999999999999999", "allow"), "not in the range"),
        (("7",), "Missing argument 'DECISION..."),
    ],
)
def test_a_badly_written_answer_is_a_usage_error_before_any_daemon_is_asked(
    arbiter: Callable[..., Done], argv: tuple[str, ...], text: str
) -> None:
    done = arbiter("answer", *argv)
    assert done.code == 2 and text in done.err


# --- rules ----------------------------------------------------------------------------------

LINES = {
    "": (1, "allow"),
    "alow app=/usr/bin/curl": (1, "allow"),
    "block port=25": (1, "deny"),
    "allow prot=tcp": (7, "proto="),
    "allow dport=25": (7, "port="),
    "allow proto=tcq": (13, "tcp"),
    "allow port=70000": (12, "443,8000-8080"),
    "allow port=80-22": (12, "22-80"),
    "allow host=2001:db8::1/32": (12, "2001:db8::/32"),
    "allow for=15": (11, "15m"),
    "allow for=always": (11, "forever"),
    "deny via=lte": (6, "route"),
    "allow hook=output": (12, "out"),
}


@pytest.mark.parametrize("line", LINES)
def test_a_bad_rule_line_gets_its_position_and_the_nearest_valid_word(
    arbiter: Callable[..., Done], tmp_path: Path, line: str
) -> None:
    column, suggestion = LINES[line]
    done = arbiter("rules", "add", line)
    assert done.code == 2
    _, shown, caret, *_ = done.err.splitlines()
    assert shown == f"  {line}"
    assert caret.index("^") == 2 + column - 1, "it points at the word"
    assert f"column {column}: " in caret
    assert caret.endswith(f"did you mean {suggestion}?")
    assert not (tmp_path / "a.db").exists(), "nothing was made for a line that is no rule"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_characters="\x00"), max_size=40))
def test_any_text_as_a_rule_is_a_rule_or_a_usage_error_fit_to_print(
    arbiter: Callable[..., Done], text: str
) -> None:
    done = arbiter("rules", "add", "--", text)
    assert done.code == 2
    assert all(line.isprintable() for line in done.err.splitlines())


@pytest.mark.parametrize("lifetime", ["once", "process", "session"])
def test_a_lifetime_that_only_an_answer_can_have_is_refused(
    arbiter: Callable[..., Done], lifetime: str
) -> None:
    done = arbiter("rules", "add", f"allow for={lifetime}")
    assert done.code == 2 and f"for={lifetime}" in done.err and "boot or forever" in done.err


def test_a_rule_that_cannot_be_read_is_removed_by_the_command_that_is_told(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    assert arbiter("rules", "add", "deny port=1").code == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as hand, hand:
        hand.execute("UPDATE rules SET line = line || ' prot=1'")
    listed = arbiter("rules", "list")
    assert listed.code == 1 and "arbiter rules remove 1" in listed.err
    removed = arbiter("rules", "remove", "1")
    assert (removed.code, removed.out) == (0, "removed rule 1: it could not be read\n"), removed
    assert arbiter("rules", "list").code == 0


def test_rules_are_added_listed_replaced_and_removed(arbiter: Callable[..., Done]) -> None:
    assert arbiter("rules", "add", "allow host=2001:db8::/32 port=443").code == 0
    done = arbiter("rules", "add", "deny app=/usr/bin/curl for=1h", "--json")
    (made,) = json.loads(done.out)
    listed = json.loads(arbiter("rules", "list", "--json").out)
    assert [entry["rule"] for entry in listed] == [
        "allow host=2001:db8::/32 port=443",
        "deny app=/usr/bin/curl for=1h",
    ]
    assert listed[1] == made
    keys = {"id", "rule", "layer", "by", "frontend", "created", "expires", "process"}
    assert all(set(entry) == keys for entry in listed)
    done = arbiter("rules", "add", "allow app=/usr/bin/curl for=1h")
    assert f"in place of rule {made['id']}" in done.out
    assert arbiter("rules", "remove", str(listed[0]["id"])).code == 0
    assert [e["rule"] for e in json.loads(arbiter("rules", "list", "--json").out)] == [
        "allow app=/usr/bin/curl for=1h"
    ]


def test_a_name_in_letters_stands_beside_its_line_where_that_deceives_nobody(
    arbiter: Callable[..., Done],
) -> None:
    line = "allow host=*.xn--bcher-kva.example"
    done = arbiter("rules", "add", "allow host=*.bücher.example")
    assert done.out == f"rule 1: {line}  (*.bücher.example)\n"
    assert arbiter("rules", "list").out.splitlines()[1].endswith("never  *.bücher.example")
    (made,) = json.loads(arbiter("rules", "list", "--json").out)
    assert made["rule"] == line
    arbiter("rules", "remove", "1")
    done = arbiter("rules", "add", "allow host=xn--80ak6aa92e.com")  # Cyrillic, as apple.com
    assert done.out == "rule 2: allow host=xn--80ak6aa92e.com\n"
    assert "that is" not in arbiter("rules", "list").out


def test_a_rule_is_edited_in_one_step_that_undo_takes_back(arbiter: Callable[..., Done]) -> None:
    arbiter("rules", "add", "allow app=/usr/bin/curl")
    done = arbiter("rules", "add", "deny app=/usr/bin/curl host=lan", "--instead-of", "1")
    assert done.out == "rule 2, in place of rule 1: deny app=/usr/bin/curl host=lan\n"
    arbiter("rules", "undo")
    (entry,) = json.loads(arbiter("rules", "list", "--json").out)
    assert entry["rule"] == "allow app=/usr/bin/curl"
    done = arbiter("rules", "add", "deny port=1", "--instead-of", "1")
    assert done.code == 1 and "rule 1 is not in force any more" in done.err
    assert arbiter("rules", "add", "deny port=1", "--instead-of", "9" * 20).code == 2


def test_a_rule_that_an_undo_brought_again_is_told_when_it_is_taken_back(
    arbiter: Callable[..., Done],
) -> None:
    line = "allow app=/usr/bin/curl host=198.51.100.10"
    arbiter("rules", "add", line)
    arbiter("rules", "remove", "1")
    done = arbiter("rules", "undo")
    assert (done.code, done.out.splitlines()[1:]) == (0, [f"  rule 2, as rule 1 was: {line}"])
    done = arbiter("rules", "undo")
    assert (done.code, done.out.splitlines()[1:]) == (0, [f"  removed rule 2: {line}"])
    assert json.loads(arbiter("rules", "list", "--json").out) == []
    assert arbiter("rules", "undo").code == 1


def test_undo_twice_after_a_rule_took_the_place_of_another(arbiter: Callable[..., Done]) -> None:
    arbiter("rules", "add", "allow app=/x")
    arbiter("rules", "add", "deny app=/x")
    assert arbiter("rules", "undo").out.splitlines()[1:] == [
        "  removed rule 2: deny app=/x",
        "  rule 3, as rule 1 was: allow app=/x",
    ]
    done = arbiter("rules", "undo")
    assert (done.code, done.out.splitlines()[1:]) == (0, ["  removed rule 3: allow app=/x"])


def test_the_history_counts_the_rules_of_a_large_step(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    file = tmp_path / "many.rules"
    file.write_text("".join(f"allow port={port}\n" for port in range(1, 41)))
    for port in range(1, 6):
        arbiter("rules", "add", f"deny port={port}")  # the import replaces five: not many
    arbiter("rules", "import", str(file))
    arbiter("rules", "undo")
    text = arbiter("rules", "history", "--last", "2").out
    assert "added 40 rules (undone)" in text
    assert "undo of step 6: 40 rules " in text
    assert "… and 37 more; --full shows them" in text
    assert [text.count(f"deny port={port}\n") for port in range(1, 6)] == [2] * 5
    assert [text.count(f": allow port={port}\n") for port in range(1, 8)] == [2, 2, 2, 0, 0, 0, 0]
    assert len(text.splitlines()) == 1 + (5 + 3 + 1) + (3 + 1 + 5)
    full = arbiter("rules", "history", "--full").out
    assert [full.count(f": allow port={port}\n") for port in range(1, 41)] == [2] * 40
    assert "more" not in full
    steps = json.loads(arbiter("rules", "history", "--json").out)
    assert [len(step["changes"]) for step in steps] == [1] * 5 + [45, 45]


@pytest.mark.parametrize("bad", ["99", "99999999999999999999999999", "0"])
def test_removing_is_for_all_the_ids_or_for_none(arbiter: Callable[..., Done], bad: str) -> None:
    arbiter("rules", "add", "allow port=1")
    arbiter("rules", "add", "allow port=2")
    done = arbiter("rules", "remove", "1", bad, "2")
    assert done.code == 1 and f"no rule {bad}" in done.err and "nothing was removed" in done.err
    assert len(json.loads(arbiter("rules", "list", "--json").out)) == 2
    assert arbiter("rules", "remove", "2", "1", "2").out.count("removed rule") == 2


def test_a_rule_of_any_length_stands_on_one_line_where_there_is_no_terminal(
    arbiter: Callable[..., Done],
) -> None:
    path = "/" + "x" * 4000 + "[bold]"
    assert arbiter("rules", "add", f"allow app={path}").code == 0
    _, line = arbiter("rules", "list").out.splitlines()
    assert f"allow app={path} " in line


def test_a_rule_that_means_something_else_here_gets_a_note(
    arbiter: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARBITER_CONFIG", str(tmp_path))
    monkeypatch.setenv("ARBITER_STATE", str(tmp_path))
    (tmp_path / "get").symlink_to("/usr/bin/env")
    env = Path("/usr/bin/env").resolve()
    for key in ("app", "parent"):
        done = arbiter("rules", "add", f"deny {key}={tmp_path}/get")
        assert done.code == 0 and f"arbiter: note: {tmp_path}/get is a link" in done.err
        assert f"write {env}" in done.err
    assert "note" not in arbiter("rules", "add", f"deny app={env}").err
    done = arbiter("rules", "add", "route via=nolink,any port=1")
    assert done.code == 0 and "arbiter: note: no link is or was called nolink" in done.err
    assert "note" not in arbiter("rules", "add", "route via=unmetered,any port=2").err
    done = arbiter("rules", "add", "allow host=0.0.0.0/0")
    assert "note: it allows every IPv4 connection" in done.err


def test_a_path_that_no_program_can_have_is_refused(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    for app in ("/usr/bin/../bin/curl", "/usr/bin/", "//usr/bin/curl", "/" + "a" * 60000):
        done = arbiter("rules", "add", f"deny app={app}")
        assert done.code == 2 and "would never match" in done.err
        assert len(done.err) < 500
    assert not (tmp_path / "a.db").exists()


def test_a_new_database_is_told(arbiter: Callable[..., Done], tmp_path: Path) -> None:
    note = f"arbiter: note: a new database was made: {tmp_path}/a.db"
    assert note in arbiter("rules", "add", "allow port=1").err
    assert note not in arbiter("rules", "add", "allow port=2").err


REPLIES = {
    "in force": (b'{"type":"in_force","rules":3}\n', ""),
    "after other messages": (
        b'{"type":"notice","time":1,"text":"x"}\n{"type":"in_force","rules":3}\n',
        "",
    ),
    "unread": (
        b'{"type":"in_force","rules":3,"problem":"the disk \\u001b is bad"}\n',
        "the disk \ufffd is bad",
    ),
    "refused": (b'{"type":"refused","reason":"right","text":"only root"}\n', "only root"),
    "hung up": (b"", "ended the connection"),
    "no arbiter": (b"SSH-2.0\n", "not a message of this protocol"),
}


@pytest.mark.parametrize("reply", REPLIES)
def test_a_change_waits_for_the_daemon_and_says_why_it_is_not_in_force(
    arbiter: Callable[..., Done], tmp_path: Path, reply: str
) -> None:
    Store.open(tmp_path / "a.db").close()
    said, problem = REPLIES[reply]
    thread = answering(tmp_path / "socket", said)
    done = arbiter("rules", "add", "allow port=1")
    thread.join()
    assert (done.code, done.out) == (0, "rule 1: allow port=1\n")
    assert bool(done.err) == bool(problem)
    assert problem in done.err and ("stored" in done.err or not problem)


def test_a_daemon_that_does_not_answer_is_not_waited_for_for_ever(
    arbiter: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "TIMEOUT", 0.2)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        done = arbiter("rules", "add", "allow port=1")
    assert done.code == 0 and "did not say that it read it" in done.err


def test_a_daemon_with_another_socket_is_not_taken_for_none(
    arbiter: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rules would be stored, and the daemon that has them go on by the old ones unsaid."""
    monkeypatch.setattr(common, "STARTING", 0.2)
    lock = lock_state(tmp_path)
    done = arbiter("rules", "add", "allow port=1")
    assert (done.code, done.out) == (0, "rule 1: allow port=1\n")
    assert f"not in force yet: a daemon has this database, and does not answer at {tmp_path}" in (
        done.err
    )
    os.close(lock)
    done = arbiter("rules", "add", "allow port=2")
    assert "not in force" not in done.err, "none runs any more"


def test_a_daemon_that_is_about_to_open_its_socket_is_waited_for(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    lock, threads = lock_state(tmp_path), list[threading.Thread]()
    said, _ = REPLIES["unread"]
    later = threading.Timer(0.5, lambda: threads.append(answering(tmp_path / "socket", said)))
    later.start()
    done = arbiter("rules", "add", "allow port=1")
    later.join()
    threads[0].join()
    os.close(lock)
    assert "the disk" in done.err


# --- databases ------------------------------------------------------------------------------

READERS = (("rules", "list"), ("rules", "list", "--json"), ("explain", "--host", "::1"))


@pytest.mark.parametrize("argv", READERS, ids=" ".join)
def test_a_file_that_is_no_database_of_ours_is_named_with_the_next_step(
    arbiter: Callable[..., Done], tmp_path: Path, argv: tuple[str, ...]
) -> None:
    (tmp_path / "text").write_text("this is not a database\n" * 100)
    (tmp_path / "empty").touch()
    foreign = sqlite3.connect(tmp_path / "foreign")
    foreign.execute("CREATE TABLE cookies(x)")
    foreign.close()
    for name in ("missing", "text", "empty", "foreign", "", "no/such/dir/a.db", "text/a.db"):
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
        done = arbiter(*argv, "--db", str(tmp_path / name))
        assert done.code == 1, name
        assert str(tmp_path / name) in done.err and ";" in done.err
        assert done.out == ""
        after = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
        assert after == before, "it was only read"


def test_writing_into_what_is_no_database_of_ours_changes_nothing(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    file = tmp_path / "text"
    file.write_text("precious\n" * 500)
    for argv in (("rules", "add", "allow"), ("rules", "remove", "1")):
        assert arbiter(*argv, "--db", str(file)).code == 1
    assert file.read_text() == "precious\n" * 500


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_database_that_this_user_may_not_read_is_said_to_be_so(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    assert arbiter("rules", "add", "allow").code == 0
    os.chmod(tmp_path, 0o755)
    os.chmod(tmp_path / "a.db", 0o600)
    said, say = os.pipe()
    pid = os.fork()
    if pid == 0:  # as nobody, with all code loaded: it may lie where nobody cannot read
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        os.dup2(say, 2)
        sys.stderr = os.fdopen(2, "w")
        try:
            cli.cli.main(["rules", "list", "--db", str(tmp_path / "a.db")])
        except SystemExit as done:
            sys.stderr.flush()
            os._exit(done.code if isinstance(done.code, int) else 99)
        finally:
            os._exit(98)
    os.close(say)
    with os.fdopen(said) as stream:
        text = stream.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert text == (
        f"arbiter: cannot open the database: {tmp_path / 'a.db'}: "
        "this user may not, only root may read it; run as root, with sudo\n"
    )


# --- explain --------------------------------------------------------------------------------


def test_explain_names_the_winner_why_and_what_it_beat_over_ipv6_too(
    arbiter: Callable[..., Done],
) -> None:
    for line in ("allow app=/usr/bin/curl", "deny host=2001:db8::/32", "deny port=25"):
        assert arbiter("rules", "add", line).code == 0
    query = ("explain", "--app", "/usr/bin/curl", "--port", "443")
    for host in ("2001:db8::7", "[2001:db8::7]"):
        done = arbiter(*query, "--host", host)
        assert done.code == 0 and done.out.startswith("allow app=/usr/bin/curl\n")
        assert "beats rule 2: deny host=2001:db8::/32" in done.out
        assert "rule 3 does not match (deny port=25)" in done.out
    (shown,) = json.loads(arbiter(*query, "--host", "2001:db8::7", "--json").out)
    assert shown["query"]["host"] == "2001:db8::7" and shown["query"]["port"] == 443
    assert (shown["decision"], shown["rule"]["id"]) == ("allow", 1)
    assert [entry["id"] for entry in shown["beaten"]] == [2]
    assert shown["not_matching"][0]["why_not"]


def test_explain_says_by_exit_code_1_that_a_person_would_be_asked(
    arbiter: Callable[..., Done],
) -> None:
    arbiter("rules", "add", "allow host=192.0.2.7 proto=udp user=root")
    done = arbiter("explain", "--host", "192.0.2.7", "--proto", "udp", "--user", "nobody")
    assert done.code == 1 and "you are asked" in done.out
    (shown,) = json.loads(arbiter("explain", "--host", "192.0.2.7", "--json").out)
    assert shown["decision"] is None and shown["rule"] is None
    for user in ("root", "0"):
        done = arbiter("explain", "--host", "192.0.2.7", "--proto", "17", "--user", user)
        assert done.code == 0, done


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (("--host", "example.org"), "'example.org' is not an address"),
        (("--host", "1.2.3.4.5"), "is not an address"),
        (("--host", "1.2.3.4", "--port", "65536"), "65536 is not in the range"),
        (("--host", "1.2.3.4", "--proto", "tcpp"), "'tcpp' is none of"),
        (("--host", "1.2.3.4", "--proto", "256"), "'256' is none of"),
        (("--host", "1.2.3.4", "--proto", "\u00b2"), "is none of"),
        (("--host", "1.2.3.4", "--hook", "sideways"), "sideways"),
        (("--host", "1.2.3.4", "--user", "4294967295"), "a uid is 0 to"),
        (("--host", "1.2.3.4", "--user", "007"), "leading zeros"),
        (("--host", "1.2.3.4", "--sim", "1234"), "18 to 20 digits"),
        (("--host", "1.2.3.4", "--sim", ""), "18 to 20 digits"),
        (("--host", "1.2.3.4", "--network", "Home"), "did you mean ssid:Home?"),
        (("--host", "1.2.3.4", "--network", "\udcff\x1b"), "is no network"),
        (("--host", "1.2.3.4", "--metered", "maybe"), "maybe"),
        (("--host", "1.2.3.4", "--roaming", ""), "--roaming"),
        ((), "--host"),
    ],
)
def test_a_question_that_makes_no_sense_is_a_usage_error(
    arbiter: Callable[..., Done], argv: tuple[str, ...], text: str
) -> None:
    done = arbiter("explain", *argv)
    assert done.code == 2 and text in done.err


SIM = "89430123456789012345"


@pytest.mark.parametrize(
    ("conditions", "context"),
    [
        ("network=ssid:Home", ("--network", "ssid:Home", "--network", "ssid:Work")),
        ("network=gateway:02:00:5e:10:00:0a", ("--network", "gateway:02-00-5E-10-00-0A")),
        (f"sim={SIM}", ("--sim", f"{SIM}F")),
        (f"network=sim:{SIM} sim={SIM}", ("--sim", SIM)),
        (f"network=sim:{SIM} sim={SIM}", ("--network", f"sim:{SIM}")),
        ("roaming=no", ("--roaming", "no")),
        ("metered=yes", ("--metered", "yes")),
        ("metered=no", ("--metered", "no")),
        ("roaming=yes metered=no", ("--metered", "no", "--roaming", "yes")),
    ],
)
def test_explain_knows_of_the_context_what_it_is_told(
    arbiter: Callable[..., Done], conditions: str, context: tuple[str, ...]
) -> None:
    line = f"route via=unmetered,any class=bulk {conditions}"
    assert arbiter("rules", "add", line).code == 0
    query = ("explain", "--host", "192.0.2.7")
    done = arbiter(*query, *context)
    assert done.code == 0 and done.out.startswith(f"{line}\n"), done
    done = arbiter(*query)
    assert done.code == 1 and f"rule 1 does not match ({line})" in done.out


@pytest.mark.parametrize("user", ["no-such-user", "\u00b2", "\u0661\u0662", "\udcff", "4000001"])
def test_a_user_nobody_knows_is_no_error(arbiter: Callable[..., Done], user: str) -> None:
    arbiter("rules", "add", "allow")
    assert arbiter("explain", "--host", "::1", "--user", user).code == 0


# --- prompt, and the rest -------------------------------------------------------------------


def test_a_prompt_that_does_not_exist_is_a_usage_error_with_the_nearest(
    arbiter: Callable[..., Done],
) -> None:
    done = arbiter("prompt", "terminl")
    assert done.code == 2 and "did you mean terminal?" in done.err


def test_a_misspelt_command_gets_the_nearest(arbiter: Callable[..., Done]) -> None:
    done = arbiter("pendng")
    assert done.code == 2 and "Did you mean 'pending'?" in done.err


def test_a_prompt_without_a_terminal_says_what_to_use_instead() -> None:
    done = finished(("prompt", "terminal"), stdin=subprocess.DEVNULL)
    assert done.code == 2 and "`arbiter pending`" in done.err


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["table", "json"])
def test_a_reader_that_goes_away_ends_a_listing_quietly(
    arbiter: Callable[..., Done], tmp_path: Path, options: tuple[str, ...]
) -> None:
    for port in range(1, 40):
        assert arbiter("rules", "add", f"allow app=/{'x' * 4000} port={port}").code == 0
    argv = ["rules", "list", "--db", str(tmp_path / "a.db"), *options]
    with subprocess.Popen(
        [sys.executable, "-m", "arbiter", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as program:
        assert program.stdout is not None and program.stderr is not None
        assert program.stdout.read(10)
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait(20) in (0, 1)


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["table", "json"])
def test_a_command_started_with_stdout_closed_ends_quietly(
    arbiter: Callable[..., Done], tmp_path: Path, options: tuple[str, ...]
) -> None:
    arbiter("rules", "add", "allow")
    argv = ("rules", "list", "--db", str(tmp_path / "a.db"), *options)
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "arbiter", *argv]
    done = subprocess.run(shell, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_person_behind_sudo_is_believed_of_root_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4_000_001)
    for euid, claim, expected in (
        (0, "4000002", 4_000_002),
        (4_000_001, "0", 4_000_001),
        (0, "99999999999999", 4_000_001),
        (0, "-1", 4_000_001),
        (0, "", 4_000_001),
    ):
        monkeypatch.setattr(os, "geteuid", lambda euid=euid: euid)
        monkeypatch.setenv("SUDO_UID", claim)
        assert common.person() == (str(expected), expected), claim


def test_help_names_every_command(arbiter: Callable[..., Done]) -> None:
    done = arbiter("--help")
    assert done.code == 0 and all(name in done.out for name in cli.COMMANDS)
    for name in cli.COMMANDS:
        assert arbiter(name, "--help").code == 0
