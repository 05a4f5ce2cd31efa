"""The commands that need a daemon, where there is one, none, or something else: pending, status and
answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from commands import Done, within
from scripted_daemon import ScriptedDaemon, answering, ask_to, example_ask, example_status

from arbiter import protocol
from arbiter.cli import common
from arbiter.protocol import Choice, RefusedReason


@pytest.fixture
def arbiter(tmp_path: Path) -> Callable[..., Done]:
    return within(tmp_path)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    with scripted(tmp_path / "socket") as running:
        yield running


@contextlib.contextmanager
def scripted(path: Path) -> Iterator[ScriptedDaemon]:
    """A scripted daemon in a thread, with asks 7 and 8 open."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running = ScriptedDaemon(path, example_ask(7), ask_to(8))
    asyncio.run_coroutine_threadsafe(running.start(), loop).result(5)
    try:
        yield running
    finally:
        asyncio.run_coroutine_threadsafe(running.stop(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


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


def test_a_file_in_place_of_the_socket_is_named(
    arbiter: Callable[..., Done], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = arbiter("status", "--socket", str(tmp_path / "file"))
    assert done.code == 3
    assert "no daemon answers" in done.err and "(it is no socket)" in done.err


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
    assert done.code == 3
    assert "did not reply within 0 s: it is stopped or has too much to do, and was told" in done.err


def test_an_answer_that_was_sent_is_said_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left, right = socket.socketpair()
    with left, right:
        left.settimeout(0.2)
        connection = common.Daemon(left, tmp_path)
        connection.send(protocol.Answer(1, Choice.ALLOW))
        with pytest.raises(SystemExit) as ended:
            connection.receive()
    assert ended.value.code == 3
    said = "it has the answer, and may carry it out yet; `arbiter pending` shows if it did"
    assert said in capsys.readouterr().err


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
