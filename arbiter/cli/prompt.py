"""`arbiter prompt`: the frontends, found as entry points; arbiter itself imports none of them."""

from __future__ import annotations

import asyncio
import difflib
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import click

from arbiter.cli.common import fail, socket_option

GROUP = "arbiter.prompts"
"""Entry point group: each is `async def run(socket_path: str) -> int`, the exit code."""


@click.command()
@click.argument("frontend", default="terminal")
@socket_option
def prompt(frontend: str, socket_path: Path) -> None:
    """Answer the questions of a running daemon, in FRONTEND (terminal, tui).

    Needs no root: everybody answers for their own programs, root and members of group arbiter
    for all.
    """
    found = _find(frontend)
    sys.exit(asyncio.run(found.load()(str(socket_path))))


def _find(name: str) -> EntryPoint:
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(known))}"
        fail(f"there is no prompt {name!r}; {hint}", 2)
    return known[name]
