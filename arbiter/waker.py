"""The pipeline's clock: a `Tick` when it wants one. In the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from arbiter.events import Event, Tick
from arbiter.memory import now
from arbiter.model import Now

CLOCK_CHECK = 60.0
"""Seconds between looks at the wall clock, which may jump, while a rule ends by it."""


class Waker:
    """With nothing to wait for there is no timer. `turned` is called whenever it is set anew: the
    pipeline has done something."""

    def __init__(
        self,
        next_wake: Callable[[Now], float | None],
        dispatch: Callable[[Event], None],
        turned: Callable[[], None] = lambda: None,
    ) -> None:
        self._next_wake, self._dispatch, self._turned = next_wake, dispatch, turned
        self._timer: asyncio.TimerHandle | None = None
        self._arming = False

    def arm(self) -> None:
        """Set the timer anew once this turn of the loop is over."""
        if not self._arming:
            self._arming = True
            asyncio.get_running_loop().call_soon(self._rearm)

    def _rearm(self) -> None:
        self._arming = False
        self._turned()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        moment = now()
        due = self._next_wake(moment)
        if due is not None:
            pause = min(max(0.0, due - moment.mono), CLOCK_CHECK)
            self._timer = asyncio.get_running_loop().call_later(pause, self._tick)

    def _tick(self) -> None:
        self._dispatch(Tick(now()))
        self.arm()
