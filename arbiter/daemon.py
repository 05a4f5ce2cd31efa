"""Wires the effects to the pipeline: event loop, signals, start and stop, in this order:

lock, store, queue, socket, rules of the firewall last, "ready"; and back the same way. Between
"ready" and the end every queued packet gets its verdict from the pipeline.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Callable, Coroutine
from functools import partial

from arbiter.accounts import Accounts
from arbiter.ahead import Ahead
from arbiter.classkeeper import ClassKeeper
from arbiter.events import (
    Announce,
    Cut,
    Effect,
    Event,
    FindOwner,
    KeepProfile,
    LinksChanged,
    PacketQueued,
    ProcessExited,
    Remember,
    Report,
    Retire,
    SetVerdict,
    Stopping,
    UseClasses,
    WatchProcess,
)
from arbiter.finder import Finder
from arbiter.followers import Followers
from arbiter.frontdesk import FrontDesk
from arbiter.health import Health
from arbiter.kernel import firewall
from arbiter.kernel.exits import ExitWatch
from arbiter.kernel.owner import OwnerLookup
from arbiter.kernel.procfs import ProcessTable
from arbiter.kernel.queue import Queue
from arbiter.lifekeeper import LifeKeeper
from arbiter.linkkeeper import LinkKeeper
from arbiter.lives import Lives
from arbiter.localtime import local_zone
from arbiter.memory import Memory, now
from arbiter.model import Packet, Undecodable
from arbiter.namekeeper import NameKeeper
from arbiter.olderkeeper import OlderKeeper
from arbiter.pipeline import Pipeline
from arbiter.policykeeper import PolicyKeeper
from arbiter.priority import decide_promptly
from arbiter.proofkeeper import ProofKeeper
from arbiter.repeater import Repeater
from arbiter.rulekeeper import RuleKeeper
from arbiter.rulesetkeeper import RulesetKeeper
from arbiter.service import Service, shortage
from arbiter.settings import Settings, ShippedPolicies, WhenAbsent
from arbiter.settingskeeper import SettingsKeeper
from arbiter.startup import (
    DaemonError,
    Paths,
    allow_descriptors,
    lock_state,
    need_rights,
    need_room,
    only_here,
    planned,
    reserve,
)
from arbiter.waker import Waker

log = logging.getLogger("arbiter")


class Daemon:
    """The running arbiter. `run` returns when it is told to stop, with everything undone."""

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Settings],
        paths: Paths,
        admins: frozenset[int],
        ahead: Ahead,
    ) -> None:
        """It closes what was opened `ahead`."""
        self._settings = SettingsKeeper(settings, read, self._dispatch)
        self.settings, self.paths = settings, paths  # the settings of the start
        self.pipeline = Pipeline(settings)
        self._service = Service(self.pipeline)
        self.pipeline.rules.index.zone = local_zone()
        self._processes = ProcessTable()
        self._ahead = ahead
        self._desk = FrontDesk(
            self.pipeline,
            self._dispatch,
            paths,
            admins,
            status=lambda client, peer: self._spawn(self._health.tell(self._desk, client, peer)),
            changed=lambda client: self._rules.changed(client),
            undo=lambda client, peer, rule: self._rules.undo(client, peer, rule),
            follow=lambda client, peer: self._followers.follow(client, peer),
            used=lambda app: self._accounts.used(app),
            left=lambda: self._accounts.left(),
            processes=self._processes,
            prices=lambda: {link.name: link.price for link in self._links.links if link.price},
        )
        self._book = Lives()
        self._followers = Followers(
            self._desk.server,
            self._book,
            lambda: self._links.states(),
            lambda watched: self._accounts.pace(watched),
        )
        self._before: Callable[[Event], None] = lambda event: None
        self._tasks: set[asyncio.Future[None]] = set()
        self._waker = Waker(
            self.pipeline.next_wake, self._dispatch, lambda: self._service.changed()
        )
        self._wants_classes = self._ready = False
        self._broken = ""

    # --- life -------------------------------------------------------------------------------

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Start, call `ready` once the rules are in force, serve until `stop`, undo everything.

        Raises DaemonError, StoreError, QueueError, FirewallError or ServerError, each with a
        text for people; whatever was done by then is undone.
        """
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._unexpected)
        self._stop = stop
        self._reserve = reserve()
        need_rights()
        allow_descriptors()
        lock = lock_state(self.paths.state)
        self._alone = only_here()
        try:
            self._memory = Memory(self.paths.database, self._dispatch, self.settings)
            decide_promptly(self.settings.audit.sync)
            self._proofs = ProofKeeper(self.pipeline, self._memory, self._carry_out, self._dispatch)
            try:
                await self._serve(ready)
            finally:
                await self._memory.close()
        finally:
            os.close(lock)
            self._alone.close()
        if self._broken:
            raise DaemonError(self._broken)

    async def _serve(self, ready: Callable[[], None]) -> None:
        plan, routing = planned(self.settings)
        self._backend = await asyncio.to_thread(firewall.probe_backend, self.settings.backend.value)
        await asyncio.to_thread(need_room, plan, routing)
        self._exits = ExitWatch(
            self._processes.start_time,
            lambda pid, start: self._dispatch(ProcessExited(now(), pid, start)),
        )
        index = self.pipeline.rules.index
        self._rules = RuleKeeper(self._memory, index, self._spawn, self._desk.server.send)
        await self._rules.start()
        self._lives = LifeKeeper(
            *(self._book, self._memory, self._followers),
            listen=lambda: self._accounts.listen(),
            settle=lambda: self._queue.settle(),
        )
        self._proofs.know(self._lives.joined)
        await self._lives.begin()
        if self._ahead.events is None:
            log.info("no process events here: new programs are found by reading /proc")
        owners = OwnerLookup(self._processes, events=self._ahead.events)
        self._finder = Finder(owners, self._dispatch, self._spawn)
        self._queue = Queue(
            plan.queue,
            self._packet,
            length=self.settings.queue_length,
            fail_open=self.settings.when_absent is WhenAbsent.PASS,
            mark_mask=plan.mask,
        )
        self._repeater = Repeater.over(
            self._queue, self._ahead.fast, owners, self._processes, self.pipeline, self._dispatch
        )
        self._before = self._repeater.before
        self._older = OlderKeeper(plan.mask, self._finder, self._dispatch, self._decided)
        called_off, back, hands = self._alone.called_off, self._older.look, self._ahead.hands
        self._ruleset = RulesetKeeper(self._backend, hands, called_off, self._dispatch, back)
        self._health = Health(
            self.pipeline, self._queue, self._ruleset, self._problems, lambda: self._memory.lost
        )
        try:
            # Before the first client can ask how the links are.
            self._accounts = Accounts(
                self._memory.writer,
                self.paths.state,
                plan.mask,
                lambda: self._links.refresh(),
                seen=self._lives.reading,
                gone=self._lives.ended,
                waits=lambda: self._lives.waits,
            )
            self._links = LinkKeeper(
                plan,
                self._ruleset,
                routing,
                self.paths.config,
                self.paths.state,
                self._links_changed,
                self._accounts,
            )
            self._classes = ClassKeeper(
                self.settings.markings, self._backend, self._links.use_classes
            )
            self._policies = PolicyKeeper(
                self.paths.config / "policy.d",
                lambda: self.pipeline.settings.shipped_policies is ShippedPolicies.DECIDE,
                self._dispatch,
            )
            self._names = NameKeeper(
                self.settings.dns_queue_num, lambda: self._links.dns_servers, self._dispatch
            )
            await self._desk.start()
            try:
                self._rules.reload()  # until now no command could tell that it had changed them
                await self._policies.start()
                await self._names.start(self._memory.looked_up)
                await self._accounts.start()
                self._ready = True  # first: a rule that wants a class may come meanwhile
                if self._wants_classes:
                    await self._classes.start()
                await self._links.start()
                # Not before: what waits since the run before is held against links, too.
                self._queue.begin(self._loop)
                await self._older.start()
                gc.collect(1)  # the oldest generation is walked for 25 ms, and has nothing to give
                gc.freeze()  # what is here now stays: a collection need not walk it each time
                ready()
                self._service.ready(self._queue)
                await self._stop.wait()
                self._service.stopping()
            finally:
                await self._undo()
                self._names.close()
                self._classes.close()
        finally:
            self._queue.end(self._loop)
            self._health.close()
            self._repeater.close()
            self._queue.close()
            self._exits.close()
            self._finder.stop()
            if self._tasks:
                await asyncio.wait(tuple(self._tasks), timeout=5)
            self._finder.close()
            if self._ahead.events is not None:
                self._ahead.events.close()
            self._ahead.hands.shutdown(wait=False)
            self._processes.close()
            await self._desk.close()

    async def _undo(self) -> None:
        """Answer what is held before the ruleset goes: the kernel drops queued packets when a
        base chain is unregistered (net/netfilter/nf_queue.c, nf_queue_nf_hook_drop)."""
        for fd in self._reserve:
            os.close(fd)  # what is to come needs some, however few are left
        try:
            self._dispatch(Stopping(now()))
            await self._proofs.settle()
        finally:
            await self._older.stop()
            await self._policies.close()
            await self._links.stop()  # or a change of links could put the ruleset back
            await self._accounts.close()
            if not self._broken or self.settings.when_absent is WhenAbsent.PASS:
                self._broken = await self._ruleset.remove() or self._broken
                await self._links.close()
            self._dispatch(Stopping(now()))  # what came meanwhile, and waits for its owner
            await self._proofs.settle()

    def _unexpected(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """A mistake in arbiter itself. Going on could leave packets without a verdict, so stop
        in order, by `when_absent` (with `block` the ruleset stays), and say where."""
        error = context.get("exception")
        if why := shortage(error):
            log.error("%s: %s", context.get("message"), why)
            return  # not our mistake, and it passes
        where = context.get("message", "in the event loop")
        told = error if isinstance(error, BaseException) else None
        log.error("internal error: %s", where, exc_info=told)
        self._broken = f"internal error: {where}: {error!r}; the log has the details"
        self._stop.set()

    # --- the hot path -----------------------------------------------------------------------

    def _packet(self, packet: Packet | Undecodable) -> None:
        self._repeater.packet_came(packet.id)
        self._dispatch(PacketQueued(now(), packet))
        self._health.packet_came()

    def _dispatch(self, event: Event) -> None:
        """Hand an event to the pipeline and do what it wants, in that order."""
        self._before(event)
        self._carry_out(self._proofs.hold(self.pipeline.handle(event)))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Report):
                # Before its verdict: who waits for it is still there to be looked at. A
                # program that only connects has ended in a tenth of a millisecond.
                self._repeater.decided(effect)
        for effect in effects:
            match effect:
                case SetVerdict(packet_id, verdict):
                    self._queue.set_verdict(packet_id, verdict)
                case FindOwner(packet):
                    if not self._finder.find(packet):
                        self._waker.arm()
                case Report():
                    self._decided(effect)
                case _:
                    self._do(effect)
                    self._waker.arm()

    def _decided(self, report: Report) -> None:
        self._repeater.answered()
        packet, name = report.packet, ""
        if isinstance(packet, Packet):
            link = self.pipeline.ways.used(packet, report.link)
            name = link.name if link is not None and report.verdict.passes else ""
            self._classes.decided(report)
            self._accounts.opened(report, link)
            if link is not None:
                self._links.decided(report.link, link.number, packet.flow)
        self._lives.decided(report, name)

    # --- effects beside the hot path --------------------------------------------------------

    def _do(self, effect: Effect) -> None:
        match effect:
            case Remember():
                self._spawn(self._memory.remember(effect))
            case KeepProfile():
                self._spawn(self._memory.keep_profile(effect))
            case Cut():
                self._older.cut(effect)
            case Retire(ids, reason):
                self._spawn(self._memory.retire(ids, reason))
            case WatchProcess(pid, start):
                self._watch(pid, start)
            case UseClasses():
                self._wants_classes = True
                if self._ready:
                    self._spawn(self._classes.start())
            case Announce(_, message) if message.rule_id is None:  # told once it is on disk
                self._memory.when_written(partial(self._desk.do, effect))
            case _:
                self._desk.do(effect)

    def _links_changed(self, event: LinksChanged) -> None:
        self._finder.follow(event.links)
        self._dispatch(event)
        self._followers.links()

    def _watch(self, pid: int, start: int) -> None:
        try:
            self._exits.watch(pid, start)
        except OSError as error:
            # Out of descriptors: its exit goes unseen, and its packets wait for their deadline.
            log.error("process %d cannot be watched: %s; raise LimitNOFILE", pid, error.strerror)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._unexpected(self._loop, {"message": "in a task", "exception": error})

    def reload(self) -> None:
        """Rules and files anew. Before `ready` all are about to be read."""
        if self._ready:
            keepers = (self._settings, self._links, self._policies, self._names, self._rules)
            self._service.reload(keepers)
            self._memory.keep(self._settings.settings)

    def _problems(self, admin: bool) -> tuple[str, ...]:
        """What is wrong now, each with its next step."""
        kept = (self._settings.problems, self._links.problems, self._older.problems)
        read = (self._classes.problems, self._policies.problems, self._names.problems)
        told = [problem for problems in (*kept, *read) for problem in problems()]
        more = (*self._memory.problems(admin), *self._proofs.problems(), *self._desk.problems)
        return (*told, *self._accounts.problems, *more)
