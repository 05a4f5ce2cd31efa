"""Whether the path that a rule names is what the program there is known by: files are looked at."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
from pathlib import Path

from arbiter.identity import Facts, identify, stable_path
from arbiter.rules.words import quote

_FIRST_LINE = 256
"""Bytes of a script that the kernel looks at (BINPRM_BUF_SIZE, linux/binfmts.h)."""


def other_name(app: str) -> str:
    """Why a rule for `app` never matches although the file is there, and what to write; "" if it
    may match, or that cannot be known."""
    try:
        return _other_name(app)
    except (OSError, ValueError):  # not there, or not ours to look at; ValueError: no file's name
        return ""


def _other_name(app: str) -> str:
    kind, _, rest = app.partition(":")
    if "*" in app:
        return ""  # many files, identity.stable_path
    if app.startswith("/") and os.path.normpath(app) != app:
        return ""  # rules.never_matches tells of it, wherever it leads
    if app.startswith("/"):
        return _path(app)
    if kind == "appimage":
        return _instead(app, f"appimage:{os.path.realpath(rest, strict=True)}", "goes over a link")
    interpreter, _, script = rest.partition(":")
    if kind != "script" or script[:1] != "/" or ":" in script:
        return ""
    known = f"script:{_real(interpreter)}:{_real(script)}"
    return _instead(app, known, "goes over a link")


def _path(app: str) -> str:
    real = os.path.realpath(app, strict=True)
    folder, _, name = app.rpartition("/")
    if folder.endswith("/snap/bin") and real.endswith("/snap"):
        return _instead(app, f"snap:{name.partition('.')[0]}", "starts a snap")
    if folder.endswith("/flatpak/exports/bin"):
        return _instead(app, f"flatpak:{name}", "starts a Flatpak")
    mode = Path(real).stat().st_mode
    if stat.S_ISDIR(mode):
        return f"{quote(app)} is a folder: a rule is about one program, by the path of its file"
    if not stat.S_ISREG(mode):
        return ""
    first = _first_line(real)
    if first is not None:
        known = _script(real, first)
        if known:
            return f"{_instead(app, known, 'is a script')}, or the program that it starts"
        text = f"{quote(app)} is a script: its processes are known by their interpreter, and a rule"
        return f"{text} for it never matches: write script:INTERPRETER:{quote(stable_path(real))}"
    why = "is a link" if Path(app).is_symlink() else "goes over a link"
    return _instead(app, stable_path(real), why if real != app else "has a version in its path")


def _instead(app: str, known: str, why: str) -> str:
    if known == app:
        return ""
    text = f"{quote(app)} {why}: its processes have another name, and a rule for it never matches"
    return f"{text}: write {quote(known)}"


def _real(path: str) -> str:
    return stable_path(os.path.realpath(path, strict=True))


def _first_line(path: str) -> str | None:
    """What stands behind `#!`; None where that is not what the file begins with. OSError."""
    with open(path, "rb") as file:
        first = file.read(_FIRST_LINE)
    return os.fsdecode(first[2:].partition(b"\n")[0]).strip() if first[:2] == b"#!" else None


def _script(path: str, first: str) -> str:
    """What the processes of a script are known by (execve(2)); "" if its interpreter is not
    known."""
    interpreter, _, option = first.partition(" ")
    argv = [interpreter, *filter(None, (option.strip(),))]
    if interpreter.rpartition("/")[2] == "env":
        argv = _behind_env(option)
    found = shutil.which(argv[0]) if argv and argv[0] else None
    if found is None:
        return ""
    exe = os.path.realpath(found, strict=True)
    return identify(Facts(exe=exe, argv=(*argv, path), script=path)).id


def _behind_env(option: str) -> list[str]:
    """The words of what env(1) starts; [] where it has other options than -S."""
    words = shlex.split(option.strip().removeprefix("-S"))
    while words and "=" in words[0]:
        words.pop(0)
    return [] if words and words[0].startswith("-") else words
