"""What was freed goes back to the system."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """For once, after much was read: glibc keeps freed memory that lies below some that is in use.

    malloc_trim(3); a C library without it is left alone. It takes milliseconds.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
