"""The README's session, run word for word: its commands, and what it says they print."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Arbiter
from sessions import like, session

from arbiter import linkfiles
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4

README = Path(__file__).parent.parent.parent / "README.md"


@pytest.fixture
def arbiter(lab: Lab, tmp_path: Path) -> Iterator[Arbiter]:
    with Arbiter(lab, tmp_path) as running:
        yield running


def test_the_readmes_session_is_real(arbiter: Arbiter) -> None:
    program = arbiter.program("curl", "-sS", "-m", "30", f"http://{SERVER4}/")
    arbiter.ask()
    steps = session(README)
    assert len(steps) >= 6
    for command, shown in steps:
        name, *argv = shlex.split(command)
        assert name == "arbiter"
        done = arbiter.command(*argv)
        assert done.returncode == 0, done.stderr
        assert like(shown, done.stdout), f"$ {command}\n{done.stdout}"
    output, _ = program.communicate(timeout=10)
    assert "link=wifi" in output


def block(heading: str, kind: str, number: int = 0) -> list[str]:
    """The lines of a section's code block, without comments."""
    section = README.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    text = re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL)[number]
    return [line.split(" #")[0].rstrip() for line in text.splitlines()]


def test_the_readmes_routes_go_where_it_says(clean_lab: Lab, tmp_path: Path) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        *rules, curl = block("Over which link", "sh")
        for line in rules:
            assert arbiter.command(*shlex.split(line)[1:]).returncode == 0
        assert "link=lte" in arbiter.run(*shlex.split(curl), "-sS", "-m", "8")[1]
        (run_via,) = block("Over which link", "sh", 1)
        arbiter.add("allow app=/usr/bin/wget host=198.51.100.20")
        done = arbiter.command(*shlex.split(run_via)[1:])
        assert "link=lte" in done.stdout, done.stderr
    file = linkfiles.load("\n".join(block("Over which link", "toml")), "lte.toml")
    assert str(file.budget) == "500 MB/month"
