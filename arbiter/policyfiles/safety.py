"""What a policy file must be before it is believed. Pure: the edge brings the facts.

A file that came with a package speaks for that package's own programs and for nothing else. It
can suggest; it cannot widen anybody's rights: no interpreter (which runs whatever it is told to),
no wildcard, no users, no other layer, and it is gone with its package.
"""

from __future__ import annotations

import posixpath
import re
import stat
from collections.abc import Collection

from msgspec import Struct

from arbiter.identity import interpreter_name, stable_path
from arbiter.model import ALLOW
from arbiter.rules import Rule, never_matches
from arbiter.tomlfile import shown

_RUNNERS = re.compile(
    r"ld-[^/]*\.so(\.\d+)*|ld\.so(\.\d+)*|env|dotnet|guile[\d.-]*|R|Rscript|julia|beam\.smp|erlexec"
    r"|racket|octave[\w.-]*|emacs[\w.-]*|[gmn]?awk|gdb|qemu-[\w-]+|swipl|ghc[\d.-]*|sbcl|clisp",
    re.ASCII,
)
"""Programs that run whatever they are given, beside the interpreters of arbiter.identity."""
_NOBODYS = (
    "/tmp/",  # noqa: S108  # to refuse, not to use
    "/var/tmp/",  # noqa: S108
    "/dev/",
    "/home/",
    "/root/",
    "/run/",
    "/proc/",
    "/sys/",
    "/usr/local/",
)
"""Where packages put no executables (FHS 3.0; Debian Policy 9.1.2)."""


class FileFacts(Struct, frozen=True):
    """What lstat or fstat says of a file or folder."""

    uid: int
    gid: int
    mode: int
    """st_mode, with the kind of file."""


def stat_fault(facts: FileFacts, owners: Collection[int] = (0,)) -> str:
    """Why a file, or the folder it is in, is not to be believed; "" if it is.

    `owners` are the uids that may own it. A group that may write is bad unless it is root's.
    """
    if not (stat.S_ISREG(facts.mode) or stat.S_ISDIR(facts.mode)):
        return "it is no regular file"
    if facts.uid not in owners:
        return f"it belongs to uid {facts.uid}, not to root: chown root"
    if facts.mode & stat.S_IWOTH or (facts.mode & stat.S_IWGRP and facts.gid != 0):
        return f"others than root may write it (mode {stat.S_IMODE(facts.mode):04o}): chmod go-w"
    return ""


def app_fault(app: str, *, shipped: bool) -> str:
    """Why advice cannot be about `app`; "" if it can.

    An administrator's advice may be about everything that is one program; a package's only about
    what a package owns: an executable, or a unit.
    """
    if any(letter in app for letter in "*?[]"):
        return "an app is one program: no wildcard"
    if not app.startswith("/"):
        return _other_fault(app, shipped=shipped)
    if posixpath.normpath(app) != app or app.startswith("//"):
        return f"it is not in its shortest form: write {shown(posixpath.normpath(app))}"
    if app == "/":
        return "it is no executable"
    if shipped and app.startswith(_NOBODYS):
        return "packages put no executables there"
    name = app.rpartition("/")[2]
    if interpreter_name(name) or _RUNNERS.fullmatch(name):
        return f"{shown(name)} runs whatever it is told to: advice on it would be on everything"
    return never_matches(Rule(ALLOW, app=stable_path(app)))


def _other_fault(app: str, *, shipped: bool) -> str:
    if shipped and not app.startswith("unit:"):
        if app.startswith("script:"):
            return (
                "a script is known by its arguments, which every program of the user can copy: "
                "a package speaks for executables and units"
            )
        return "a package speaks for an executable, by its whole path, or for unit:NAME.service"
    if app.startswith("unit:") and not re.fullmatch(r"unit:[\w.\\:@-]+\.service", app, re.ASCII):
        return "a unit is unit:NAME.service"
    return never_matches(Rule(ALLOW, app=app))


def owner_fault(file: Collection[str], app: Collection[str], path: str) -> str:
    """Why a package's file may not speak for the file `path`, by the packages that own both."""
    if not file:
        return "no installed package owns this file: one that an administrator writes is in /etc"
    if not app:
        return f"no installed package owns {shown(path)}"
    if not set(file) & set(app):
        return (
            f"it came with {', '.join(sorted(file))}, but {shown(path)} with "
            f"{', '.join(sorted(app))}: a package speaks for its own programs only"
        )
    return ""
