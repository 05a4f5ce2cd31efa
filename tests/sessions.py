"""Console sessions of the docs: what is typed, and what it says is printed."""

from __future__ import annotations

import re
from pathlib import Path


def session(page: Path, name: str = "") -> list[tuple[str, list[str]]]:
    """(command, lines it prints) of the console block that is marked as a session: the first, or
    that behind `<!-- session: NAME`."""
    mark = f"<!-- session: {name}" if name else "<!-- session"
    block = re.search(rf"{mark}.*?```console\n(.*?)```", page.read_text(), re.DOTALL)
    assert block is not None, f"{page} has no session {name}"
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
