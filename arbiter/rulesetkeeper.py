"""The daemon's ruleset: put in force, watched, and put back when others take it away.

Nobody is fought: `arbiter rescue` calls the daemon off first (`startup.call_off`), and whoever
changes the ruleset again and again finds it put back ever more slowly, which is said.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar, TypeVarTuple

from arbiter.accounts import not_silent
from arbiter.events import Trouble
from arbiter.kernel import firewall
from arbiter.memory import now

AT_ONCE = 5
"""Repairs within `WHILE` that wait for nothing; after them each waits twice as long."""
WHILE = 60.0
"""Seconds after which a repair counts no more."""
LONGEST = 10.0
"""Seconds that a repair waits at most: until then new connections pass undecided."""
APART = 0.2
"""Seconds between two looks at least: who changes rules of his all the time costs no more."""
AGAIN = 1.0
"""Seconds after which a repair that failed is tried again."""
TAKEN_AWAY = (
    "arbiter's rules were taken away by `arbiter rescue`: connections go as if there were no "
    "arbiter; restart arbiter"
)
LEFT = (
    "stopped, but arbiter's rules may be in the kernel yet, as the log says, and may hold new "
    "connections; take them away: sudo arbiter rescue"
)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
log = logging.getLogger("arbiter")


class Rhythm:
    """When the next repair may be. Pure: `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._done: deque[float] = deque(maxlen=64)

    def repaired(self, now: float) -> None:
        """One more."""
        self._done.append(now)

    def count(self, now: float) -> int:
        """Repairs that count still."""
        while self._done and self._done[0] <= now - WHILE:
            self._done.popleft()
        return len(self._done)

    def pause(self, now: float) -> float:
        """Seconds from now until the next repair may be; 0 or less: at once."""
        more = self.count(now) - AT_ONCE
        if more < 0:
            return 0.0
        return self._done[-1] + min(LONGEST, 2.0 ** min(more, 10)) - now


class RulesetKeeper:
    """`put` and the repairs never overlap. Whoever has a prompt is told of trouble."""

    def __init__(
        self,
        backend: firewall.Backend,
        hands: Executor,
        called_off: Callable[[], bool],
        dispatch: Callable[[Trouble], None],
        back: Callable[[], None],
    ) -> None:
        """`hands` do it: on a busy machine the tools must not wait for each other program's turn.
        `back` is called each time it is in force again after others had changed it."""
        self.backend, self._hands = backend, hands
        self.called_off = called_off
        self._dispatch, self._back = dispatch, back
        self._lock = asyncio.Lock()
        self._plan: firewall.Plan | None = None
        self._shown = firewall.Shown()
        """What the kernel showed after `_plan` was put in force."""
        self._seen: bytes | None = None
        """The generation that showed it, or that was looked at since and shows the same."""
        self._changes = firewall.listen(backend, self._changed, self._trouble)
        self._touched = asyncio.Event()
        self._since: float | None = None
        """When a change was first heard of that was not looked at yet, in monotonic seconds."""
        self._who = ""
        self._rhythm = Rhythm()
        self._looked = 0.0
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self._deaf = self._failed = self._fight = ""
        self._said = False
        self.repairs = 0
        """How often the ruleset was put back."""

    def start(self) -> None:
        """Watch from now on. Where the kernel refuses, that is a problem, and the rest goes on."""
        try:
            self._changes.start()
        except OSError as error:
            self._trouble(f"changes of the ruleset are not seen: {error}")
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(not_silent)

    async def put(self, plan: firewall.Plan) -> None:
        """Make `plan` the ruleset. Raises FirewallError: then what was is still in force."""
        async with self._lock:
            changed = self._since is not None  # perhaps by others, and not looked at yet
            await self._apply(plan)
        if changed:
            self._back()
        log.info("in force by %s: %s", self.backend.name, firewall.describe(plan))

    async def stop(self) -> None:
        """Put nothing back from now on. A repair in its middle is waited for: its thread cannot be
        ended, and must not come after whoever takes the ruleset away."""
        self._changes.close()
        if self._timer is not None:
            self._timer.cancel()
        self._stopping = True
        self._touched.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def remove(self) -> str:
        """Take the ruleset away, after `stop`. Gives LEFT if that fails, with why in the log."""
        problems = await asyncio.to_thread(firewall.remove)
        for problem in problems:
            log.error("%s", problem)
        return LEFT if problems else ""

    def problems(self) -> tuple[str, ...]:
        """What is wrong now, each with its next step."""
        if self._said:
            return (TAKEN_AWAY,)
        self._calm()
        return tuple(problem for problem in (self._deaf, self._failed, self._fight) if problem)

    # --- news -------------------------------------------------------------------------------

    def _changed(self, who: str) -> None:
        # What is heard while we are at it ourselves is mostly ours.
        self._who = "" if self._lock.locked() else who or self._who
        if self._since is None:
            self._since = time.monotonic()
        self._touched.set()

    def _trouble(self, problem: str) -> None:
        self._deaf = f"{problem}; if another program removes arbiter's rules, restart arbiter"
        log.error("%s", self._deaf)

    # --- repair -----------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._touched.wait()
            self._touched.clear()
            if self._stopping:
                return
            if self.called_off():
                self._say_taken()
                return
            at = time.monotonic()
            pause = max(self._rhythm.pause(at), self._looked + APART - at)
            if pause > 0:  # nor is looked meanwhile: who is busy with us shall not keep us busy
                self._look_in(pause)
                continue
            try:
                async with self._lock:
                    await self._look()
                self._looked = time.monotonic()
            except firewall.FirewallError as error:
                if not self._failed:
                    log.error("the ruleset cannot be put back: %s", error)
                self._failed = f"the ruleset cannot be put back: {error}; tried again all the time"
                self._look_in(AGAIN)

    def _look_in(self, pause: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(pause, self._look_now)

    def _look_now(self) -> None:
        self._timer = None
        self._touched.set()

    async def _look(self) -> None:
        who, since = self._who, self._since
        self._who, self._since = "", None
        if self._plan is None:
            return
        generation = await self._do(firewall.generation, self.backend)
        same = generation is not None and generation == self._seen
        if same or await self._do(firewall.shown, self.backend) == self._shown:
            self._failed, self._seen = "", generation
            return
        if self._stopping or self.called_off():  # it began meanwhile
            self._touched.set()
            return
        self._since = since
        await self._apply(self._plan)
        self._failed, self._since = "", None
        self._back()
        self._rhythm.repaired(time.monotonic())
        self.repairs += 1
        took = "" if since is None else f" {time.monotonic() - since:.1f} s after it was seen"
        by = f"another program ({who})" if who else "another program"
        self._say_back(f"{by} changed arbiter's part of the ruleset; it was put back{took}")

    async def _apply(self, plan: firewall.Plan) -> None:
        await self._do(firewall.apply, plan, self.backend)
        self._plan = plan
        self._seen = await self._do(firewall.generation, self.backend)
        self._shown = await self._do(firewall.shown, self.backend)
        if not firewall.whole(plan, self.backend, self._shown):
            # Somebody was at it meanwhile: look again.
            self._shown, self._seen = firewall.Shown(), None
            self._touched.set()

    async def _do(self, do: Callable[[*Ts], T], *what: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._hands, do, *what)

    def _say_back(self, text: str) -> None:
        log.warning("%s", text)
        count = self._rhythm.count(time.monotonic())
        if count == 1:
            self._tell(f"{text}; of what began in between only what a rule denies is refused")
        elif count == AT_ONCE:
            self._fight = (
                f"{text}: {AT_ONCE} times within {WHILE:.0f} s; from now on it is put back later "
                f"each time, up to {LONGEST:.0f} s, and until then new connections pass undecided; "
                "find out which program does it: `nft monitor`, or stop arbiter"
            )
            log.error("%s", self._fight)
            self._tell(self._fight)

    def _calm(self) -> None:
        if self._fight and not self._rhythm.count(time.monotonic()):
            self._fight = ""

    def _tell(self, text: str) -> None:
        self._dispatch(Trouble(now(), text))

    def _say_taken(self) -> None:
        self._said = True
        self._changes.close()
        log.error("%s", TAKEN_AWAY)
        self._tell(TAKEN_AWAY)
