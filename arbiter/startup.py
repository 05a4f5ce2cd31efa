"""What must be so before the daemon may start: paths, rights, descriptors, no other, room."""

from __future__ import annotations

import fcntl
import os
import resource
from pathlib import Path

from msgspec import Struct

from arbiter.kernel import firewall, rights
from arbiter.routeplan import RoutePlan
from arbiter.settings import Settings

RESERVE = 16
"""Descriptors that `reserve` opens."""


class Paths(Struct, frozen=True):
    """Where the daemon keeps its things."""

    state: Path
    socket: Path
    config: Path
    """The directory of links.d."""

    @property
    def database(self) -> Path:
        """The store's file."""
        return self.state / "arbiter.db"


class DaemonError(Exception):
    """The daemon cannot start; the text says why and what to do."""


def allow_descriptors() -> None:
    """As many as we may have: each watched process and each client needs one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def reserve() -> list[int]:
    """Descriptors kept for the end: taking the ruleset away must not fail for lack of them."""
    return [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(RESERVE)]


def need_rights() -> None:
    """Say at once what every later step would say in its own words."""
    if not rights.has("CAP_NET_ADMIN"):
        raise DaemonError("arbiter run needs root (CAP_NET_ADMIN): try sudo arbiter run")


def extra_rights(paths: Paths) -> tuple[str, ...]:
    """What else the daemon must keep for these paths: root may not write into a directory of
    somebody else's without it. None for those of a service, which are root's."""
    for path in (paths.state, paths.database, paths.socket):
        there = path.absolute()
        while not there.exists():
            there = there.parent
        if there.stat().st_uid != os.geteuid():
            return ("CAP_DAC_OVERRIDE",)
    return ()


class Terminal:
    """The terminal that we were started in, if any."""

    def __init__(self) -> None:
        self._fds = [fd for fd in (0, 1, 2) if os.isatty(fd)]

    @property
    def gone(self) -> bool:
        """It was closed: a terminal that hung up is none any more (tty(4), its ioctls give EIO)."""
        return bool(self._fds) and not any(map(os.isatty, self._fds))


def make_open(directory: Path) -> None:
    """Make a directory that everybody may enter and only we write, whatever the umask."""
    try:
        directory.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return
    directory.chmod(0o755)


RUN = Path("/run/arbiter")
"""Root's own directory; what is in it means nothing after a reboot."""


class Alone:
    """The lock of one network namespace: two daemons would take each other's rules away."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path, self._fd = path, fd

    def called_off(self) -> bool:
        """Whether `call_off` was called since: what is taken away is not to be put back."""
        return os.fstat(self._fd).st_size > 0

    def close(self) -> None:
        """Let another daemon have the namespace."""
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def _lock_file() -> Path:
    return RUN / f"netns-{Path('/proc/self/ns/net').stat().st_ino}.lock"


def call_off() -> None:
    """Tell the daemon of this network namespace, if there is one, that all of arbiter's is about to
    be taken from the kernel, and that it is meant. OSError where its lock cannot be written to."""
    try:
        fd = os.open(_lock_file(), os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    with os.fdopen(fd, "wb") as file:
        file.write(b"called off\n")


def only_here() -> Alone:
    """Take the lock of this network namespace. DaemonError if another daemon has it."""
    path = _lock_file()
    try:
        make_open(RUN)
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The one who ended may have removed the file between our open and our lock.
            if path.exists() and path.stat().st_ino == os.fstat(fd).st_ino:
                os.ftruncate(fd, 0)  # whoever was called off is gone
                return Alone(path, fd)
            os.close(fd)
    except BlockingIOError:
        os.close(fd)
        text = "another arbiter decides the connections of this network namespace already"
        raise DaemonError(f"{text} (it holds {path}); `arbiter status` shows it") from None
    except OSError as error:
        raise DaemonError(f"the lock {path} cannot be taken: {error.strerror}") from None


def planned(settings: Settings) -> tuple[firewall.Plan, RoutePlan]:
    """What these settings put into the kernel."""
    plan = firewall.Plan(
        queue=settings.queue_num,
        when_absent=settings.when_absent.value,
        mask=settings.mark_base,
        dns_queue=settings.dns_queue_num,
    )
    return plan, RoutePlan(
        table=settings.route_table, preference=settings.route_pref, mask=plan.mask
    )


def need_room(plan: firewall.Plan, routing: RoutePlan) -> None:
    """Raise DaemonError where something else in the kernel is in the way; a moment's work."""
    overlaps = firewall.overlaps(plan, *firewall.look(), own_prefs=routing.preferences)
    if overlaps:
        raise DaemonError("\n".join(overlap.text for overlap in overlaps))


def lock_state(state: Path) -> int:
    """Hold the state directory for this daemon alone; gives the lock's descriptor."""
    try:
        state.mkdir(mode=0o750, exist_ok=True)  # this one, and no other: it may be mistyped
        fd = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        why = "it is no directory" if state.is_file() else error.strerror
        text = f"the state directory {state} cannot be used: {why}"
        raise DaemonError(f"{text}; choose another with --state") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        text = f"another arbiter runs with the state directory {state}"
        raise DaemonError(f"{text}; stop it, or choose another with --state") from None
    return fd
