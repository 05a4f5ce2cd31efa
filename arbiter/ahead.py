"""What the daemon opens with rights that it gives up right after: sockets, and threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import NamedTuple

from arbiter.kernel import fastpath
from arbiter.kernel.procevents import ProcEvents
from arbiter.priority import come_first, hurried


class Ahead(NamedTuple):
    """Its user's to close."""

    events: ProcEvents | None
    """None where the kernel tells none: in another network namespace than the machine's."""
    fast: fastpath.Start | None
    """None where there can be no fast path."""
    hands: Executor
    """One thread, for what connections pass undecided without."""

    @classmethod
    def open(cls, confine: Callable[[], None]) -> Ahead:
        """`confine` gives up a thread's rights; the calling one's are given up last."""
        # First: from another network namespace (a container, the lab) their socket is opened in
        # the machine's, and no right to go there is kept.
        events = ProcEvents.open()

        def ahead() -> None:
            come_first()
            confine()

        opened = cls(events, fastpath.Start.open(ahead), hurried("arbiter-ruleset", confine))
        confine()
        return opened
