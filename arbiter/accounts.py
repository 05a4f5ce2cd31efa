"""The daemon's accounts: whose bytes went over which link, what is left of budgets. In the loop.

Conntrack is read every READ seconds while decided connections are open, and each that ends is told
by the kernel; with nothing open nothing runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from arbiter.budgets import Exceeded, Standing, Totals, first_day, next_midnight, standing
from arbiter.events import Report
from arbiter.kernel import acct, conntrack
from arbiter.kernel.conntrack import ConntrackWatch
from arbiter.linkchange import leading
from arbiter.links import FoundLink
from arbiter.linkstate import write_text
from arbiter.localtime import local_zone
from arbiter.model import Link, Owner, Packet, Spent
from arbiter.store import StoreError, Writer
from arbiter.tariff import period_start
from arbiter.usage import MAX_FLOWS, Account, Counted, Ledger, day_of

READ = 10.0
"""Seconds between looks at the counters of connections that are open."""
WATCHED = 1.0
"""The same while somebody watches them."""
FLUSH = 1.0
"""Seconds that what ended connections used waits for company on its way to the disk."""
LONGEST = 3600.0
"""Seconds after which the clock is looked at again, while a period's end is waited for."""
MAX_ACCOUNTS = 4096
"""Accounts kept to be shared by flows."""
_UNKNOWN = Account()
log = logging.getLogger("arbiter")


def acct_file() -> Path:
    """Where the old switches of this network namespace's conntrack are kept."""
    namespace = Path("/proc/self/ns/net").stat().st_ino
    return Path(f"/run/arbiter/acct-{namespace}.json")


