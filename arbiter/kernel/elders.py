"""The parent of a process that the fast path met, as far as it was read while it was there: enough,
as a rule, to tell who it was when it has gone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from msgspec import structs

from arbiter import identity
from arbiter.kernel import procread


class Elder(NamedTuple):
    """It is in no Flatpak, and its path leads, for us, to what it runs."""

    pid: int
    ppid: int
    start: int
    """Clock ticks since boot."""
    exe: bytes
    mounts: bytes
    """The link text of ns/mnt."""
    cgroup: bytes
    cmdline: bytes
    cwd: bytes


def facts_of(elder: Elder, homes: Mapping[str, str]) -> identity.Facts | None:
    """What identifies it, as `read` would have it; None where that takes more than was read."""
    exe, argv = os.fsdecode(elder.exe), procread.split_argv(elder.cmdline)
    view = homes.get(os.fsdecode(elder.mounts))
    if identity.appimage_mount(exe):
        return None
    own, cgroup = view is not None, procread.cgroup_of(elder.cgroup)
    facts = identity.Facts(exe, own_mounts=own, argv=argv, cgroup=cgroup)
    script = identity.find_script(exe, argv)
    if script is None or not script.file:
        return facts
    if view is None:
        return None
    candidates = identity.script_candidates(script.text, os.fsdecode(elder.cwd), "")
    path = procread.resolved(candidates, view)
    return structs.replace(facts, script=path) if path else None
