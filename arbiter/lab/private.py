"""A lab without root: the same commands in a user namespace of one's own.

`unshare` gives namespaces of every kind that is needed, this module makes /run and /etc writable
in that private mount namespace, and then the command runs as if it were root. All of it ends with
the command: nothing can be left behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from arbiter.lab.config import LabError
from arbiter.lab.state import SOURCE

_UNSHARE = (
    "unshare",
    "--user",
    "--map-root-user",
    "--net",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)
_WHOLE = "4294967295"


def command(argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` as root of a private set of namespaces.

    Tries first whether this machine allows it; raises LabError naming the way with sudo if not.
    """
    if shutil.which("unshare") is None:
        raise LabError("`unshare` is not there: install util-linux, or use sudo")
    tried = subprocess.run([*_UNSHARE, "true"], capture_output=True, text=True)
    if tried.returncode:
        why = tried.stderr.strip() or f"exit code {tried.returncode}"
        text = "this machine gives user namespaces to root only: repeat it with sudo"
        raise LabError(f"without root the lab needs a user namespace, and {why}; {text}")
    return [*_UNSHARE, sys.executable, "-m", "arbiter.lab.private", *argv]


def environment() -> dict[str, str]:
    """This process's, so that the same source is imported in there."""
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def inside() -> bool:
    """Whether this process is in a user namespace, which has not all users."""
    return Path("/proc/self/uid_map").read_text().split()[2] != _WHOLE


def prepare() -> None:
    """Covers /run and /etc with private, writable file systems. Raises LabError.

    Refuses to where it would be the real machine's: outside a user namespace.
    """
    if not inside():
        raise LabError("this is no user namespace: use `arbiter lab shell`, which makes one")
    _mount("--types", "tmpfs", "--options", "mode=0755", "arbiter-lab", "/run")
    kept = Path("/run/etc")
    kept.mkdir()
    _mount("--bind", "/etc", str(kept))
    _mount("--types", "tmpfs", "--options", "mode=0755", "arbiter-lab", "/etc")
    for entry in os.scandir(kept):
        shown = Path("/etc", entry.name)
        if entry.name == "netns":
            continue  # the real machine's labs have their files there; ours is a new one
        if entry.name in ("resolv.conf", "hosts", "nsswitch.conf"):
            # Mount points for `ip netns exec`; the originals may lead into the covered /run.
            shown.write_text("")
            if entry.name == "nsswitch.conf":
                shown.write_text(Path(entry.path).read_text())
        elif entry.is_symlink():
            # As it is: a relative one is relative to /etc.
            shown.symlink_to(Path(entry.path).readlink())
        else:
            shown.symlink_to(entry.path)


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"cannot make a private {arguments[-1]}: {done.stderr.strip()}; use sudo")


def main(argv: list[str]) -> None:
    """Prepares, then becomes `argv`."""
    try:
        prepare()
    except LabError as error:
        sys.exit(f"Error: {error}")
    os.execvp(argv[0], argv)  # noqa: S606 - the command is our own, see `command`


if __name__ == "__main__":
    main(sys.argv[1:])
