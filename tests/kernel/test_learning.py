"""From observe to enforce on the real kernel: what was seen and allowed passes, and no more."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from running import ARBITER, PATIENCE, UDP_CLIENT, Arbiter, eventually, python

from arbiter.cli.reviewterminal import GUARD
from arbiter.lab import Lab
from arbiter.lab.config import SECOND4, SERVER4, SERVER6

LEARNING = Path(__file__).parent.parent.parent / "docs" / "learning.md"
SEEN: dict[str, Sequence[str]] = {
    "by name": ("curl", "-sS", "-m", "8", "-4", "http://www.example.org/"),
    "by address": ("curl", "-sS", "-m", "8", f"http://[{SERVER6}]:8080/"),
    "UDP": python(UDP_CLIENT, SERVER4, "7", "1"),
    "ping": ("ping", "-c", "1", "-W", "4", SERVER4),
}
NEW: dict[str, Sequence[str]] = {
    "another address": ("curl", "-sS", "-m", "4", f"http://{SECOND4}/"),
    "another port": ("curl", "-sS", "-m", "4", "-4", "http://www.example.org:8080/"),
    "another protocol": python(UDP_CLIENT, SECOND4, "7", "1"),
    "another program": ("wget", "-q", "-T", "4", "-t", "1", "-O", "-", "http://www.example.org/"),
}


def recorded(arbiter: Arbiter, count: int) -> None:
    """Records are written some time after the verdict."""
    look = "SELECT count(*) FROM decisions WHERE reason = 'observe'"
    eventually(lambda: arbiter.database(look)[0][0] >= count)


def review(arbiter: Arbiter, *presses: tuple[str, str]) -> str:
    """`arbiter rules review` on a terminal; each key is pressed once its text is there."""
    master, slave = pty.openpty()
    argv = [*ARBITER, "rules", "review", "--config", str(arbiter.home / "config")]
    env = arbiter.command_environment() | {"TERM": "xterm"}
    child = arbiter.lab.popen(argv, stdin=slave, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    shown = ""
    try:
        for text, key in presses:
            end = time.monotonic() + 15 * PATIENCE
            while text not in shown:
                assert time.monotonic() < end, f"never saw {text!r} in {shown!r}"
                shown += os.read(master, 65536).decode()
            time.sleep(GUARD + 0.3)
            shown = ""
            os.write(master, key.encode())
        with contextlib.suppress(OSError):  # EIO: it has ended
            while data := os.read(master, 65536):
                shown += data.decode()
        assert child.wait(10 * PATIENCE) == 0
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        os.close(master)
    return shown


def test_what_was_observed_and_allowed_passes_later_and_nothing_else(
    lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(lab, tmp_path, "--mode", "observe") as arbiter:
        for name, argv in SEEN.items():
            code, output, _ = arbiter.run(*argv)
            assert code == 0, f"{name}: {output}"
        recorded(arbiter, 5)
        assert "5 let go" in arbiter.ran("status").stdout
        programs = {one["app"] for one in arbiter.json("rules", "review")}
        keys = [("program 1 of 3", "A"), ("program 2 of 3", "A"), ("program 3 of 3", "A")]
        said = review(arbiter, *keys, ("every proposal is decided", "q"))
        assert "5 allowed, 0 denied, 0 skipped; 0 proposals left" in said
        rules = arbiter.rules()
        assert len(rules) == 5
        assert "allow app=/usr/bin/curl host=www.example.org port=80 proto=tcp" in rules
        assert {rule.split()[1] for rule in rules} == {f"app={app}" for app in programs}
        assert arbiter.status().rules == 5, "in force at once"
    with Arbiter(lab, tmp_path, "--mode", "enforce") as arbiter:
        for name, argv in SEEN.items():
            code, output, _ = arbiter.run(*argv)
            assert code == 0, f"{name}: {output}"
        for name, argv in NEW.items():
            code, output, _ = arbiter.run(*argv)
            assert code != 0, f"{name} passed: {output}"
        # The refused ones are the next review's.
        left = "SELECT count(*) FROM decisions WHERE reason = 'enforce'"
        eventually(lambda: arbiter.database(left)[0][0] >= len(NEW))
        found = {one["line"]: one["refused"] for one in arbiter.json("rules", "review")}
        assert found[f"allow app=/usr/bin/curl host={SECOND4} port=80 proto=tcp"] == 1
        assert set(found.values()) != {0} and not set(found) & set(rules)
        assert "without an answer; `arbiter rules review`" in arbiter.ran("status").stdout


def test_a_review_takes_effect_while_the_daemon_runs_and_can_be_undone(
    lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(lab, tmp_path, "--mode", "enforce") as arbiter:
        curl = ("curl", "-sS", "-m", "4", f"http://{SERVER4}/")
        assert arbiter.run(*curl)[0] != 0
        eventually(lambda: arbiter.json("rules", "review"))
        review(arbiter, ("1 of them did not pass", "a"), ("every proposal", "q"))
        assert arbiter.run(*curl)[0] == 0
        assert arbiter.ran("rules", "undo").returncode == 0
        assert arbiter.run(*curl)[0] != 0


def session() -> list[tuple[str, str]]:
    """(command, what it prints) of the console block."""
    block = re.search(r"<!-- session.*?```console\n(.*?)```", LEARNING.read_text(), re.DOTALL)
    assert block is not None
    steps = block[1].split("$ ")[1:]
    return [(step.partition("\n")[0], step.partition("\n")[2]) for step in steps]


def shape(text: str) -> str:
    """As a pattern: `…` is anything, and runs of blanks are one."""
    return re.escape(re.sub(r"[ \n]+", " ", text.strip())).replace("…", ".*?")


def test_the_session_of_the_docs_is_real(lab: Lab, tmp_path: Path) -> None:
    jq = shlex.join(
        [sys.executable, "-c", "import json; [print(r['line']) for r in json.load(open(0))]"]
    )
    with Arbiter(lab, tmp_path, "--mode", "observe") as arbiter:
        code, output, _ = arbiter.run("curl", "-sS", "-m", "8", "-4", "http://www.example.org/")
        assert code == 0, output
        recorded(arbiter, 2)
        steps = session()
        assert len(steps) == 5
        for command, shown in steps:
            shell = f'arbiter() {{ {shlex.join(ARBITER)} "$@"; }}\n'
            if shutil.which("jq") is None:
                command = command.replace("jq -r '.[].line'", jq)
            env = arbiter.command_environment() | {"ARBITER_CONFIG": str(tmp_path / "config")}
            done = lab.run(["sh", "-c", shell + command], env=env, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            printed = re.sub(r"[ \n]+", " ", done.stdout.strip())
            assert re.fullmatch(shape(shown), printed), f"$ {command}\n{done.stdout}"


@pytest.mark.parametrize("mode", ["ask", "enforce"])
def test_status_says_nothing_of_a_review_where_there_is_nothing_to_review(
    lab: Lab, tmp_path: Path, mode: str
) -> None:
    with Arbiter(lab, tmp_path, "--mode", mode) as arbiter:
        assert "review" not in arbiter.ran("status").stdout
