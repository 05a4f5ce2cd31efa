"""The README's session, run word for word: its commands, and what it says they print."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Arbiter

from arbiter.lab import Lab
from arbiter.lab.config import SERVER4

README = Path(__file__).parent.parent.parent / "README.md"


def session() -> list[tuple[str, list[str]]]:
    """(command, lines it prints) of the console block."""
    block = re.search(r"<!-- session.*?```console\n(.*?)```", README.read_text(), re.DOTALL)
    assert block is not None
    steps: list[tuple[str, list[str]]] = []
    for line in block[1].splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], []))
        else:
            steps[-1][1].append(line)
    return steps


def like(shown: list[str], printed: str) -> bool:
    """Whether `…` in what is shown can stand for what was printed; runs of spaces are one."""
    pattern = re.escape(re.sub(r" +", " ", "\n".join(shown))).replace("…", ".*?")
    text = "\n".join(line.rstrip() for line in printed.splitlines())
    text = re.sub(r" +", " ", text)
    return re.fullmatch(pattern.replace("\\ ", " ?"), text, re.DOTALL) is not None


@pytest.fixture
def arbiter(lab: Lab, tmp_path: Path) -> Iterator[Arbiter]:
    with Arbiter(lab, tmp_path) as running:
        yield running


def test_the_readmes_session_is_real(arbiter: Arbiter) -> None:
    program = arbiter.program("curl", "-sS", "-m", "30", f"http://{SERVER4}/")
    arbiter.ask()
    steps = session()
    assert len(steps) >= 6
    for command, shown in steps:
        name, *argv = shlex.split(command)
        assert name == "arbiter"
        done = arbiter.command(*argv)
        assert done.returncode == 0, done.stderr
        assert like(shown, done.stdout), f"$ {command}\n{done.stdout}"
    output, _ = program.communicate(timeout=10)
    assert "link=wifi" in output
