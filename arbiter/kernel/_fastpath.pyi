"""The compiled part of the fast path (native/*.c). `fastpath.py` says what it is for."""

from typing import final

_Question = tuple[int, bytes, bytes, int, int, int]
"""proto, saddr, daddr, dport, outdev, the packet's mark."""
_Standing = tuple[int, int, int, int, str, int, tuple[int, ...], bytes, int]
"""pid, effective uid, device and inode of its executable, image, descriptor, relatives, program,
whose children only (0: anybody's)."""
_Elder = tuple[int, int, int, bytes, bytes, bytes, bytes, bytes]
"""pid, parent, start, path of its executable, ns/mnt, cgroup, cmdline, cwd."""
_Taken = tuple[bytes, int, int, int, int, int, int, bool, _Elder | None, int, bytes]

@final
class FastPath:
    """Descriptors are the caller's, and stay open until it is gone. Thread-safe."""

    def __new__(
        cls,
        *,
        netlink: int,
        queue: int,
        diag: int,
        events: int,
        births: int,
        wake: int,
        stop: int,
    ) -> FastPath:
        """`births`: process events, too, whose filter it sets. -1: none; a new process is opened
        with its first packet then."""

    def run(self) -> None:
        """Read the queue until `stop` is readable, without the interpreter's lock. OSError."""

    def mark(self) -> int:
        """For `teach`, before a process is looked up."""

    def teach(
        self,
        mark: int,
        question: _Question,
        standing: _Standing,
        uid: int,
        verdict_mark: int,
        token: int,
        until: int,
        /,
    ) -> bool:
        """Accept what asks the same with this mark, for the same process and a socket of this
        uid, until `until` (nanoseconds of CLOCK_MONOTONIC). False if it may have changed."""

    def leave_out(self, address: bytes, bits: int = 128, /) -> bool:
        """What was taught for wherever it goes holds not for this packed address, or for all that
        start with so many bits of it, until `forget`. False: they are too many."""

    def left_out(self, address: bytes, /) -> bool:
        """Whether that is so for this one."""

    def forget(self) -> None:
        """What was taught holds no more, as soon as this returns."""

    def take(self, waiting: bool, /) -> _Taken | None:
        """A message of the queue: its bytes, the token of the answer it was given (0: it waits),
        the socket's inode, when it came and was answered (as `until`), and of a new process that
        runs the same program its pid, parent, whether that one was told before or it itself, as
        far as it was read, start and cmdline (0 and none of the same process). None: there is none.
        Those that wait come first, if they are wanted."""

    def losses(self) -> tuple[int, int]:
        """How often the kernel said ENOBUFS, and how many messages were too large to read."""
