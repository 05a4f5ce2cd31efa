"""How the full question is opened: which program, in which terminal."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence

TERMINALS = (
    ("xdg-terminal-exec",),
    ("x-terminal-emulator", "-e"),
    ("kgx", "--"),
    ("gnome-terminal", "--"),
    ("konsole", "-e"),
    ("xfce4-terminal", "-x"),
    ("foot",),
    ("alacritty", "-e"),
    ("kitty",),
    ("xterm", "-e"),
)
"""Terminals, and what they want before the command: the freedesktop and the Debian way first."""
WANTED = ("auto", "tui", "terminal", "web")
"""What may be opened in a terminal. `web` prints its address there."""


class OpenError(Exception):
    """It cannot be opened: what is missing, and the next step."""


def prompts_here() -> frozenset[str]:
    """The prompts that could start: found, and with what they import."""
    found = importlib.metadata.entry_points(group="arbiter.prompts")
    usable = {"tui": "textual", "web": "starlette"}
    return frozenset(
        entry.name
        for entry in found
        if entry.name not in usable or importlib.util.find_spec(usable[entry.name])
    )


def command(
    wanted: str,
    socket_path: str,
    env: Mapping[str, str],
    which: Callable[[str], str | None],
    known: frozenset[str],
) -> list[str]:
    """The argument list that opens the full question. Raises OpenError."""
    name = wanted if wanted != "auto" else "tui" if "tui" in known else "terminal"
    if name not in known:
        raise OpenError(
            f"there is no `arbiter prompt {name}` here: install its extra, nfarbiter[{name}]"
        )
    prompt = [sys.executable, "-P", "-m", "arbiter", "prompt", name, "--socket", socket_path]
    for terminal in _terminals(env):
        if which(terminal[0]):
            return [*terminal, *prompt]
    raise OpenError(
        "no terminal was found to show the full question in: set TERMINAL, or run "
        f"`arbiter prompt {name}` in one"
    )


def start(argv: Sequence[str], env: Mapping[str, str]) -> int:
    """Start it in a session of its own, so that it outlives us; its pid. Raises OSError.

    Not by subprocess or asyncio: those mean to end or to wait for what they started.
    """
    nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    return os.posix_spawnp(argv[0], list(argv), env, file_actions=[nothing], setsid=True)


def ended(pid: int) -> int | None:
    """The exit code of what was started (negative: a signal); None while it runs."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def _terminals(env: Mapping[str, str]) -> list[Sequence[str]]:
    """Those to try, the person's own first after the desktop's way."""
    own: list[Sequence[str]] = []
    try:
        words = shlex.split(env.get("TERMINAL", ""))
    except ValueError:
        words = []  # an unclosed quote: as if it was not set, others follow
    if words:
        known = next((t for t in TERMINALS if t[0] == words[0].rpartition("/")[2]), None)
        own = [[*words, *(known[1:] if known else ("-e",))]]
    return [TERMINALS[0], *own, *TERMINALS[1:]]
