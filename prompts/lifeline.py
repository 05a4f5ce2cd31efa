"""A prompt that `arbiter run --prompt` started ends with that daemon."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Mapping

OWNER = "ARBITER_PROMPT_OF"
"""The environment's variable that names the daemon's process, where there is one."""
NOT_STOPPED = "Ctrl-Z stops nothing: arbiter runs in this terminal, and would stop, too; q quits"
"""Said where a stopped daemon would hold every new connection of the machine."""


def end_with_daemon(env: Mapping[str, str]) -> bool:
    """Ask the kernel to end us with the daemon that started us, prctl(2). False: nobody did.

    A prompt without its daemon would stay on the terminal, and ask nothing.
    """
    owner = env.get(OWNER)
    if not owner:
        return False
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, linux/prctl.h
    if os.getppid() != int(owner):
        os.kill(os.getpid(), signal.SIGTERM)
    return True
