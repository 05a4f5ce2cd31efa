"""How tests run a command: in this process, or in one of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner

from arbiter import cli

ROOT = Path(__file__).parent.parent


class Done(NamedTuple):
    """What came of it."""

    code: int
    out: str
    err: str


def ran(argv: Sequence[str], env: Mapping[str, str] | None = None, stdin: bytes = b"") -> Done:
    """In this process. What is no end of a command is raised."""
    done = CliRunner(env=env).invoke(cli.cli, argv, stdin, prog_name="arbiter")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return checked(Done(done.exit_code, done.stdout, done.stderr))


def within(home: Path, **more: str) -> Callable[..., Done]:
    """Runs commands in this process, on a database and a socket in that directory; `more` is what
    else their environment says."""
    env = {"ARBITER_DB": str(home / "a.db"), "ARBITER_SOCKET": str(home / "socket")} | more

    def run(*argv: str) -> Done:
        return ran(argv, env)

    return run


def finished(argv: tuple[str, ...], **kwargs: Any) -> Done:
    """In a process of its own."""
    settings: dict[str, Any] = {"capture_output": True, "timeout": 60, "cwd": ROOT} | kwargs
    done = subprocess.run([sys.executable, "-m", "arbiter", *argv], **settings)
    texts = [(text or b"").decode(errors="replace") for text in (done.stdout, done.stderr)]
    return checked(Done(done.returncode, *texts))


def checked(done: Done) -> Done:
    """It ended as every command does."""
    assert done.code in (0, 1, 2, 3), done
    assert "Traceback" not in done.err, done.err
    assert "Exception" not in done.err, done.err
    if done.code:
        assert done.err or done.out, "a failure says something"
    return done
