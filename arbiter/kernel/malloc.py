"""Memory that was freed goes back to the system, or is used again."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8  # malloc.h
_ARENAS = 2


def give_back() -> None:
    """For once, after much was read: glibc keeps freed memory that lies below some that is in use.

    malloc_trim(3); a C library without it is left alone. It takes milliseconds.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def few_arenas() -> None:
    """Threads share two of glibc's arenas, of which each keeps what is freed in it: a thread of its
    own for the disk, for /proc and for each answer would otherwise have up to eight a CPU.

    mallopt(3); before there are threads. A C library without it is left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)
