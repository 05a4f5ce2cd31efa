"""How glibc keeps memory, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

CODE = """
import ctypes, sys, threading
from arbiter.kernel.malloc import few_arenas
if sys.argv[1] == "few":
    few_arenas()
libc = ctypes.CDLL(None)
meet = threading.Barrier(9)
def work():
    kept = [bytes(3000) for _ in range(100)]
    meet.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
meet.wait()
for thread in threads:
    thread.join()
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


def arenas(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return len(re.findall("<heap nr=", done.stdout))


def test_threads_share_few_arenas() -> None:
    if arenas("as it is") <= 2:
        pytest.skip("this C library, or its settings, gives threads no arenas of their own")
    assert arenas("few") == 2