class Accounts:
    """Counts, and keeps what was counted. `changed` is called when a budget is used up, or there
    is room in it again; `seen` with all counters at each look, and does in steps what it does;
    `gone` with those of an end. It looks while connections are open, or somebody `waits` for their
    end."""

    def __init__(
        self,
        writer: Writer,
        state: Path,
        mask: int,
        changed: Callable[[], None],
        *,
        seen: Callable[[Sequence[Counted]], Iterator[None]] = lambda _: iter(()),
        gone: Callable[[Counted], None] = lambda _: None,
        waits: Callable[[], bool] = lambda: False,
    ) -> None:
        self._writer, self._mask, self._changed = writer, mask, changed
        self._seen, self._gone, self._waits = seen, gone, waits
        self._watched = asyncio.Event()
        self._zone = local_zone()
        self._unknown: dict[int, Account] = {}
        self._ledger = Ledger(lambda n: self._unknown.get(n, _UNKNOWN), self._zone)
        self._totals = Totals()
        self._watch = ConntrackWatch(self._ended, self._lost, mask)
        self._file = state / "budgets.json"
        self._exceeded = read_exceeded(self._file)
        self._budgets: dict[str, FoundLink] = {}
        self._known: dict[str, Spent | None] = {}
        self._shared: dict[tuple[str, str, str, str], Account] = {}
        self._open = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._flush: asyncio.TimerHandle | None = None
        self._period: asyncio.TimerHandle | None = None
        self._problem = ""
        self._problems: tuple[str, ...] = ()
        self._unkept = ""

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps bytes from being counted or budgets from being kept, with its next step."""
        return (*self._problems, self._unkept) if self._unkept else self._problems

    async def start(self) -> None:
        """Count from now on. What cannot be counted is a problem, not an error."""
        wall = time.time()
        try:
            rows = await asyncio.wrap_future(self._writer.usage(first_day(wall, self._zone)))
            self._totals.load(rows, day_of(wall, self._zone))
            flows = await asyncio.wrap_future(self._writer.open_flows())
            self._ledger.restore(flows)
            self._watch.start()
        except (OSError, StoreError) as error:
            self._problems = (f"bytes are not counted: {error}; restart arbiter",)
        else:
            self._problems = await asyncio.to_thread(acct.enable, acct_file())
            self._open.set()
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(not_silent)
        for problem in self._problems:
            log.error("%s", problem)

    async def close(self) -> None:
        """Count what there is a last time, and give conntrack its switches back."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            self._watch.drain()
            await self._read()
        self._watch.close()
        for timer in (self._flush, self._period):
            if timer is not None:
                timer.cancel()
        self._store()
        for problem in await asyncio.to_thread(acct.restore, acct_file()):
            log.error("%s", problem)

    # --- what is counted --------------------------------------------------------------------

    def opened(self, report: Report, link: Link | None) -> None:
        """A decision lets a connection go over `link`. On the hot path: two look-ups."""
        packet = report.packet
        if not report.verdict.passes or not isinstance(packet, Packet):
            return
        owner = report.owner
        app = owner.processes[0].app.id if isinstance(owner, Owner) else ""
        user = owner.user if owner is not None else ""
        key = (app, user, link.name if link else "", link.sim if link else "")
        account = self._shared.get(key)
        if account is None:
            if len(self._shared) >= MAX_ACCOUNTS:
                self._shared.clear()
            account = self._shared[key] = Account(*key)
        self._ledger.opened(packet.flow, account)
        self._open.set()

    def listen(self) -> None:
        """Hear of every connection that has ended by now."""
        self._watch.drain()

    async def _run(self) -> None:
        while True:
            await self._open.wait()
            await self._pause()
            await self._read()
            if self._ledger.idle and not self._waits():
                self._open.clear()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(READ):
                await self._watched.wait()
                await asyncio.sleep(WATCHED)
        except TimeoutError:
            return  # nobody came to watch

    def pace(self, watched: bool) -> None:
        """Whether somebody watches the counters: then they are read more often."""
        if watched:
            self._watched.set()
        else:
            self._watched.clear()

    async def _read(self) -> None:
        try:
            counted = await asyncio.to_thread(conntrack.read, self._mask)
        except OSError as error:
            self._lost(f"conntrack cannot be read: {error}; bytes are counted at the next try")
            return
        for _ in self._seen(counted):
            await asyncio.sleep(0)  # thousands of connections: others want their turn
        for some in self._ledger.reading(counted, time.time()):
            for used in some:
                self._totals.add(used)
            await asyncio.sleep(0)
        if self._ledger.crowded:
            self._lost(f"more than {MAX_FLOWS} connections run: some are counted only at their end")
        else:
            self._problem = ""
        self._store()
        self._check()

    def _ended(self, counted: Counted) -> None:
        self._gone(counted)
        for used in self._ledger.ended(counted, time.time()):
            self._totals.add(used)
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(FLUSH, self._flushed)

    def _flushed(self) -> None:
        self._flush = None
        self._store()
        self._check()
        if self._unkept:
            self._keep()

    def _store(self) -> None:
        self._writer.add_usage(self._ledger.take())

    def _lost(self, problem: str) -> None:
        if problem != self._problem:
            log.warning("%s", problem)
        self._problem = problem
        self._open.set()

    # --- budgets ----------------------------------------------------------------------------

    def follow(self, links: tuple[FoundLink, ...]) -> None:
        """These are the links now; their budgets count."""
        self._unknown = unknown_accounts(links)
        self._budgets = {link.name: link for link in links if link.budget is not None}
        self._known = {name: self.spent(link) for name, link in self._budgets.items()}
        self._arm()

    def spent(self, link: FoundLink) -> Spent | None:
        """What it means that a link's budget is used up; None while it is not."""
        found = self._standing(link)
        return found.spent if found is not None else None

    def left(self) -> Mapping[str, int]:
        """Bytes left of each budget, by link."""
        found = {name: self._standing(link) for name, link in self._budgets.items()}
        return {name: each.left for name, each in found.items() if each is not None}

    def used(self, app: str) -> Mapping[str, int]:
        """Bytes of an app this month, by link."""
        return self._totals.of_app(app)

    def month(self, link: FoundLink) -> int:
        """Bytes over a link, or by its SIM, this month."""
        since = day_of(time.time(), self._zone)[:8] + "01"
        return self._totals.carried(link.name, link.sim, since)

    def _standing(self, link: FoundLink) -> Standing | None:
        if link.budget is None:
            return None
        wall, whose = time.time(), f"sim {link.sim}" if link.sim else f"link {link.name}"
        key = f"{whose} {link.budget}"  # one SIM may have a budget for each of its APNs
        since = day_of(period_start(link.budget, wall, self._zone), self._zone)
        used = self._totals.carried(link.name, link.sim, since)
        before = self._exceeded.get(key)
        found = standing(link.budget, link.over_budget, used, wall, self._zone, before)
        if found.exceeded != before:
            if found.exceeded is None:
                del self._exceeded[key]
            else:
                self._exceeded[key] = found.exceeded
            self._keep()
        return found

    def _keep(self) -> None:
        text = msgspec.json.encode(self._exceeded).decode()
        try:
            write_text(self._file, text)
        except OSError as error:
            problem = f"{self._file} cannot be written: {error.strerror}; after a restart"
            problem += " connections over budgets that are used up must be confirmed again"
            if problem != self._unkept:
                log.error("%s", problem)
            self._unkept = problem
        else:
            self._unkept = ""

    def _check(self) -> None:
        now = {name: self.spent(link) for name, link in self._budgets.items()}
        if now != self._known:
            self._known = now
            self._changed()
            self._arm()

    def _arm(self) -> None:
        """Look again when the next period may begin."""
        if self._period is not None:
            self._period.cancel()
            self._period = None
        if any(self._known.values()):
            wall = time.time()
            pause = min(next_midnight(wall, self._zone) - wall + 0.5, LONGEST)
            self._period = asyncio.get_running_loop().call_later(pause, self._new_period)

    def _new_period(self) -> None:
        self._check()
        self._arm()


def unknown_accounts(links: tuple[FoundLink, ...]) -> dict[int, Account]:
    """For whom a connection counts that nobody here let go, by its mark's link number.

    After a kill that is whatever began since the last write. 0, which no rule routed, counts for
    the link that the machine uses first: somebody's budget has been used, and most likely its.
    """
    found = {link.number: Account(link=link.name, sim=link.sim) for link in links}
    first = leading(links)
    if first is not None:
        found[0] = found[first.number]
    return found


def not_silent(task: asyncio.Task[None]) -> None:
    """As done callback: a mistake of ours that ended a task for life is the daemon's business."""
    if not task.cancelled() and (error := task.exception()) is not None:
        context = {"message": "in a task for life", "exception": error}
        task.get_loop().call_exception_handler(context)


def read_exceeded(path: Path) -> dict[str, Exceeded]:
    """Since when budgets are used up, as an earlier run kept it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Exceeded])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        log.error("%s cannot be read: %s; what was decided since is asked again", path, error)
        return {}
