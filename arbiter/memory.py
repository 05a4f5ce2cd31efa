"""The daemon's memory: rules to and from the store, decision records in batches. In the loop."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from arbiter import protocol, rulepages, views
from arbiter.events import (
    Event,
    KeepProfile,
    ProfilesRead,
    Remember,
    Remembered,
    RememberFailed,
    Report,
    RulesChanged,
    Trouble,
)
from arbiter.lives import follows
from arbiter.model import Now, Peer
from arbiter.outbox import Made, Outbox
from arbiter.profiles import word
from arbiter.records import Progress, Running
from arbiter.rules import Entry, Index
from arbiter.settings import Settings
from arbiter.store import Kept, StoreError, Writer, checkpoints
from arbiter.store.checkpoints import Checkpoint
from arbiter.store.errors import DiskFullError
from arbiter.store.records import LookedUp
from arbiter.store.retention import Keeping

CHECKPOINT_RECORDS, CHECKPOINT_SECONDS = 10_000, 86_400.0
"""After so many records, or so long, the next record brings a checkpoint."""
AGAIN = 5.0
"""Seconds after which what found no room is tried again."""
FLUSH = 0.25
"""Seconds that decision records wait for company before they go to the writer."""
log = logging.getLogger("arbiter")


def now() -> Now:
    """Both clocks, for an event."""
    return Now(time.monotonic(), time.time())


class Memory:
    """One open store. What comes back from it is told to `dispatch`, as events."""

    def __init__(
        self, database: Path, dispatch: Callable[[Event], None], settings: Settings
    ) -> None:
        """Raises StoreError."""
        self._dispatch = dispatch
        self._loop = asyncio.get_running_loop()
        keeping = _keeping(settings)
        self.writer = self._writer = Writer(database, told=self._told, keeping=keeping)
        self._outbox = Outbox(settings)
        self._session = uuid.uuid4().hex
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self._change: int | None = None
        """The newest change of a rule that was read."""
        self._made: dict[int, Made] = {}
        self._known: dict[int, int] = {}
        """Of packets whose report is next: the ids of their records."""
        self._next = 1
        self._unmarked, self._marked = 0, time.time()
        self._kept = 0
        """How often the pipeline's word on profiles went to the store."""

    def keep(self, settings: Settings) -> None:
        """What is old is deleted as these settings say, from now on."""
        self._writer.keep(_keeping(settings))

    def _told(self, text: str) -> None:
        """By the writer's thread: something is wrong with the database, or well again."""
        self._loop.call_soon_threadsafe(self._tell, text)

    def _tell(self, text: str) -> None:
        log.error("%s", text)
        self._dispatch(Trouble(now(), text))

    # --- rules ------------------------------------------------------------------------------

    async def load(self, index: Index, *, first: bool = False) -> str:
        """Bring the pipeline, whose index this is, up to the store. The writer's thread reads, in
        turn with its own changes: what it finds is never older than what the pipeline knows.

        Raises StoreError the first time; later the rules in force stay, and it gives why.
        """
        at = time.time()
        try:
            await self._load_profiles()
            # Before the rules: a change in between is read twice, and none is missed.
            change = await asyncio.wrap_future(self._writer.last_change())
            if change == self._change:
                return ""
            if first:
                await self._sweep(at)
            page = partial(self._writer.rules, at, self._boot, self._session)
            unreadable = await rulepages.follow(index, page, self._changed, first=first)
        except StoreError as error:
            if first:
                raise
            log.error("the rules in force stay as they are: %s", error)
            return str(error)
        self._change, self.unreadable = change, unreadable
        for problem in unreadable:
            log.error("%s", problem)
        return ""

    def _changed(self, added: tuple[Entry, ...], removed: tuple[int, ...]) -> None:
        self._dispatch(RulesChanged(now(), added, removed))

    async def _sweep(self, at: float) -> None:
        """Rules that ended while no daemon ran go. Raises StoreError, but not for want of room:
        they are not in force anyhow."""
        try:
            await asyncio.wrap_future(self._writer.sweep(at, self._boot, self._session))
        except DiskFullError as error:
            log.error("%s", error)

    async def _load_profiles(self) -> None:
        """Bring the pipeline up to what the store says of profiles. Raises StoreError."""
        kept = -1
        while kept != self._kept:  # the pipeline went on while it was read: read what it wrote
            kept = self._kept
            book = await asyncio.wrap_future(self._writer.profiles())
        for problem in set(book.unreadable) - set(self._bad_profiles):
            log.error("%s", problem)
        self._bad_profiles = book.unreadable
        self._dispatch(ProfilesRead(now(), book))

    def keep_profile(self, effect: KeepProfile) -> Coroutine[None, None, None]:
        """Write down where the machine is and which profile is active. The store does it in the
        order of the calls, and not once somebody chose another profile: then that is read."""
        self._kept += 1
        if effect.why:
            log.info("profile %s: %s", word(effect.standing.active), effect.why)
        done = self._writer.keep_profile(effect.before, effect.standing, effect.why, time.time())
        return self._profile_kept(done)

    async def _profile_kept(self, done: Future[bool]) -> None:
        try:
            if not await asyncio.wrap_future(done):
                await self._load_profiles()
        except StoreError as error:
            log.error("%s; at the next start another profile may be active", error)

    async def remember(self, effect: Remember) -> None:
        """Put a rule on disk, and tell what came of it."""
        try:
            done = await asyncio.wrap_future(
                self._writer.remember(
                    effect.rule,
                    by=effect.peer.user,
                    by_uid=effect.peer.uid,
                    replace_others=effect.peer.admin,
                    frontend=effect.peer.frontend,
                    created=time.time(),
                    process=effect.process,
                    boot=self._boot,
                    session=self._session,
                )
            )
        except (StoreError, ValueError) as error:
            log.error("%s", error)
            self._dispatch(RememberFailed(now(), effect.ask, str(error)))
            return
        self._dispatch(Remembered(now(), effect.ask, done.entry, done.replaced))

    async def retire(self, ids: tuple[int, ...], reason: str) -> None:
        """Take rules that have ended out of the store."""
        try:
            await asyncio.wrap_future(self._writer.retire(ids, reason, time.time()))
        except StoreError as error:
            log.error("%s", error)  # harmless: at the next start they are swept out

    async def undo(self, rule: int, peer: Peer) -> protocol.Undone | protocol.Refused:
        """Take the answer back that made a rule; gives what the peer is told."""
        try:
            restored = await asyncio.wrap_future(
                self._writer.undo_rule(
                    rule,
                    time.time(),
                    self._boot,
                    by=peer.user,
                    by_uid=peer.uid,
                    frontend=peer.frontend,
                    others=peer.admin,
                )
            )
        except StoreError as error:
            text = protocol.clean(str(error))
            return protocol.Refused(protocol.RefusedReason.INVALID, text)
        return protocol.Undone(rule, restored)

    # --- records ----------------------------------------------------------------------------

    async def begin(self) -> list[Running]:
        """A run begins: its records get ids from the last one on. Gives what the last run left
        open. Raises StoreError; where only room is missing the run is written down once there is
        some: rules can be read, and who blocks without arbiter must not be cut off by a full disk.
        """
        began = time.time()
        try:
            self._next = await asyncio.wrap_future(self._writer.begin_run(began))
            self._checkpoint(checkpoints.START)
        except DiskFullError as error:
            self._unbegun = str(error)
            self._tell(self._unbegun)
            self._next = await asyncio.wrap_future(self._writer.next_record())
            self._beginning = asyncio.create_task(self._begin_later(began, self._next))
        return await asyncio.wrap_future(self._writer.running())

    async def _begin_later(self, began: float, first: int) -> None:
        while self._unbegun:
            await asyncio.sleep(AGAIN)
            try:
                await asyncio.wrap_future(self._writer.begin_run(began, first))
                self._unbegun = ""
            except StoreError as error:
                self._unbegun = str(error)
        self._checkpoint(checkpoints.START)

    def looked_up(self, since: float, limit: int) -> Awaitable[list[LookedUp]]:
        """What earlier runs knew of names, as Store.records.looked_up. Raises StoreError."""
        return asyncio.wrap_future(self._writer.looked_up(since, limit))

    def report(self, report: Report, link: str) -> int:
        """Keep a record of a decision, soon, and of the link that the connection left over, if
        any; gives its id. On the hot path."""
        known = self._known.pop(report.packet.id, 0)
        id = known or self.reserve()
        if not self._made:
            asyncio.get_running_loop().call_later(FLUSH, self._flush)
        make = partial(_kept, id, report, link)
        self._made[id] = Made(id, make, follows(report), written=known > 0)
        return id

    def joined(self, progress: Progress) -> None:
        """A connection that was reported has one packet more."""
        made = self._made.get(progress.id)
        if made is not None and not made.written:
            made.count = progress.count or 1
        else:
            self.complete([progress])

    # With `audit.sync` the record of a packet comes before its report.

    def reserve(self) -> int:
        """The id for the next record. Records are written in the order of their ids."""
        id = self._next
        self._next += 1
        return id

    def write_first(self, reports: Iterable[tuple[int, Report, str]]) -> Future[int]:
        """Write records, with these ids and links, at once and all or none, behind those that wait:
        they are on disk when the future is done. It raises StoreError."""
        self._flush()
        return self._writer.write_first([partial(_kept, *one) for one in reports])

    def skipped(self) -> None:
        """Records were not written with the ids that were reserved for them."""
        self._writer.skipped()

    def known(self, packet: int, id: int) -> None:
        """The next report of this packet has this record, which is on disk already."""
        self._known[packet] = id

    def recorded(self, packet: int) -> bool:
        """Whether the next report of this packet has a record of its own on disk."""
        return packet in self._known

    def complete(self, progress: list[Progress]) -> None:
        """Say in records what their connections have come to, soon."""
        if progress:
            self._flush()  # a record must be there before it can be completed
            self._writer.complete(progress)
            self._outbox.progress(progress)

    def _flush(self) -> None:
        """Hand the reports over. Turning them into text is the writer thread's work."""
        made, self._made = self._made, {}
        self._outbox.decided(made.values())
        for one in made.values():
            if not one.written:
                self._writer.record(one)
        self._unmarked += len(made)
        many = self._unmarked >= CHECKPOINT_RECORDS
        if made and (many or time.time() - self._marked > CHECKPOINT_SECONDS):
            self._unmarked, self._marked = 0, time.time()
            why = checkpoints.RECORDS if many else checkpoints.DAY
            self.when_written(lambda: self._checkpoint(why))

    def when_written(self, then: Callable[[], object]) -> None:
        """Call `then`, in the loop, once every decision until now has its record on disk, or the
        database takes none now, which `problems` tells."""
        self._flush()
        loop = asyncio.get_running_loop()
        self._writer.written().add_done_callback(lambda _: loop.call_soon_threadsafe(then))

    def _checkpoint(self, why: str) -> Future[list[Checkpoint]]:
        """Write down where the chains of records and rule changes have come to, and tell it to the
        journal: who changes the database has to change that, too."""
        made = self._writer.checkpoint(why, time.time())
        made.add_done_callback(_tell_checkpoints)
        return made

    @property
    def lost(self) -> int:
        """Records that found no room while the store could not be written."""
        return self._writer.lost

    unreadable: tuple[str, ...] = ()
    """Rules of the store that are not in force because they cannot be read."""
    _bad_profiles: tuple[str, ...] = ()
    _unbegun = ""
    """Why this run could not be written down yet."""
    _beginning: asyncio.Task[None] | None = None

    def problems(self, admin: bool = True) -> tuple[str, ...]:
        """What is wrong with the store now, each with its next step. Who is no `admin` is told how
        many rules and profiles cannot be read, and not what they say: they may be others'."""
        bad = (*self._bad_profiles, *self.unreadable)
        if bad and not admin:
            bad = (f"{len(bad)} rules or profiles cannot be read; which: sudo arbiter status",)
        # The writer's own says the same once it tried.
        written = self._writer.problems() or (self._unbegun,) * bool(self._unbegun)
        return (*written, *self._outbox.problems(), *bad)

    async def close(self) -> None:
        """Write what waits, end the rules of this session, and close."""
        if self._beginning is not None:
            self._beginning.cancel()
            await asyncio.wait([self._beginning])
        self._flush()
        swept = asyncio.wrap_future(self._writer.sweep(time.time(), self._boot, ""))
        try:
            await swept
        except StoreError as error:
            log.error("%s", error)  # the next start sweeps them
        await asyncio.wrap_future(self._writer.written())
        try:
            await asyncio.wrap_future(self._checkpoint(checkpoints.STOP))
            if not self._unbegun:
                await asyncio.wrap_future(self._writer.end_run(time.time()))
        except StoreError as error:
            log.error("%s; the next start takes this for a crash", error)
        await asyncio.to_thread(self._writer.close)
        for problem in self._writer.problems():
            log.error("%s", problem)  # what is lost by now nobody can ask `status` about
        await asyncio.to_thread(self._outbox.close)


def _tell_checkpoints(made: Future[list[Checkpoint]]) -> None:
    """In the writer's thread."""
    error = made.exception()
    if error is not None:
        log.error("%s", error)
        return
    for one in made.result():
        log.info("checkpoint %s (%s)", one.text, one.why)


def _kept(id: int, report: Report, link: str) -> Kept:
    return Kept(id, views.record_of(report, link))


def _keeping(settings: Settings) -> Keeping:
    audit = settings.audit
    return Keeping(
        audit.keep_days,
        audit.keep_megabytes,
        audit.keep_sums_days,
        audit.keep_rules_days,
        audit.keep_usage_months,
        audit.keep_destinations_days,
    )
