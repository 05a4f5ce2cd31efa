"""`arbiter rules`: adding, listing, changing and removing, and how the daemon comes to know."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Done, within
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_daemon import answering

from arbiter.cli import common
from arbiter.startup import lock_state
from arbiter.store import Store


@pytest.fixture
def arbiter(tmp_path: Path) -> Callable[..., Done]:
    return within(tmp_path)


LINES = {
    "": (1, "allow"),
    "alow app=/usr/bin/curl": (1, "allow"),
    "block port=25": (1, "deny"),
    "allow prot=tcp": (7, "proto="),
    "allow dport=25": (7, "port="),
    "allow proto=tcq": (13, "tcp"),
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
    for host in ("loopback", "ff02::fb"):
        done = arbiter("rules", "add", f"deny host={host} port=5353")
        assert done.code == 0 and "arbiter: note: it decides nothing" in done.err


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


@pytest.mark.parametrize(
    "argv",
    [
        ("rules", "remove", "3"),
        ("rules", "undo"),
        ("profiles", "use", "none"),
        ("profiles", "remove", "home"),
        ("audit", "vacuum"),
    ],
    ids=" ".join,
)
def test_what_changes_something_makes_no_database_to_find_nothing_in(
    arbiter: Callable[..., Done], tmp_path: Path, argv: tuple[str, ...]
) -> None:
    done = arbiter(*argv, "--db", str(tmp_path / "new" / "a.db"))
    assert done.code == 1
    assert "there is no such file" in done.err and "--db FILE" in done.err
    assert list(tmp_path.glob("new*")) == []
