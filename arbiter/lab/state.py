"""The lab's record on disk: what to remove, whatever happened to who built it.

/run/arbiter-lab/NAME/ is there before the first namespace and goes after the last one.
lab.json names the configuration, the builder and the servers; `*.jsonl` are the servers' logs;
bin/arbiter is this very installation's command, for shells inside the lab; `guests` is locked by
whoever is in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import shlex
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arbiter.lab.config import LabConfig, LabError, LinkConfig, check_name

ROOT = Path("/run/arbiter-lab")
ETC_NETNS = Path("/etc/netns")
SOURCE = Path(__file__).resolve().parents[2]
"""The folder from which `arbiter` is imported: a checkout, or site-packages."""


@dataclass(frozen=True)
class State:
    """lab.json. Processes are (pid, start time in clock ticks), so a pid used again is noticed."""

    config: LabConfig
    builder: tuple[int, int]
    ready: bool = False
    servers: tuple[int, int] | None = None


def directory(name: str) -> Path:
    """Where the lab `name` keeps its files."""
    return ROOT / check_name(name, "lab name")


def claim(state: State) -> None:
    """Takes the lab's name, atomically. Raises LabError if somebody has it."""
    final = directory(state.config.name)
    new = ROOT / f".{state.config.name}-{secrets.token_hex(4)}"
    try:
        new.mkdir(parents=True)
        _write(new, state)
        write_command(new / "bin")
        # rename(2) onto a folder with files in it fails: the one who renames first owns the name.
        new.rename(final)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        if final.exists():
            raise LabError(
                f"lab {final.name} is being built by somebody else just now: wait, or choose "
                "another name"
            ) from None
        text = "be root, or use `arbiter lab shell`, which works without"
        raise LabError(f"cannot keep the lab's files in {ROOT}: {error.strerror}; {text}") from None


def save(state: State) -> None:
    """Replaces lab.json."""
    _write(directory(state.config.name), state)


def _write(folder: Path, state: State) -> None:
    temporary = folder / "lab.json.new"
    temporary.write_text(json.dumps(dataclasses.asdict(state), indent=1) + "\n")
    temporary.rename(folder / "lab.json")


def load(name: str) -> State | None:
    """The record of lab `name`; None if there is none, or none that can be read.

    An unreadable one is as good as none: names are deterministic, so the lab can be removed still.
    """
    try:
        raw: dict[str, Any] = json.loads((directory(name) / "lab.json").read_text())
        links = tuple(LinkConfig(**link) for link in raw["config"]["links"])
        config = LabConfig(raw["config"]["name"], links)
        builder, servers = _process(raw["builder"]), raw["servers"]
        return State(config, builder, bool(raw["ready"]), servers and _process(servers))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, LabError):
        return None


def _process(raw: list[Any]) -> tuple[int, int]:
    pid, started = raw
    return int(pid), int(started)


def names() -> list[str]:
    """Names of the labs that have a record, sorted."""
    try:
        return sorted(e.name for e in os.scandir(ROOT) if not e.name.startswith("."))
    except FileNotFoundError:
        return []


def remove(config: LabConfig) -> None:
    """Takes away the record and every file in /etc/netns; what is not there is no error."""
    for folder in (*(ETC_NETNS / n for n in config.namespaces), directory(config.name)):
        _remove(folder)
    for unfinished in ROOT.glob(f".{config.name}-*"):
        _remove(unfinished)
    for shared in (ETC_NETNS, ROOT):
        # Other labs, or other people's namespaces, may still have files there.
        with contextlib.suppress(OSError):
            shared.rmdir()


def _remove(folder: Path) -> None:
    """Somebody else may be about the same: what is gone is no error. Raises OSError."""
    while folder.exists():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)


def write_etc(config: LabConfig, files: dict[str, str]) -> None:
    """Puts what `ip netns exec` binds over /etc into the host namespace's folder.

    Only files that /etc has: a bind needs something to cover. Raises LabError.
    """
    folder = ETC_NETNS / config.namespace("host")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            if Path("/etc", name).exists():
                (folder / name).write_text(text)
    except OSError as error:
        raise LabError(f"cannot write {folder}: {error.strerror}; the lab needs root") from None


def write_command(folder: Path) -> None:
    """bin/arbiter: the same interpreter and the same source, from wherever it is called.

    A script for sh and Python at once, because a #! line holds neither spaces nor long paths.
    """
    folder.mkdir()
    command = folder / "arbiter"
    command.write_text(
        "#!/bin/sh\n"
        f"''':'\nexec {shlex.quote(sys.executable)} \"$0\" \"$@\"\n'''\n"
        "import sys\n"
        f"sys.path.insert(0, {str(SOURCE)!r})\n"
        "from arbiter.cli import main\n"
        "main()\n"
    )
    command.chmod(0o755)


def closed_to_others(*paths: Path) -> Path | None:
    """The first folder on the way to one of `paths`, links followed, that only its owner and group
    may pass; None if everybody can reach them all."""
    for path in paths:
        way = [*reversed(path.parents), *reversed(path.resolve().parents)]
        for folder in way:
            if not folder.stat().st_mode & stat.S_IXOTH:
                return folder
    return None
