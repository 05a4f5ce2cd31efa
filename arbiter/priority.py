"""Whose turn it is: threads that write and read for people give way to the one that decides, and
what puts the ruleset back comes before all that.

Niceness is a thread's own in Linux (setpriority(2), C library differences). Without it a thread
that hashes and encodes a batch of records keeps the CPU for its whole slice, 3 ms and more, while
a packet waits; with it the thread that wakes up comes first (kernel/sched/fair.c). The
interpreter's own lock is the other half: who holds it is asked for it after `SWITCH_SECONDS`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

NICE = 10
"""Added to the niceness that the daemon was given, 19 at most."""
URGENT = -15
"""The niceness of what connections pass undecided without: eight times the CPU of others and more
(sched_prio_to_weight, kernel/sched/core.c), and nothing that is not niced comes in between."""
SWITCH_SECONDS = 0.0005
"""Python's own is 0.005: as long as twenty verdicts take."""
STORE, SINK = "arbiter-store", "arbiter-sink"
"""Names of threads that no verdict waits for, but for the store's with `audit.sync`."""


def come_first() -> bool:
    """The calling thread comes before all that is not real-time: the lowest priority of SCHED_FIFO
    (sched(7)). What it starts does not. False where that is not permitted (CAP_SYS_NICE,
    RLIMIT_RTPRIO): then it comes a little later."""
    try:
        policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(1))
    except PermissionError:
        return False
    return True


def hurry() -> bool:
    """The calling thread comes before others, and so does what it starts. False where that is not
    permitted (CAP_SYS_NICE, RLIMIT_NICE): then it takes its turn."""
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), URGENT)
    except PermissionError:
        return False
    return True


def hurried(name: str, prepare: Callable[[], None]) -> Executor:
    """A thread that will `hurry`; `prepare` is called in it first. Raises what that does."""
    hands = ThreadPoolExecutor(1, name)
    for step in (hurry, prepare):
        hands.submit(step).result()
    return hands


def decide_promptly(sync: bool) -> None:
    """The threads that there are give way, and none keeps the interpreter long. `sync`: verdicts
    wait for the store's."""
    sys.setswitchinterval(SWITCH_SECONDS)
    background = (SINK,) if sync else (STORE, SINK)
    for thread in threading.enumerate():
        if thread.name in background and thread.native_id is not None:
            _give_way(thread.native_id)


def give_way() -> None:
    """The calling thread comes after those that decide."""
    _give_way(threading.get_native_id())


def _give_way(thread: int) -> None:
    # Anybody may be nicer, so it cannot fail; a thread that has ended needs nothing.
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, thread, min(19, nice + NICE))
    except ProcessLookupError:
        return
