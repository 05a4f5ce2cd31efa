"""Wires the effects to the pipeline: event loop, signals, start and stop, in this order:

lock, store, queue, socket, rules of the firewall last, "ready"; and back the same way. Between
"ready" and the end every queued packet gets its verdict from the pipeline.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from arbiter import __version__, protocol, views
from arbiter.events import (
    Announce,
    Answered,
    Effect,
    Event,
    FindOwner,
    OwnerFound,
    PacketQueued,
    ProcessExited,
    PromptsChanged,
    Refuse,
    Remember,
    Remembered,
    RememberFailed,
    Report,
    Retire,
    RulesChanged,
    SetVerdict,
    ShowAsk,
    Stopping,
    Tick,
    WatchProcess,
    WithdrawAsk,
)
from arbiter.kernel import firewall
from arbiter.kernel.exits import ExitWatch
from arbiter.kernel.owner import OwnerLookup
from arbiter.kernel.procevents import ProcEvents
from arbiter.kernel.procfs import ProcessTable, details
from arbiter.kernel.queue import Counters, Queue
from arbiter.model import NoOwner, NoOwnerReason, Now, Owner, Packet, Peer, Undecodable
from arbiter.pipeline import Pipeline
from arbiter.server import Server
from arbiter.settings import Settings, WhenAbsent
from arbiter.store import StoreError, Writer

FLUSH = 0.25
"""Seconds that decision records wait for company before they go to the writer."""
COUNTERS_EVERY = 2.0
"""Seconds between looks at the kernel's loss counters, while packets come."""
log = logging.getLogger("arbiter")


class Paths(Struct, frozen=True):
    """Where the daemon keeps its things."""

    state: Path
    socket: Path

    @property
    def database(self) -> Path:
        """The store's file."""
        return self.state / "arbiter.db"


class DaemonError(Exception):
    """The daemon cannot start; the text says why and what to do."""


