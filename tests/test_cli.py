"""The commands: exit codes 0 to 3, an error that names the next step, never a traceback."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import ROOT, Done, finished, within

from arbiter import cli
from arbiter.cli import common


@pytest.fixture
def arbiter(tmp_path: Path) -> Callable[..., Done]:
    return within(tmp_path)


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
