"""How glibc keeps memory, in a process of its own."""

from __future__ import annotations

import ctypes
import os
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
    env = {k: v for k, v in os.environ.items() if k not in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")}
    argv = [sys.executable, "-c", CODE, how]
    done = subprocess.run(argv, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return len(re.findall("<heap nr=", done.stdout))


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc: no arenas")
def test_threads_share_few_arenas() -> None:
    assert arenas("as it is") > 2
    assert arenas("few") == 2