class Daemon:
    """The running arbiter. `run` returns when it is told to stop, with everything undone."""

    def __init__(
        self, settings: Settings, paths: Paths, *, admins: frozenset[int] = frozenset()
    ) -> None:
        self.settings = settings
        self.paths = paths
        self.pipeline = Pipeline(settings)
        self.started = time.time()
        self._server = Server(paths.socket, self, admins=admins)
        self._processes = ProcessTable()
        self._session = uuid.uuid4().hex
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._cwds: dict[int, str] = {}
        self._reports: list[Report] = []
        self._wake: asyncio.TimerHandle | None = None
        self._arming = False
        self._watching_counters = False
        self._last_counters = Counters(0, 0, 0, 0)
        self._tasks: set[asyncio.Future[None]] = set()
        self._scanner = ThreadPoolExecutor(1, thread_name_prefix="arbiter-scan")
        self._broken = ""

    # --- life -------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Start, call `ready` once the rules are in force, serve until `stop`, undo everything.

        Raises DaemonError, StoreError, QueueError, FirewallError or ServerError, each with a
        text for people; whatever was done by then is undone.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unexpected)
        self._stop = stop
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        lock = _lock(self.paths.state)
        try:
            self._writer = Writer(self.paths.database)
            try:
                await self._serve(loop, ready)
            finally:
                self._flush()
                self._writer.sweep(time.time(), self._boot, "")  # session rules end here
                await asyncio.to_thread(self._writer.close)
        finally:
            os.close(lock)
        if self._broken:
            raise DaemonError(self._broken)

    async def _serve(self, loop: asyncio.AbstractEventLoop, ready: Callable[[], None]) -> None:
        plan = firewall.Plan(
            queue=self.settings.queue_num,
            when_absent=self.settings.when_absent.value,
            mask=self.settings.mark_base,
        )
        self._backend = await asyncio.to_thread(firewall.probe_backend, self.settings.backend.value)
        overlaps = firewall.overlaps(plan, *await asyncio.to_thread(firewall.look))
        if overlaps:
            raise DaemonError("\n".join(overlap.text for overlap in overlaps))
        await self._load_rules(first=True)
        events = ProcEvents.open()
        if events is None:
            log.info("no process events here: new programs are found by reading /proc")
        self._owners = OwnerLookup(self._processes, events=events)
        self._exits = ExitWatch(
            self._processes.start_time,
            lambda pid, start: self._dispatch(ProcessExited(_now(), pid, start)),
        )
        self._queue = Queue(
            plan.queue,
            self._packet,
            length=self.settings.queue_length,
            fail_open=self.settings.when_absent is WhenAbsent.PASS,
            mark_mask=plan.mask,
        )
        try:
            loop.add_reader(self._queue.fileno(), self._queue.handle)
            await self._server.start()
            try:
                await asyncio.to_thread(firewall.apply, plan, self._backend)
                log.info("in force by %s: %s", self._backend.name, firewall.describe(plan))
                ready()
                await self._stop.wait()
            finally:
                await self._undo()
        finally:
            loop.remove_reader(self._queue.fileno())
            self._queue.close()
            self._exits.close()
            self._owners.close()
            self._scanner.shutdown(wait=False, cancel_futures=True)
            await self._server.close()

    async def _undo(self) -> None:
        """Answer what is held before the ruleset goes: the kernel drops queued packets when a
        base chain is unregistered (net/netfilter/nf_queue.c, nf_queue_nf_hook_drop)."""
        self._dispatch(Stopping(_now()))
        for problem in await asyncio.to_thread(firewall.remove):
            log.error("%s", problem)

    def _unexpected(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """A mistake in arbiter itself. Going on could leave packets without a verdict, so stop
        in order, by `when_absent`, and say where."""
        error = context.get("exception")
        where = context.get("message", "in the event loop")
        log.error("internal error: %s", where, exc_info=error if error else None)  # type: ignore[arg-type]
        self._broken = f"internal error: {where}: {error!r}; the log has the details"
        self._stop.set()

    # --- the hot path -----------------------------------------------------------------------

    def _packet(self, packet: Packet | Undecodable) -> None:
        self._dispatch(PacketQueued(_now(), packet))
        if not self._watching_counters:
            self._watching_counters = True
            asyncio.get_running_loop().call_later(COUNTERS_EVERY, self._check_counters)

    def _dispatch(self, event: Event) -> None:
        """Hand an event to the pipeline and do what it wants, in that order."""
        for effect in self.pipeline.handle(event):
            match effect:
                case SetVerdict(packet_id, verdict):
                    self._queue.set_verdict(packet_id, verdict)
                case FindOwner(packet):
                    self._find_owner(packet)
                case Report():
                    self._report(effect)
                case _:
                    self._do(effect)
                    self._arm()

    def _find_owner(self, packet: Packet) -> None:
        owner = self._owners.quick(packet)
        if owner is not None:
            self._dispatch(OwnerFound(_now(), packet.id, owner))
            return
        self._arm()
        self._spawn(self._scan(packet))

    async def _scan(self, packet: Packet) -> None:
        loop = asyncio.get_running_loop()
        owner: Owner | NoOwner
        try:
            owner = await loop.run_in_executor(self._scanner, self._owners.scan, packet)
        except OSError as error:
            owner = NoOwner(NoOwnerReason.HIDDEN, detail=f"the look-up failed: {error}")
        self._dispatch(OwnerFound(_now(), packet.id, owner))

    def _report(self, report: Report) -> None:
        if not self._reports:
            asyncio.get_running_loop().call_later(FLUSH, self._flush)
        self._reports.append(report)

    def _flush(self) -> None:
        """Hand the records over. Turning them into text is the writer thread's work."""
        reports, self._reports = self._reports, []
        for report in reports:
            self._writer.record(lambda report=report: views.record_of(report))  # type: ignore[misc]

    # --- effects beside the hot path --------------------------------------------------------

    def _do(self, effect: Effect) -> None:
        match effect:
            case ShowAsk(ask_id):
                self._show(ask_id)
            case WithdrawAsk(ask_id, uid, reason, text):
                self._cwds.pop(ask_id, None)
                withdraw = protocol.Withdraw(ask_id, reason, text)
                self._server.broadcast(uid, lambda _: withdraw)
            case Announce(uid, message):
                self._cwds.pop(message.ask, None)
                self._server.broadcast(uid, lambda _: message, commands=True)
            case Refuse(client, message):
                self._server.send(client, message)
            case Remember():
                self._spawn(self._remember(effect))
            case Retire(ids, reason):
                self._spawn(self._retire(ids, reason))
            case WatchProcess(pid, start):
                self._exits.watch(pid, start)

    def _show(self, ask_id: int) -> None:
        ask = self.pipeline.asks.get(ask_id)
        if ask is None:
            return
        if ask_id not in self._cwds and isinstance(ask.owner, Owner):
            self._cwds[ask_id] = details(ask.owner.processes[0]).cwd
        self._server.broadcast(ask.uid, lambda peer: self._ask_for(ask_id, peer))

    def _ask_for(self, ask_id: int, peer: Peer) -> protocol.Ask:
        ask = self.pipeline.asks.get(ask_id)
        assert ask is not None
        return views.ask_message(
            ask,
            peer,
            protocol.Choice(self.settings.fallback.value),
            self.pipeline.links.values(),
            self._cwds.get(ask_id, ""),
        )

    async def _remember(self, effect: Remember) -> None:
        try:
            done = await asyncio.wrap_future(
                self._writer.remember(
                    effect.rule,
                    by=effect.peer.user,
                    by_uid=effect.peer.uid,
                    frontend=effect.peer.frontend,
                    created=time.time(),
                    process=effect.process,
                    boot=self._boot,
                    session=self._session,
                )
            )
        except (StoreError, ValueError) as error:
            log.error("%s", error)
            self._dispatch(RememberFailed(_now(), effect.ask, str(error)))
            return
        self._dispatch(Remembered(_now(), effect.ask, done.entry, done.replaced))

    async def _retire(self, ids: tuple[int, ...], reason: str) -> None:
        try:
            await asyncio.wrap_future(self._writer.retire(ids, reason, time.time()))
        except StoreError as error:
            log.error("%s", error)  # harmless: at the next start they are swept out

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            context = {"message": "in a task", "exception": error}
            self._unexpected(asyncio.get_running_loop(), context)

    # --- time -------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Set the timer anew once this turn of the loop is over."""
        if not self._arming:
            self._arming = True
            asyncio.get_running_loop().call_soon(self._rearm)

    def _rearm(self) -> None:
        self._arming = False
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        now = _now()
        due = self.pipeline.next_wake(now)
        if due is not None:
            # Rules end by the wall clock, which may jump: look again after a minute at most.
            pause = min(max(0.0, due - now.mono), 60.0)
            self._wake = asyncio.get_running_loop().call_later(pause, self._tick)

    def _tick(self) -> None:
        self._dispatch(Tick(_now()))
        self._arm()

    def _check_counters(self) -> None:
        """Say what was lost on the way to us; runs on only while packets come."""
        counters, last = self._queue.counters(), self._last_counters
        self._last_counters = counters
        full = counters.dropped_full - last.dropped_full
        lost = counters.dropped_socket - last.dropped_socket
        if full or lost:
            fate = "passed undecided" if self.settings.when_absent is WhenAbsent.PASS else "dropped"
            log.warning(
                "too many new connections at once: %d found the queue full and were %s, "
                "%d did not fit the receive buffer",
                full,
                fate,
                lost,
            )
        self._watching_counters = counters.total != last.total
        if self._watching_counters:
            asyncio.get_running_loop().call_later(COUNTERS_EVERY, self._check_counters)

    # --- rules ------------------------------------------------------------------------------

    def _reload(self) -> None:
        self._spawn(self._load_rules())

    async def _load_rules(self, first: bool = False) -> None:
        """Bring the pipeline up to the store. The writer's thread reads, in turn with its own
        changes, so that what it finds is never older than what the pipeline knows."""
        now = time.time()
        try:
            if first:
                await asyncio.wrap_future(self._writer.sweep(now, self._boot, self._session))
            entries, unreadable = await asyncio.wrap_future(
                self._writer.rules(now, self._boot, self._session)
            )
        except StoreError as error:
            if first:
                raise
            log.error("the rules in force stay as they are: %s", error)
            return
        for problem in unreadable:
            log.error("%s", problem)
        known = {entry.id: entry for entry in self.pipeline.index}
        found = {entry.id: entry for entry in entries}
        added = tuple(entry for id, entry in found.items() if known.get(id) != entry)
        removed = tuple(id for id in known if id not in found)
        if added or removed or first:
            log.info("rules: %d in force, %d new, %d gone", len(found), len(added), len(removed))
            self._dispatch(RulesChanged(_now(), added, removed))

    # --- what the server calls --------------------------------------------------------------

    def arrived(self, client: int, peer: Peer) -> list[protocol.DaemonMessage]:
        """Every open ask that the new client may answer."""
        return [
            self._ask_for(ask.id, peer) for ask in self.pipeline.asks if peer.may_answer(ask.uid)
        ]

    def welcome(self, peer: Peer, asks: int) -> protocol.Welcome:
        """The answer to hello."""
        return protocol.Welcome(
            version=protocol.VERSION,
            daemon=__version__,
            user=peer.user,
            admin=peer.admin,
            mode=self.settings.mode.value,
            fallback=self.settings.fallback.value,
            asks=asks,
        )

    def prompts_changed(self, peers: tuple[Peer, ...]) -> None:
        """Who is connected with a prompt, now."""
        self._dispatch(PromptsChanged(_now(), peers))

    def message(self, client: int, peer: Peer, message: protocol.ClientMessage) -> None:
        """A client sent this."""
        match message:
            case protocol.Answer():
                self._dispatch(Answered(_now(), client, peer, message))
            case protocol.Changed():
                self._reload()
            case protocol.Query():
                self._server.send(client, self._status())

    def _status(self) -> protocol.Status:
        kernel = self._queue.counters()
        counters = dict(self.pipeline.counters)
        counters.update(
            queued=kernel.total,
            dropped_full=kernel.dropped_full,
            dropped_socket=kernel.dropped_socket,
            records_lost=self._writer.lost,
        )
        return protocol.Status(
            mode=self.settings.mode.value,
            fallback=self.settings.fallback.value,
            backend=self._backend.name,
            when_absent=self.settings.when_absent.value,
            queue=self._queue.number,
            uptime=time.time() - self.started,
            rules=len(self.pipeline.index),
            asks=len(self.pipeline.asks),
            held=len(self.pipeline.held),
            prompts=len(self._server.prompts),
            counters=counters,
            problems=(*self._queue.problems, *self._writer.problems()),
        )


def _now() -> Now:
    return Now(time.monotonic(), time.time())


def _lock(state: Path) -> int:
    """Hold the state directory for this daemon alone; gives the lock's descriptor."""
    try:
        state.mkdir(mode=0o750, parents=True, exist_ok=True)
        fd = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        text = f"the state directory {state} cannot be used: {error.strerror}"
        raise DaemonError(f"{text}; choose another with --state") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        text = f"another arbiter runs with the state directory {state}"
        raise DaemonError(f"{text}; stop it, or choose another with --state") from None
    return fd
